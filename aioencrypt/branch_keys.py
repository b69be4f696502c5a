"""Branch keys: a key store in DynamoDB, and the master key that wraps data keys under branch keys."""

from aioencrypt.providers.branch_keys.hierarchical import BranchKeyReader, HierarchicalMasterKey
from aioencrypt.providers.branch_keys.items import BeaconKeyMaterials, BranchKeyMaterials
from aioencrypt.providers.branch_keys.kms import (
    KMSConfiguration,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from aioencrypt.providers.branch_keys.store import BranchKeyStore, KeyStoreInfo

__all__ = [
    "BeaconKeyMaterials",
    "BranchKeyMaterials",
    "BranchKeyReader",
    "BranchKeyStore",
    "HierarchicalMasterKey",
    "KMSConfiguration",
    "KMSDiscovery",
    "KMSKeyArn",
    "KMSMRDiscovery",
    "KMSMRKeyArn",
    "KeyStoreInfo",
]


def __dir__() -> list[str]:
    return __all__
