"""A source of ranges for tests: it records what is read, and can be made to fail, lie or wait."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from aioencrypt.streams import RangeSource


class Recorded:
    """Ranges of bytes; `reads` are those that were asked for, in order.

    `answer` changes what is given for a range, `size_said` what is said to be the size. With `gate` set,
    reads wait for it; `most` is how many ran at once.
    """

    def __init__(
        self,
        data: bytes,
        *,
        answer: Callable[[bytes, int, int], bytes] = lambda data, start, end: data[start:end],
        size_said: int | None = None,
    ) -> None:
        self.data = data
        self.answer = answer
        self.size_said = len(data) if size_said is None else size_said
        self.reads: list[tuple[int, int]] = []
        self.sizes = 0
        self.closed = 0
        self.running = 0
        self.most = 0
        self.gate: anyio.Event | None = None

    async def size(self) -> int:
        self.sizes += 1
        return self.size_said

    async def read_range(self, start: int, end: int, /) -> bytes:
        assert not self.closed
        self.reads.append((start, end))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(0)
            if self.gate:
                await self.gate.wait()
            return self.answer(self.data, start, end)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def fetched(self) -> int:
        """The number of bytes that were asked for."""
        return sum(end - start for start, end in self.reads)


def is_range_source(source: RangeSource) -> RangeSource:
    """Return it: what is checked is the type."""
    return source
