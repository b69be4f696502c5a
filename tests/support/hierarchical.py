"""A key store in memory, for the tests of keys over one."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt.branch_keys import BranchKeyMaterials, HierarchicalMasterKey
from aioencrypt.materials import EncryptedDataKey
from tests.support.messages import sorted_context

LABEL = b"aws-kms-hierarchy"
SALT, IV = bytes(range(100, 116)), bytes(range(50, 62))


class MemoryKeyStore:
    """Knows versions of branch keys; the one added last is active. It logs what it is asked for.

    `before` is awaited in each call, with the line of the log.
    """

    def __init__(self, logical_name: str = "store") -> None:
        self.logical_name = logical_name
        self.keys: dict[str, dict[str, bytes]] = {}
        self.log: list[str] = []
        self.before: Callable[[str], Awaitable[object]] | None = None

    def __repr__(self) -> str:
        return f"MemoryKeyStore({self.logical_name!r})"

    def add(self, branch_key_id: str, version: str | None = None, key: bytes | None = None) -> str:
        """Add a version; unless they are given, its name and key depend on what is there already."""
        versions = self.keys.setdefault(branch_key_id, {})
        seed = hashlib.sha256(f"{branch_key_id} {len(versions)}".encode()).digest()
        version = version or str(UUID(bytes=seed[:16], version=4))
        versions[version] = seed if key is None else key
        return version

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        await self._called(f"active {branch_key_id}")
        return self._materials(branch_key_id, [*self.keys[branch_key_id]][-1])

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        await self._called(f"version {branch_key_id} {version}")
        return self._materials(branch_key_id, version)

    def _materials(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        return BranchKeyMaterials(branch_key_id, version, {}, self.keys[branch_key_id][version])

    async def _called(self, line: str) -> None:
        self.log.append(line)
        if self.before:
            await self.before(line)


def key_with(*branch_key_ids: str, max_age: float = 600) -> tuple[HierarchicalMasterKey, MemoryKeyStore]:
    """Return a key under the first of these branch keys, and its store."""
    store = MemoryKeyStore()
    for branch_key_id in branch_key_ids:
        store.add(branch_key_id)
    return HierarchicalMasterKey(store, branch_key_id=branch_key_ids[0], max_age=max_age), store


def wrapping_key(branch_key: bytes, salt: bytes = SALT) -> AESGCM:
    """Derive by hand what the specification derives."""
    fixed = LABEL + b"\0" + salt + (256).to_bytes(4, "big")
    return AESGCM(hmac.digest(branch_key, (1).to_bytes(4, "big") + fixed, "sha256"))


def wrapped(
    branch_key: bytes,
    branch_key_id: str,
    version: str,
    *,
    data_key: bytes,
    context: Mapping[str, str],
    label: bytes = LABEL,
) -> EncryptedDataKey:
    """Make an encrypted data key as the specification describes it."""
    aad = label + branch_key_id.encode() + UUID(version).bytes + sorted_context(context)
    sealed = wrapping_key(branch_key).encrypt(IV, data_key, aad)
    ciphertext = SALT + IV + UUID(version).bytes + sealed
    return EncryptedDataKey("aws-kms-hierarchy", branch_key_id.encode(), ciphertext)
