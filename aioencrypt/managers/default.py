"""The default CMM, which the client uses for a plain provider.

Specification: framework/default-cmm.md.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from aioencrypt.errors import (
    CommitmentPolicyError,
    EncryptionContextMismatchError,
    MalformedMessageError,
    SignatureError,
)
from aioencrypt.format import AlgorithmSuite, CommitmentPolicy
from aioencrypt.format.context import PUBLIC_KEY_NAME, EncryptionContext, read_only
from aioencrypt.format.signing import KeySigner, compressed_point, generate_signing_key
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.providers.base import MasterKeyProvider, make_data_key, open_data_key, provider_advice
from aioencrypt.providers.values import (
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.offload import run_work
from aioencrypt.runtime.plugins import is_ours
from aioencrypt.runtime.secrets import hides_arguments

# Microseconds to generate a P-384 key pair and compress its public key.
_KEY_PAIR_COST = 125
# A call of one manager is a dozen calls of Python, which allows a thousand.
_MOST_DEPTH = 40


class DefaultCMM:
    """Request a new data key from the provider for every message. `async with` enters the provider."""

    @hides_arguments
    def __init__(self, provider: MasterKeyProvider) -> None:
        if not isinstance(provider, MasterKeyProvider):
            what = describe_type(provider)
            raise TypeError(
                f"DefaultCMM needs a master key or a provider, not {what}{provider_advice(provider)}"
            )
        self._provider = provider

    def __repr__(self) -> str:
        return f"DefaultCMM({self._provider!r})"

    async def __aenter__(self) -> Self:
        await self._provider.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._provider.__aexit__(exc_type, exc, traceback)

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        """Generate a data key, and a signing key if the suite signs."""
        suite = request.algorithm_suite or request.commitment_policy.default_suite
        check_encrypt_policy(request.commitment_policy, suite)
        context = read_only(request.encryption_context)
        if PUBLIC_KEY_NAME in context:
            raise ValueError(f"the encryption context already has the reserved key {PUBLIC_KEY_NAME!r}")
        sign = None
        if suite.signature:
            algorithm = suite.signature
            key = await run_work(lambda: generate_signing_key(algorithm), _KEY_PAIR_COST)
            encoded = base64.b64encode(compressed_point(key)).decode()
            context = EncryptionContext({**context, PUBLIC_KEY_NAME: encoded})
            sign = KeySigner(algorithm, key)
        asked = DataKeyRequest(algorithm_suite=suite, encryption_context=context)
        # The public key may make the context too long: fail before a paid call to a key service.
        _ = asked.serialized_context
        data_key, encrypted_data_keys, provenance = await make_data_key(self._provider, asked)
        return EncryptionMaterials(
            algorithm_suite=suite,
            data_key=data_key,
            encrypted_data_keys=encrypted_data_keys,
            encryption_context=context,
            required_encryption_context_keys=request.required_encryption_context_keys,
            signer=sign,
            provenance=provenance,
        )

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        """Decrypt the data key. Reproduced pairs that are not in the header are authenticated only."""
        suite = request.algorithm_suite
        check_decrypt_policy(request.commitment_policy, suite)
        stored, reproduced = request.encryption_context, request.reproduced_encryption_context
        different = [key for key, value in reproduced.items() if stored.get(key, value) != value]
        if different:
            raise EncryptionContextMismatchError(different)
        verification_key = _verification_key(request)
        context = EncryptionContext({**stored, **reproduced}) if reproduced else read_only(stored)
        opened = await open_data_key(
            self._provider,
            DataKeyRequest(
                algorithm_suite=suite,
                encryption_context=context,
                encrypted_data_keys=request.encrypted_data_keys,
            ),
        )
        return DecryptionMaterials(
            algorithm_suite=suite,
            data_key=opened.data_key,
            encryption_context=context,
            required_encryption_context_keys=frozenset(reproduced.keys() - stored.keys()),
            verification_key=verification_key,
            provenance=opened.provenance,
        )


class OuterManager:
    """A CMM around another one, or around a provider. `async with` enters that."""

    @hides_arguments
    def __init__(self, provider: MasterKeyProvider | CryptographicMaterialsManager) -> None:
        self._manager = as_manager(provider)
        # Public, because the manager around this one reads it.
        self.depth: int = 1 + (provider.depth if isinstance(provider, OuterManager) else 0)
        if self.depth > _MOST_DEPTH:
            raise ValueError(f"managers are nested more than {_MOST_DEPTH} deep: leave some out")

    async def __aenter__(self) -> Self:
        if isinstance(self._manager, AbstractAsyncContextManager):
            await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._manager, AbstractAsyncContextManager):
            await self._manager.__aexit__(exc_type, exc, traceback)


def as_manager(
    provider: MasterKeyProvider | CryptographicMaterialsManager,
) -> CryptographicMaterialsManager:
    """Return a CMM unchanged, and a `DefaultCMM` for a provider; raises `TypeError` for other types."""
    if isinstance(provider, MasterKeyProvider):
        return DefaultCMM(provider)
    # To look for the methods of a protocol takes longer than AES-GCM for a small message.
    if isinstance(provider, DefaultCMM | OuterManager) and is_ours(provider):
        return provider
    if isinstance(provider, CryptographicMaterialsManager) and not isinstance(provider, type):
        return provider
    what, advice = describe_type(provider), provider_advice(provider)
    raise TypeError(f"{what} is neither a master key, nor a provider, nor a CMM{advice}")


def _verification_key(request: DecryptionMaterialsRequest) -> bytes | None:
    encoded = request.encryption_context.get(PUBLIC_KEY_NAME)
    if not request.algorithm_suite.signed:
        if encoded is not None:
            raise MalformedMessageError(
                "the header has a verification key, but the algorithm suite does not sign"
            )
        return None
    if encoded is None:
        raise SignatureError("the algorithm suite signs, but the header has no verification key")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("the verification key in the header is not base64") from error


def check_encrypt_policy(policy: CommitmentPolicy, suite: AlgorithmSuite) -> None:
    """Raise `CommitmentPolicyError` if the policy does not allow encrypting with the suite."""
    if not policy.allows_encrypt(suite):
        raise CommitmentPolicyError(
            f"commitment policy {policy.name} does not allow encrypting with {suite.name}; "
            f"leave algorithm_suite out to get {policy.default_suite.name}"
        )


def check_decrypt_policy(policy: CommitmentPolicy, suite: AlgorithmSuite) -> None:
    """Raise `CommitmentPolicyError` if the policy does not allow decrypting the suite."""
    if not policy.allows_decrypt(suite):
        raise CommitmentPolicyError(
            f"commitment policy {policy.name} does not allow decrypting {suite.name}, "
            "which has no key commitment; use REQUIRE_ENCRYPT_ALLOW_DECRYPT"
        )
