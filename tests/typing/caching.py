"""Caching as a type checker sees it: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import Any, assert_type

from aioencrypt import AsyncCache, CacheStatistics, CachingCMM, DefaultCMM, Provider, RawAESMasterKey, encrypt
from aioencrypt.materials import (
    CryptographicMaterialsManager,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))


async def managers(shared: AsyncCache[Any], own: CryptographicMaterialsManager) -> None:
    CachingCMM(key, max_age=60)
    CachingCMM(DefaultCMM(key), max_age=0.5, max_messages=10, max_bytes=10, capacity=5, partition="orders")
    CachingCMM(own, max_age=60, cache=shared, refresh_ahead=5)
    CachingCMM(own, max_age=60, clock=lambda: 0.0)
    manager = CachingCMM(key, max_age=60)
    provider: Provider = manager
    as_protocol: CryptographicMaterialsManager = manager
    await encrypt(b"", provider)
    await encrypt(b"", CachingCMM(as_protocol, max_age=60))
    async with manager as entered:
        assert_type(entered, CachingCMM)
    assert_type(manager.statistics, CacheStatistics)
    assert_type(manager.statistics.hits, int)
    assert_type(manager.partition, str)
    manager.partition = "other"  # type: ignore[misc]
    manager.statistics.hits = 1  # type: ignore[misc]
    CachingCMM(key)  # type: ignore[call-arg]
    CachingCMM(key, 60)  # type: ignore[call-arg]
    CachingCMM(key, max_age="60")  # type: ignore[arg-type]
    CachingCMM(b"key", max_age=60)  # type: ignore[arg-type]


async def requests(
    manager: CachingCMM, writing: EncryptionMaterialsRequest, reading: DecryptionMaterialsRequest
) -> None:
    assert_type(await manager.get_encryption_materials(writing), EncryptionMaterials)
    assert_type(await manager.decrypt_materials(reading), DecryptionMaterials)


async def caches(cache: AsyncCache[bytes]) -> None:
    async def fetch() -> bytes:
        return b""

    async def fetch_text() -> str:
        return ""

    assert_type(await cache.get("key", fetch, max_age=60), tuple[bytes, bool])
    await cache.get(("any", "key"), fetch, max_age=60, refresh_ahead=5, usable=lambda value: len(value) > 0)
    await cache.get([], fetch, max_age=60)  # type: ignore[arg-type]
    await cache.get("key", fetch)  # type: ignore[call-arg]
    await cache.get("key", fetch_text, max_age=60)  # type: ignore[arg-type]
    cache.drop("key")
    cache.clear()
    await cache.aclose()
    assert_type(cache.statistics, CacheStatistics)
    async with AsyncCache[int](capacity=5) as entered:
        assert_type(entered, AsyncCache[int])
