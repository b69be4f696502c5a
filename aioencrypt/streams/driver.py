"""Drive the reading machine: feed it from a source and do its work."""

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
from aioencrypt.runtime.offload import run_work
from aioencrypt.streams.ranges import Ranges, RangeSource, SeekableSource, open_range_source
from aioencrypt.streams.sources import Source, open_source

# Bytes of a header that are parsed in one turn of the loop: a header made of nothing but tiny data
# keys takes a millisecond for each of these.
_HEADER_STEP = 4096
# A header with twenty data keys of KMS fits; longer ones take a second read of more.
_START_LENGTH = 8 * 1024
_LONG_START_LENGTH = 256 * 1024


class Driver:
    """Feeds a reading machine and does its work.

    Call `read_header`, unlock the machine, then call `read` up to the end. `open_work` opens frames and
    returns what the machine is to release for them. `gathers` tells whether to read one more piece before
    work on so many bytes begins. A message that is `in_memory` takes nothing of the budget for digests.
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
        # The number of frames that were opened.
        self.frames: int = 0
        self._read = read
        self._offload = offload
        self._open_work = open_work
        self._gathers = gathers
        self._in_memory = in_memory
        self._digests: DigestQueue | None = None
        # What was read with the header and the machine did not get yet.
        self._rest = memoryview(b"")

    async def read_header(self) -> list[memoryview]:
        """Read until the machine has parsed the header, and return the pieces that were read."""
        # Views, because the header has the encryption context, and the repr of a view shows nothing.
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
        """Return the next plaintext that may be released, and ``b""`` when all of the message is verified."""
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
            result = await run_work(crypt, work.cost, self._offload)
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
        """Drop what is not done."""
        self._rest = memoryview(b"")
        self.machine.close()
        if self._digests:
            await self._digests.aclose()


async def read_header_at(machine: MessageDecryptor, ranges: Ranges) -> None:
    """Read the header from the start of ranges, mostly in one read."""
    lengths = iter([_START_LENGTH])
    await Driver(machine, lambda: ranges.read_on(next(lengths, _LONG_START_LENGTH))).read_header()


async def read_header_of(machine: MessageDecryptor, source: Source | SeekableSource) -> int | None:
    """Read the header from any source, let it go, and return the length of the source where it has one.

    Raises `TypeError` for what is no source.
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
