"""The interface of cryptographic materials managers (CMMs), which supply the client with materials.

Specification: framework/cmm-interface.md.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from aioencrypt.providers.values import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)


@runtime_checkable
class CryptographicMaterialsManager(Protocol):
    """Supplies the materials for each message. Any object with these two methods is a CMM."""

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        """Return the materials to encrypt one message; raises `ProviderError` or `PolicyError`."""
        ...

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        """Return the materials to decrypt one message.

        Raises `ProviderError`, `PolicyError`, or `MessageError` if the header is invalid.
        """
        ...
