"""Interfaces, requests and materials for master keys, providers and managers of your own."""

from aioencrypt.format import EncryptedDataKey
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.providers.base import DecryptedDataKey, MasterKey, MasterKeyProvider
from aioencrypt.providers.values import (
    DataKey,
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    KeyUse,
    Provenance,
)

__all__ = [
    "CryptographicMaterialsManager",
    "DataKey",
    "DataKeyRequest",
    "DecryptedDataKey",
    "DecryptionMaterials",
    "DecryptionMaterialsRequest",
    "EncryptedDataKey",
    "EncryptionMaterials",
    "EncryptionMaterialsRequest",
    "KeyUse",
    "MasterKey",
    "MasterKeyProvider",
    "Provenance",
]


def __dir__() -> list[str]:
    return __all__
