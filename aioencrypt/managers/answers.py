"""Request materials from a cryptographic materials manager (CMM), and check its answers.

Users may supply the CMM, so materials are checked against every promise of the client.

Specification: framework/cmm-interface.md.
"""

from __future__ import annotations

from typing import NoReturn

import attrs
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from aioencrypt.errors import ProviderError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.format.context import PUBLIC_KEY_NAME, serialize_context
from aioencrypt.format.signing import KeySigner, Signer
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import check_decrypt_policy, check_encrypt_policy
from aioencrypt.providers.base import check_data_key, check_encrypted_data_key
from aioencrypt.providers.values import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    Provenance,
)
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.plugins import call_method, call_sync, is_ours, method_name

_MOST_DATA_KEYS = 0xFFFF


async def get_encryption_materials(
    cmm: CryptographicMaterialsManager, request: EncryptionMaterialsRequest
) -> EncryptionMaterials:
    """Return checked materials for writing a message; raises the errors of a CMM."""
    if is_ours(cmm):  # it checks what it asks for, and the policy
        return await cmm.get_encryption_materials(request)
    materials = await call_method(cmm, "get_encryption_materials", request, kind=EncryptionMaterials)
    return _checked_for_encryption(method_name(cmm, "get_encryption_materials"), materials, request)


async def get_decryption_materials(
    cmm: CryptographicMaterialsManager, request: DecryptionMaterialsRequest
) -> DecryptionMaterials:
    """Return checked materials that fit the header of a message; raises the errors of a CMM."""
    if is_ours(cmm):
        return await cmm.decrypt_materials(request)
    materials = await call_method(cmm, "decrypt_materials", request, kind=DecryptionMaterials)
    _check_for_decryption(method_name(cmm, "decrypt_materials"), materials, request)
    return materials


def _checked_for_encryption(
    name: str, materials: EncryptionMaterials, request: EncryptionMaterialsRequest
) -> EncryptionMaterials:
    suite, signer = _suite(name, materials), materials.signer
    check_encrypt_policy(request.commitment_policy, suite)
    _check_materials(name, materials)
    count = len(materials.encrypted_data_keys)
    if not 0 < count <= _MOST_DATA_KEYS:
        _refuse(name, f"{count} encrypted data keys; a message has 1 to {_MOST_DATA_KEYS}")
    for key in materials.encrypted_data_keys:
        check_encrypted_data_key(name, key)
    if (signer is not None) is not suite.signed:
        _refuse(name, f"{'no' if signer is None else 'a'} signer for {suite.name}")
    if (PUBLIC_KEY_NAME in materials.encryption_context) is not suite.signed:
        which = "without" if suite.signed else "with"
        _refuse(name, f"an encryption context {which} {PUBLIC_KEY_NAME!r} for {suite.name}")
    if signer is None or isinstance(signer, KeySigner | _CheckedSigner):
        return materials
    if not callable(signer):
        _refuse(name, f"{describe_type(signer)} as signer, which is no function")
    return attrs.evolve(materials, signer=_CheckedSigner(signer))


def _check_for_decryption(
    name: str, materials: DecryptionMaterials, request: DecryptionMaterialsRequest
) -> None:
    suite, key = _suite(name, materials), materials.verification_key
    check_decrypt_policy(request.commitment_policy, suite)
    if suite is not request.algorithm_suite:
        _refuse(name, f"materials for {suite.name}, and the message has {request.algorithm_suite.name}")
    _check_materials(name, materials)
    if not isinstance(key, bytes | None):
        _refuse(name, f"{describe_type(key)} as verification key; it is bytes, or None")
    if (key is not None) is not suite.signed:
        _refuse(name, f"{'no' if key is None else 'a'} verification key for {suite.name}")


def _suite(name: str, materials: EncryptionMaterials | DecryptionMaterials) -> AlgorithmSuite:
    if not isinstance(materials.algorithm_suite, AlgorithmSuite):
        _refuse(name, f"{describe_type(materials.algorithm_suite)} as algorithm suite")
    return materials.algorithm_suite


def _check_materials(name: str, materials: EncryptionMaterials | DecryptionMaterials) -> None:
    """Check the fields that encryption and decryption materials share."""
    check_data_key(name, materials.data_key, materials.algorithm_suite)
    for key, value in materials.encryption_context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = describe_type(value if isinstance(key, str) else key)
            _refuse(name, f"an encryption context with {wrong}; keys and values are str")
    try:
        serialize_context(materials.encryption_context)
    except ValueError as error:
        raise ProviderError(f"{name} returned a wrong encryption context: {error}") from error
    if not isinstance(materials.provenance, Provenance):
        _refuse(name, f"{describe_type(materials.provenance)} as provenance")


def _refuse(name: str, what: str) -> NoReturn:
    raise ProviderError(f"{name} returned {what}")


@attrs.frozen
class _CheckedSigner:
    """A user-supplied signer: exceptions and wrong results become `ProviderError`."""

    sign: Signer = attrs.field(repr=False)

    def __call__(self, digest: bytes) -> bytes:
        name = f"the signer {getattr(self.sign, '__qualname__', type(self.sign).__name__)}"
        signature = call_sync(name, self.sign, digest, kind=bytes)
        try:
            decode_dss_signature(signature)
        except ValueError as error:
            raise ProviderError(f"{name} returned bytes that are not a DER signature") from error
        return signature
