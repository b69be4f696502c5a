"""Encrypted files: the reader and the writer of `open`. A written file appears complete or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from aioencrypt.errors import StreamError
from aioencrypt.format import MessageHeader
from aioencrypt.providers.values import Provenance
from aioencrypt.runtime.event_loops import drop_with_loop
from aioencrypt.runtime.observation import Tally
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.blocking_files import OpenFile, PathLike, is_special
from aioencrypt.streams.encrypt import EncryptOptions, Sealer
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.replaced_file import ReplacedFile
from aioencrypt.streams.sources import as_bytes
from aioencrypt.streams.writing import Writer

_READ_LENGTH = 1024 * 1024


class FileReader:
    """A reader of the file at a path. The first read opens it; `aclose` closes it."""

    def __init__(self, path: PathLike) -> None:
        self._file = OpenFile(path)

    async def read(self) -> bytes:
        return await self._file.read(_READ_LENGTH)

    async def aclose(self) -> None:
        self._file.drop()


@runtime_checkable
class MessageSink(Protocol):
    """A destination for a message, which appears complete on `commit`, or not at all.

    All methods may block: they run in threads, one at a time. `create` is called first and once, and `drop`
    last, also after `commit`.
    """

    def create(self) -> None:
        """Start writing."""
        ...

    def write(self, data: bytes, /) -> None:
        """Write all of `data`."""
        ...

    def commit(self) -> None:
        """Make the message appear at its destination."""
        ...

    def drop(self) -> None:
        """Close everything, and discard the message unless it was committed."""
        ...


class FileOutput:
    """The output of a writer: a path or a `MessageSink`.

    A regular file is replaced atomically. FIFOs and devices receive the message as it is written.
    """

    def __init__(self, target: PathLike | MessageSink) -> None:
        self._path = None if isinstance(target, MessageSink) else target
        self._sink = target if isinstance(target, MessageSink) else ReplacedFile(target)
        self._special: OpenFile | None = None

    @classmethod
    def of(cls, target: PathLike | MessageSink | FileOutput) -> FileOutput:
        """Return the output that writes to a target."""
        return target if isinstance(target, FileOutput) else cls(target)

    async def create(self) -> None:
        """Open the output."""
        path = self._path
        if path is not None and await in_file_thread(lambda: is_special(path)):
            self._special = OpenFile(path, writing=True)
            await self._special.open()
        else:
            if isinstance(self._sink, ReplacedFile):
                drop_with_loop(self._sink)
            await in_file_thread(self._sink.create)

    @hides_arguments
    async def write(self, data: bytes) -> None:
        """Write all of `data`."""
        if self._special:
            await self._special.write(data)
        else:
            await in_file_thread(lambda: self._sink.write(data))

    async def finish(self) -> None:
        """Sync a regular file to disk, so that `commit` only has to rename it."""
        if isinstance(self._sink, ReplacedFile) and not self._special:
            await in_file_thread(self._sink.finish)

    async def commit(self) -> None:
        """Make the message appear at its destination."""
        if self._special:
            self._special.drop()
        else:
            await in_file_thread(self._sink.commit)

    async def aclose(self) -> None:
        """Close everything, and discard the message unless it was committed."""
        await in_file_thread((self._special or self._sink).drop)


class EncryptWriter(Writer):
    """Write an encrypted file.

    The writer uses a temporary file in the same folder. When `async with` ends without an exception, the
    writer completes the message, syncs it and renames the file. After an exception or `abort`, an existing
    file is unchanged. With a `MessageSink`, the sink is responsible for all of this.
    """

    _observed_as = "encrypt", "file"

    def __init__(self, path: PathLike | MessageSink | FileOutput, options: EncryptOptions) -> None:
        super().__init__()
        self._file = FileOutput.of(path)
        self._options = options
        self._sealer: Sealer | None = None
        self._taken = self._given = 0

    def _tally(self) -> Tally:
        return self._sealer.tally(self._taken, self._given) if self._sealer else Tally()

    def _resources(self) -> Sequence[Closable]:
        return [self._file, self._sealer] if self._sealer else []

    def _raise_again(self, failed_by: type[BaseException]) -> None:
        raise StreamError("the writer failed before; what it wrote is dropped") from self._failure

    @property
    def header(self) -> MessageHeader:
        """The header of the message; raises `StreamNotEnteredError` before `async with`."""
        return self._open_sealer.machine.header

    @property
    def provenance(self) -> Provenance:
        """Which keys made the data key; raises `StreamNotEnteredError` before `async with`."""
        return self._open_sealer.provenance

    @property
    def _open_sealer(self) -> Sealer:
        if self._sealer is None:
            raise self._not_entered()
        return self._sealer

    async def _open(self) -> None:
        self._sealer = await self._options.begin()
        await self._file.create()
        await self._put(self._sealer.machine.start())

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and write all bytes; return how many.

        Raises `TypeError` for `str`, and `PlaintextLengthError` for more bytes than `plaintext_length`.
        """
        if isinstance(data, str):
            raise TypeError("write() takes bytes, not str: encode the text")
        rest = plaintext = memoryview(as_bytes(data))
        async with self._exclusive():
            sealer = self._open_sealer
            while rest:
                length = sealer.machine.batch_length(len(rest))
                await self._put(await sealer.seal(rest[:length]))
                rest = rest[length:]
                self._taken += length
        return len(plaintext)

    @hides_arguments
    async def _put(self, data: bytes) -> None:
        if data:
            await self._file.write(data)
            self._given += len(data)

    async def _finish(self) -> None:
        sealer = self._open_sealer
        await self._put(await sealer.seal(b"", last=True))
        await self._put(await sealer.finish())
        await self._file.commit()
