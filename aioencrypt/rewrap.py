"""Re-wrap the data key of an existing message under other master keys: as a stream, a header, or a file.

The body stays the same where that is safe. The algorithm suite decides what has to be rewritten:

- Version 1, unsigned: only the header. Its tag gets a new random IV.
- Version 2, unsigned: header and body, under a new message id. The header tag of version 2 always has a zero
  IV, so two headers of one message would use the same key and IV. From two such tags an attacker can compute
  the authentication key of AES-GCM, and change frames unnoticed. `accept_iv_reuse` keeps the body anyway, for
  callers who know that nobody has both headers.
- Signed: everything. The signature covers the header, and its private key no longer exists.

A message that is encrypted again gets a new data key, unless some of its old encrypted data keys stay.
"""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import attrs

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import LimitError, PolicyError, SignaturePolicyError
from aioencrypt.format import EncryptedDataKey, MessageDecryptor, MessageHeader, OpenWork
from aioencrypt.format.context import PUBLIC_KEY_NAME, read_only, serialize_context
from aioencrypt.format.decryptor import State
from aioencrypt.format.suites import IV_LENGTH
from aioencrypt.managers.answers import get_encryption_materials
from aioencrypt.managers.default import DefaultCMM, check_encrypt_policy
from aioencrypt.policies import Release, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider, provider_advice, wrap_data_key
from aioencrypt.providers.values import (
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    Provenance,
)
from aioencrypt.runtime.arguments import check_type, describe_type
from aioencrypt.runtime.observation import Tally, watch_message
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.blocking_files import PathLike, is_special
from aioencrypt.streams.decrypt import DecryptOptions, DecryptStream
from aioencrypt.streams.driver import Driver, read_header_of
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.files import FileOutput, FileReader
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import Reader, Source, open_source

__all__ = [
    "Keep",
    "RewrapResult",
    "RewrapStream",
    "RewrappedHeader",
    "rewrap_file",
    "rewrap_header",
    "rewrap_stream",
]

_CHUNK_LENGTH = 1024 * 1024

Keep = bool | Callable[[EncryptedDataKey], bool]
"""Which encrypted data keys stay: all, none, or those for which a function returns True."""


def __dir__() -> list[str]:
    return __all__


"""Which encrypted data keys of a message stay: all, none, or those for which a function says so."""


@attrs.frozen(kw_only=True)
class RewrappedHeader:
    """A new header for an unchanged body.

    `serialized` replaces the first `old_length` bytes of the message.
    """

    header: MessageHeader
    serialized: bytes = attrs.field(repr=False)
    old_length: int


@attrs.frozen
class GivenMaterials:
    """A CMM that returns the materials it was created with."""

    decryption: DecryptionMaterials
    encryption: EncryptionMaterials

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        return self.decryption

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        check_encrypt_policy(request.commitment_policy, self.encryption.algorithm_suite)
        return self.encryption


@attrs.frozen(kw_only=True)
class RewrapOptions:
    """The options of a rewrap."""

    encryption_client: EncryptionClient
    reading: DecryptOptions
    new_provider: MasterKeyProvider | None
    keep: Keep
    reencrypt: bool
    accept_iv_reuse: bool

    def leaves_body(self, header: MessageHeader) -> bool:
        """Tell whether a new header is enough; raises `PolicyError` if the options forbid what is needed."""
        suite = header.algorithm_suite
        if suite.signed:
            reason = f"the message is signed ({suite.name}), and its signature covers the header"
            if self.keep is not False or self.new_provider is None:
                raise SignaturePolicyError(
                    f"{reason}: it is encrypted anew under a new data key, so its encrypted data keys cannot "
                    "stay; give every key that is to open it in new_provider, and keep=False"
                )
            if not self.reencrypt:
                raise SignaturePolicyError(f"{reason}: it cannot be rewrapped without encrypting it anew")
            return False
        if suite.version == 1 or self.accept_iv_reuse:
            return True
        if not self.reencrypt:
            raise PolicyError(
                f"a second header for a message of {suite.name} authenticates it with the same key and IV "
                "again, which breaks AES-GCM for whoever has both; let it be encrypted anew, or give "
                "accept_iv_reuse=True"
            )
        return False

    async def data_keys(
        self, header: MessageHeader, materials: DecryptionMaterials
    ) -> tuple[EncryptedDataKey, ...]:
        """Return the encrypted data keys that stay, followed by the new ones."""
        keys = tuple(key for key in header.encrypted_data_keys if self._keeps(key))
        if self.new_provider:
            request = DataKeyRequest(
                algorithm_suite=header.algorithm_suite, encryption_context=materials.encryption_context
            )
            keys += await wrap_data_key(self.new_provider, materials.data_key, request)
        if not keys:
            raise PolicyError("no encrypted data key would be left: nobody could open the message")
        maximum = self.reading.max_encrypted_data_keys
        if maximum is not None and len(keys) > maximum:
            raise LimitError(
                "max_encrypted_data_keys",
                limit=maximum,
                actual=len(keys),
                what="the number of encrypted data keys",
            )
        return keys

    def _keeps(self, key: EncryptedDataKey) -> bool:
        if isinstance(self.keep, bool):
            return self.keep
        answer = self.keep(key)
        if not isinstance(answer, bool):
            # A coroutine is truthy, and would keep every key.
            raise TypeError(f"keep returned {type(answer).__name__}; it must say True or False")
        return answer

    async def new_header(self, machine: MessageDecryptor, materials: DecryptionMaterials) -> RewrappedHeader:
        """Return a new header for the body of an unlocked message."""
        received = machine.received
        keys = await self.data_keys(received.header, materials)
        context, required = materials.encryption_context, materials.required_encryption_context_keys
        authenticated_context = serialize_context({key: context[key] for key in required})
        return RewrappedHeader(
            header=attrs.evolve(received.header, encrypted_data_keys=keys),
            serialized=received.with_data_keys(keys, machine.cipher.key, authenticated_context, _new_iv()),
            old_length=len(received.serialized),
        )

    async def encryption_materials(
        self, header: MessageHeader, materials: DecryptionMaterials
    ) -> EncryptionMaterials:
        """Return the materials to encrypt a message anew."""
        suite, context = header.algorithm_suite, materials.encryption_context
        required = materials.required_encryption_context_keys
        if self.keep is False and self.new_provider:
            context = read_only({key: context[key] for key in context if key != PUBLIC_KEY_NAME})
            policy = self.encryption_client.commitment_policy
            stays = policy.allows_encrypt(suite) or not suite.signed
            return await get_encryption_materials(
                DefaultCMM(self.new_provider),
                EncryptionMaterialsRequest(
                    commitment_policy=policy,
                    encryption_context=context,
                    algorithm_suite=suite if stays else policy.default_suite,
                    required_encryption_context_keys=required,
                ),
            )
        # The new message id derives a new message key from it.
        return EncryptionMaterials(
            algorithm_suite=suite,
            data_key=materials.data_key,
            encrypted_data_keys=await self.data_keys(header, materials),
            encryption_context=context,
            required_encryption_context_keys=required,
        )


def _new_iv() -> bytes:
    """Return a random IV that no frame uses: their IVs are 4-byte sequence numbers."""
    iv = os.urandom(IV_LENGTH)
    return bytes([iv[0] | 0x80]) + iv[1:]


def rewrap_options(
    provider: Provider,
    new_provider: MasterKeyProvider | None,
    keep: Keep,
    encryption_context: Mapping[str, str] | None,
    *,
    reencrypt: bool,
    accept_iv_reuse: bool,
    encryption_client: EncryptionClient | None,
) -> RewrapOptions:
    if new_provider is not None and not isinstance(new_provider, MasterKeyProvider):
        raise TypeError(
            f"new_provider must be a master key or a provider, not {describe_type(new_provider)}"
            + (provider_advice(new_provider) or ": it encrypts an existing data key, which no CMM does")
        )
    if not isinstance(keep, bool) and (not callable(keep) or inspect.iscoroutinefunction(keep)):
        raise TypeError(
            "keep is True, False, or a function that is not async and says so for an encrypted data key, "
            f"not {type(keep).__name__}"
        )
    if new_provider is None and isinstance(keep, bool):
        raise ValueError(
            "nothing would change: give new_provider, or a function for keep"
            if keep
            else "nobody could open the message: give new_provider, or keep some of its encrypted data keys"
        )
    encryption_client = encryption_client or EncryptionClient()
    return RewrapOptions(
        encryption_client=encryption_client,
        reading=encryption_client.decrypt_options(
            provider,
            encryption_context=encryption_context,
            signature_policy=SignaturePolicy.ALLOW,
            limits=None,
            release=Release.STREAM,
        ),
        new_provider=new_provider,
        keep=keep,
        reencrypt=check_type("reencrypt", reencrypt, bool),
        accept_iv_reuse=check_type("accept_iv_reuse", accept_iv_reuse, bool),
    )


@attrs.frozen(kw_only=True)
class RewrapResult:
    """The header of the new message, and whether its body was encrypted again."""

    header: MessageHeader
    reencrypted: bool


class _Prefixed:
    """A reader that returns some bytes before those of another reader."""

    def __init__(self, first: bytes, read: Callable[[], Awaitable[bytes]]) -> None:
        self._first = first
        self._read = read

    async def read(self) -> bytes:
        first, self._first = self._first, b""
        return first or await self._read()

    async def aclose(self) -> None:
        """Do nothing: the reader is somebody else's."""


class _VerifiedBody:
    """A reader of the received frames, each after its tag; the last ones after the whole message."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def read(self) -> bytes:
        frames = b""
        while more := await self._driver.read():
            frames = more
            if self._driver.machine.state is State.BODY:
                break
        return frames


def _verify_frames(work: OpenWork) -> bytes:
    work.crypt()
    return b"".join(work.serialized)


class RewrapStream(ByteStream):
    """A stream of a message under other master keys: read it, or iterate over its chunks.

    Entering `async with` reads the header, decrypts the data key, verifies the header and encrypts the data
    key under the new keys. After that, `header` and `reencrypted` are known.
    """

    _observed_as = "rewrap", "stream"

    def __init__(self, reader: Reader, options: RewrapOptions, *, verify: bool) -> None:
        super().__init__(reader)
        self._options = options
        self._verify = check_type("verify", verify, bool)
        self._header: MessageHeader | None = None
        self._provenance: Provenance | None = None
        self._rewrapped: RewrappedHeader | None = None
        # The old header, exactly as received.
        self.replaced: bytes = b""
        self._read_next: Callable[[], Awaitable[bytes]] = self._intake.read
        self._decrypting: DecryptStream | None = None
        self._encrypting: EncryptStream | None = None

    @property
    def header(self) -> MessageHeader:
        """The header of the new message; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None:
            raise self._not_entered()
        return self._header

    @property
    def rewrapped(self) -> RewrappedHeader | None:
        """The new header if the body stays the same; None if the whole message is rewritten."""
        return self._rewrapped

    def skip_body(self) -> None:
        """Declare that the body is kept in place, so that this stream is complete."""
        self._finished = True

    @property
    def reencrypted(self) -> bool:
        """Whether the body is encrypted again; raises `StreamNotEnteredError` before `async with`."""
        return self.header is not None and self._rewrapped is None

    @hides_arguments
    async def _open(self) -> None:
        reading = self._options.reading
        machine = reading.machine()
        driver = Driver(machine, self._intake.read, offload=reading.offload, open_work=_verify_frames)
        received = b"".join(await driver.read_header())
        leaves_body = self._options.leaves_body(machine.received.header)
        materials = await reading.unlock(machine)
        self._provenance = materials.provenance
        if not leaves_body:
            await self._reencrypt(machine.received.header, received, materials)
            return
        rewrapped = await self._options.new_header(machine, materials)
        self._rewrapped, self._header = rewrapped, rewrapped.header
        self.replaced = received[: rewrapped.old_length]
        if self._verify:
            self._read_next = _Prefixed(rewrapped.serialized, _VerifiedBody(driver).read).read
        else:
            start = rewrapped.serialized + received[rewrapped.old_length :]
            self._read_next = _Prefixed(start, self._intake.read).read

    async def _reencrypt(self, header: MessageHeader, start: bytes, materials: DecryptionMaterials) -> None:
        given = GivenMaterials(
            decryption=materials, encryption=await self._options.encryption_materials(header, materials)
        )
        reading = attrs.evolve(self._options.reading, cmm=given)
        self._decrypting = DecryptStream(_Prefixed(start, self._reader.read), reading)
        await self._decrypting.__aenter__()
        self._encrypting = self._options.encryption_client.encrypt_stream(
            self._decrypting, given, frame_length=header.frame_length or None
        )
        await self._encrypting.__aenter__()
        self._header = self._encrypting.header
        self._read_next = partial(self._encrypting.read, _CHUNK_LENGTH)

    async def _next_chunk(self) -> bytes:
        chunk = await self._read_next()
        self._finished = not chunk
        return chunk

    def _tally(self) -> Tally:
        return _tally(self._header, self._provenance, self._given)

    def _resources(self) -> Sequence[Closable]:
        parts = [part for part in (self._encrypting, self._decrypting) if part]
        return [*parts, self._reader]

    def _forget(self) -> None:
        super()._forget()
        self._read_next = self._intake.read


@hides_arguments
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
    encryption_client: EncryptionClient | None = None,
) -> RewrapStream:
    """Return a stream of a message under other master keys; enter it with `async with`.

    `provider` decrypts the data key, `new_provider` encrypts it again. `keep` selects the old encrypted
    data keys that stay: False for none, True for all, or a function that returns True or False for each. So
    `new_provider` alone replaces all keys, with ``keep=True`` it adds keys, and a `keep` function alone
    removes keys.

    An unsigned version 1 message gets a new header only; other messages are encrypted again. After entry,
    `reencrypted` tells which. `reencrypt=False` raises `PolicyError` instead of encrypting again.
    `accept_iv_reuse` replaces only the header of a version 2 message, too; then anyone who has both headers
    can change frames unnoticed. `verify` checks the tag of every frame of a body that stays the same.

    Raises `ValueError` and `TypeError` for wrong arguments here; `MessageError`, `PolicyError` and
    `ProviderError` on entry and from reads.
    """
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
        encryption_client=encryption_client,
    )
    return RewrapStream(open_source(source), options, verify=verify)


@hides_arguments
async def rewrap_header(
    source: Source | SeekableSource,
    provider: Provider,
    *,
    new_provider: MasterKeyProvider | None = None,
    keep: Keep = False,
    encryption_context: Mapping[str, str] | None = None,
    accept_iv_reuse: bool = False,
    encryption_client: EncryptionClient | None = None,
) -> RewrappedHeader:
    """Return a new header for a message with an unchanged body, for storage that can copy the body.

    Only the header of the source is read. Raises `PolicyError`, before any call to a key service, if a new
    header is not enough: use `rewrap_stream` then. Arguments: see `rewrap_stream`.
    """
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=False,
        accept_iv_reuse=accept_iv_reuse,
        encryption_client=encryption_client,
    )
    watch = watch_message("rewrap", "header")
    with watch.observe_call() if watch else nullcontext():
        machine = options.reading.machine()
        await read_header_of(machine, source)
        header = machine.received.header
        options.leaves_body(header)
        materials = await options.reading.unlock(machine)
        new = await options.new_header(machine, materials)
        if watch:
            watch.tally = _tally(new.header, materials.provenance, len(new.serialized))
        return new


def _tally(header: MessageHeader | None, provenance: Provenance | None, ciphertext_length: int) -> Tally:
    """Return the tally for observers; a message that is encrypted again counts its own frames."""
    return Tally.of(header, provenance, plaintext_length=0, ciphertext_length=ciphertext_length, frames=0)


@hides_arguments
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
    encryption_client: EncryptionClient | None = None,
) -> RewrapResult:
    """Rewrap the message in a file, or into the file `destination`.

    The file appears complete, or does not change. If a new header is enough and has the length of the old
    one, `in_place` overwrites the header without copying the file; a crash at that moment leaves a damaged
    header.

    Raises `OSError`. Other arguments and errors: see `rewrap_stream`.
    """
    if check_type("in_place", in_place, bool) and destination is not None:
        raise ValueError("in_place changes the file itself: leave destination out")
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
        encryption_client=encryption_client,
    )
    if destination is None and await in_file_thread(lambda: is_special(path)):
        raise OSError(errno.EINVAL, "not a regular file: give destination=", os.fspath(path))
    file = FileOutput(path if destination is None else destination)
    try:
        async with RewrapStream(FileReader(path), options, verify=verify) as stream:
            rewrapped = stream.rewrapped
            overwrites = in_place and rewrapped and len(rewrapped.serialized) == rewrapped.old_length
            if rewrapped and overwrites:
                await _overwrite(path, rewrapped.serialized, stream, verify=verify)
            else:
                await file.create()
                async for chunk in stream:
                    await file.write(chunk)
        if not overwrites:  # outside, because Windows cannot replace a file that is open for reading
            await file.commit()
        return RewrapResult(header=stream.header, reencrypted=stream.reencrypted)
    finally:
        await file.aclose()


async def _overwrite(path: PathLike, header: bytes, stream: RewrapStream, *, verify: bool) -> None:
    if verify:
        async for _ in stream:
            pass
    replaced = stream.replaced
    await in_file_thread(partial(_overwrite_start, path, replaced, header))
    stream.skip_body()


def _overwrite_start(path: PathLike, old: bytes, new: bytes) -> None:
    with open(path, "r+b") as file:
        if file.read(len(old)) != old:
            # The header of another message would make this body unreadable for ever.
            raise OSError(errno.ESTALE, "the file was changed in the meantime", str(path))
        file.seek(0)
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
