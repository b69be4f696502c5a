"""`EncryptionClient`, and the same functions with a default client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self, overload

from aioencrypt.errors import StreamError
from aioencrypt.format import AlgorithmSuite, CommitmentPolicy, MessageHeader
from aioencrypt.format.context import validate_context
from aioencrypt.format.header import MAX_FRAME_LENGTH
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import as_manager, check_encrypt_policy
from aioencrypt.policies import Limits, Offload, Release, SignaturePolicy, checked_limits
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.providers.values import Provenance
from aioencrypt.runtime.arguments import check_choice, check_int, check_limit, check_type
from aioencrypt.runtime.observation import Tally
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.blocking_files import PathLike
from aioencrypt.streams.decrypt import DecryptOptions, DecryptStream, decrypt_whole
from aioencrypt.streams.encrypt import EncryptOptions, EncryptStream, encrypt_whole
from aioencrypt.streams.files import EncryptWriter, FileReader, MessageSink
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.pushed import PlaintextSink, PushedMessage
from aioencrypt.streams.ranges import SeekableSource, open_range_source
from aioencrypt.streams.seekable import SeekableDecryptStream
from aioencrypt.streams.sources import Source, known_length, open_plaintext, open_source
from aioencrypt.streams.writing import Writer

DEFAULT_FRAME_LENGTH = 4096
DEFAULT_CACHE_LENGTH = 4 * 1024 * 1024
DEFAULT_CONCURRENCY = 4

Provider = MasterKeyProvider | CryptographicMaterialsManager
"""A source of data keys: a master key, a provider or a CMM."""


class _Result(tuple[bytes, MessageHeader]):
    """A pair with the provenance of its data key."""

    def __new__(cls, data: bytes, header: MessageHeader, provenance: Provenance) -> Self:
        return super().__new__(cls, (data, header))

    def __init__(self, data: bytes, header: MessageHeader, provenance: Provenance) -> None:
        self._provenance = provenance

    def __getnewargs__(self) -> tuple[bytes, MessageHeader, Provenance]:
        return self[0], self[1], self._provenance

    @property
    def header(self) -> MessageHeader:
        """The header of the message; verified, if the message was decrypted."""
        return self[1]

    @property
    def provenance(self) -> Provenance:
        """The master keys that generated or decrypted the data key, and whether it came from a cache."""
        return self._provenance

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self[0])} bytes>, {self.header!r})"


class EncryptResult(_Result):
    """The message and its header: ``ciphertext, header = await encrypt(...)``."""

    @property
    def ciphertext(self) -> bytes:
        """The whole message."""
        return self[0]


class DecryptResult(_Result):
    """The plaintext and the verified header: ``plaintext, header = await decrypt(...)``."""

    @property
    def plaintext(self) -> bytes:
        """The whole plaintext."""
        return self[0]


class EncryptionClient:
    """Encrypt and decrypt with one set of policies. A client holds no resources and may be shared freely.

    `commitment_policy`: the suites allowed for encrypting and decrypting. `max_encrypted_data_keys`: the
    limit for a message, in both directions; None means no limit. `limits`: limits for decrypting.
    `offload`: where AES-GCM runs. `net_v4_0_0_retry`: verify a header that fails again as version 4.0.0 of
    the SDK for .NET wrote it. `frame_length`: the default frame length in bytes.

    Specification: client-apis/client.md.
    """

    def __init__(
        self,
        *,
        commitment_policy: CommitmentPolicy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        max_encrypted_data_keys: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        offload: Offload = Offload.AUTO,
        net_v4_0_0_retry: bool = True,
        frame_length: int = DEFAULT_FRAME_LENGTH,
    ) -> None:
        self._commitment_policy = check_choice("commitment_policy", commitment_policy, CommitmentPolicy)
        self._max_encrypted_data_keys = check_limit("max_encrypted_data_keys", max_encrypted_data_keys, 1)
        self._limits = checked_limits(limits)
        self._offload = check_choice("offload", offload, Offload)
        self._frame_length = check_int("frame_length", frame_length, 1, MAX_FRAME_LENGTH)
        self._net_v4_0_0_retry = check_type("net_v4_0_0_retry", net_v4_0_0_retry, bool)

    def __repr__(self) -> str:
        return (
            f"EncryptionClient(commitment_policy={self._commitment_policy.name}, "
            f"max_encrypted_data_keys={self._max_encrypted_data_keys}, limits={self._limits!r})"
        )

    @property
    def commitment_policy(self) -> CommitmentPolicy:
        """The commitment policy."""
        return self._commitment_policy

    @property
    def max_encrypted_data_keys(self) -> int | None:
        """The limit for encrypted data keys in a message; None means no limit."""
        return self._max_encrypted_data_keys

    @property
    def offload(self) -> Offload:
        """Where AES-GCM runs."""
        return self._offload

    @property
    def net_v4_0_0_retry(self) -> bool:
        """Whether messages of version 4.0.0 of the SDK for .NET are accepted."""
        return self._net_v4_0_0_retry

    @property
    def frame_length(self) -> int:
        """The default frame length in bytes."""
        return self._frame_length

    @property
    def limits(self) -> Limits:
        """The default limits for decrypting."""
        return self._limits

    @hides_arguments
    async def encrypt(
        self,
        source: Source,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        algorithm_suite: AlgorithmSuite | None = None,
        frame_length: int | None = None,
        plaintext_length: int | None = None,
        plaintext_length_bound: int | None = None,
    ) -> EncryptResult:
        """Encrypt a whole source and return the message. Arguments and errors: see `encrypt_stream`."""
        known = known_length(source)
        options = self._encrypt_options(
            provider,
            encryption_context,
            algorithm_suite,
            frame_length,
            known if plaintext_length is None else plaintext_length,
            plaintext_length_bound,
        )
        if isinstance(source, bytes):
            return EncryptResult(*await encrypt_whole(source, options))
        async with EncryptStream(open_plaintext(source), options) as stream:
            return EncryptResult(await stream.read(), stream.header, stream.provenance)

    @hides_arguments
    def encrypt_stream(
        self,
        source: Source,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        algorithm_suite: AlgorithmSuite | None = None,
        frame_length: int | None = None,
        plaintext_length: int | None = None,
        plaintext_length_bound: int | None = None,
    ) -> EncryptStream:
        """Return a stream of the message that a source is encrypted to; enter it with `async with`.

        `encryption_context`: pairs of text, authenticated and stored in the clear; at most 65,535 bytes.
        `algorithm_suite`: by default the signed, committing suite of the commitment policy.
        `frame_length`: 1 to 2**32 - 1 bytes, by default the client's; larger frames are faster but need more
        memory to decrypt.
        `plaintext_length`: the exact number of bytes, enforced; it makes `ciphertext_length` available.
        `plaintext_length_bound`: an upper bound, ignored if the length is known.

        Raises `ValueError` and `TypeError` for wrong arguments and `CommitmentPolicyError` here;
        `ProviderError` and `LimitError` on entry.
        """
        options = self._encrypt_options(
            provider,
            encryption_context,
            algorithm_suite,
            frame_length,
            known_length(source) if plaintext_length is None else plaintext_length,
            plaintext_length_bound,
        )
        return EncryptStream(open_plaintext(source), options)

    @hides_arguments
    async def decrypt(
        self,
        source: Source,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
    ) -> DecryptResult:
        """Decrypt a whole message, and return its plaintext once all of it is verified.

        Arguments and errors: see `decrypt_stream`.
        """
        options = self.decrypt_options(
            provider,
            encryption_context=encryption_context,
            signature_policy=signature_policy,
            limits=limits,
            release=Release.STREAM,
        )
        if isinstance(source, bytes):
            return DecryptResult(*await decrypt_whole(source, options))
        async with DecryptStream(open_source(source), options) as stream:
            return DecryptResult(await stream.read(), stream.header, stream.provenance)

    @hides_arguments
    def decrypt_stream(
        self,
        source: Source,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
    ) -> DecryptStream:
        """Return a stream of the plaintext of a message; enter it with `async with`.

        `encryption_context`: pairs that the message must have been encrypted with. If the header has
        another value for a key, this raises `EncryptionContextMismatchError`; pairs that the header does
        not store are authenticated. `limits`: override those of the client.

        Raises `ValueError` and `TypeError` for wrong arguments here; `MessageError`, `PolicyError` and
        `ProviderError` on entry; `MessageError` and `LimitError` from reads.
        """
        options = self.decrypt_options(
            provider,
            encryption_context=encryption_context,
            signature_policy=signature_policy,
            limits=limits,
            release=release,
        )
        return DecryptStream(open_source(source), options)

    @hides_arguments
    def decrypt_writer(
        self,
        sink: PlaintextSink,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
    ) -> DecryptWriter:
        """Return a `DecryptWriter` with the settings of this client."""
        return DecryptWriter(
            sink,
            provider,
            encryption_context=encryption_context,
            signature_policy=signature_policy,
            limits=limits,
            release=release,
            encryption_client=self,
        )

    @overload
    def open(
        self,
        path: PathLike,
        mode: Literal["rb"],
        *,
        provider: Provider,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
    ) -> DecryptStream: ...

    @overload
    def open(
        self,
        path: PathLike | MessageSink,
        mode: Literal["wb"],
        *,
        provider: Provider,
        encryption_context: Mapping[str, str] | None = None,
        algorithm_suite: AlgorithmSuite | None = None,
        frame_length: int | None = None,
        plaintext_length: int | None = None,
        plaintext_length_bound: int | None = None,
    ) -> EncryptWriter: ...

    @hides_arguments
    def open(
        self,
        path: PathLike | MessageSink,
        mode: Literal["rb", "wb"],
        *,
        provider: Provider,
        encryption_context: Mapping[str, str] | None = None,
        algorithm_suite: AlgorithmSuite | None = None,
        frame_length: int | None = None,
        plaintext_length: int | None = None,
        plaintext_length_bound: int | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
    ) -> DecryptStream | EncryptWriter:
        """Open an encrypted file: ``"rb"`` returns a `DecryptStream`, ``"wb"`` an `EncryptWriter`.

        Enter either with `async with`. The written file appears complete at the end, or not at all. Instead
        of a path, the writer accepts a `MessageSink`. Raises `OSError` on entry. Other arguments and
        errors: see `decrypt_stream` and `encrypt_stream`.
        """
        if mode == "rb":
            if isinstance(path, MessageSink):
                raise TypeError(f"mode 'rb' takes a path, not {type(path).__name__}")
            reading = self.decrypt_options(
                provider,
                encryption_context=encryption_context,
                signature_policy=signature_policy,
                limits=limits,
                release=release,
            )
            return DecryptStream(FileReader(path), reading)
        if mode == "wb":
            writing = self._encrypt_options(
                provider,
                encryption_context,
                algorithm_suite,
                frame_length,
                plaintext_length,
                plaintext_length_bound,
            )
            return EncryptWriter(path, writing)
        shown = repr(mode) if isinstance(mode, str) else type(mode).__name__
        raise ValueError(f"mode is {shown}; it must be 'rb' or 'wb'")

    @hides_arguments
    def open_seekable(
        self,
        source: SeekableSource,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        accept_unverified_signature: bool = False,
        limits: Limits | None = None,
        cache_length: int = DEFAULT_CACHE_LENGTH,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> SeekableDecryptStream:
        """Return a stream with random access to the plaintext of a message; enter it with `async with`.

        `source`: bytes, the path of a file, or a `RangeSource`, which is closed with the stream.
        `accept_unverified_signature`: also accept signed messages, although partial reads cannot verify the
        signature: anyone who can decrypt the message could have written it. `cache_length`: bytes of
        plaintext in the cache; the last frames read are kept regardless of their length. `concurrency`: the
        number of concurrent range reads.

        Raises `ValueError` and `TypeError` for wrong arguments here; `MessageError`, `PolicyError`,
        `ProviderError` and the errors of the source on entry. Other arguments: see `decrypt_stream`.
        """
        check_int("cache_length", cache_length, 0)
        check_int("concurrency", concurrency, 1)
        options = self.decrypt_options(
            provider,
            encryption_context=encryption_context,
            signature_policy=SignaturePolicy.ALLOW,
            limits=limits,
            release=Release.STREAM,
        )
        return SeekableDecryptStream(
            open_range_source(source),
            options,
            accept_unverified_signature=check_type(
                "accept_unverified_signature", accept_unverified_signature, bool
            ),
            cache_length=cache_length,
            concurrency=concurrency,
        )

    def _encrypt_options(
        self,
        provider: Provider,
        encryption_context: Mapping[str, str] | None,
        algorithm_suite: AlgorithmSuite | None,
        frame_length: int | None,
        plaintext_length: int | None,
        plaintext_length_bound: int | None,
    ) -> EncryptOptions:
        if frame_length is None:
            frame_length = self._frame_length
        check_int("frame_length", frame_length, 1, MAX_FRAME_LENGTH)
        if plaintext_length is not None:
            check_int("plaintext_length", plaintext_length, 0)
        if plaintext_length_bound is not None:
            check_int("plaintext_length_bound", plaintext_length_bound, 0)
        if algorithm_suite is not None:
            algorithm_suite = check_choice("algorithm_suite", algorithm_suite, AlgorithmSuite)
            check_encrypt_policy(self._commitment_policy, algorithm_suite)
        return EncryptOptions(
            cmm=as_manager(provider),
            commitment_policy=self._commitment_policy,
            max_encrypted_data_keys=self._max_encrypted_data_keys,
            encryption_context=validate_context(
                encryption_context or {},
                signature=(algorithm_suite or self._commitment_policy.default_suite).signature,
            ),
            algorithm_suite=algorithm_suite,
            frame_length=frame_length,
            plaintext_length=plaintext_length,
            plaintext_length_bound=plaintext_length_bound,
            offload=self._offload,
        )

    @hides_arguments
    def decrypt_options(
        self,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None,
        signature_policy: SignaturePolicy,
        limits: Limits | None,
        release: Release,
    ) -> DecryptOptions:
        """Return what `DecryptStream` takes beside a reader of your own. Arguments: `decrypt_stream`."""
        return DecryptOptions(
            cmm=as_manager(provider),
            commitment_policy=self._commitment_policy,
            max_encrypted_data_keys=self._max_encrypted_data_keys,
            # The context of a header may be handed back as it is, with the reserved pairs in it.
            encryption_context=validate_context(encryption_context or {}, reserved=True),
            signature_policy=check_choice("signature_policy", signature_policy, SignaturePolicy),
            release=check_choice("release", release, Release),
            limits=self._limits if limits is None else checked_limits(limits),
            offload=self._offload,
            net_v4_0_0_retry=self._net_v4_0_0_retry,
        )


_default = EncryptionClient()


class DecryptWriter(Writer):
    """Decrypts a message that is written to it piece by piece; a sink receives the plaintext.

    `sink` is an async function that takes bytes, or an object with an async `write`. `write` waits for it,
    so a slow sink slows the caller down. The sink is never closed.

    Leaving `async with` normally checks that the message is complete. Only then can all plaintext be
    trusted: until then it may be cut short, and with a signed message it may come from somebody else.
    With `Release.VERIFIED` the sink receives nothing before that. Leaving with an exception drops the
    rest. Other arguments: `decrypt_stream`.

    Raises `ValueError` and `TypeError` for wrong arguments; `MessageError`, `PolicyError`, `ProviderError`
    and what the sink raises from `write` and `aclose`; `TruncatedMessageError` for leaving too early.
    """

    _observed_as = "decrypt", "stream"

    @hides_arguments
    def __init__(
        self,
        sink: PlaintextSink,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
        encryption_client: EncryptionClient | None = None,
    ) -> None:
        client = check_type("encryption_client", encryption_client or _default, EncryptionClient)
        options = client.decrypt_options(
            provider,
            encryption_context=encryption_context,
            signature_policy=signature_policy,
            limits=limits,
            release=release,
        )
        super().__init__()
        self._message = PushedMessage(sink, options)

    @property
    def header(self) -> MessageHeader:
        """The header, verified; raises `StreamError` before it has arrived."""
        if self._message.opener.header is None:
            raise self._no_header()
        return self._message.opener.header

    @property
    def provenance(self) -> Provenance:
        """Which key opened the data key; raises `StreamError` before the header has arrived."""
        if self._message.opener.provenance is None:
            raise self._no_header()
        return self._message.opener.provenance

    def _no_header(self) -> StreamError:
        self._check_open()
        return StreamError("the header has not arrived yet: write() more of the message")

    @property
    def verified(self) -> bool:
        """Whether all of the message is verified: all plaintext can be trusted."""
        return self._message.opener.verified

    async def _open(self) -> None:
        """Do nothing: the header comes with the first writes."""

    @hides_arguments
    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes of the message; returns how many, which is all of them.

        Waits for the key service when the header is complete, and for the sink with each piece of plaintext.
        Raises what `decrypt_stream` raises on entry and from reads, and what the sink raises.
        """
        view = memoryview(data)
        async with self._exclusive():
            await self._message.push(data if isinstance(data, bytes) else view, self._watch)
        return view.nbytes

    async def _finish(self) -> None:
        await self._message.end(self._watch)

    def _tally(self) -> Tally:
        return self._message.tally()

    def _resources(self) -> Sequence[Closable]:
        return self._message.resources


encrypt: Final = _default.encrypt
encrypt_stream: Final = _default.encrypt_stream
decrypt: Final = _default.decrypt
decrypt_stream: Final = _default.decrypt_stream
open_seekable: Final = _default.open_seekable
open: Final = _default.open  # noqa: A001
