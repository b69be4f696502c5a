"""The files that one chunk and one data key pass are those that docs/architecture.md tells."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest

from aioencrypt import AWSConnection, KMSMasterKeyProvider, encrypt_stream
from aioencrypt.materials import DataKeyRequest
from aioencrypt.providers.base import make_data_key
from aioencrypt.testing import InMemoryKMS
from tests.support.streaming import KEY, UNSIGNED, in_chunks, on_asyncio

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aioencrypt"


def told(heading: str, *, most: int) -> set[str]:
    """Return the files of the numbered steps under a heading, which are not more than that."""
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^[0-9]+\. `([^`]+)`", section, re.MULTILINE)
    assert 0 < len(steps) == len(set(steps)) <= most
    return set(steps)


async def passed(function: Callable[[], Awaitable[object]]) -> set[str]:
    """Return the files of the package in which functions are called, without the services for tests."""
    files: set[str] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            files.add(path.relative_to(PACKAGE).as_posix())

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        await function()
    finally:
        sys.setprofile(before)
    return {file for file in files if not file.startswith("testing/")}


@on_asyncio
async def test_the_way_of_one_chunk() -> None:
    source = in_chunks(bytes(2_000_000), 65_536)
    async with encrypt_stream(source, KEY, algorithm_suite=UNSIGNED) as stream:
        for _ in range(3):
            await anext(stream)
        assert await passed(lambda: anext(stream)) == told("The way of one chunk", most=9)
        stream.abandon()


@on_asyncio
async def test_the_way_of_one_data_key() -> None:
    kms = InMemoryKMS()
    arn = kms.create_key(region="us-east-1")
    provider = KMSMasterKeyProvider([arn], connection=AWSConnection(kms=kms.clients("us-east-1")))
    request = DataKeyRequest(algorithm_suite=UNSIGNED, encryption_context={"tenant": "42"})
    await make_data_key(provider, request)
    files = await passed(lambda: make_data_key(provider, request))
    # The lock is that of the KMS in memory.
    assert files - {"runtime/threads.py"} == told("The way of one data key", most=8)
