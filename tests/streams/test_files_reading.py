"""Files: reading with `open`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

import aioencrypt
from aioencrypt import (
    DecryptStream,
    EncryptionContextMismatchError,
    LimitError,
    Limits,
    MalformedMessageError,
    ProviderError,
    RawAESMasterKey,
    Release,
    SignatureError,
    SignaturePolicy,
    SignaturePolicyError,
    StreamNotEnteredError,
)
from tests.support.streaming import KEY, assert_idle, flipped, plaintext_of, sealed

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.aws"


def reader_of(path: Path, **options: Any) -> DecryptStream:
    return aioencrypt.open(path, "rb", provider=KEY, **options)


async def test_a_missing_file_is_an_error_on_entry(path: Path) -> None:
    reader = reader_of(path)
    with pytest.raises(FileNotFoundError) as caught:
        await reader.__aenter__()
    assert caught.value.filename == str(path) or caught.value.filename == path
    with pytest.raises(StreamNotEnteredError):
        _ = reader.header
    with pytest.raises(IsADirectoryError):
        await reader_of(path.parent).__aenter__()
    assert_idle()


async def test_options_of_reading_reach_the_stream(path: Path) -> None:
    path.write_bytes(
        flipped(await sealed(plaintext_of(100), encryption_context={"a": "b"}, frame_length=10), -1)
    )
    cases: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"signature_policy": SignaturePolicy.FORBID}, SignaturePolicyError),
        ({"limits": Limits(max_header_length=9)}, LimitError),
        ({"encryption_context": {"a": "c"}}, EncryptionContextMismatchError),
        ({"provider": RawAESMasterKey("tests", "streams", wrapping_key=bytes(32))}, ProviderError),
    ]
    for options, error in cases:
        with pytest.raises(error):
            await aioencrypt.open(path, "rb", **{"provider": KEY, **options}).__aenter__()
    for release, count in ((Release.STREAM, 100), (Release.VERIFIED, 0)):
        async with reader_of(path, release=release) as reader:
            assert await reader.readexactly(count) == plaintext_of(count)
            with pytest.raises(SignatureError):
                await reader.read(1)
            reader.abandon()
    assert_idle()


async def test_the_file_is_opened_on_entry_and_closed_on_leaving(path: Path) -> None:
    reader = reader_of(path)
    path.write_bytes(await sealed(plaintext_of(3_000_000)))
    async with reader:
        assert str(path) in [file.path for file in psutil.Process().open_files()]
        await reader.read(10)
        reader.abandon()
    assert str(path) not in [file.path for file in psutil.Process().open_files()]
    path.write_bytes(b"no message")
    with pytest.raises(MalformedMessageError):
        await reader_of(path).__aenter__()
    assert_idle()
