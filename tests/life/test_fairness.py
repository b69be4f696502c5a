"""Streams share the loop: what one of them does between two turns is bounded. Turns are counted, not time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import DataKeyRequest, DecryptedDataKey, EncryptedDataKey
from tests.support.message_writer import build_message
from tests.support.streaming import KEY, SIGNED, UNSIGNED, assert_idle, client_for, plaintext_of, sealed

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

MIB = 1024 * 1024
PLAINTEXT = plaintext_of(16 * MIB)
# Far above what any machine seals in 250 microseconds, far below all that there is.
BYTES_PER_TURN = 6 * MIB

suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


class Turns:
    """Counts turns of the loop, and the most that happened between two of them."""

    def __init__(self) -> None:
        self.count = 0
        self.since = 0
        self.most = 0

    def add(self, amount: int) -> None:
        self.since += amount
        self.most = max(self.most, self.since)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        async def tick() -> None:
            while True:
                await checkpoint()
                self.count += 1
                self.since = 0

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            while not self.count:
                await checkpoint()
            self.count = self.since = 0
            yield
            group.cancel_scope.cancel()


class Ready:
    """A source that never waits: it has pieces of one length, and counts its reads as amounts of a turn."""

    def __init__(self, data: bytes, length: int, turns: Turns) -> None:
        self.view = memoryview(data)
        self.length = length
        self.turns = turns

    async def read(self, n: int = -1) -> bytes:
        self.turns.add(1)
        piece, self.view = self.view[: self.length], self.view[self.length :]
        return bytes(piece)


@suites
@pytest.mark.parametrize("frame_length", [4096, 100_000, 3 * MIB])
async def test_one_stream_leaves_turns_to_others(suite: AlgorithmSuite, frame_length: int) -> None:
    client = client_for(suite)
    encrypted, turns = bytearray(), Turns()
    async with (
        turns.counted(),
        client.encrypt_stream(PLAINTEXT, KEY, algorithm_suite=suite, frame_length=frame_length) as writing,
    ):
        async for chunk in writing:
            encrypted += chunk
            turns.add(len(chunk))
    assert turns.most <= BYTES_PER_TURN
    message, turns = bytes(encrypted), Turns()
    async with turns.counted(), client.decrypt_stream(message, KEY) as reading:
        async for chunk in reading:
            turns.add(len(chunk))
    assert turns.most <= BYTES_PER_TURN
    assert_idle()


@suites
async def test_one_shots_leave_turns_to_others(suite: AlgorithmSuite) -> None:
    client, turns = client_for(suite), Turns()
    async with turns.counted():
        message, _ = await client.encrypt(PLAINTEXT, KEY, algorithm_suite=suite)
        encrypting = turns.count
        await client.decrypt(message, KEY)
        decrypting = turns.count - encrypting
    assert min(encrypting, decrypting) >= len(PLAINTEXT) // BYTES_PER_TURN + 1


@pytest.mark.parametrize("length", [1, 64, 4096])
@pytest.mark.parametrize("frame_length", [4096, 64 * 4096])
async def test_a_source_that_never_waits_leaves_turns_to_others(length: int, frame_length: int) -> None:
    """An async generator over rows in memory, for example."""
    plaintext = PLAINTEXT[: min(length * 5000, 2 * MIB)]
    message = await sealed(plaintext, UNSIGNED, frame_length=frame_length)
    turns = Turns()
    async with turns.counted():
        source = Ready(plaintext, length, turns)
        async with encrypt_stream(
            source, KEY, algorithm_suite=UNSIGNED, frame_length=frame_length
        ) as writing:
            await writing.read()
        assert turns.most <= 128, "reads between two turns, also where their order is by chance"
        turns.most = 0
        async with decrypt_stream(Ready(message, length, turns), KEY) as reading:
            assert await reading.read() == plaintext
        assert turns.most <= 128


@suites
async def test_many_streams_share_a_turn_and_get_on_together(suite: AlgorithmSuite) -> None:
    streams = 8
    client, turns = client_for(suite), Turns()
    taken = [0] * streams
    when_first_ended: list[int] = []
    plaintext = PLAINTEXT[: 4 * MIB]

    async def use(number: int) -> None:
        async with client.encrypt_stream(plaintext, KEY, algorithm_suite=suite) as stream:
            async for chunk in stream:
                turns.add(len(chunk))
                taken[number] += len(chunk)
        if not when_first_ended:
            when_first_ended.extend(taken)

    async with turns.counted(), anyio.create_task_group() as group:
        for number in range(streams):
            group.start_soon(use, number)
    assert turns.most <= BYTES_PER_TURN, "over all of them"
    assert min(when_first_ended) >= max(when_first_ended) // 2
    assert_idle()


async def test_a_small_message_does_not_wait_for_a_long_one() -> None:
    ended: list[str] = []

    async def long() -> None:
        await encrypt(PLAINTEXT, KEY)
        ended.append("long")

    async def small() -> None:
        message, _ = await encrypt(b"abc", KEY)
        await decrypt(message, KEY)
        ended.append("small")

    async with anyio.create_task_group() as group:
        group.start_soon(long)
        await checkpoint()
        for _ in range(5):
            group.start_soon(small)
    assert ended[:5] == ["small"] * 5


# Headers that somebody made on purpose


def many_keys(count: int, provider_id: str = "a") -> bytes:
    keys = [EncryptedDataKey(provider_id, b"", b"")] * count
    return build_message(UNSIGNED, b"abc", encrypted_data_keys=keys).data


async def decrypt_streaming(message: bytes, provider: MasterKeyProvider) -> None:
    async with decrypt_stream(message, provider):
        pass


ways = pytest.mark.parametrize("way", [decrypt, decrypt_streaming])
Decrypt = Callable[[bytes, MasterKeyProvider], Awaitable[object]]


@ways
async def test_a_header_of_many_data_keys_is_parsed_in_many_turns(way: Decrypt) -> None:
    message, turns = many_keys(20_000), Turns()
    parsing: list[int] = []

    class Refusing(RawAESMasterKey):
        async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
            parsing.append(turns.count)
            raise ProviderError(f"{len(request.encrypted_data_keys)} are too many")

    async with turns.counted():
        with pytest.raises(ProviderError, match="20000 are too many"):
            await way(message, Refusing("tests", "refusing", wrapping_key=bytes(32)))
    assert parsing[0] >= len(message) // 4096 - 1


@ways
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
async def test_keys_look_through_many_data_keys_in_many_turns(way: Decrypt, several: bool) -> None:
    turns = Turns()

    class Looking(RawAESMasterKey):
        def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
            turns.add(1)
            return super().owns_data_key(encrypted_data_key)

    key = Looking("tests", "looking", wrapping_key=bytes(32))
    async with turns.counted():
        with pytest.raises(ProviderError):
            await way(many_keys(10_000), MultiMasterKeyProvider(key, key, KEY) if several else key)
    assert turns.most <= 512
