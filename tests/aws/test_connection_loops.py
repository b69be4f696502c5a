"""Clients that the providers make, on several event loops and in several processes."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aioencrypt import ProviderClosedError, decrypt
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import run_script, sealed, strict
from tests.support.kms import EU
from tests.support.streaming import collected, on_asyncio

pytestmark = pytest.mark.anyio
collect_what_the_tests_left = pytest.fixture(autouse=True, scope="module")(collected)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


@pytest.mark.parametrize("prepare", [lambda provider: provider, lambda p: pickle.loads(pickle.dumps(p))])
def test_two_loops_one_after_the_other(kms: InMemoryKMS, url: str, prepare: Callable[[Any], Any]) -> None:
    provider = strict(kms.create_key(), kms.create_key(region=EU), kms=url)

    async def main() -> bytes:
        # while it is open, it pickles as one that is not
        copied = provider
        async with provider:
            copied = prepare(provider)
            await sealed(provider)
        async with copied:
            return await sealed(copied)

    first, second = asyncio.run(main()), asyncio.run(main())
    assert first != second
    assert kms.call_count("GenerateDataKey") == 4


@on_asyncio
async def test_another_loop_is_refused_with_the_reason(kms: InMemoryKMS, url: str) -> None:
    provider = strict(kms.create_key(), kms=url)
    refused: list[BaseException] = []

    def elsewhere() -> None:
        for use in (lambda: sealed(provider), provider.warm_up, provider.aclose):
            try:
                asyncio.run(use())
            except Exception as error:
                refused.append(error)

    async with provider:
        message = await sealed(provider)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert [type(error) for error in refused] == [ProviderClosedError] * 3
        reason = "the provider was opened on another event loop; open it on this one"
        assert {str(error) for error in refused} == {reason}
        # at home it is open as before
        assert (await decrypt(message, provider)).plaintext == b"x"
    with pytest.raises(ProviderClosedError, match="is not open"):
        await sealed(provider)


FORK = """
import asyncio, os, sys
from aioencrypt import AWSConnection, KMSMasterKeyProvider, ProviderClosedError, encrypt

url, key = sys.argv[1:]
provider = KMSMasterKeyProvider([key], connection=AWSConnection(kms=url))

async def child():
    for use in (lambda: encrypt(b"x", provider), provider.warm_up):
        try:
            await use()
        except ProviderClosedError as error:
            print(error)
    async with KMSMasterKeyProvider([key], connection=AWSConnection(kms=url)) as other:
        await encrypt(b"x", other)
    # left, without a touch of the parent's connections, it may be opened here
    await provider.aclose()
    async with provider:
        await encrypt(b"x", provider)
    print("child is done", flush=True)

async def parent():
    async with provider:
        await encrypt(b"x", provider)
        process = os.fork()
        if process == 0:
            asyncio.run(child())
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
        await encrypt(b"x", provider)
    print("parent is done")

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_refused_with_the_reason(kms: InMemoryKMS, url: str) -> None:
    refused = ["the provider was opened before a fork; open it in this process"] * 2
    assert run_script(FORK, url, kms.create_key()) == [*refused, "child is done", "parent is done"]
    assert kms.call_count("GenerateDataKey") == 4
