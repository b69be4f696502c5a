"""What observers are told of messages: when, how they ended, and how much of them was done."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    DecryptStream,
    EncryptStream,
    MalformedMessageError,
    PlaintextLengthError,
    PolicyError,
    ProviderError,
    RawAESMasterKey,
    SignatureError,
    StreamError,
    TagError,
    TruncatedMessageError,
    UnverifiedStreamError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open as open_file,
    open_seekable,
)
from aioencrypt.runtime.observation import CacheAnswer, Message, Tally, observe, watch_message
from tests.support.observing import Note, Notes, observed
from tests.support.ranges import Recorded
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    Stalling,
    client_for,
    flipped,
    in_chunks,
    on_asyncio,
    opened,
    plaintext_of,
    sealed,
)

pytestmark = pytest.mark.anyio

FRAME = 1000
OTHER_KEY = RawAESMasterKey("tests", "other", wrapping_key=bytes(32))
Stream = EncryptStream | DecryptStream


@pytest.fixture
async def message(anyio_backend: Any) -> bytes:
    """Return a message of ten frames."""
    return await sealed(plaintext_of(10 * FRAME), UNSIGNED, frame_length=FRAME)


@pytest.fixture
def notes(message: bytes) -> Iterator[Notes]:
    """Observe what happens after that message was made."""
    with observed() as notes:
        yield notes


# How much


@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("length", "frames"), [(0, 1), (1, 1), (FRAME, 2), (FRAME + 1, 2), (200_000, 201)])
async def test_whole_messages_and_streams_are_counted_exactly(
    notes: Notes, length: int, frames: int, suite: AlgorithmSuite
) -> None:
    plaintext = plaintext_of(length)
    whole = await sealed(plaintext, suite, frame_length=FRAME)
    client = client_for(suite)
    async with client.encrypt_stream(
        in_chunks(plaintext, 7001), KEY, algorithm_suite=suite, frame_length=FRAME
    ) as stream:
        streamed = await stream.read()
    assert await opened(whole, suite) == plaintext
    assert await opened(in_chunks(streamed, 7001), suite) == plaintext
    assert notes.activities == [
        Message("encrypt", "whole"),
        Message("encrypt", "stream"),
        Message("decrypt", "whole"),
        Message("decrypt", "stream"),
    ]
    for note in notes.began:
        assert (note.message.outcome, note.message.error) == ("complete", None)
        assert 0 < note.message.seconds < 60
        assert note.message.tally == Tally(
            algorithm_suite=suite,
            cached=False,
            plaintext_length=length,
            ciphertext_length=len(whole),
            frames=frames,
        )
    assert len(streamed) == len(whole)


async def test_a_file_is_counted_when_it_is_in_its_place(notes: Notes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with open_file(path, "wb", provider=KEY, frame_length=FRAME) as writer:
        await writer.write(plaintext_of(1500))
        await writer.write(plaintext_of(700))
    written = notes.only.message
    assert (written.outcome, written.error) == ("complete", None)
    assert written.tally == Tally(
        algorithm_suite=SIGNED,
        plaintext_length=2200,
        ciphertext_length=path.stat().st_size,
        frames=3,
    )
    async with open_file(path, "rb", provider=KEY) as reader:
        assert len(await reader.read()) == 2200
    assert notes.activities == [Message("encrypt", "file"), Message("decrypt", "stream")]
    assert notes.began[1].message.tally == written.tally


async def test_a_seekable_stream_counts_what_it_fetches_and_what_it_hands_out(notes: Notes) -> None:
    message = await sealed(plaintext_of(200 * FRAME), UNSIGNED, frame_length=FRAME)
    source = Recorded(message)
    async with open_seekable(source, KEY) as stream:
        # two frames of the middle, and once more from what is kept
        assert await stream.read_at(100_500, 1000) == plaintext_of(200 * FRAME)[100_500:101_500]
        assert len(await stream.read_at(100_600, 300)) == 300
        assert len(notes.began) == 2
        assert notes.began[1].ends == []
    assert notes.activities[1] == Message("decrypt", "seekable")
    end = notes.began[1].message
    assert (end.outcome, end.error) == ("complete", None)
    assert end.tally == Tally(
        algorithm_suite=UNSIGNED, plaintext_length=1300, ciphertext_length=source.fetched, frames=3
    )


async def test_bytes_of_a_stream_that_is_left_are_those_until_then(notes: Notes, message: bytes) -> None:
    feed = Feed(message[:5000], message[5000:])
    async with decrypt_stream(feed, KEY) as stream:
        chunk = await stream.read(10_000)
        stream.abandon()
    tally = notes.only.message.tally
    assert (tally.plaintext_length, tally.ciphertext_length) == (len(chunk), 5000)
    assert 0 < len(chunk) == tally.frames * FRAME


# How it ended


async def leave(stream: Stream) -> None:
    async with stream:
        await stream.read(1)


async def abandon(stream: Stream) -> None:
    async with stream:
        stream.abandon()


async def close(stream: Stream) -> None:
    async with stream:
        await stream.aclose()
        stream.abandon()


async def read_all(stream: Stream) -> None:
    async with stream:
        await stream.read()


async def raise_inside(stream: Stream) -> None:
    async with stream:
        raise LookupError("of the caller")


async def abandon_and_raise(stream: Stream) -> None:
    async with stream:
        stream.abandon()
        raise LookupError("of the caller")


async def complete_and_raise(stream: Stream) -> None:
    async with stream:
        await stream.read()
        raise LookupError("of the caller")


async def cancel_inside(stream: Stream) -> None:
    with anyio.CancelScope() as scope:
        async with stream:
            scope.cancel()
            await checkpoint()


STREAMS: dict[str, Callable[[bytes], Stream]] = {
    "encrypt": lambda message: encrypt_stream(Feed(plaintext_of(5000)), KEY, frame_length=FRAME),
    "decrypt": lambda message: decrypt_stream(Feed(message[:5000], message[5000:]), KEY),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize(
    ("use", "outcome", "error", "raised"),
    [
        (read_all, "complete", None, None),
        (complete_and_raise, "complete", None, LookupError),
        (abandon, "abandoned", None, None),
        (abandon_and_raise, "abandoned", None, LookupError),
        (close, "abandoned", None, None),
        (leave, "failed", UnverifiedStreamError, UnverifiedStreamError),
        (raise_inside, "failed", LookupError, LookupError),
    ],
)
async def test_how_a_stream_is_left_is_how_it_ended(
    notes: Notes,
    message: bytes,
    make: Callable[[bytes], Stream],
    use: Callable[[Stream], Awaitable[None]],
    outcome: str,
    error: type[Exception] | None,
    raised: type[Exception] | None,
) -> None:
    stream = make(message)
    assert notes.began == [], "nothing begins before `async with`"
    if raised is None:
        await use(stream)
    else:
        with pytest.raises(raised):
            await use(stream)
    assert (notes.only.message.outcome, notes.only.message.error) == (outcome, error)
    assert notes.only.message.tally.algorithm_suite in (SIGNED, UNSIGNED)


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
async def test_a_cancelled_stream_ended_by_that(
    notes: Notes, message: bytes, make: Callable[[bytes], Stream]
) -> None:
    await cancel_inside(make(message))
    assert notes.only.message.outcome == "cancelled"
    assert notes.only.message.error is anyio.get_cancelled_exc_class()


@pytest.mark.parametrize("operation", ["encrypt", "decrypt"])
async def test_a_cancelled_read_of_the_source_ended_the_stream(
    notes: Notes, message: bytes, operation: str
) -> None:
    source = Stalling(message[:3000])
    stream: Stream = encrypt_stream(source, KEY) if operation == "encrypt" else decrypt_stream(source, KEY)
    async with stream:
        async with anyio.create_task_group() as group:
            group.start_soon(stream.read)
            await source.stalled.wait()
            group.cancel_scope.cancel()
        with pytest.raises(StreamError, match="failed before"):
            await stream.read()
        stream.abandon()
    # neither the error that reading on raised, nor that it was abandoned then
    assert notes.only.message.outcome == "cancelled"
    assert notes.only.message.error is anyio.get_cancelled_exc_class()


async def failing_source() -> AsyncIterator[bytes]:
    yield b"x" * 10
    raise ConnectionResetError("of the source")


def damaged(message: bytes) -> bytes:
    return flipped(message, len(message) - 1)


ENTRY: dict[str, tuple[Callable[[bytes], Stream], type[Exception]]] = {
    "no key": (lambda message: decrypt_stream(message, OTHER_KEY), ProviderError),
    "no message": (lambda message: decrypt_stream(b"\x07 is no version", KEY), MalformedMessageError),
    "cut off": (lambda message: decrypt_stream(message[:100], KEY), TruncatedMessageError),
    "source": (lambda message: decrypt_stream(raising(), KEY), ConnectionResetError),
    "too few frames": (
        lambda message: encrypt_stream(b"", KEY, plaintext_length=2**40, frame_length=1),
        PolicyError,
    ),
}


async def raising() -> AsyncIterator[bytes]:
    raise ConnectionResetError("of the source")
    yield b""


@pytest.mark.parametrize("case", ENTRY)
async def test_a_stream_that_cannot_be_entered_ended_by_what_was_raised(
    notes: Notes, message: bytes, case: str
) -> None:
    make, error = ENTRY[case]
    with pytest.raises(error) as caught:
        await read_all(make(message))
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", type(caught.value))
    assert notes.only.message.tally.frames == 0
    assert notes.only.message.tally.algorithm_suite is None, "of a header that is not verified"


READING: dict[str, tuple[Callable[[bytes], Stream], type[Exception]]] = {
    "source of plaintext": (lambda message: encrypt_stream(failing_source(), KEY), ConnectionResetError),
    "too short": (
        lambda message: encrypt_stream(Feed(b"x"), KEY, plaintext_length=2),
        PlaintextLengthError,
    ),
    "tag": (lambda message: decrypt_stream(Feed(damaged(message)), KEY), TagError),
    "cut off": (lambda message: decrypt_stream(Feed(message[:-1]), KEY), TruncatedMessageError),
}


@pytest.mark.parametrize("case", READING)
@pytest.mark.parametrize("swallowed", [False, True])
async def test_the_first_error_of_a_stream_is_its_end(
    notes: Notes, message: bytes, case: str, swallowed: bool
) -> None:
    make, error = READING[case]
    stream = make(message)

    async def use() -> None:
        async with stream:
            with suppress(error) if swallowed else nullcontext():
                await stream.read()

    with pytest.raises(UnverifiedStreamError if swallowed else error):
        await use()
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", error)


async def test_a_wrong_signature_is_told(notes: Notes) -> None:
    message = await sealed(plaintext_of(5000), SIGNED, frame_length=FRAME)
    other = await sealed(plaintext_of(5000), SIGNED, frame_length=FRAME)
    forged = message[: -len(footer_of(message))] + footer_of(other)
    for source in (forged, in_chunks(forged, 999)):
        with pytest.raises(SignatureError):
            await opened(source)
    assert [(note.message.outcome, note.message.error) for note in notes.began[2:]] == [
        ("failed", SignatureError)
    ] * 2
    # The last frame is empty. It was opened, and not handed out.
    assert [note.message.tally.frames for note in notes.began[2:]] == [0, 6]
    assert [note.message.tally.plaintext_length for note in notes.began[2:]] == [0, 5 * FRAME]


def footer_of(message: bytes) -> bytes:
    return message[-(SIGNED.footer_length) :]


async def test_whole_messages_that_fail_are_told(notes: Notes, message: bytes) -> None:
    with pytest.raises(TagError):
        await decrypt(damaged(message), KEY)
    with pytest.raises(ProviderError):
        await decrypt(message, OTHER_KEY)
    with pytest.raises(PlaintextLengthError):
        await encrypt(b"xx", KEY, plaintext_length=1)
    assert [(note.message.outcome, note.message.error) for note in notes.began] == [
        ("failed", TagError),
        ("failed", ProviderError),
        ("failed", PlaintextLengthError),
    ]
    assert {note.message.tally for note in notes.began} == {Tally()}


@on_asyncio
async def test_a_whole_message_that_is_cancelled_is_told(notes: Notes) -> None:
    class Stuck(RawAESMasterKey):
        async def generate_data_key(self, request: Any) -> Any:
            await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        await encrypt(b"x", Stuck("tests", "stuck", wrapping_key=bytes(32)))
    assert (notes.only.message.outcome, notes.only.message.error) == ("cancelled", asyncio.CancelledError)


@on_asyncio
async def test_leaving_a_stream_that_another_task_reads_ends_it(notes: Notes, message: bytes) -> None:
    source = Stalling(message[:3000])
    stream = decrypt_stream(source, KEY)
    await stream.__aenter__()
    reading = asyncio.create_task(stream.read())
    await source.stalled.wait()
    await stream.__aexit__(LookupError, LookupError(), None)
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", LookupError)
    reading.cancel()
    await asyncio.wait([reading])
    await stream.aclose()
    assert len(notes.only.ends) == 1


# Files and random access


@pytest.mark.parametrize(
    ("case", "outcome", "error"),
    [
        ("abort", "abandoned", None),
        ("raise", "failed", LookupError),
        ("fail", "failed", PlaintextLengthError),
        ("no folder", "failed", FileNotFoundError),
        ("no key", "failed", ProviderError),
        ("short", "failed", PlaintextLengthError),
    ],
)
async def test_how_a_file_ended(
    notes: Notes, tmp_path: Path, case: str, outcome: str, error: type[Exception] | None
) -> None:
    path = tmp_path / "nowhere" / "file" if case == "no folder" else tmp_path / "file"
    key = BrokenKey("tests", "broken", wrapping_key=bytes(32)) if case == "no key" else KEY

    async def write() -> None:
        async with open_file(path, "wb", provider=key, plaintext_length=5) as writer:
            await writer.write(b"1234")
            if case == "abort":
                await writer.abort()
            if case == "raise":
                raise LookupError
            if case == "fail":
                await writer.write(b"567")

    if error is None:
        await write()
    else:
        with pytest.raises(error):
            await write()
    assert (notes.only.message.outcome, notes.only.message.error) == (outcome, error)
    assert not path.exists()


class BrokenKey(RawAESMasterKey):
    async def generate_data_key(self, request: Any) -> Any:
        raise ProviderError("broken")


async def test_a_cancelled_file_ended_by_that(notes: Notes, tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with open_file(tmp_path / "file", "wb", provider=KEY) as writer:
            await writer.write(b"x")
            scope.cancel()
            await checkpoint()
    assert notes.only.message.outcome == "cancelled"
    assert notes.only.message.error is anyio.get_cancelled_exc_class()


class SlowSink:
    """A sink whose second write, which is the first after the header, waits for `gate`."""

    def __init__(self) -> None:
        self.writes = 0
        self.gate = threading.Event()

    def create(self) -> None: ...

    def write(self, data: bytes, /) -> None:
        self.writes += 1
        assert self.writes == 1 or self.gate.wait(10)

    def commit(self) -> None:
        raise AssertionError

    def drop(self) -> None: ...


@on_asyncio
async def test_a_file_that_is_left_while_a_task_writes_ended_by_what_was_raised(notes: Notes) -> None:
    sink = SlowSink()
    writer = open_file(sink, "wb", provider=KEY, frame_length=1)
    await writer.__aenter__()
    writing = asyncio.create_task(writer.write(b"12"))
    await checkpoint()
    await writer.__aexit__(LookupError, LookupError(), None)
    assert notes.only.ends == []
    sink.gate.set()
    assert await writing == 2
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", LookupError)


async def test_a_failed_read_at_random_is_how_the_stream_ended(notes: Notes) -> None:
    message = await sealed(plaintext_of(200 * FRAME), UNSIGNED, frame_length=FRAME)
    async with open_seekable(flipped(message, len(message) // 2), KEY) as stream:
        with pytest.raises(TagError):
            await stream.read_at(100 * FRAME - 500, 1000)
        assert len(await stream.read_at(0, 10)) == 10
    end = notes.began[1].message
    assert (end.outcome, end.error, end.tally.plaintext_length) == ("failed", TagError, 10)


async def test_random_access_that_cannot_be_opened_is_told(notes: Notes, message: bytes) -> None:
    with pytest.raises(ProviderError):
        async with open_seekable(message, OTHER_KEY):
            raise AssertionError
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", ProviderError)
    assert notes.only.message.tally.frames == 0


async def test_random_access_that_nobody_closes_is_told_soon_after_it_is_let_go(message: bytes) -> None:
    with observed() as notes:
        stream = await open_seekable(message, KEY, accept_unverified_signature=True).__aenter__()
        await stream.read_at(0, 10)
        del stream
        gc.collect()
        # Whoever is interrupted by the collection may hold the locks of an observer.
        assert notes.only.ends == []
        with anyio.fail_after(10):
            while not notes.only.ends:
                await checkpoint()
    end = notes.only.message
    assert (end.outcome, end.error, end.tally.plaintext_length) == ("complete", None, 10)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_random_access_that_outlives_its_loop_is_let_go_in_silence(backend: str) -> None:
    async def leave() -> object:
        return await open_seekable(await sealed(b"x", UNSIGNED), KEY).__aenter__()

    with observed() as notes:
        left = anyio.run(leave, backend=backend)
        del left
        gc.collect()
    assert notes.began[1].ends == []


# Observers


async def test_observers_are_told_until_they_are_removed() -> None:
    first, second = Notes(), Notes()
    assert watch_message("encrypt", "whole") is None
    stop_first, stop_second = observe(first), observe(second)
    try:
        await sealed(b"")
        stop_first()
        stop_first()
        await sealed(b"")
    finally:
        stop_second()
    await sealed(b"")
    assert (len(first.began), len(second.began)) == (1, 2)
    assert watch_message("encrypt", "whole") is None


async def test_a_stream_that_began_before_is_told_to_its_end(message: bytes) -> None:
    with observed() as notes:
        stream = decrypt_stream(message, KEY)
        await stream.__aenter__()
    await stream.read()
    await stream.__aexit__(None, None, None)
    assert notes.only.message.outcome == "complete"


class Raising(Notes):
    """An observer of which one method raises."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def message_began(self, message: Message) -> Note:
        if self.where == "began":
            raise ValueError("a secret of the observer")
        return RaisingNote("message", (), where=self.where)

    def cache_answered(self, answer: CacheAnswer) -> None:
        raise ValueError("a secret of the observer")


class RaisingNote(Note):
    def __init__(self, name: str, within: tuple[str, ...], *, where: str) -> None:
        super().__init__(name, within)
        self.where = where

    def current(self) -> Any:
        if self.where == "current":
            raise ValueError("a secret of the observer")
        return self

    def __enter__(self) -> None:
        if self.where == "enter":
            raise ValueError("a secret of the observer")

    def __exit__(self, *error: object) -> None:
        assert error == (None, None, None)
        if self.where == "exit":
            raise ValueError("a secret of the observer")

    def ended(self, end: Any) -> None:
        if self.where == "ended":
            raise ValueError("a secret of the observer")


@pytest.mark.parametrize("where", ["began", "current", "enter", "exit", "ended"])
async def test_an_observer_that_raises_is_logged_and_nothing_else(
    notes: Notes, message: bytes, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    stop = observe(Raising(where))
    try:
        assert await opened(in_chunks(message, 700), UNSIGNED) == plaintext_of(10 * FRAME)
        with pytest.raises(ProviderError):
            await decrypt(message, OTHER_KEY)
    finally:
        stop()
    records = [record for record in caplog.records if record.name == "aioencrypt"]
    assert {record.levelname for record in records} == {"DEBUG"}
    assert [record.getMessage() for record in records] == ["an observer raised ValueError"] * 2
    # The other one was told all the same.
    assert [note.message.outcome for note in notes.began] == ["complete", "failed"]
