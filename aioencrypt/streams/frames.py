"""Frames of a message by their index: fetched as ranges, opened in batches, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import anyio
import attrs

from aioencrypt.errors import LimitError, MalformedMessageError, StreamError
from aioencrypt.format import MessageDecryptor
from aioencrypt.format.body import FRAME_OVERHEAD
from aioencrypt.format.ranges import BodyLayout, body_layouts, open_frames
from aioencrypt.format.work import Output
from aioencrypt.policies import Limits, Offload
from aioencrypt.runtime.offload import run_work
from aioencrypt.streams.ranges import Ranges

# What goes through one range read, apart from frames that are longer: enough for the rate of a disk or of
# S3, where several of them run at once.
_RANGE_LENGTH = 1024 * 1024
# Frames that are looked up in one turn of the loop.
_RANGE_FRAMES = 1024
# Plaintext that is copied in one go, and how fast that is into new pages: two of them fit into a turn of
# the loop.
_COPIED_AT_ONCE = 256 * 1024
_COPIED_IN_A_MICROSECOND = 3000
# What a cached frame costs besides its content, so that tiny frames do not fill the memory.
_FRAME_BYTES = 128


@attrs.frozen(eq=False)
class FrameRun:
    """The plaintext of consecutive frames, from the index `first` up to `stop`: opened as one batch."""

    first: int
    stop: int
    plaintext: bytes = attrs.field(repr=False)


class FrameCache:
    """The runs used last, up to `capacity` bytes; the very last one is kept however long it is."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._costs: OrderedDict[FrameRun, int] = OrderedDict()
        self._by_frame: dict[int, FrameRun] = {}
        self._cost = 0

    def __contains__(self, index: int) -> bool:
        return index in self._by_frame

    def get(self, index: int) -> FrameRun | None:
        """Return the run that has a frame."""
        found = self._by_frame.get(index)
        if found:
            self._costs.move_to_end(found)
        return found

    def add(self, new: FrameRun) -> None:
        """Keep a run, and drop those that were not used for the longest time."""
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
    """Reads the plaintext of an unlocked message by position; any number of tasks may read at once."""

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
        self.length: int = layout.plaintext_length
        self.opened: int = 1
        # A non-framed body is one frame.
        self._frame_length = layout.frame_length or max(1, self.length)
        # What is read ahead must still be there when it is asked for.
        frames_ahead = cache_length // 2 // (self._frame_length + _FRAME_BYTES)
        self.most_ahead: int = frames_ahead * self._frame_length
        self._step = min(_RANGE_FRAMES, max(1, _RANGE_LENGTH // (self._frame_length + FRAME_OVERHEAD)))

    def has(self, position: int) -> bool:
        """Tell whether the frame at a position is there."""
        index = position // self._frame_length
        return index == self._final.first or index in self._cache

    async def read(self, start: int, end: int, ahead: int = 0) -> bytes:
        """Return the plaintext from `start` up to `end`, and fetch the frames up to `ahead`, too."""
        if start >= end:
            return b""
        first, stop = start // self._frame_length, -(-max(end, ahead) // self._frame_length)
        if stop - first <= self._step and end - start <= _COPIED_AT_ONCE:
            runs = await self._runs(first, stop)
            cost = (end - start) / _COPIED_IN_A_MICROSECOND
            return await run_work(lambda: b"".join(self._parts(runs, start, end)), cost, self._offload)
        output = Output(end - start)
        await self._fill(output.reserve(end - start), start, range(first, stop, self._step), stop)
        return output.finish()

    async def _fill(self, target: memoryview, start: int, steps: range, stop: int) -> None:
        """Copy the plaintext from `start` on into `target`, several steps at once."""
        waiting, done = iter(steps), 0
        failures: list[BaseException] = []

        async def work() -> None:
            nonlocal done
            try:
                for step in waiting:
                    runs = await self._runs(step, min(step + self._step, stop))
                    at = max(0, step * self._frame_length - start)
                    await self._copy(self._parts(runs, start + at, start + len(target)), target[at:])
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

    async def _copy(self, parts: Iterator[memoryview], target: memoryview) -> None:
        """Copy parts one behind the other, so much in one turn of the loop as is due."""
        length = _COPIED_AT_ONCE
        pieces = (part[at : at + length] for part in parts for at in range(0, len(part), length))
        done = 0

        def copy() -> bool:
            nonlocal done
            stop = done + length
            for piece in pieces:
                target[done : done + len(piece)] = piece
                done += len(piece)
                if done >= stop:
                    return True
            return False

        while await run_work(copy, length / _COPIED_IN_A_MICROSECOND, self._offload):
            pass

    async def _runs(self, first: int, stop: int) -> list[FrameRun]:
        """Return runs in order that hold all frames from `first` up to `stop`; two may overlap."""
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
        """Yield what runs in order have of the plaintext from `start` up to `end`."""
        for found in runs:
            position = found.first * self._frame_length
            part = memoryview(found.plaintext)[start - position : max(0, end - position)]
            start += len(part)
            yield part

    async def _fetch(self, first: int, stop: int) -> list[FrameRun]:
        """Fetch and open regular frames; raises `MessageError`, and what the source raises."""
        layout = self._layout
        runs = []
        # A slot is kept until the frames are opened: what waits for that takes memory, too.
        async with self._ranges.slots:
            data = await self._ranges.read(layout.frame_start(first), layout.frame_start(stop))
            for work in open_frames(self._machine, first, data, count=stop - first):
                plaintext = await run_work(work.crypt, work.cost, self._offload)
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
    """Return the reader of an unlocked message, with the final frame opened: it says how long the message is.

    Raises `MessageError` where the final frame is not where the length of the source puts it, and
    `LimitError`.
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
    """Return where everything stands, and the message from the start of the final frame on."""
    for supposed in body_layouts(machine.received, ranges.size):
        _check_limits(supposed, limits)
        end = await ranges.read(supposed.frame_start(supposed.regular_count), ranges.size)
        if layout := supposed.confirmed(end):
            _check_limits(layout, limits)
            return layout, end
    raise MalformedMessageError(
        f"no final frame stands where the length of {ranges.size} bytes puts it: "
        "the message is cut off, or something follows it"
    )


def _check_limits(layout: BodyLayout, limits: Limits) -> None:
    for parameter, limit, actual, what in (
        (
            "max_frame_length",
            limits.max_frame_length,
            layout.final_length,
            "the length of the non-framed body",
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
