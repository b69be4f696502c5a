"""Encrypt plaintext from any source, whole or as a stream.

Specification: client-apis/encrypt.md, client-apis/streaming.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import attrs

from aioencrypt.errors import LimitError
from aioencrypt.format import AlgorithmSuite, CommitmentPolicy, MessageEncryptor, MessageHeader
from aioencrypt.format.context import read_only, serialize_context
from aioencrypt.format.work import Output, SealWork
from aioencrypt.managers.answers import get_encryption_materials
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.policies import Offload
from aioencrypt.providers.values import EncryptionMaterials, EncryptionMaterialsRequest, Provenance
from aioencrypt.runtime.digests import DigestQueue
from aioencrypt.runtime.observation import MessageWatch, Tally, watch_message
from aioencrypt.runtime.offload import batch_cost, loop_states, run_work
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import Reader


@attrs.frozen(kw_only=True)
class EncryptOptions:
    """The options of a client for encrypting a message."""

    cmm: CryptographicMaterialsManager
    commitment_policy: CommitmentPolicy
    max_encrypted_data_keys: int | None
    encryption_context: Mapping[str, str] = attrs.field(repr=False)
    algorithm_suite: AlgorithmSuite | None
    frame_length: int
    plaintext_length: int | None
    plaintext_length_bound: int | None
    offload: Offload

    async def begin(self) -> Sealer:
        """Fetch materials and build the header."""
        known = self.plaintext_length
        request = EncryptionMaterialsRequest(
            commitment_policy=self.commitment_policy,
            encryption_context=self.encryption_context,
            algorithm_suite=self.algorithm_suite,
            plaintext_length=self.plaintext_length_bound if known is None else known,
        )
        materials = await get_encryption_materials(self.cmm, request)
        self._check(materials)
        return Sealer(self._machine(materials), self.offload, materials.provenance)

    def _check(self, materials: EncryptionMaterials) -> None:
        """Check the number of encrypted data keys."""
        count, maximum = len(materials.encrypted_data_keys), self.max_encrypted_data_keys
        if maximum is not None and count > maximum:
            raise LimitError(
                "max_encrypted_data_keys",
                limit=maximum,
                actual=count,
                what="the number of encrypted data keys",
            )

    def _machine(self, materials: EncryptionMaterials) -> MessageEncryptor:
        required = materials.required_encryption_context_keys
        stored, authenticated = materials.encryption_context, b""
        if required:
            authenticated = serialize_context({key: stored[key] for key in required})
            stored = read_only({key: value for key, value in stored.items() if key not in required})
        suite = materials.algorithm_suite
        return MessageEncryptor(
            suite,
            materials.data_key.plaintext,
            message_id=os.urandom(suite.message_id_length),
            encryption_context=stored,
            encrypted_data_keys=materials.encrypted_data_keys,
            frame_length=self.frame_length,
            plaintext_length=self.plaintext_length,
            plaintext_length_bound=self.plaintext_length_bound,
            authenticated_context=authenticated,
            signer=materials.signer,
            batch_cost=batch_cost(self.offload),
        )


class Sealer:
    """Drives the writing machine: encrypts where `offload` says, digests in threads, and signs at the end."""

    def __init__(self, machine: MessageEncryptor, offload: Offload, provenance: Provenance) -> None:
        self.machine = machine
        self.provenance = provenance
        self._offload = offload
        self._loop = loop_states.get()
        self._frames = 0
        self._digests = DigestQueue() if machine.header.algorithm_suite.signed else None

    async def seal(self, plaintext: bytes | memoryview = b"", last: bool = False) -> bytes:
        """Return the encrypted frames that this plaintext completes; may be empty."""
        work = self.machine.seal(plaintext, last)
        sealed = b""
        if length := work.output_length:
            if self._digests:
                await self._digests.reserve(length)
            sealed = await run_work(work.crypt, work.cost, self._offload, self._loop)
            if self._digests:
                await self._digests.add(lambda: work.digest(sealed), len(sealed))
        self._settle(work)
        return sealed

    def _settle(self, work: SealWork) -> None:
        self.machine.settle(work)
        self._frames += work.regular_count + (work.final_length is not None)

    async def seal_whole(self, plaintext: bytes) -> bytes:
        """Return the whole message for a plaintext in memory, encrypted in place."""
        output = Output(self.machine.length_for(len(plaintext)))
        try:
            await self._seal_all(memoryview(plaintext), output)
            return output.finish()
        finally:
            try:
                await self.aclose()  # no digest holds a view any more
            finally:
                output.release()

    async def _seal_all(self, rest: memoryview, output: Output) -> None:
        start, last = self.machine.start(), False
        output.reserve(len(start))[:] = start
        while not last:
            length = self.machine.batch_length(len(rest))
            piece, rest = rest[:length], rest[length:]
            last = not rest
            work = self.machine.seal(piece, last)
            if length := work.output_length:
                await self._seal_into(work, output.reserve(length))
            self._settle(work)
        if footer := await self.finish():
            output.reserve(len(footer))[:] = footer

    async def _seal_into(self, work: SealWork, target: memoryview) -> None:
        await run_work(lambda: work.crypt_into(target), work.cost, self._offload, self._loop)
        if self._digests:
            await self._digests.add(lambda: work.digest(target), len(target))

    async def finish(self) -> bytes:
        """Return the footer, empty for an unsigned suite."""
        if self._digests is None:
            return self.machine.finish()
        await self._digests.join()
        return await run_work(self.machine.finish, self.machine.finish_cost, self._offload)

    async def aclose(self) -> None:
        """Drop pending digests, and wait for the one that runs."""
        if self._digests:
            await self._digests.aclose()

    def tally(self, plaintext_length: int, ciphertext_length: int) -> Tally:
        """Return the tally for observers."""
        return Tally.of(
            self.machine.header,
            self.provenance,
            plaintext_length=plaintext_length,
            ciphertext_length=ciphertext_length,
            frames=self._frames,
        )


async def encrypt_whole(plaintext: bytes, options: EncryptOptions) -> tuple[bytes, MessageHeader, Provenance]:
    """Encrypt a whole plaintext in memory."""
    watch = watch_message("encrypt", "whole")
    if watch is None:
        return await _encrypt_whole(plaintext, options, None)
    with watch.observe_call():
        return await _encrypt_whole(plaintext, options, watch)


async def _encrypt_whole(
    plaintext: bytes, options: EncryptOptions, watch: MessageWatch | None
) -> tuple[bytes, MessageHeader, Provenance]:
    sealer = await options.begin()
    message = await sealer.seal_whole(plaintext)
    if watch:
        watch.tally = sealer.tally(len(plaintext), len(message))
    return message, sealer.machine.header, sealer.provenance


class EncryptStream(ByteStream):
    """A stream of the message that a source is encrypted to: read it, or iterate over its chunks.

    Entering `async with` fetches the materials; after that, `header` and `ciphertext_length` are known.
    Leaving before the last byte was read raises `UnverifiedStreamError`, because the bytes read so far are
    not a complete message.
    """

    _observed_as = "encrypt", "stream"

    def __init__(self, reader: Reader, options: EncryptOptions) -> None:
        super().__init__(reader)
        self._options = options
        self._sealer: Sealer | None = None
        self._plaintext = memoryview(b"")
        self._started = False
        self._sealed = False

    @property
    def _open_sealer(self) -> Sealer:
        if self._sealer is None:
            raise self._not_entered()
        return self._sealer

    @property
    def header(self) -> MessageHeader:
        """The header of the message; raises `StreamNotEnteredError` before `async with`."""
        return self._open_sealer.machine.header

    @property
    def provenance(self) -> Provenance:
        """The master keys of the data key; raises `StreamNotEnteredError` before `async with`."""
        return self._open_sealer.provenance

    @property
    def ciphertext_length(self) -> int | None:
        """The exact length of the message in bytes; None if the plaintext length is not known."""
        return self._open_sealer.machine.ciphertext_length

    async def _open(self) -> None:
        self._sealer = await self._options.begin()

    async def _next_chunk(self) -> bytes:
        sealer = self._open_sealer
        if not self._started:
            self._started = True
            return sealer.machine.start()
        while not self._sealed:
            self._sealed = await self._receive(sealer.machine)
            sealed = await sealer.seal(last=self._sealed)
            self._finished = self._sealed and not self.header.algorithm_suite.signed
            if sealed:
                return sealed
        if self._finished:
            return b""
        footer = await sealer.finish()
        self._finished = True
        return footer

    async def _receive(self, machine: MessageEncryptor) -> bool:
        """Give the machine plaintext for one batch; return whether it was the last."""
        gathered = 0
        while True:
            if not self._plaintext:
                self._plaintext = memoryview(await self._intake.read())
                if not self._plaintext:
                    return True
            length = machine.batch_length(len(self._plaintext))
            machine.receive(self._plaintext[:length])
            self._plaintext = self._plaintext[length:]
            gathered += length
            # Gather at most one batch: a larger one would be too long for the event loop.
            more = gathered + self._intake.last_length
            if self._plaintext or not self._intake.gathers(gathered) or machine.batch_length(more) < more:
                return False

    def _tally(self) -> Tally:
        return self._sealer.tally(self._intake.taken, self._given) if self._sealer else super()._tally()

    def _resources(self) -> Sequence[Closable]:
        return [*([self._sealer] if self._sealer else []), self._reader]

    def _forget(self) -> None:
        super()._forget()
        self._plaintext = memoryview(b"")
