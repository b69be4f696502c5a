"""SystemExit, KeyboardInterrupt and other exceptions that are no `Exception`: they come out as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import aioencrypt
from aioencrypt import (
    DefaultCMM,
    MultiMasterKeyProvider,
    Provider,
    RawAESMasterKey,
    StreamError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import EncryptionMaterials, EncryptionMaterialsRequest
from tests.support.streaming import KEY, assert_idle, plaintext_of, sealed


class Ending(BaseException):
    """As those of test runners and greenlets."""


endings = pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Ending()], ids=repr)
backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
PLAINTEXT = plaintext_of(10_000)


class EndingKey(RawAESMasterKey):
    """A key that ends the program in one of its methods."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__("tests", "ending", wrapping_key=bytes(32))

        async def end(*args: object) -> Any:
            await anyio.sleep(0)
            raise error

        setattr(self, method, end)


def check(backend: str, error: BaseException, use: Callable[[], Awaitable[object]]) -> None:
    """Assert that something ends the program with this exception itself, inside and outside of the loop."""
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            await use()
        except BaseException as caught:
            seen.append(caught)
            assert_idle()
            raise

    with pytest.raises(type(error)) as outside:
        anyio.run(main, backend=backend)
    assert outside.value is error
    assert seen == [error]


@endings
@backends
@pytest.mark.parametrize(
    ("method", "several"),
    [
        ("generate_data_key", False),
        ("encrypt_data_key", True),
        ("unwrap_data_key", False),
        ("unwrap_data_key", True),
    ],
)
def test_from_a_key(backend: str, error: BaseException, method: str, several: bool) -> None:
    key = EndingKey(method, error)
    provider = MultiMasterKeyProvider(KEY, key, KEY) if several else key

    async def use() -> None:
        written = RawAESMasterKey("tests", "ending", wrapping_key=bytes(32))
        message, _ = await encrypt(PLAINTEXT, written)
        await (decrypt if method == "unwrap_data_key" else encrypt)(message, provider)

    check(backend, error, use)


@endings
@backends
def test_from_a_thread(backend: str, error: BaseException) -> None:
    class Ends:
        async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
            def sign(digest: bytes) -> bytes:
                raise error

            return attrs.evolve(await DefaultCMM(KEY).get_encryption_materials(request), signer=sign)

        async def decrypt_materials(self, request: Any) -> Any:
            raise NotImplementedError

    check(backend, error, lambda: encrypt(PLAINTEXT, Ends()))


async def read_all(stream: aioencrypt.EncryptStream | aioencrypt.DecryptStream) -> None:
    """Read to the end, and see that the stream has failed for good before the exception goes on."""
    async with stream:
        try:
            await stream.read()
        except BaseException as error:
            with pytest.raises(StreamError, match=f"failed before, with {type(error).__name__}"):
                await stream.read()
            raise


READING: dict[str, Callable[[Any, Provider], Awaitable[object]]] = {
    "encrypt": encrypt,
    "encrypt-stream": lambda source, key: read_all(encrypt_stream(source, key, frame_length=100)),
    "decrypt": decrypt,
    "decrypt-stream": lambda source, key: read_all(decrypt_stream(source, key)),
}


@endings
@backends
@pytest.mark.parametrize("blocking", [False, True], ids=["iterator", "file"])
@pytest.mark.parametrize("start", READING.values(), ids=READING.keys())
def test_from_a_source(
    backend: str, error: BaseException, blocking: bool, start: Callable[[Any, Provider], Awaitable[object]]
) -> None:
    async def use() -> None:
        given = (await sealed(PLAINTEXT, frame_length=100))[:5000]

        async def source() -> AsyncIterator[bytes]:
            yield given
            raise error

        class File:
            def __init__(self) -> None:
                self.pieces = [given]

            def read(self, n: int = -1) -> bytes:
                if self.pieces:
                    return self.pieces.pop()
                raise error

        await start(File() if blocking else source(), KEY)

    check(backend, error, use)


@endings
@backends
def test_in_a_writer(backend: str, error: BaseException, tmp_path: Path) -> None:
    async def use() -> None:
        async with aioencrypt.open(tmp_path / "file", "wb", provider=KEY) as writer:
            await writer.write(PLAINTEXT)
            raise error

    check(backend, error, use)
    assert [*tmp_path.iterdir()] == []
