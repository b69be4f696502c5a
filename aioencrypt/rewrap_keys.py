"""Other master keys for a message that is there, and its body left alone where that is safe.

What must be made anew is told apart by the algorithm suite:

- Version 1, unsigned: the header. Its tag is made with a new random IV.
- Version 2, unsigned: header and body, under another message id. The format gives the header of version 2
  one fixed IV for its tag, and so to two headers of one message the same key and the same IV. AES-GCM does
  not stand that: from two such tags the key of the authentication can be computed, and with it frames can
  be changed so that nobody notices. `accept_iv_reuse` leaves the body alone all the same, for those who
  know that nobody has both headers.
- Signed: everything. The signature covers the header, and the key that signed does not exist any more.

What is encrypted anew gets a new data key, unless some of the old encrypted data keys are to open it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping

import attrs

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import LimitError, PolicyError, SignaturePolicyError
from aioencrypt.format import EncryptedDataKey, MessageDecryptor, MessageHeader
from aioencrypt.format.context import PUBLIC_KEY_NAME, serialize_context
from aioencrypt.format.suites import IV_LENGTH
from aioencrypt.managers.default import DefaultCMM
from aioencrypt.materials import (
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from aioencrypt.policies import Release, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider, wrap_data_key
from aioencrypt.streams.decrypt import DecryptOptions

Keep = bool | Callable[[EncryptedDataKey], bool]
"""Which encrypted data keys of a message stay: all, none, or those for which a function says so."""


@attrs.frozen(kw_only=True)
class RewrappedHeader:
    """A new header for a body that stays as it is.

    `serialized` takes the place of the first `old_length` bytes of the message.
    """

    header: MessageHeader
    serialized: bytes = attrs.field(repr=False)
    old_length: int


@attrs.frozen
class GivenMaterials:
    """A CMM that has what it is asked for."""

    decryption: DecryptionMaterials
    encryption: EncryptionMaterials

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        return self.decryption

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        return self.encryption


@attrs.frozen(kw_only=True)
class RewrapOptions:
    """What a caller asked for."""

    client: EncryptionClient
    reading: DecryptOptions
    new_provider: MasterKeyProvider | None
    keep: Keep
    reencrypt: bool
    accept_iv_reuse: bool

    def leaves_body(self, header: MessageHeader) -> bool:
        """Tell whether a new header is enough; raises `PolicyError` where the caller forbids the rest."""
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
        """Return the encrypted data keys that stay, and behind them the new ones."""
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
            # A coroutine is true, and would keep every key.
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
        suite, context = header.algorithm_suite, dict(materials.encryption_context)
        required = materials.required_encryption_context_keys
        if self.keep is False and self.new_provider:
            context.pop(PUBLIC_KEY_NAME, None)
            policy = self.client.commitment_policy
            stays = policy.allows_encrypt(suite) or not suite.signed
            return await DefaultCMM(self.new_provider).get_encryption_materials(
                EncryptionMaterialsRequest(
                    commitment_policy=policy,
                    encryption_context=context,
                    algorithm_suite=suite if stays else policy.default_suite,
                    required_encryption_context_keys=required,
                )
            )
        # The new message id makes another key of it.
        return EncryptionMaterials(
            algorithm_suite=suite,
            data_key=materials.data_key,
            encrypted_data_keys=await self.data_keys(header, materials),
            encryption_context=context,
            required_encryption_context_keys=required,
        )


def _new_iv() -> bytes:
    """Return an IV that no frame has: theirs are numbers of four bytes."""
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
    client: EncryptionClient | None,
) -> RewrapOptions:
    if new_provider is not None and not isinstance(new_provider, MasterKeyProvider):
        raise TypeError(
            f"new_provider is a master key or a provider, not {type(new_provider).__name__}: "
            "it encrypts a data key that is there, which no CMM does"
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
    client = client or EncryptionClient()
    return RewrapOptions(
        client=client,
        reading=client._decrypt_options(  # noqa: SLF001 (one package)
            provider, encryption_context, SignaturePolicy.ALLOW, None, Release.STREAM
        ),
        new_provider=new_provider,
        keep=keep,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
    )
