"""Rewrapping: the life of the stream, and a header alone."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    PolicyError,
    RawAESMasterKey,
    SignaturePolicyError,
    StreamClosedError,
    StreamNotEnteredError,
    UnverifiedStreamError,
)
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import rewrap_header
from tests.support.rewrapping import (
    HEADER_ENOUGH,
    NEW,
    OLD,
    UNSIGNED_SUITES,
    V1_UNSIGNED,
    each,
    message_of,
    opens,
    rewrapped,
    rewrapping,
)
from tests.support.streaming import (
    SIGNED,
    UNSIGNED,
    assert_idle,
    client_for,
    plaintext_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

PLAINTEXT = plaintext_of(1234)

NOBODY = RawAESMasterKey("nobody", "is asked", wrapping_key=bytes(32))


# Life


@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED, SIGNED], ids=["v1", "v2", "signed"])
async def test_leaving_early_is_an_error_unless_it_is_meant(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, plaintext_of(1_000_000), frame_length=4096)
    with pytest.raises(UnverifiedStreamError, match="so what was written is no message"):
        async with rewrapping(message, suite) as stream:
            await stream.read(10)
    async with rewrapping(message, suite) as stream:
        await stream.read(10)
        stream.abandon()
    with pytest.raises(KeyError):
        async with rewrapping(message, suite) as stream:
            raise KeyError
    assert_idle()


async def test_nothing_is_known_before_async_with() -> None:
    stream = rewrapping(await message_of(UNSIGNED, PLAINTEXT), UNSIGNED)
    for use in (lambda: stream.header, lambda: stream.reencrypted):
        with pytest.raises(StreamNotEnteredError):
            use()
    with pytest.raises(StreamNotEnteredError):
        await stream.read()


class Pieces:
    """A reader that gives eleven bytes at a time."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.taken = 0

    async def read(self, n: int = -1) -> bytes:
        await anyio.sleep(0)
        self.taken += 11
        return self.message[self.taken - 11 : self.taken]


class Broken:
    """A reader that fails at its third piece."""

    def __init__(self, message: bytes) -> None:
        self.pieces = [message[:400], message[400:700]]

    async def read(self, n: int = -1) -> bytes:
        await anyio.sleep(0)
        if not self.pieces:
            raise ConnectionResetError("gone")
        return self.pieces.pop(0)


@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED, SIGNED], ids=["v1", "v2", "signed"])
@pytest.mark.parametrize("verify", [False, True])
async def test_an_error_of_the_source_passes_through(suite: AlgorithmSuite, verify: bool) -> None:
    source = Broken(await message_of(suite, PLAINTEXT))
    with pytest.raises(ConnectionResetError, match="gone"):
        await rewrapped(source, suite, verify=verify)
    assert_idle()


@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED, SIGNED], ids=["v1", "v2", "signed"])
async def test_a_cancelled_stream_leaves_nothing_running(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, plaintext_of(100_000), frame_length=4096)

    async def source() -> Any:
        yield message[:50_000]
        await anyio.sleep_forever()

    with anyio.move_on_after(0.05) as scope:
        await rewrapped(source(), suite)
    assert scope.cancelled_caught
    assert_idle()


async def test_nothing_of_either_side_goes_on_when_a_cancelled_stream_is_left() -> None:
    """The side that encrypts raises when it is let go; the other one must be let go all the same."""
    stream: Any = rewrapping(await message_of(SIGNED, plaintext_of(1_000_000), frame_length=4096), SIGNED)
    await stream.__aenter__()
    go_on = threading.Event()
    sides = [stream._encrypting._sealer._digests, stream._decrypting._opener._driver._digests]
    for digests in sides:
        await digests.add(lambda: go_on.wait(30), 100_000)
        await digests.add(lambda: None, 100_000)
    with anyio.CancelScope() as scope:
        scope.cancel()
        # Later than leaving would be if it did not wait; the outcome does not depend on how much.
        threading.Timer(0.05, go_on.set).start()
        await stream.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert [digests._pending for digests in sides] == [0, 0]
    with pytest.raises(StreamClosedError):
        await stream._decrypting.read()
    assert_idle()


# The header alone


@each(HEADER_ENOUGH)
async def test_a_header_alone_is_made_from_the_start_of_a_message(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, PLAINTEXT)
    length = (await inspect_message(message)).header_length
    pieces = Pieces(message)
    for source in (message[:length], pieces, message):
        header = await rewrap_header(source, OLD, new_provider=NEW, encryption_client=client_for(suite))
        assert header.old_length == length
        new = header.serialized + message[header.old_length :]
        assert (await client_for(suite).decrypt(new, NEW)).header == header.header
        assert await opens(NEW, new, suite) == PLAINTEXT
        assert "serialized" not in repr(header)
    assert pieces.taken < length + 11


async def test_a_header_alone_is_refused_where_it_is_not_enough() -> None:
    with pytest.raises(SignaturePolicyError):
        await rewrap_header(await message_of(SIGNED, PLAINTEXT), NOBODY, new_provider=NEW)
    message = await message_of(UNSIGNED, PLAINTEXT)
    with pytest.raises(PolicyError, match="accept_iv_reuse"):
        await rewrap_header(message, NOBODY, new_provider=NEW)
    header = await rewrap_header(message, OLD, new_provider=NEW, accept_iv_reuse=True)
    assert await opens(NEW, header.serialized + message[header.old_length :], UNSIGNED) == PLAINTEXT


async def test_a_tag_is_never_made_twice_with_one_iv_unless_that_is_accepted() -> None:
    """The tag is the sum of a pad, which IV and key decide, and of what is authenticated."""
    for suite in UNSIGNED_SUITES:
        message = await message_of(suite, PLAINTEXT)
        new = await rewrapped(message, suite)
        before, after = await inspect_message(message), await inspect_message(new)
        one = message[: before.header_length][-28:-16] if suite.version == 1 else before.message_id
        two = new[: after.header_length][-28:-16] if suite.version == 1 else after.message_id
        assert one != two
        assert hashlib.sha256(message).digest() != hashlib.sha256(new).digest()
