"""Cancelled at one place: on entry, in a read of the source, in a thread, behind a digest, in a key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioencrypt
from aioencrypt import (
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    Provider,
    RawAESMasterKey,
    StreamError,
    TruncatedMessageError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.cancelling import (
    Way,
    assert_failed,
    assert_fine,
    assert_left_with_error,
    each_way,
    read_all,
    write_all,
)
from tests.support.streaming import KEY, Feed, Stalling, plaintext_of, sealed

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

FRAME = 1000
PLAINTEXT = plaintext_of(10_000)


# Calls of keys


class WaitingKey(RawAESMasterKey):
    """A key whose service never answers."""

    def __init__(self, name: str = "waiting") -> None:
        super().__init__("tests", name, wrapping_key=bytes(32))
        self.called = anyio.Event()
        self.cancelled = 0

    async def _wait(self) -> Any:
        self.called.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        return await self._wait()  # type: ignore[no-any-return]

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        return await self._wait()  # type: ignore[no-any-return]

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        return await self._wait()  # type: ignore[no-any-return]


Start = Callable[[Provider, bytes, Path], Awaitable[object]]

ENCRYPTING: dict[str, Start] = {
    "encrypt": lambda key, message, path: encrypt(PLAINTEXT, key),
    "encrypt-reader": lambda key, message, path: encrypt(Feed(PLAINTEXT), key),
    "encrypt-stream": lambda key, message, path: read_all(encrypt_stream(PLAINTEXT, key)),
    "write": lambda key, message, path: write_all(path.with_name("new"), key, PLAINTEXT),
}
DECRYPTING: dict[str, Start] = {
    "decrypt": lambda key, message, path: decrypt(message, key),
    "decrypt-reader": lambda key, message, path: decrypt(Feed(message), key),
    "decrypt-stream": lambda key, message, path: read_all(decrypt_stream(message, key)),
    "read": lambda key, message, path: read_all(aioencrypt.open(path, "rb", provider=key)),
}


@pytest.mark.parametrize("start", (ENCRYPTING | DECRYPTING).values(), ids=(ENCRYPTING | DECRYPTING).keys())
@each_way
async def test_in_the_call_of_a_key(way: Way, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "file"
    plain = RawAESMasterKey("tests", "waiting", wrapping_key=bytes(32))
    message, _ = await encrypt(b"abc", plain)
    path.write_bytes(message)
    key = WaitingKey()
    await way.when(key.called, lambda: start(key, message, path))
    assert key.cancelled == 1
    assert [*tmp_path.iterdir()] == [path]
    await assert_fine()


@each_way
async def test_in_calls_of_several_keys_at_once(way: Way) -> None:
    keys = [WaitingKey(name) for name in "abc"]
    provider = MultiMasterKeyProvider(KEY, MultiMasterKeyProvider(None, keys[0]), *keys[1:])
    await way.when(keys[-1].called, lambda: encrypt(b"abc", provider))
    assert [key.cancelled for key in keys] == [1, 1, 1]
    await assert_fine()


@each_way
async def test_a_cancelled_attempt_is_no_reason_to_try_the_next_key(way: Way) -> None:
    message, _ = await encrypt(
        b"abc", MultiMasterKeyProvider(RawAESMasterKey("tests", "waiting", wrapping_key=bytes(32)), KEY)
    )
    waiting, tried = WaitingKey(), []

    class Next(RawAESMasterKey):
        async def unwrap_data_key(self, *args: Any) -> DataKey:
            tried.append(args)
            raise AssertionError

    provider = MultiMasterKeyProvider(waiting, Next("tests", "streams", wrapping_key=bytes(32)))
    await way.when(waiting.called, lambda: decrypt(message, provider))
    assert tried == []
    await assert_fine()


class SlowKMS(InMemoryKMS):
    """A KMS that takes eleven days for one operation."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.called = anyio.Event()

    async def invoke(self, region: str, operation: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        self.latency = 1e6 if operation == self.slow else 0
        if operation == self.slow:
            self.called.set()
        return await super().invoke(region, operation, parameters)


@pytest.mark.parametrize("operation", ["GenerateDataKey", "Encrypt", "Decrypt"])
@each_way
async def test_in_calls_of_kms(way: Way, operation: str) -> None:
    kms = SlowKMS(operation)
    arns = [kms.create_key(region=region) for region in ("us-east-1", "eu-west-1")]
    provider = KMSMasterKeyProvider(arns, connection=kms.connection("us-east-1", "eu-west-1"))

    async def use() -> None:
        message, _ = await encrypt(b"abc", provider)
        await decrypt(message, provider)

    await way.when(kms.called, use)
    assert kms.call_count(operation) == 1
    kms.slow = ""
    await use()
    await assert_fine()


@each_way
async def test_the_entry_of_a_stream(way: Way) -> None:
    message, _ = await encrypt(b"abc", RawAESMasterKey("tests", "waiting", wrapping_key=bytes(32)))
    for encrypts in (True, False):
        source, key = Feed(b"abc"), WaitingKey()
        stream = encrypt_stream(source, key) if encrypts else decrypt_stream(message, key)
        await way.when(key.called, stream.__aenter__)
        assert source.reads == 0
        await assert_failed(stream)
        with pytest.raises(StreamError, match="entered only once"):
            await stream.__aenter__()
    await assert_fine()


# Reads of the source


@each_way
async def test_in_a_read_of_plaintext(way: Way) -> None:
    source = Stalling(PLAINTEXT)
    taken: list[bytes] = []
    stream = encrypt_stream(source, KEY, frame_length=FRAME)
    await stream.__aenter__()

    async def take() -> None:
        while chunk := await stream.read(FRAME):
            taken.append(chunk)

    await way.when(source.stalled, take)
    assert taken
    await assert_left_with_error(stream)
    with pytest.raises(TruncatedMessageError):
        await decrypt(b"".join(taken), KEY)
    await assert_fine()


@pytest.mark.parametrize("given", [0, 50, 3000], ids=["header", "in the header", "body"])
@each_way
async def test_in_a_read_of_a_message(way: Way, given: int) -> None:
    message = await sealed(PLAINTEXT, frame_length=FRAME)
    source = Stalling(*([message[:given]] if given else []))
    stream = decrypt_stream(source, KEY)

    async def use() -> None:
        await stream.__aenter__()
        await stream.read()

    await way.when(source.stalled, use)
    if given < len(message) // 4:
        await assert_failed(stream)
    else:
        await assert_left_with_error(stream)
    assert not stream.verified
    await assert_fine()


@pytest.mark.parametrize("start", [encrypt, decrypt])
@each_way
async def test_in_a_read_of_a_one_shot(way: Way, start: Callable[..., Awaitable[object]]) -> None:
    source = Stalling((await sealed(PLAINTEXT, frame_length=FRAME))[:5000])
    await way.when(source.stalled, lambda: start(source, KEY))
    await assert_fine()


@each_way
async def test_a_cancelled_generator_never_makes_a_final_frame(way: Way) -> None:
    """It says that it has ended when it is asked again."""
    waiting, finished = anyio.Event(), []

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield PLAINTEXT
            waiting.set()
            await anyio.sleep_forever()
        finally:
            finished.append(True)

    generator = source()
    taken = b""
    stream = encrypt_stream(generator, KEY, frame_length=FRAME)
    await stream.__aenter__()

    async def take() -> None:
        nonlocal taken
        async for chunk in stream:
            taken += chunk

    await way.when(waiting, take)
    assert finished == [True]
    with pytest.raises(StopAsyncIteration):
        await anext(generator)
    await assert_left_with_error(stream)
    with pytest.raises(TruncatedMessageError):
        await decrypt(taken, KEY)
    await assert_fine()


@each_way
async def test_a_writer_that_is_cancelled_between_writes_leaves_nothing(way: Way, tmp_path: Path) -> None:
    waiting = anyio.Event()

    async def use() -> None:
        async with aioencrypt.open(tmp_path / "file", "wb", provider=KEY, frame_length=FRAME) as writer:
            await writer.write(PLAINTEXT)
            assert len([*tmp_path.iterdir()]) == 1
            waiting.set()
            await anyio.sleep_forever()

    await way.when(waiting, use)
    assert [*tmp_path.iterdir()] == []
    await assert_fine()
