"""Random access to a message: fetch and decrypt only the frames that are needed.

`SeekableDecryptStream` reads from a `RangeSource` (see `streams/ranges.py`). Opening it reads the header
and the final frame, which authenticates the length. After that, each frame is fetched on demand, and its
tag is verified before any of its plaintext is returned.

A signature covers the whole message, so partial reads cannot verify it.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import attrs
from anyio.lowlevel import checkpoint

from aioencrypt.errors import (
    IncompleteReadError,
    LimitError,
    MalformedMessageError,
    MessageError,
    SignaturePolicyError,
    StreamBusyError,
    StreamError,
    TruncatedMessageError,
)
from aioencrypt.format import MessageDecryptor, MessageHeader
from aioencrypt.format.decryptor import open_frames
from aioencrypt.format.frames import (
    FINAL_HEADER_LENGTH,
    FINAL_MARKER,
    FINAL_OVERHEAD,
    FRAME_OVERHEAD,
    MAX_FRAMES,
    MAX_NON_FRAMED_LENGTH,
    NON_FRAMED_HEADER_LENGTH,
    BodyLayout,
    body_layouts,
    starts_frame,
)
from aioencrypt.format.header import ReceivedHeader
from aioencrypt.format.suites import TAG_LENGTH
from aioencrypt.format.work import Output
from aioencrypt.policies import Limits, Offload
from aioencrypt.providers.values import Provenance
from aioencrypt.runtime.arguments import check_int, check_type
from aioencrypt.runtime.event_loops import Call, loop_caller
from aioencrypt.runtime.observation import Tally
from aioencrypt.runtime.offload import loop_states, run_work
from aioencrypt.streams.decrypt import DecryptOptions
from aioencrypt.streams.driver import read_header_at
from aioencrypt.streams.lifecycle import Closable, Lifecycle
from aioencrypt.streams.ranges import Ranges, RangeSource

# The length of one range read in bytes, unless a frame is longer: enough for the full rate of a disk, or of
# S3 with several reads at once.
_RANGE_LENGTH = 1024 * 1024
# Frames looked up per event loop iteration.
_RANGE_FRAMES = 1024
# Bytes of plaintext copied in one step, and bytes copied per microsecond into new pages: two steps fit into
# one event loop iteration.
_COPIED_AT_ONCE = 256 * 1024
_COPIED_IN_A_MICROSECOND = 3000
# The overhead of a cached frame in bytes, so that tiny frames do not exhaust the memory.
_FRAME_BYTES = 128
# The second of consecutive reads fetches this many bytes ahead, and each later one twice as many.
_FIRST_AHEAD = 64 * 1024
_MOST_AHEAD = 4 * 1024 * 1024
_CHUNK_LENGTH = 256 * 1024
# Yield to the event loop after this many reads from the cache.
_READS_PER_TURN = 128


@attrs.frozen(eq=False)
class FrameRun:
    """The plaintext of consecutive frames, `first` up to `stop`, which were decrypted in one batch."""

    first: int
    stop: int
    plaintext: bytes = attrs.field(repr=False)


class FrameCache:
    """An LRU cache of runs, up to `capacity` bytes. The most recent run is kept regardless of its length."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._costs: OrderedDict[FrameRun, int] = OrderedDict()
        self._by_frame: dict[int, FrameRun] = {}
        self._cost = 0

    def __contains__(self, index: int) -> bool:
        return index in self._by_frame

    def get(self, index: int) -> FrameRun | None:
        """Return the run with this frame, or None."""
        found = self._by_frame.get(index)
        if found:
            self._costs.move_to_end(found)
        return found

    def add(self, new: FrameRun) -> None:
        """Keep a run, and evict the least recently used ones."""
        self._costs[new] = len(new.plaintext) + (new.stop - new.first) * _FRAME_BYTES
        self._cost += self._costs[new]
        self._by_frame.update(dict.fromkeys(range(new.first, new.stop), new))
        while self._cost > self._capacity and len(self._costs) > 1:
            dropped, cost = self._costs.popitem(last=False)
            self._cost -= cost
            for index in range(dropped.first, dropped.stop):
                # Two tasks may have fetched the same frame at the same time.
                if self._by_frame.get(index) is dropped:
                    del self._by_frame[index]

    def clear(self) -> None:
        """Drop everything."""
        self._costs.clear()
        self._by_frame.clear()
        self._cost = 0


class FrameReader:
    """Reads the plaintext of an unlocked message at any position. Tasks may read concurrently."""

    def __init__(
        self,
        ranges: Ranges,
        machine: MessageDecryptor,
        layout: BodyLayout,
        final: FrameRun,
        *,
        cache_length: int,
        concurrency: int,
        offload: Offload,
    ) -> None:
        self._ranges = ranges
        self._machine = machine
        self._layout = layout
        self._final = final
        self._cache = FrameCache(cache_length)
        self._concurrency = concurrency
        self._offload = offload
        self._loop = loop_states.get()
        self.length: int = layout.plaintext_length
        self.opened: int = 1
        # A non-framed body is one frame.
        self._frame_length = layout.frame_length or max(1, self.length)
        # The cache must hold what is read ahead until it is requested.
        frames_ahead = cache_length // 2 // (self._frame_length + _FRAME_BYTES)
        self.most_ahead: int = frames_ahead * self._frame_length
        self._step = min(_RANGE_FRAMES, max(1, _RANGE_LENGTH // (self._frame_length + FRAME_OVERHEAD)))

    def has(self, position: int) -> bool:
        """Tell whether the frame at a position is cached."""
        index = position // self._frame_length
        return index == self._final.first or index in self._cache

    async def read(self, start: int, end: int, ahead: int = 0) -> bytes:
        """Return the plaintext from `start` up to `end`; also fetch the frames up to `ahead`."""
        if start >= end:
            return b""
        first, stop = start // self._frame_length, -(-max(end, ahead) // self._frame_length)
        if stop - first <= self._step and end - start <= _COPIED_AT_ONCE:
            runs = await self._runs(first, stop)
            cost = (end - start) / _COPIED_IN_A_MICROSECOND
            join = partial(b"".join, self._parts(runs, start, end))
            return await run_work(join, cost, self._offload, self._loop)
        with Output(end - start) as output:
            await self._fill(output.reserve(end - start), start, range(first, stop, self._step), stop)
            return output.finish()

    async def _fill(self, target: memoryview, start: int, steps: range, stop: int) -> None:
        """Copy the plaintext from `start` on into `target`, fetching several steps concurrently."""
        waiting, done = iter(steps), 0
        failures: list[BaseException] = []

        async def work() -> None:
            nonlocal done
            try:
                for step in waiting:
                    runs = await self._runs(step, min(step + self._step, stop))
                    at = max(0, step * self._frame_length - start)
                    await self._copy(self._parts(runs, start + at, start + len(target)), target, at)
                    done += 1
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # raised below, outside the group, which would wrap it
                failures.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(min(self._concurrency, len(steps))):
                group.start_soon(work)
        if failures:
            raise failures[0]
        if done < len(steps):
            raise StreamError("a range read was cancelled, and not by its caller")

    async def _copy(self, parts: Iterator[memoryview], target: memoryview, done: int) -> None:
        """Copy consecutive parts to an offset in `target`, a limited amount per event loop iteration."""
        length = _COPIED_AT_ONCE
        pieces = (part[at : at + length] for part in parts for at in range(0, len(part), length))

        def copy() -> bool:
            nonlocal done
            stop = done + length
            for piece in pieces:
                target[done : done + len(piece)] = piece
                done += len(piece)
                if done >= stop:
                    return True
            return False

        while await run_work(copy, length / _COPIED_IN_A_MICROSECOND, self._offload, self._loop):
            pass

    async def _runs(self, first: int, stop: int) -> list[FrameRun]:
        """Return runs, in order, that together hold the frames `first` up to `stop`; runs may overlap."""
        runs: list[FrameRun] = []
        index = first
        while index < stop:
            if found := self._run(index):
                runs.append(found)
            else:
                missing = index + 1
                while missing < min(stop, self._final.first) and missing not in self._cache:
                    missing += 1
                runs += await self._fetch(index, missing)
            index = runs[-1].stop
        return runs

    def _run(self, index: int) -> FrameRun | None:
        return self._final if index == self._final.first else self._cache.get(index)

    def _parts(self, runs: list[FrameRun], start: int, end: int) -> Iterator[memoryview]:
        """Yield the plaintext from `start` up to `end` that consecutive runs hold."""
        for found in runs:
            position = found.first * self._frame_length
            part = memoryview(found.plaintext)[start - position : max(0, end - position)]
            start += len(part)
            yield part

    async def _fetch(self, first: int, stop: int) -> list[FrameRun]:
        """Fetch and decrypt regular frames; raises `MessageError` and the exceptions of the source."""
        layout = self._layout
        runs = []
        # Keep the slot while decrypting, because fetched frames that wait for that take memory, too.
        async with self._ranges.slots:
            data = await self._ranges.read(layout.frame_start(first), layout.frame_start(stop))
            for work in open_frames(self._machine, first, data, count=stop - first):
                plaintext = await run_work(work.crypt, work.cost, self._offload, self._loop)
                runs.append(FrameRun(first, first + work.count, plaintext))
                self._cache.add(runs[-1])
                first += work.count
                self.opened += work.count
        return runs

    def clear(self) -> None:
        """Drop all plaintext."""
        self._cache.clear()
        self._final = FrameRun(self._final.first, self._final.stop, b"")


async def open_frame_reader(
    ranges: Ranges,
    machine: MessageDecryptor,
    limits: Limits,
    *,
    cache_length: int,
    concurrency: int,
    offload: Offload,
) -> FrameReader:
    """Decrypt the final frame of an unlocked message, which authenticates its length, and return a reader.

    Raises `TruncatedMessageError` if the source ends before the message, another `MessageError` if the final
    frame is not where the length of the source puts it, and `LimitError`.
    """
    layout, end = await _find_final_frame(ranges, machine, limits)
    end = end[: layout.final_overhead + layout.final_length]
    [work] = open_frames(machine, layout.regular_count, end, count=1, last=True)
    plaintext = await run_work(work.crypt, work.cost, offload)
    return FrameReader(
        ranges,
        machine,
        layout,
        FrameRun(layout.regular_count, layout.regular_count + 1, plaintext),
        cache_length=cache_length,
        concurrency=concurrency,
        offload=offload,
    )


async def _find_final_frame(
    ranges: Ranges, machine: MessageDecryptor, limits: Limits
) -> tuple[BodyLayout, bytes]:
    """Return the layout of the body, and the message from the start of the final frame on."""
    for supposed in body_layouts(machine.received, ranges.size):
        _check_limits(supposed, limits)
        end = await ranges.read(supposed.frame_start(supposed.regular_count), ranges.size)
        if layout := supposed.confirmed(end):
            _check_limits(layout, limits)
            return layout, end
    if await _is_cut_off(ranges, machine.received):
        raise TruncatedMessageError(f"the source ends after {ranges.size} bytes, before the message does")
    raise MalformedMessageError(
        f"there is no final frame where a length of {ranges.size} bytes puts it: "
        "the message is cut off, or something follows it"
    )


async def _is_cut_off(ranges: Ranges, received: ReceivedHeader) -> bool:
    """Tell whether the source is only truncated: the frames near its end are where they belong."""
    header_length, frame_length = len(received.serialized), received.header.frame_length
    if not frame_length:
        length_at = header_length + NON_FRAMED_HEADER_LENGTH - 8
        return await _lacks_end(ranges, received, length_at, 8, MAX_NON_FRAMED_LENGTH)
    stride = frame_length + FRAME_OVERHEAD
    last = (ranges.size - header_length) // stride
    if last >= MAX_FRAMES:
        return False
    signature = received.header.algorithm_suite.signature
    longest_end = FINAL_OVERHEAD + frame_length + (2 + signature.max_signature_length if signature else 0)
    belongs = True
    for index in range(max(0, last - longest_end // stride - 1), last + 1):
        start = header_length + index * stride
        head = await ranges.read(start, min(start + FINAL_HEADER_LENGTH - 4, ranges.size))
        final = starts_frame(head, index, final=True)
        if final and len(head) >= len(FINAL_MARKER):
            return belongs and await _lacks_end(
                ranges, received, start + FINAL_HEADER_LENGTH - 4, 4, frame_length
            )
        belongs = belongs and (starts_frame(head, index, final=False) or final)
    return belongs


async def _lacks_end(
    ranges: Ranges, received: ReceivedHeader, length_at: int, field_length: int, longest: int
) -> bool:
    """Tell whether the content, tag or signature after a length field is incomplete."""
    start = length_at + field_length
    if ranges.size < start:
        return True
    length = int.from_bytes(await ranges.read(length_at, start), "big")
    end = start + length + TAG_LENGTH
    if signature := received.header.algorithm_suite.signature:
        if ranges.size >= end + 2:
            signature_length = int.from_bytes(await ranges.read(end, end + 2), "big")
            if signature_length > signature.max_signature_length:
                return False
            end += signature_length
        end += 2
    return length <= longest and ranges.size < end


def _check_limits(layout: BodyLayout, limits: Limits) -> None:
    for parameter, limit, actual, what in (
        (
            "max_frame_length",
            limits.max_frame_length,
            layout.longest_frame,
            "the length of a frame" if layout.frame_length else "the length of the non-framed body",
        ),
        (
            "max_plaintext_length",
            limits.max_plaintext_length,
            layout.plaintext_length,
            "the length of the plaintext",
        ),
    ):
        if limit is not None and actual > limit:
            raise LimitError(parameter, limit=limit, actual=actual, what=what)


class SeekableDecryptStream(Lifecycle):
    """The plaintext of a message, as a file with random access.

    Entering `async with` reads the header, decrypts the data key, verifies the header and decrypts the
    final frame. Errors of header, policy or key are raised there; afterwards, `header` and `length` are
    known. You may leave at any time. Errors are not final: the next read tries again.

    Only one task may use `read`, `seek` and `tell`. Any number of tasks may call `read_at` concurrently.
    """

    _observed_as = "decrypt", "seekable"

    def __init__(
        self,
        source: RangeSource,
        options: DecryptOptions,
        *,
        accept_unverified_signature: bool,
        cache_length: int,
        concurrency: int,
    ) -> None:
        super().__init__("stream", errors_are_final=False)
        self._source = source
        self._options = options
        self._accept_unverified_signature = accept_unverified_signature
        self._cache_length = cache_length
        self._concurrency = concurrency
        self._ranges: Ranges | None = None
        self._frames: FrameReader | None = None
        self._header: MessageHeader | None = None
        self._provenance: Provenance | None = None
        self._position = 0
        self._iterated = False
        # Where a read continues the one before, and how many bytes that one fetched ahead.
        self._expected = -1
        self._ahead = 0
        self._reads = 0
        self._given = 0
        self._call_soon: Callable[[Call], None] | None = None

    async def _open(self) -> None:
        if self._watch:
            self._call_soon = loop_caller()
        ranges = self._ranges = Ranges(self._source, self._concurrency)
        await ranges.open()
        machine = self._options.machine()
        await read_header_at(machine, ranges)
        header = machine.received.header
        self._check_signature(header)
        materials = await self._options.unlock(machine)
        self._header, self._provenance = header, materials.provenance
        self._frames = await open_frame_reader(
            ranges,
            machine,
            self._options.limits,
            cache_length=self._cache_length,
            concurrency=self._concurrency,
            offload=self._options.offload,
        )

    def _check_signature(self, header: MessageHeader) -> None:
        suite = header.algorithm_suite
        if suite.signed and not self._accept_unverified_signature:
            raise SignaturePolicyError(
                f"the message is signed ({suite.name}), and reading parts of it verifies no signature: "
                "read it with decrypt_stream, or give accept_unverified_signature=True "
                "if the tags of its frames are enough"
            )

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def aclose(self) -> None:
        """Close the stream. Running reads of other tasks finish first; then the source is closed."""
        await self._close()

    def __del__(self) -> None:
        """Tell observers of the end, because some consumers of files never close them."""
        if self._watch and self._call_soon and not self._released:
            self._watch.tally = self._tally()
            # Observers take locks, which the interrupted code may hold.
            self._call_soon(partial(self._watch.end, self._failed_by))

    @property
    def _complete(self) -> bool:
        return self._failed_by is None

    def _check_not_busy(self) -> None:
        if self._busy:
            raise StreamBusyError("another task is using the position of this stream: use read_at() instead")

    def _resources(self) -> Sequence[Closable]:
        return [self._ranges or self._source]

    def _forget(self) -> None:
        if self._frames:
            self._frames.clear()

    def _tally(self) -> Tally:
        return Tally.of(
            self._header,
            self._provenance,
            plaintext_length=self._given,
            ciphertext_length=self._ranges.fetched if self._ranges else 0,
            frames=self._frames.opened if self._frames else 0,
        )

    @property
    def header(self) -> MessageHeader:
        """The verified header; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None:
            raise self._not_entered()
        return self._header

    @property
    def provenance(self) -> Provenance:
        """The master key that decrypted the data key; raises `StreamNotEnteredError` before `async with`."""
        if self._provenance is None:
            raise self._not_entered()
        return self._provenance

    @property
    def length(self) -> int:
        """The verified plaintext length in bytes; raises `StreamNotEnteredError` before `async with`."""
        return self._open_frames.length

    async def read_at(self, offset: int, n: int = -1) -> bytes:
        """Return `n` bytes at `offset`, fewer only at the end; all remaining bytes if `n` is negative.

        Any number of tasks may call this concurrently. Raises `MessageError` and the exceptions of the
        source.
        """
        check_int("offset", offset, 0)
        check_type("n", n, int)
        async with self._shared():
            frames = self._open_frames
            end = frames.length if n < 0 else min(offset + n, frames.length)
            return await self._read(frames, offset, end, end)

    async def _read(self, frames: FrameReader, start: int, end: int, ahead: int) -> bytes:
        self._reads += 1
        if self._reads % _READS_PER_TURN == 0:
            await checkpoint()
        data = await frames.read(start, end, ahead)
        self._given += len(data)
        return data

    @property
    def _open_frames(self) -> FrameReader:
        if self._frames is None:
            raise self._not_entered()
        return self._frames

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes, or all remaining bytes if `n` is negative; ``b""`` only at the end.

        Consecutive reads fetch ahead, more each time. An error does not move the position. Raises
        `MessageError` and the exceptions of the source.
        """
        check_type("n", n, int)
        async with self._exclusive():
            return await self._read_on(self._open_frames, n)

    async def _read_on(self, frames: FrameReader, n: int) -> bytes:
        start = self._position
        end = frames.length if n < 0 else min(start + n, frames.length)
        ahead = self._fetch_up_to(frames, start, end)
        self._expected = -1  # an error ends the sequence of consecutive reads
        try:
            data = await self._read(frames, start, end, ahead)
        except MessageError:
            if ahead == end:
                raise
            # Perhaps only frames that were read ahead are damaged.
            self._ahead = 0
            data = await self._read(frames, start, end, end)
        self._position = self._expected = start + len(data)
        return data

    def _fetch_up_to(self, frames: FrameReader, start: int, end: int) -> int:
        """Return how far to fetch, so that consecutive reads find their frames in the cache."""
        if start != self._expected:
            self._ahead = 0
        elif start < end and not frames.has(end - 1):
            self._ahead = min(max(2 * self._ahead, _FIRST_AHEAD), _MOST_AHEAD, frames.most_ahead)
        else:
            return end
        return min(end + self._ahead, frames.length)

    async def readexactly(self, n: int) -> bytes:
        """Return exactly `n` bytes.

        Raises `IncompleteReadError` if fewer are left; the position stays where it is.
        """
        check_int("n", n, 0)
        async with self._exclusive():
            start = self._position
            data = await self._read_on(self._open_frames, n)
            if len(data) == n:
                return data
            self._position = start
        raise IncompleteReadError(data, n)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position like `io.IOBase.seek` and return it; reads nothing.

        The position may be after the end, where reads return ``b""``.
        """
        self._check_idle()
        check_type("offset", offset, int)
        check_int("whence", whence, io.SEEK_SET, io.SEEK_END)
        position = offset + (0, self._position, self._open_frames.length)[whence]
        if position < 0:
            raise ValueError(f"the position would be {position}; it must be 0 or more")
        self._position = position
        self._iterated = False
        return position

    def tell(self) -> int:
        """Return the position."""
        self._check_idle()
        return self._position

    def __aiter__(self) -> Self:
        if self._iterated:
            raise StreamError("the stream was iterated to its end: seek(0) to read it again")
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read(_CHUNK_LENGTH)
        if not chunk:
            self._iterated = True
            raise StopAsyncIteration
        return chunk
