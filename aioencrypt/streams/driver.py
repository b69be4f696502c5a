"""Reading no more than the header of a message."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import attrs
from anyio.lowlevel import checkpoint

from aioencrypt.format import HeaderParsed, MessageDecryptor, MessageHeader
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.ranges import Ranges, RangeSource, SeekableSource, open_range_source
from aioencrypt.streams.sources import Source, open_source

# Bytes of a header that are parsed in one turn of the loop: a header made of nothing but tiny data
# keys takes a millisecond for each of these.
HEADER_STEP = 4096
# A header with twenty data keys of KMS fits; longer ones take a second read of more.
_START_LENGTH = 8 * 1024
_LONG_START_LENGTH = 256 * 1024


@attrs.frozen
class HeaderStart:
    """A header that is not verified yet, and the bytes that were read with it.

    `received` is the start of the message, header and all; `rest` its end, which the machine did not
    get yet.
    """

    header: MessageHeader
    received: bytes = attrs.field(repr=False)
    rest: memoryview = attrs.field(repr=False)


@hides_arguments
async def read_header(machine: MessageDecryptor, read: Callable[[], Awaitable[bytes]]) -> HeaderStart:
    """Give a new machine what `read` returns, until it has parsed the header; raises its errors."""
    received = []
    rest = memoryview(b"")
    while not isinstance(event := machine.next_event(), HeaderParsed):
        if not rest:
            received.append(await read())
            rest = memoryview(received[-1])
        machine.receive(rest[:HEADER_STEP])
        rest = rest[HEADER_STEP:]
        if rest:
            await checkpoint()
    return HeaderStart(event.header, b"".join(received), rest)


async def read_header_at(machine: MessageDecryptor, ranges: Ranges) -> HeaderStart:
    """Read the header from the start of ranges, mostly in one read."""
    lengths = iter([_START_LENGTH])
    return await read_header(machine, lambda: ranges.read_on(next(lengths, _LONG_START_LENGTH)))


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
        await read_header(machine, reader.read)
        return None
    finally:
        await reader.aclose()
