"""Drive the reading machine: feed it from a source, run its work, and return the plaintext it releases.

Streams, one-shot calls and functions that read only a header use a driver, each from one task of an event
loop. `run_work` and `DigestQueue` decide which of its work runs in worker threads.

Invariant: a work is settled before the machine is asked for the next event, so results reach it in order. If
a read of the source raises, no bytes are lost, and the call may be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial

from anyio.lowlevel import checkpoint

from aioencrypt.errors import EncryptionError
from aioencrypt.format import (
    EndOfMessage,
    HeaderParsed,
    MessageDecryptor,
    NeedData,
    OpenWork,
    Plaintext,
    VerifyWork,
)
from aioencrypt.policies import Offload
from aioencrypt.runtime.digests import DigestQueue
from aioencrypt.runtime.offload import LoopState, loop_states, run_work
from aioencrypt.streams.ranges import Ranges, RangeSource, SeekableSource, open_range_source
from aioencrypt.streams.sources import Source, open_source

# Header bytes parsed per event loop iteration: if all of them are tiny data keys, that takes a millisecond.
_HEADER_STEP = 4096
# A header with twenty KMS data keys fits; longer headers need a second, larger read.
_START_LENGTH = 8 * 1024
_LONG_START_LENGTH = 256 * 1024


class Driver:
    """Feeds a reading machine from a source and runs its work.

    One task uses a driver: it calls `read_header`, unlocks the machine, then calls `read` until the end.
    Only digests run concurrently, in worker threads, and `read` joins them before the machine verifies the
    signature.

    `open_work` decrypts frames and returns what the machine may release for them. `gathers` tells whether to
    read another piece before working on so many bytes. An `in_memory` message needs no digest budget.
    """

    def __init__(
        self,
        machine: MessageDecryptor,
        read: Callable[[], Awaitable[bytes]],
        *,
        offload: Offload = Offload.AUTO,
        open_work: Callable[[OpenWork], bytes] = OpenWork.crypt,
        gathers: Callable[[int], bool] = lambda gathered: False,
        in_memory: bool = False,
    ) -> None:
        self.machine: MessageDecryptor = machine
        # The number of decrypted frames.
        self.frames: int = 0
        self._read = read
        self._offload = offload
        self._open_work = open_work
        self._gathers = gathers
        self._in_memory = in_memory
        self._digests: DigestQueue | None = None
        self._loop: LoopState | None = None
        # Pieces that were read with the header and not given to the machine yet.
        self._rest = memoryview(b"")

    async def read_header(self) -> list[memoryview]:
        """Read until the machine has parsed the header; return the pieces that were read."""
        # Views, because the header has the encryption context, and the repr of a view shows nothing.
        self._loop = loop_states.get()
        received = []
        while True:
            if self._rest:
                await checkpoint()
            else:
                self._rest = memoryview(await self._read())
                received.append(self._rest)
            self.machine.receive(self._rest[:_HEADER_STEP])
            self._rest = self._rest[_HEADER_STEP:]
            if isinstance(self.machine.next_event(), HeaderParsed):
                break
        if self.machine.received.header.algorithm_suite.signed:
            self._digests = DigestQueue()
        return received

    async def read(self) -> bytes:
        """Return the next released plaintext, and ``b""`` once the whole message is verified."""
        while True:
            match self.machine.next_event():
                case Plaintext(data):
                    return data
                case OpenWork() | VerifyWork() as work:
                    await self._do(work)
                case NeedData():
                    await self._receive()
                case EndOfMessage():
                    return b""

    async def _do(self, work: OpenWork | VerifyWork) -> None:
        crypt = work.crypt
        if isinstance(work, OpenWork):
            crypt = partial(self._open_work, work)
        if self._digests:
            await self._digest(work, self._digests)
        try:
            result = await run_work(crypt, work.cost, self._offload, self._loop)
        except EncryptionError as error:
            self.machine.fail(error)
            raise
        self.machine.settle(work, result)
        if isinstance(work, OpenWork):
            self.frames += work.count

    async def _digest(self, work: OpenWork | VerifyWork, digests: DigestQueue) -> None:
        if isinstance(work, VerifyWork):
            await digests.join()
            return
        if not self._in_memory:
            await digests.reserve(work.input_length)
        await digests.add(work.digest, work.input_length)

    async def _receive(self) -> None:
        taken, self._rest = self._rest or await self._read(), memoryview(b"")
        self.machine.receive(taken)
        gathered = len(taken)
        while taken and self._gathers(gathered):
            taken = await self._read()
            self.machine.receive(taken)
            gathered += len(taken)

    async def aclose(self) -> None:
        """Drop buffered data and pending digests, and wait for the digest that runs."""
        self._rest = memoryview(b"")
        self.machine.close()
        if self._digests:
            await self._digests.aclose()


async def read_header_at(machine: MessageDecryptor, ranges: Ranges) -> None:
    """Read the header from a range source, usually with one read."""
    lengths = iter([_START_LENGTH])
    await Driver(machine, lambda: ranges.read_on(next(lengths, _LONG_START_LENGTH))).read_header()


async def read_header_of(machine: MessageDecryptor, source: Source | SeekableSource) -> int | None:
    """Read the header from any source and close our reader; also return the length of the source, if known.

    Raises `TypeError` for other types.
    """
    if isinstance(source, RangeSource | bytes | bytearray | memoryview | str | os.PathLike):
        ranges = Ranges(open_range_source(source), 1)
        try:
            await ranges.open()
            await read_header_at(machine, ranges)
            return ranges.size
        finally:
            await ranges.aclose()
    reader = open_source(source)
    try:
        await Driver(machine, reader.read).read_header()
        return None
    finally:
        await reader.aclose()
