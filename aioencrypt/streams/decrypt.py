"""Decrypting: one message in from any source, plaintext out.

Specification: client-apis/decrypt.md, client-apis/streaming.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import attrs
from anyio.lowlevel import checkpoint

from aioencrypt.errors import (
    EncryptionError,
    ProviderError,
    SignaturePolicyError,
    TagError,
)
from aioencrypt.format import (
    CommitmentPolicy,
    EndOfMessage,
    HeaderParsed,
    HeaderVerified,
    MessageDecryptor,
    MessageHeader,
    NeedData,
    OpenWork,
    Plaintext,
    State,
    VerifyWork,
)
from aioencrypt.format.context import serialize_context
from aioencrypt.format.work import Output
from aioencrypt.managers.answers import get_decryption_materials
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import check_decrypt_policy
from aioencrypt.materials import DecryptionMaterials, DecryptionMaterialsRequest, Provenance
from aioencrypt.policies import Limits, Offload, Release, SignaturePolicy
from aioencrypt.runtime.digests import DigestQueue
from aioencrypt.runtime.observation import MessageWatch, Tally, watch_message
from aioencrypt.runtime.offload import LONG, batch_cost, run_work
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import Reader
from aioencrypt.streams.spool import Spool

# Bytes of a header that are parsed in one turn of the loop: a header made of nothing but tiny data
# keys takes a millisecond for each of these.
_HEADER_STEP = 4096
# Bytes of plaintext that are overwritten in the loop, when a message turns out bad: 100 microseconds.
_WIPED_AT_ONCE = 1024 * 1024


@attrs.frozen(kw_only=True)
class DecryptOptions:
    """Everything that a client knows about a message it is to read."""

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

    async def unlock(self, machine: MessageDecryptor, header: MessageHeader) -> DecryptionMaterials:
        """Check the policies, fetch materials and verify the header; returns the materials."""
        self._check_policies(header)
        absent = [key for key in self.encryption_context if key not in header.encryption_context]
        try:
            materials = await self._materials(header)
            required = materials.required_encryption_context_keys
            machine.unlock(
                materials.data_key.plaintext,
                verification_key=materials.verification_key,
                authenticated_context=serialize_context(
                    {key: materials.encryption_context[key] for key in required}
                ),
            )
        except (ProviderError, TagError) as error:
            # Nothing but the tag can tell that a pair was never there, so its failure must say so.
            if absent:
                raise _with_absent(error, absent) from error
            raise
        return materials

    def _check_policies(self, header: MessageHeader) -> None:
        """Refuse what needs no key to be refused, before any key service is called."""
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
        return ProviderError(text, error.attempts, unclaimed=error.unclaimed, omitted=error.omitted)
    return TagError(f"{error}; {note}")


@hides_arguments
async def decrypt_whole(message: bytes, options: DecryptOptions) -> tuple[bytes, MessageHeader, Provenance]:
    """Decrypt a message that is there as a whole; nothing leaves before all of it is verified."""
    watch = watch_message("decrypt", "whole")
    if watch is None:
        return await _decrypt_whole(message, options, None)
    with watch.observe_call():
        return await _decrypt_whole(message, options, watch)


@hides_arguments
async def _decrypt_whole(
    message: bytes, options: DecryptOptions, watch: MessageWatch | None
) -> tuple[bytes, MessageHeader, Provenance]:
    digests = DigestQueue()
    output = Output(len(message))
    try:
        header, provenance, frames = await _open_whole(memoryview(message), options, digests, output)
        plaintext = output.finish()
        if watch:
            watch.tally = Tally.of(
                header,
                provenance,
                plaintext_length=len(plaintext),
                ciphertext_length=len(message),
                frames=frames,
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
        await digests.aclose()


async def _open_whole(
    rest: memoryview, options: DecryptOptions, digests: DigestQueue, output: Output
) -> tuple[MessageHeader, Provenance, int]:
    """Drive a machine to the end, and write plaintext in place instead of releasing it."""
    machine = options.machine()
    frames = 0
    while True:
        match machine.next_event():
            case OpenWork() as work:
                if work.running:
                    await digests.add(work.digest, work.input_length)
                target = output.reserve(work.output_length)
                await run_work(partial(work.open_into, target), work.cost, options.offload)
                machine.settle(work, b"")
                frames += work.count
            case VerifyWork() as work:
                await digests.join()
                machine.settle(work, await run_work(work.crypt, work.cost, options.offload))
            case NeedData():
                step = len(rest) if machine.state is not State.HEADER else _HEADER_STEP
                machine.receive(rest[:step])
                rest = rest[step:]
                if machine.state is State.HEADER and rest:
                    await checkpoint()
            case HeaderParsed(parsed):
                provenance = (await options.unlock(machine, parsed)).provenance
            case HeaderVerified(verified):
                header = verified
            case EndOfMessage():
                return header, provenance, frames


class DecryptStream(ByteStream):
    """A message being read: read its plaintext, or iterate over its chunks.

    Entering `async with` reads the header, fetches the data key and verifies the header: every error
    of header, policy or key comes from there, and `header` is known after it. Leaving it before the
    end was verified raises `UnverifiedStreamError`: until then the plaintext may be cut short, and
    with a signed message it may come from somebody else.
    """

    _observed_as = "decrypt"

    def __init__(self, reader: Reader, options: DecryptOptions) -> None:
        super().__init__(reader)
        self._options = options
        self._machine = options.machine()
        self._header: MessageHeader | None = None
        self._provenance: Provenance | None = None
        self._digests = DigestQueue()
        self._received = memoryview(b"")
        self._verified = False
        self._frames = 0
        self._spool = Spool() if options.release is Release.VERIFIED else None

    @property
    def header(self) -> MessageHeader:
        """The header, verified; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None:
            raise self._not_entered()
        return self._header

    @property
    def provenance(self) -> Provenance:
        """Which key opened the data key; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None or self._provenance is None:
            raise self._not_entered()
        return self._provenance

    @property
    def verified(self) -> bool:
        """Whether final frame, signature and end of input are verified: all plaintext can be trusted."""
        return self._verified

    async def _open(self) -> None:
        await self._advance()

    async def _next_chunk(self) -> bytes:
        if self._spool is None:
            return await self._advance()
        while not self._verified:
            chunk = await self._advance()
            if chunk:
                await self._spool.write(chunk)
        return await self._spool.read()

    async def _advance(self) -> bytes:
        """Drive the machine to the next thing that a caller sees: the header, plaintext or the end."""
        machine = self._machine
        while True:
            match machine.next_event():
                case Plaintext(data):
                    return data
                case OpenWork() | VerifyWork() as work:
                    await self._work(work)
                case NeedData():
                    await self._receive()
                case HeaderParsed(header):
                    self._provenance = (await self._options.unlock(machine, header)).provenance
                case HeaderVerified(header):
                    self._header = header
                    return b""
                case EndOfMessage():
                    self._verified = True
                    return b""

    async def _work(self, work: OpenWork | VerifyWork) -> None:
        if isinstance(work, VerifyWork):
            await self._digests.join()
        elif work.running:
            await self._digests.reserve(work.input_length)
            await self._digests.add(work.digest, work.input_length)
        try:
            result = await run_work(work.crypt, work.cost, self._options.offload)
        except EncryptionError as error:
            self._machine.fail(error)
            raise
        self._machine.settle(work, result)
        if isinstance(work, OpenWork):
            self._frames += work.count

    async def _receive(self) -> None:
        if self._machine.state is State.HEADER:
            await self._receive_header()
            return
        taken, self._received = self._received or await self._read_source(), memoryview(b"")
        self._machine.receive(taken)
        gathered = len(taken)
        while taken and self._gathers(gathered):
            taken = await self._read_source()
            self._machine.receive(taken)
            gathered += len(taken)

    async def _receive_header(self) -> None:
        if not self._received:
            self._received = memoryview(await self._read_source())
        self._machine.receive(self._received[:_HEADER_STEP])
        self._received = self._received[_HEADER_STEP:]
        if self._received:
            await checkpoint()

    def _tally(self) -> Tally:
        return Tally.of(
            self._header,
            self._provenance,
            plaintext_length=self._given,
            ciphertext_length=self._taken,
            frames=self._frames,
        )

    @property
    def _complete(self) -> bool:
        return self._verified

    @property
    def _incomplete_reason(self) -> str:
        return (
            "the stream was left before the end of the message was verified, so its plaintext may be "
            "cut short or forged; read to the end, or call abandon() first"
        )

    def _resources(self) -> Sequence[Closable]:
        return [self._digests, *([self._spool] if self._spool else []), self._reader]

    def _forget(self) -> None:
        super()._forget()
        self._received = memoryview(b"")
        self._machine.close()
