"""Decrypt a message from any source, whole or as a stream.

Specification: client-apis/decrypt.md, client-apis/streaming.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import attrs

from aioencrypt.errors import (
    EncryptionError,
    ProviderError,
    SignaturePolicyError,
    TagError,
)
from aioencrypt.format import (
    CommitmentPolicy,
    MessageDecryptor,
    MessageHeader,
    OpenWork,
)
from aioencrypt.format.context import serialize_context
from aioencrypt.format.work import Output
from aioencrypt.managers.answers import get_decryption_materials
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import check_decrypt_policy
from aioencrypt.policies import Limits, Offload, Release, SignaturePolicy
from aioencrypt.providers.values import DecryptionMaterials, DecryptionMaterialsRequest, Provenance
from aioencrypt.runtime.observation import MessageWatch, Tally, watch_message
from aioencrypt.runtime.offload import LONG, batch_cost, run_work
from aioencrypt.streams.driver import Driver
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import Reader, open_source
from aioencrypt.streams.spool import Spool

# Up to this many bytes, the event loop itself wipes the plaintext of a bad message: 100 microseconds.
_WIPED_AT_ONCE = 1024 * 1024


@attrs.frozen(kw_only=True)
class DecryptOptions:
    """The options of a client for decrypting a message."""

    cmm: CryptographicMaterialsManager
    commitment_policy: CommitmentPolicy
    max_encrypted_data_keys: int | None
    encryption_context: Mapping[str, str] = attrs.field(repr=False)
    signature_policy: SignaturePolicy
    release: Release
    limits: Limits
    offload: Offload
    net_v4_0_0_retry: bool

    def machine(self) -> MessageDecryptor:
        """Return a machine with these limits."""
        return MessageDecryptor(
            max_header_length=self.limits.max_header_length,
            max_encrypted_data_keys=self.max_encrypted_data_keys,
            max_frame_length=self.limits.max_frame_length,
            max_plaintext_length=self.limits.max_plaintext_length,
            net_v4_0_0_retry=self.net_v4_0_0_retry,
            batch_cost=batch_cost(self.offload),
        )

    async def unlock(self, machine: MessageDecryptor) -> DecryptionMaterials:
        """Check the policies, fetch materials and verify the header; returns the materials."""
        header = machine.received.header
        self._check_policies(header)
        absent = [key for key in self.encryption_context if key not in header.encryption_context]
        try:
            materials = await self._materials(header)
            authenticated, context = b"", materials.encryption_context
            if required := materials.required_encryption_context_keys:
                authenticated = serialize_context({key: context[key] for key in required})
            machine.unlock(
                materials.data_key.plaintext,
                verification_key=materials.verification_key,
                authenticated_context=authenticated,
            )
        except (ProviderError, TagError) as error:
            # Pairs that the caller gave and the header lacks are authenticated. If the message was written
            # without them, the tag fails, so the error must mention them.
            if absent:
                raise _with_absent(error, absent) from error
            raise
        machine.next_event()  # HeaderVerified
        return materials

    def _check_policies(self, header: MessageHeader) -> None:
        """Check the policies that need no key, before any call to a key service."""
        suite = header.algorithm_suite
        check_decrypt_policy(self.commitment_policy, suite)
        if self.signature_policy is SignaturePolicy.FORBID and suite.signed:
            raise SignaturePolicyError(f"signature_policy=FORBID, and the message is signed ({suite.name})")
        if self.signature_policy is SignaturePolicy.REQUIRE and not suite.signed:
            raise SignaturePolicyError(
                f"signature_policy=REQUIRE, and the message is not signed ({suite.name})"
            )

    async def _materials(self, header: MessageHeader) -> DecryptionMaterials:
        request = DecryptionMaterialsRequest(
            algorithm_suite=header.algorithm_suite,
            commitment_policy=self.commitment_policy,
            encrypted_data_keys=header.encrypted_data_keys,
            encryption_context=header.encryption_context,
            reproduced_encryption_context=self.encryption_context,
        )
        return await get_decryption_materials(self.cmm, request)


def _with_absent(error: ProviderError | TagError, absent: list[str]) -> EncryptionError:
    note = (
        f"the header does not have the encryption context keys {', '.join(map(repr, absent))} that were given"
    )
    if isinstance(error, ProviderError):
        text = f"{error.summary}; {note}"
        return ProviderError(
            text,
            error.attempts,
            unclaimed=error.unclaimed,
            omitted=error.omitted,
            retryable=error.retryable,
        )
    return TagError(f"{error}; {note}")


async def decrypt_whole(message: bytes, options: DecryptOptions) -> tuple[bytes, MessageHeader, Provenance]:
    """Decrypt a whole message in memory; return nothing before all of it is verified."""
    watch = watch_message("decrypt", "whole")
    if watch is None:
        return await _decrypt_whole(message, options, None)
    with watch.observe_call():
        return await _decrypt_whole(message, options, watch)


async def _decrypt_whole(
    message: bytes, options: DecryptOptions, watch: MessageWatch | None
) -> tuple[bytes, MessageHeader, Provenance]:
    output = Output(len(message))
    driver = Driver(
        options.machine(),
        open_source(message).read,
        offload=options.offload,
        open_work=partial(_open_in_place, output),
        in_memory=True,
    )
    try:
        await driver.read_header()
        provenance = (await options.unlock(driver.machine)).provenance
        await driver.read()
        plaintext = output.finish()
        header = driver.machine.received.header
        if watch:
            watch.tally = Tally.of(
                header,
                provenance,
                plaintext_length=len(plaintext),
                ciphertext_length=len(message),
                frames=driver.frames,
            )
        return plaintext, header, provenance
    except BaseException:
        try:
            if output.used <= _WIPED_AT_ONCE:
                output.wipe()
            else:
                await run_work(output.wipe, LONG)
        finally:
            output.release()
        raise
    finally:
        await driver.aclose()


def _open_in_place(output: Output, work: OpenWork) -> bytes:
    """Decrypt into the output buffer, and give the machine nothing to release."""
    work.open_into(output.reserve(work.output_length))
    return b""


class Opener:
    """Opens one message: reads its header, gets its data key, and releases its plaintext.

    `read` returns the next bytes of the message. If it raises, the caller may call again: no bytes are lost.
    """

    def __init__(
        self,
        options: DecryptOptions,
        read: Callable[[], Awaitable[bytes]],
        gathers: Callable[[int], bool] = lambda gathered: False,
    ) -> None:
        self._options = options
        self._driver = Driver(options.machine(), read, offload=options.offload, gathers=gathers)
        self._spool = Spool() if options.release is Release.VERIFIED else None
        self.header: MessageHeader | None = None
        self.provenance: Provenance | None = None
        self.verified: bool = False

    async def open(self) -> None:
        """Read and verify the header."""
        await self._driver.read_header()
        self.provenance = (await self._options.unlock(self._driver.machine)).provenance
        self.header = self._driver.machine.received.header

    async def next_chunk(self) -> bytes:
        """Return the next plaintext that may be released, and ``b""`` when all of the message is verified."""
        if self._spool is None:
            chunk = await self._driver.read()
            self.verified = not chunk
            return chunk
        if not self.verified:
            while chunk := await self._driver.read():
                await self._spool.write(chunk)
            self.verified = True
        return await self._spool.read()

    def tally(self, plaintext_length: int, ciphertext_length: int) -> Tally:
        """Return what observers are told."""
        return Tally.of(
            self.header,
            self.provenance,
            plaintext_length=plaintext_length,
            ciphertext_length=ciphertext_length,
            frames=self._driver.frames,
        )

    @property
    def resources(self) -> list[Closable]:
        """What is closed with the message, in order."""
        return [self._driver, *([self._spool] if self._spool else [])]


class DecryptStream(ByteStream):
    """A stream of the plaintext of a message: read it, or iterate over its chunks.

    Entering `async with` reads the header, decrypts the data key and verifies the header. Errors of header,
    policy or key are raised there, and `header` is available afterwards. Leaving before the end is verified
    raises `UnverifiedStreamError`: until then, the plaintext may be cut short, and the plaintext of a signed
    message may be forged by anyone who can decrypt it.
    """

    _observed_as = "decrypt", "stream"

    def __init__(self, reader: Reader, options: DecryptOptions) -> None:
        super().__init__(reader)
        self._opener = Opener(options, self._intake.read, self._intake.gathers)

    @property
    def header(self) -> MessageHeader:
        """The verified header; raises `StreamNotEnteredError` before `async with`."""
        if self._opener.header is None:
            raise self._not_entered()
        return self._opener.header

    @property
    def provenance(self) -> Provenance:
        """The master key that decrypted the data key; raises `StreamNotEnteredError` before `async with`."""
        if self._opener.header is None or self._opener.provenance is None:
            raise self._not_entered()
        return self._opener.provenance

    @property
    def verified(self) -> bool:
        """Whether the final frame, the signature and the end of input are verified."""
        return self._opener.verified

    async def _open(self) -> None:
        await self._opener.open()

    async def _next_chunk(self) -> bytes:
        return await self._opener.next_chunk()

    def _tally(self) -> Tally:
        return self._opener.tally(self._given, self._intake.taken)

    @property
    def _complete(self) -> bool:
        # Verified plaintext that the caller did not read is no error.
        return self._opener.verified

    @property
    def _incomplete_reason(self) -> str:
        return (
            "the stream was left before the end of the message was verified, so its plaintext may be "
            "cut short or forged; read to the end, or call abandon() first"
        )

    def _resources(self) -> Sequence[Closable]:
        return [*self._opener.resources, self._reader]
