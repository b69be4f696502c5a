"""Branch keys as a type checker sees them: the rules of this file are those of `api.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type
from uuid import UUID

from aioencrypt import AsyncCache, Provider
from aioencrypt.branch_keys import BranchKeyMaterials, BranchKeyReader, BranchKeyStore, HierarchicalMasterKey
from aioencrypt.materials import MasterKey


class OwnStore:
    """A key store of a user."""

    logical_name = "own"

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        return await self.branch_key_version(branch_key_id, "d6a6d5b2-6a6f-4b1b-8d5e-0123456789ab")

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        return BranchKeyMaterials(branch_key_id, version, {}, bytes(32))


class HalfAStore:
    logical_name = "half"

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        raise NotImplementedError


async def supply(context: Mapping[str, str]) -> str:
    return context["tenant"]


def supply_at_once(context: Mapping[str, str]) -> str:
    return context["tenant"]


async def keys(store: BranchKeyStore, shared: AsyncCache[Any]) -> None:
    readers: list[BranchKeyReader] = [store, OwnStore()]
    for reader in readers:
        key = HierarchicalMasterKey(reader, branch_key_id="tenant", max_age=60)
        async with key as entered:
            assert_type(entered, HierarchicalMasterKey)
            await entered.warm_up()
    HierarchicalMasterKey(store, branch_key_id_supplier=supply, max_age=0.5, refresh_ahead=0.1)
    HierarchicalMasterKey(store, branch_key_id="a", max_age=60, cache=shared, partition="a service")
    HierarchicalMasterKey(store, branch_key_id="a", max_age=60, cache=AsyncCache(), partition=UUID(int=1))
    as_provider: Provider = HierarchicalMasterKey(OwnStore(), branch_key_id="a", max_age=60)
    as_key: MasterKey = HierarchicalMasterKey(OwnStore(), branch_key_id="a", max_age=60)
    assert_type(as_key.key_id, str)
    del as_provider
    HierarchicalMasterKey(store, branch_key_id="a")  # type: ignore[call-arg]
    HierarchicalMasterKey(store, "a", max_age=60)  # type: ignore[call-arg]
    HierarchicalMasterKey(store, branch_key_id=b"a", max_age=60)  # type: ignore[arg-type]
    HierarchicalMasterKey(store, branch_key_id="a", max_age="60")  # type: ignore[arg-type]
    HierarchicalMasterKey(store, branch_key_id_supplier=supply_at_once, max_age=60)  # type: ignore[arg-type]
    HierarchicalMasterKey(store, branch_key_id="a", max_age=60, partition=b"")  # type: ignore[arg-type]
    HierarchicalMasterKey(HalfAStore(), branch_key_id="a", max_age=60)  # type: ignore[arg-type]
