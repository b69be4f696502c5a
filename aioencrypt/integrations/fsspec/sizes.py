"""The length of the plaintext of a file, from its header and its size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from aioencrypt.errors import MalformedMessageError
from aioencrypt.format import MessageDecryptor
from aioencrypt.format.frames import body_layouts
from aioencrypt.integrations.fsspec.target import TargetFileSystem, TargetRanges
from aioencrypt.policies import Limits
from aioencrypt.streams.driver import read_header_at
from aioencrypt.streams.ranges import Ranges

# What file systems call the things that change with a file.
_VERSIONS = (
    "ETag etag VersionId generation content_md5 mtime modified ino LastModified last_modified updated created"
)
_CAPACITY = 100_000


class PlaintextSizes:
    """Reads the header of a file to say how long its plaintext is. None of it is verified.

    A size that was found is kept for as long as what the target says of the file stays the same.
    """

    def __init__(self, target: TargetFileSystem) -> None:
        self._target = target
        self._known: OrderedDict[Hashable, int] = OrderedDict()

    async def of(self, info: Mapping[str, Any]) -> int:
        """Return the length of the plaintext; raises `MessageError` for what is no message."""
        version = tuple((key, str(info[key])) for key in _VERSIONS.split() if info.get(key) is not None)
        key = (info["name"], info["size"], version)
        known = self._known.get(key) if version else None
        if known is None:
            known = await self._read(info["name"])
            self._known[key] = known
            if len(self._known) > _CAPACITY:
                self._known.popitem(last=False)
        return known

    async def _read(self, path: str) -> int:
        ranges = Ranges(TargetRanges(self._target, path), 1)
        await ranges.open()
        machine = MessageDecryptor(max_header_length=Limits().max_header_length)
        signed = (await read_header_at(machine, ranges)).header.algorithm_suite.signed
        for layout in body_layouts(machine.received, ranges.size):
            # Signatures differ in length: where the final frame stands says where the body ends.
            end = await ranges.read(layout.frame_start(layout.regular_count), ranges.size) if signed else b""
            found = layout.confirmed(end) if signed else layout
            if found:
                return found.plaintext_length
        raise MalformedMessageError(f"no message has the {ranges.size} bytes of {path}: it is cut off")
