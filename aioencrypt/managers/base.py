"""Cryptographic materials managers (CMMs): what stands between the client and a provider.

Specification: framework/cmm-interface.md.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from aioencrypt.materials import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)


@runtime_checkable
class CryptographicMaterialsManager(Protocol):
    """Gives the materials for one message. Any object with these two methods is one."""

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        """Return materials to encrypt one message with; raises `ProviderError` or `PolicyError`."""
        ...

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        """Return materials to decrypt one message with.

        Raises `ProviderError`, `PolicyError`, or `MessageError` where the header cannot be right.
        """
        ...
