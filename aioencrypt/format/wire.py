"""The bytes that have arrived and are not consumed yet."""

from __future__ import annotations

from collections import deque

# Pieces below this are gathered, so that a peer who sends single bytes costs no object for each.
_SMALL = 4 * 1024
_GATHERED = 64 * 1024


class ByteQueue:
    """A queue of immutable pieces: bytes go in at the end and are taken from the front.

    Nothing is copied that need not be: a large piece is handed out as views on itself. Gathered
    small pieces are frozen into `bytes` before a view on them exists, so a view never sees a buffer
    that still grows.
    """

    __slots__ = ("_length", "_pieces", "_tail")

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._tail = bytearray()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | memoryview) -> None:
        """Add immutable bytes at the end."""
        self._length += len(data)
        if len(data) >= _SMALL:
            self._freeze()
            self._pieces.append(memoryview(data))
            return
        self._tail += data
        if len(self._tail) >= _GATHERED:
            self._freeze()

    def _freeze(self) -> None:
        if self._tail:
            self._pieces.append(memoryview(bytes(self._tail)))
            self._tail.clear()

    def front(self) -> memoryview:
        """Return the first contiguous piece, without taking it; it may be empty."""
        if not self._pieces:
            self._freeze()
        return self._pieces[0] if self._pieces else memoryview(b"")

    def peek(self, length: int) -> bytes:
        """Return the first `length` bytes, all of which must be there, without taking them."""
        front = self.front()
        if len(front) >= length:
            return bytes(front[:length])
        pieces = self.take_pieces(length)
        self._pieces.extendleft(reversed(pieces))
        self._length += length
        return b"".join(pieces)

    def take(self, length: int) -> bytes:
        """Take the first `length` bytes, all of which must be there."""
        return b"".join(self.take_pieces(length))

    def take_pieces(self, length: int) -> tuple[memoryview, ...]:
        """Take the first `length` bytes, all of which must be there, as views without a copy."""
        self._length -= length
        taken = []
        while length:
            front = self.front()
            if len(front) > length:
                taken.append(front[:length])
                self._pieces[0] = front[length:]
                break
            taken.append(self._pieces.popleft())
            length -= len(front)
        return tuple(taken)

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self._tail.clear()
        self._length = 0
