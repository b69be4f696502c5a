"""A queue of received bytes, and a cursor that parses fields from it."""

from __future__ import annotations

from collections import deque

from aioencrypt.errors import LimitError

# Smaller pieces are gathered into one buffer, so that single bytes from a peer do not cost an object each.
_SMALL = 4 * 1024
_JOINED_LENGTH = 64 * 1024


def flat_view(view: memoryview) -> memoryview:
    """Return a flat view of the bytes of a view with other items or several dimensions."""
    if view.ndim == 1 and view.format == "B" and view.contiguous:
        return view
    # A view that is not contiguous, or has a dimension of length 0, cannot be cast.
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())


def immutable(data: bytes | memoryview) -> bytes | memoryview:
    """Return bytes that cannot change: keep `bytes` and views on them, and copy everything else.

    A read-only view is not enough, because the owner of the buffer may still change it.
    """
    if type(data) is bytes:
        return data
    view = flat_view(memoryview(data))
    return view if type(view.obj) is bytes else bytes(view)


class ByteQueue:
    """A FIFO queue of immutable pieces of bytes.

    It avoids copies: large pieces are returned as views. Gathered small pieces are converted to `bytes`
    before they are viewed, so no view ever sees a buffer that still grows.
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
        if not data:
            return
        self._length += len(data)
        if len(data) >= _SMALL:
            if self._tail:
                self._freeze()
            self._pieces.append(memoryview(data))
            return
        self._tail += data
        if len(self._tail) >= _JOINED_LENGTH:
            self._freeze()

    def _freeze(self) -> None:
        if self._tail:
            self._pieces.append(memoryview(bytes(self._tail)))
            self._tail.clear()

    def front(self) -> memoryview:
        """Return the first piece without taking it; it may be empty."""
        if not self._pieces:
            self._freeze()
        return self._pieces[0] if self._pieces else memoryview(b"")

    def peek(self, length: int) -> bytes:
        """Return the first `length` bytes without taking them. The queue must hold that many."""
        front = self.front()
        return bytes(front[:length]) if len(front) >= length else b"".join(self.peek_pieces(length))

    def peek_pieces(self, length: int) -> tuple[memoryview, ...]:
        """Return the first `length` bytes as views without taking them. The queue must hold that many."""
        if len(self.front()) >= length:
            return (self._pieces[0][:length],) if length else ()
        self._freeze()
        peeked = []
        for piece in self._pieces:
            peeked.append(piece[:length])
            length -= len(peeked[-1])
            if not length:
                break
        return tuple(peeked)

    def take(self, length: int) -> bytes:
        """Take the first `length` bytes. The queue must hold that many."""
        front = self.front()
        if len(front) > length:
            # The fast path: nearly every field of a header is a few bytes of a longer piece.
            self._pieces[0] = front[length:]
            self._length -= length
            return bytes(front[:length])
        return b"".join(self.take_pieces(length))

    def take_pieces(self, length: int) -> tuple[memoryview, ...]:
        """Take the first `length` bytes as views, without a copy. The queue must hold that many."""
        self._length -= length
        taken = []
        while length:
            if not self._pieces:
                self._freeze()
            front = self._pieces[0]
            if len(front) > length:
                taken.append(front[:length])
                self._pieces[0] = front[length:]
                break
            taken.append(self._pieces.popleft())
            length -= len(front)
        return tuple(taken)

    def put_back(self, data: bytes) -> None:
        """Put immutable bytes back at the front."""
        if data:
            self._pieces.appendleft(memoryview(data))
            self._length += len(data)

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self._tail.clear()
        self._length = 0


class Short(Exception):
    """More bytes are needed: at least `missing`."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing: int = missing


class Cursor:
    """Parses fields from a queue. A group of fields is committed as a whole or rolled back.

    `max_length` limits the total number of bytes taken; `parameter` and `what` name it in the error.
    """

    def __init__(self, queue: ByteQueue, max_length: int | None, parameter: str, what: str) -> None:
        self._queue = queue
        self._max_length = max_length
        self._parameter = parameter
        self._what = what
        # Committed bytes before `_data`, so that input that arrives byte by byte is not copied each time.
        self._before: list[bytes] = []
        self._length_before = 0
        self._data = b""
        self._available = 0
        self._position = 0
        self._committed = 0

    def take(self, length: int) -> bytes:
        """Take bytes; raises `Short`, and `LimitError` before it waits for bytes above the limit."""
        end = self._position + length
        if end > self._available:
            end = self._pull(length)
        self._position = end
        return self._data[end - length : end]

    def _pull(self, length: int) -> int:
        """Make the next `length` bytes available; return their end."""
        if self._committed:
            self._before.append(self._data[: self._committed])
            self._length_before += self._committed
            self._data = self._data[self._committed :]
            self._position -= self._committed
            self._committed = 0
        end = self._position + length
        total = self._length_before + end
        if self._max_length is not None and total > self._max_length:
            raise LimitError(self._parameter, limit=self._max_length, actual=total, what=self._what)
        missing = end - len(self._data)
        if missing > 0:
            self._data += self._queue.take(min(len(self._queue), max(missing, _SMALL)))
        # Bytes above the limit do not count as available, so take() needs one comparison for both.
        self._available = len(self._data)
        if self._max_length is not None:
            self._available = min(self._available, self._max_length - self._length_before)
        if end > self._available:
            raise Short(end - self._available)
        return end

    def number(self, length: int) -> int:
        """Take an unsigned number in this many bytes."""
        return int.from_bytes(self.take(length), "big")

    def sized(self) -> bytes:
        """Take a field that is preceded by its length in 2 bytes."""
        start = self._position + 2
        end = start + int.from_bytes(self._data[self._position : start], "big")
        if end > self._available:  # also if the length itself is incomplete
            return self.take(int.from_bytes(self.take(2), "big"))
        self._position = end
        return self._data[start:end]

    def ahead(self, length: int) -> bytes:
        """Return up to `length` of the bytes after the last commit that were fetched from the queue."""
        return self._data[self._committed : self._committed + length]

    def commit(self) -> None:
        """Keep what was taken."""
        self._committed = self._position

    def roll_back(self) -> None:
        """Return to the last commit."""
        self._position = self._committed

    def taken(self, without: int) -> bytes:
        """Return everything that was taken, except the last bytes."""
        return b"".join((*self._before, self._data[: self._position]))[: -without or None]

    def finish(self) -> None:
        """Return unconsumed bytes to the queue."""
        self._queue.put_back(self._data[self._position :])
