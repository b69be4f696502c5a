"""Any bytes, and any one mutation of a message: refused with our errors, and with nothing else."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings, strategies as st

from aioencrypt import AlgorithmSuite, MessageError, PolicyError, ProviderError
from tests.support.damage import FRAME_LENGTH, PLAINTEXT, READER, Kind, pieces
from tests.support.messages import Message

# `MESSAGES` are made once; what is tested does not depend on the loop.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SUITES = [AlgorithmSuite(number) for number in (0x0078, 0x0178, 0x0378, 0x0478, 0x0578)]
KINDS = [Kind(suite, framed) for suite in SUITES for framed in (True, False)]
MESSAGES: dict[Kind, Message] = {}

OURS = (MessageError, PolicyError, ProviderError)
RELEASABLE = {PLAINTEXT[:length] for length in (*range(0, len(PLAINTEXT), FRAME_LENGTH), len(PLAINTEXT))}

kinds = st.sampled_from(KINDS)
numbers = st.integers(0, 2**16)


async def message_of(kind: Kind) -> Message:
    if kind not in MESSAGES:
        MESSAGES[kind] = await kind.message()
    return MESSAGES[kind]


def position(message: Message, number: int) -> int:
    """Turn a number into a place in a message: every second one is an edge of a field."""
    edges = sorted({edge for place in message.fields.values() for edge in (place.start, place.stop)})
    return edges[number // 2 % len(edges)] if number % 2 else number // 2 % (len(message.data) + 1)


def mutated(message: Message, mutation: str, where: list[int], new: bytes) -> bytes:
    data = message.data
    a, b, c, d = sorted(position(message, number) for number in where)
    match mutation:
        case "insert":
            return data[:a] + new + data[a:]
        case "delete":
            return data[:a] + data[b:]
        case "replace":
            return data[:a] + new + data[b:]
        case "repeat":
            return data[:b] + data[a:b] + data[b:]
        case _:
            return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


async def assert_refused(kind: Kind, data: bytes, cuts: list[int]) -> None:
    client = kind.client()
    with pytest.raises(OURS):
        await client.decrypt(data, READER)
    released = b""
    source = pieces(data, sorted({cut % len(data) + 1 for cut in cuts}))
    try:
        async with client.decrypt_stream(source, READER) as stream:
            async for chunk in stream:
                released += chunk
        pytest.fail("the stream was read to its end")
    except OURS:
        assert released in RELEASABLE


@settings(deadline=None, max_examples=600)
@given(
    kind=kinds,
    mutation=st.sampled_from(["insert", "delete", "replace", "repeat", "swap"]),
    where=st.lists(numbers, min_size=4, max_size=4),
    new=st.binary(min_size=1, max_size=40),
    cuts=st.lists(numbers, max_size=4),
)
async def test_any_one_mutation_is_refused(
    kind: Kind, mutation: str, where: list[int], new: bytes, cuts: list[int]
) -> None:
    message = await message_of(kind)
    data = mutated(message, mutation, where, new)
    assume(data and data != message.data)
    await assert_refused(kind, data, cuts)


@settings(deadline=None, max_examples=300)
@given(kind=kinds, start=numbers, rest=st.binary(max_size=200), cuts=st.lists(numbers, max_size=4))
async def test_any_bytes_after_the_start_of_a_message_are_refused(
    kind: Kind, start: int, rest: bytes, cuts: list[int]
) -> None:
    message = await message_of(kind)
    data = message.data[: position(message, start)] + rest
    assume(data and data != message.data)
    await assert_refused(kind, data, cuts)


@settings(deadline=None, max_examples=300)
@given(
    kind=kinds,
    start=st.sampled_from(
        [b"", b"\x01\x80", b"\x02", b"\x01\x80\x01\x78" + bytes(18), b"\x02\x04\x78" + bytes(34)]
    ),
    rest=st.binary(max_size=100),
)
async def test_any_bytes_decrypt_or_are_refused(kind: Kind, start: bytes, rest: bytes) -> None:
    await assert_refused(kind, start + rest or b"\0", [])


async def test_the_messages_are_whole() -> None:
    for kind in KINDS:
        message = await message_of(kind)
        assert (await kind.client().decrypt(message.data, READER)).plaintext == PLAINTEXT
