"""Files: `open` for reading, and writing that leaves either the whole message or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from aioencrypt.errors import StreamError, UnverifiedStreamError
from aioencrypt.format import MessageHeader
from aioencrypt.materials import Provenance
from aioencrypt.runtime.event_loops import drop_with_loop
from aioencrypt.runtime.observation import Tally, current, watch_message
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.blocking_files import OpenFile, PathLike, is_special
from aioencrypt.streams.encrypt import EncryptOptions, Sealer
from aioencrypt.streams.lifecycle import Closable, Life, Lifecycle
from aioencrypt.streams.replaced_file import ReplacedFile
from aioencrypt.streams.sources import as_bytes

_READ_LENGTH = 1024 * 1024


class FileReader:
    """A reader of the file at a path. The first read opens the file; `aclose` closes it."""

    def __init__(self, path: PathLike) -> None:
        self._file = OpenFile(path)

    async def read(self) -> bytes:
        return await self._file.read(_READ_LENGTH)

    async def aclose(self) -> None:
        self._file.drop()


@runtime_checkable
class MessageSink(Protocol):
    """Where a message is written: there as a whole after `commit`, or not at all.

    All of it blocks, and is called in threads, one call at a time: `create` first, once, and `drop`
    last, also after `commit`.
    """

    def create(self) -> None:
        """Begin."""
        ...

    def write(self, data: bytes, /) -> None:
        """Write all of it."""
        ...

    def commit(self) -> None:
        """Put the message in its place."""
        ...

    def drop(self) -> None:
        """Let go of everything, and of the message unless it is in its place."""
        ...


class FileOutput:
    """Where a message is written: a path, or a `MessageSink`.

    A regular file is replaced as a whole. FIFOs and devices receive the message while it is made.
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
        """Open what is written to."""
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
        """Write everything to the disk, where this is a regular file. `commit` then only renames it."""
        if isinstance(self._sink, ReplacedFile) and not self._special:
            await in_file_thread(self._sink.finish)

    async def commit(self) -> None:
        """Put the message in its place."""
        if self._special:
            self._special.drop()
        else:
            await in_file_thread(self._sink.commit)

    async def aclose(self) -> None:
        """Let go of everything, and of the message unless it is in its place."""
        await in_file_thread((self._special or self._sink).drop)


class EncryptWriter(Lifecycle):
    """A file that is written encrypted.

    The message is written to a temporary file in the same folder; leaving `async with` without an
    exception writes the end, syncs, and renames it to its place. On an exception, or `abort`, the
    file that was there before stays as it is. A `MessageSink` does all that in its own way.
    """

    _observed_to_last_call = True

    def __init__(self, path: PathLike | MessageSink | FileOutput, options: EncryptOptions) -> None:
        super().__init__("writer")
        self._file = FileOutput.of(path)
        self._options = options
        self._sealer: Sealer | None = None
        self._committed = False
        self._taken = self._given = 0

    @property
    def _complete(self) -> bool:
        return self._committed

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

    async def __aenter__(self) -> Self:
        self._enter()
        self._watch = watch_message("encrypt", "file")
        try:
            async with self._exclusive():
                with current(self._watch):
                    self._sealer = await self._options.begin()
                await self._file.create()
                await self._put(self._sealer.machine.start())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None and not self._busy:
            await self.aclose()
            return
        await self._close(exc_type or UnverifiedStreamError)
        if exc is None:
            raise UnverifiedStreamError(
                "the writer was left while another task was using it, so the file is dropped"
            )

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and write bytes; returns how many, which is all of them.

        Raises `TypeError` for `str`, `PlaintextLengthError` for more than `plaintext_length`.
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

    async def aclose(self) -> None:
        """Write the end and put the file in its place; after an error, drop it and raise that.

        Does nothing before `async with`, after `abort`, and the second time.
        """
        if self._sealer is None or self._life is Life.CLOSED:
            return
        self._check_not_busy()
        try:
            async with self._exclusive():
                await self._put(await self._sealer.seal(b"", last=True))
                await self._put(await self._sealer.finish())
                await self._file.commit()
                self._committed = True
        except BaseException:
            await self._close()
            raise
        await self._close()

    async def abort(self) -> None:
        """Drop what was written; the file that was there before stays."""
        self._check_not_busy()
        if self._sealer is not None:
            await self._close()
