"""Other master keys for a message that is there: as a stream, as a header alone, and for files."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial

import attrs

from aioencrypt.client import DEFAULT_FRAME_LENGTH, EncryptionClient, Provider
from aioencrypt.errors import StreamNotEnteredError
from aioencrypt.format import EndOfMessage, MessageDecryptor, MessageHeader, OpenWork
from aioencrypt.materials import DecryptionMaterials, Provenance
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.rewrap_keys import GivenMaterials, Keep, RewrapOptions, RewrappedHeader, rewrap_options
from aioencrypt.runtime.observation import Tally, watch_message
from aioencrypt.runtime.offload import in_file_thread, run_work
from aioencrypt.streams.decrypt import DecryptStream
from aioencrypt.streams.driver import HeaderStart, read_header, read_header_of
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.files import FileReader, PathLike, ReplacedFile
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import Reader, Source, open_source

_CHUNK_LENGTH = 1024 * 1024


@attrs.frozen(kw_only=True)
class RewrapResult:
    """The header of the new message, and whether its body was encrypted anew."""

    header: MessageHeader
    reencrypted: bool


class _Replayed:
    """A reader whose first bytes were read before."""

    def __init__(self, first: bytes, reader: Reader) -> None:
        self._first = first
        self._reader = reader

    async def read(self) -> bytes:
        first, self._first = self._first, b""
        return first or await self._reader.read()

    async def aclose(self) -> None:
        """Do nothing: the reader is somebody else's."""


class RewrapStream(ByteStream):
    """A message under other master keys: read it, or iterate over its chunks.

    Entering `async with` reads the header, fetches the data key, verifies the header and encrypts the
    data key under the new keys; then `header` and `reencrypted` are known.
    """

    _observed_as = "rewrap"

    def __init__(self, reader: Reader, options: RewrapOptions, *, verify: bool) -> None:
        super().__init__(reader)
        self._options = options
        self._verify = verify
        self._header: MessageHeader | None = None
        self._provenance: Provenance | None = None
        self._rewrapped: RewrappedHeader | None = None
        self._replaced = b""
        self._pending = b""
        self._next_of_body: Callable[[], Awaitable[bytes]] = self._read
        self._decrypting: DecryptStream | None = None
        self._encrypting: EncryptStream | None = None
        self._finished = False

    @property
    def header(self) -> MessageHeader:
        """The header of the new message; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None:
            raise StreamNotEnteredError("the stream is not open: use it in `async with`")
        return self._header

    @property
    def rewrapped(self) -> RewrappedHeader | None:
        """The new header where the body stays as it is; None where all of the message is made anew."""
        return self._rewrapped

    @property
    def reencrypted(self) -> bool:
        """Whether the body is encrypted anew; raises `StreamNotEnteredError` before `async with`."""
        return self.header is not None and self._rewrapped is None

    async def _open(self) -> None:
        machine = self._options.reading.machine()
        start = await read_header(machine, self._read)
        leaves_body = self._options.leaves_body(start.header)
        materials = await self._options.reading.unlock(machine, start.header)
        machine.next_event()  # HeaderVerified
        self._provenance = materials.provenance
        if not leaves_body:
            await self._reencrypt(start, materials)
            return
        rewrapped = await self._options.new_header(machine, materials)
        self._rewrapped, self._header = rewrapped, rewrapped.header
        self._replaced = start.received[: rewrapped.old_length]
        self._pending = rewrapped.serialized
        if self._verify:
            if start.rest:  # no bytes would be the end of input
                machine.receive(start.rest)
            self._next_of_body = lambda: self._verified(machine)
        else:
            self._pending += start.received[rewrapped.old_length :]

    async def _read(self) -> bytes:
        return bytes(await self._read_source())

    async def _verified(self, machine: MessageDecryptor) -> bytes:
        """Return the next frames as they came, after their tags were verified; the last ones at the end."""
        held = b""
        while True:
            match machine.next_event():
                case OpenWork() as work:
                    await run_work(work.crypt, work.cost, self._options.reading.offload)
                    machine.settle(work, b"")
                    held = b"".join(work.serialized)
                    if not work.last:
                        return held
                case EndOfMessage():
                    return held
                case _:
                    machine.receive(await self._read_source())

    async def _reencrypt(self, start: HeaderStart, materials: DecryptionMaterials) -> None:
        given = GivenMaterials(
            decryption=materials, encryption=await self._options.encryption_materials(start.header, materials)
        )
        reading = attrs.evolve(self._options.reading, cmm=given)
        self._decrypting = DecryptStream(_Replayed(start.received, self._reader), reading)
        await self._decrypting.__aenter__()
        self._encrypting = self._options.client.encrypt_stream(
            self._decrypting, given, frame_length=start.header.frame_length or DEFAULT_FRAME_LENGTH
        )
        await self._encrypting.__aenter__()
        self._header = self._encrypting.header
        encrypting = self._encrypting
        self._next_of_body = lambda: encrypting.read(_CHUNK_LENGTH)

    async def _next_chunk(self) -> bytes:
        if self._pending:
            chunk, self._pending = self._pending, b""
            return chunk
        chunk = await self._next_of_body()
        self._finished = not chunk
        return chunk

    def _tally(self) -> Tally:
        return _tally(self._header, self._provenance, self._given)

    @property
    def _complete(self) -> bool:
        return self._finished and not self._buffer and not self._failure

    @property
    def _incomplete_reason(self) -> str:
        return (
            "the stream was left before its last byte was handed out, so what was written is no message; "
            "read to the end, or call abandon() first"
        )

    async def _release(self) -> None:
        self._pending = b""
        try:
            if self._encrypting:
                await self._encrypting.aclose()
        finally:  # each of these ends, and then raises, when this task is cancelled
            try:
                if self._decrypting:
                    await self._decrypting.aclose()
            finally:
                await self._reader.aclose()


def rewrap_stream(
    source: Source,
    provider: Provider,
    *,
    new_provider: MasterKeyProvider | None = None,
    keep: Keep = False,
    encryption_context: Mapping[str, str] | None = None,
    reencrypt: bool = True,
    accept_iv_reuse: bool = False,
    verify: bool = False,
    client: EncryptionClient | None = None,
) -> RewrapStream:
    """Return a stream of a message under other master keys; enter it with `async with`.

    `provider` opens the message, `new_provider` encrypts its data key. `keep` says which of its
    encrypted data keys stay: none, all, or those for which a function says so. So a `new_provider`
    alone replaces all keys, with ``keep=True`` it adds some, and a function alone removes some.

    What the suite demands is made anew, as `reencrypted` says after entry (see `rewrap_keys.py`):
    the header alone, or all of the message where it is signed, or is of version 2. `reencrypt=False`
    refuses the latter. `accept_iv_reuse` changes only the header of a version 2 message; whoever has
    both headers can then change frames unnoticed. A body that is left alone is passed on as it is,
    unless `verify` says to check every frame on the way.

    Raises `ValueError` and `TypeError` for wrong arguments here; `MessageError`, `PolicyError` and
    `ProviderError` on entry, and as they come up.
    """
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
        client=client,
    )
    return RewrapStream(open_source(source), options, verify=verify)


async def rewrap_header(
    source: Source | SeekableSource,
    provider: Provider,
    *,
    new_provider: MasterKeyProvider | None = None,
    keep: Keep = False,
    encryption_context: Mapping[str, str] | None = None,
    accept_iv_reuse: bool = False,
    client: EncryptionClient | None = None,
) -> RewrappedHeader:
    """Return a new header for a message whose body is left alone, for storage that can copy the body.

    Of the source nothing but the header is read. Raises `PolicyError`, before any key service is
    called, where a new header is not enough: `rewrap_stream` then. Arguments: `rewrap_stream`.
    """
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=False,
        accept_iv_reuse=accept_iv_reuse,
        client=client,
    )
    watch = watch_message("rewrap", "header")
    with watch.observe_call() if watch else nullcontext():
        machine = options.reading.machine()
        await read_header_of(machine, source)
        header = machine.received.header
        options.leaves_body(header)
        materials = await options.reading.unlock(machine, header)
        new = await options.new_header(machine, materials)
        if watch:
            watch.tally = _tally(new.header, materials.provenance, len(new.serialized))
        return new


def _tally(header: MessageHeader | None, provenance: Provenance | None, ciphertext_length: int) -> Tally:
    """Return what observers are told: what is encrypted anew tells of its frames itself."""
    return Tally.of(header, provenance, plaintext_length=0, ciphertext_length=ciphertext_length, frames=0)


async def rewrap_file(
    path: PathLike,
    provider: Provider,
    *,
    new_provider: MasterKeyProvider | None = None,
    keep: Keep = False,
    destination: PathLike | None = None,
    in_place: bool = False,
    encryption_context: Mapping[str, str] | None = None,
    reencrypt: bool = True,
    accept_iv_reuse: bool = False,
    verify: bool = False,
    client: EncryptionClient | None = None,
) -> RewrapResult:
    """Rewrap the message in a file, or into the file `destination`.

    The new message is written beside its place and put there whole, or not at all. `in_place`
    overwrites the header instead, where a new header is enough and as long as the old one: the file
    is not copied then, but a computer that fails in that moment leaves a file with half a header.

    Other arguments and errors: `rewrap_stream`; and `OSError`.
    """
    if in_place and destination is not None:
        raise ValueError("in_place changes the file itself: leave destination out")
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
        client=client,
    )
    file = ReplacedFile(path if destination is None else destination)
    try:
        async with RewrapStream(FileReader(path), options, verify=verify) as stream:
            rewrapped = stream.rewrapped
            if in_place and rewrapped and len(rewrapped.serialized) == rewrapped.old_length:
                await _overwrite(path, rewrapped.serialized, stream, verify=verify)
            else:
                await in_file_thread(file.create)
                async for chunk in stream:
                    await in_file_thread(partial(file.write, chunk))
        # Windows does not replace a file that is still open for reading.
        await in_file_thread(file.commit)
        return RewrapResult(header=stream.header, reencrypted=stream.reencrypted)
    finally:
        await in_file_thread(file.drop)


async def _overwrite(path: PathLike, header: bytes, stream: RewrapStream, *, verify: bool) -> None:
    if verify:
        async for _ in stream:
            pass
    replaced = stream._replaced  # noqa: SLF001 (one module)
    await in_file_thread(partial(_overwrite_start, path, replaced, header))
    stream._finished = True  # noqa: SLF001 (the body is there)


def _overwrite_start(path: PathLike, old: bytes, new: bytes) -> None:
    with open(path, "r+b") as file:
        if file.read(len(old)) != old:
            # The header of one message before the body of another would lose that one for good.
            raise OSError(errno.ESTALE, "the file was changed meanwhile", str(path))
        file.seek(0)
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
