"""The caching CMM: reuse one data key for many messages.

Specification: framework/caching-cmm.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from heapq import merge
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar
from uuid import UUID

import attrs
from anyio.lowlevel import checkpoint

from aioencrypt.format import AlgorithmSuite
from aioencrypt.format.context import serialize_context
from aioencrypt.managers.answers import get_decryption_materials, get_encryption_materials
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import OuterManager, check_decrypt_policy, check_encrypt_policy
from aioencrypt.providers.base import MasterKeyProvider, checkpoint_every
from aioencrypt.providers.values import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from aioencrypt.runtime.arguments import check_age, check_int, check_partition, check_type
from aioencrypt.runtime.cache import AsyncCache, CacheStatistics
from aioencrypt.runtime.secrets import hides_arguments

M = TypeVar("M", bound=EncryptionMaterials | DecryptionMaterials)

_MAX_MESSAGES = 2**32
_MAX_BYTES = 2**63 - 1
_CAPACITY = 1000
# A cache identifier starts with a resource id and a scope id, as the specification says.
_CACHING_CMM, _FOR_ENCRYPT, _FOR_DECRYPT = b"\x01", b"\x01", b"\x02"
_WITHOUT_SUITE, _WITH_SUITE = b"\x00", b"\x01"
# Encrypted data keys sorted per event loop iteration.
_SORTED = 64


class _NotCachedError(Exception):
    """The fetched materials may be used for one message only."""


@attrs.define(eq=False)
class _Entry(Generic[M]):
    """Cached materials and how much they have encrypted. `reused` has the provenance of a cache hit."""

    materials: M
    reused: M = attrs.field(init=False)
    messages: int = 0
    bytes: int = 0

    def __attrs_post_init__(self) -> None:
        provenance = attrs.evolve(self.materials.provenance, cached=True)
        self.reused = attrs.evolve(self.materials, provenance=provenance)

    def take(self, length: int, max_messages: int, max_bytes: int) -> bool:
        """Count a message; return False if it exceeds a limit."""
        if self.messages >= max_messages or self.bytes + length > max_bytes:
            return False
        self.messages += 1
        self.bytes += length
        return True


class CachingCMM(OuterManager):
    """Reuse data keys for messages with the same encryption context.

    A data key lives for `max_age` seconds and encrypts at most `max_messages` messages and `max_bytes`
    bytes of plaintext. The limits apply per process. Decryption is limited by age only. Messages of unknown
    length get their own data key unless the caller passes `plaintext_length_bound`; so do suites without a
    KDF. In its last `refresh_ahead` seconds a data key is fetched again in the background.

    Several managers may share a `cache`. Each uses its own keys only, unless they have the same `partition`.
    Without `cache`, the manager creates one for `capacity` keys. `clock` returns monotonic seconds.

    Leaving `async with` for the last time discards the keys fetched through this manager and fails pending
    callers with `ProviderClosedError`.
    """

    @hides_arguments
    def __init__(
        self,
        provider: MasterKeyProvider | CryptographicMaterialsManager,
        *,
        max_age: float,
        max_messages: int = _MAX_MESSAGES,
        max_bytes: int = _MAX_BYTES,
        capacity: int = _CAPACITY,
        partition: str | UUID | None = None,
        cache: AsyncCache[Any] | None = None,
        refresh_ahead: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(provider)
        check_age(max_age, refresh_ahead)
        self._max_age = max_age
        self._refresh_ahead = refresh_ahead
        self._max_messages = check_int("max_messages", max_messages, 1, _MAX_MESSAGES)
        self._max_bytes = check_int("max_bytes", max_bytes, 0, _MAX_BYTES)
        if cache is None:
            cache = AsyncCache(capacity=capacity, clock=clock)
        elif capacity != _CAPACITY or clock is not time.monotonic:
            raise ValueError(
                "capacity and clock belong to the cache: give them to AsyncCache, or leave cache out"
            )
        self._partition = check_partition(partition)
        self._cache: AsyncCache[Any] = check_type("cache", cache, AsyncCache)
        self._entered = 0

    def __repr__(self) -> str:
        return (
            f"CachingCMM({self._manager!r}, max_age={self._max_age}, max_messages={self._max_messages}, "
            f"max_bytes={self._max_bytes})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a CachingCMM holds data keys and cannot be pickled or copied; "
            "create one in each process; the limits apply per process"
        )

    def __dask_tokenize__(self) -> NoReturn:
        raise TypeError(
            "a CachingCMM holds data keys and cannot be pickled or copied; "
            "give Dask a function that creates one, or 'package.module:name'"
        )

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._entered += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Leaving more often than entering must not unbalance later entries.
        self._entered = max(0, self._entered - 1)
        try:
            if not self._entered:
                await self._cache.aclose(owner=self)
        finally:
            await super().__aexit__(exc_type, exc, traceback)

    @property
    def partition(self) -> str:
        """The cache partition of this manager's keys."""
        return self._partition

    @property
    def statistics(self) -> CacheStatistics:
        """The statistics of the cache, over all managers that share it."""
        return self._cache.statistics

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        """Return materials from the cache, or from the underlying manager."""
        length = request.plaintext_length
        if length is None or length > self._max_bytes or self._max_messages == 1:
            return await get_encryption_materials(self._manager, request)
        if request.algorithm_suite is not None and _for_one_message(request.algorithm_suite):
            return await get_encryption_materials(self._manager, request)

        async def fetch() -> _Entry[EncryptionMaterials]:
            # Do not pass the length of the first message: the data key is for many.
            many = attrs.evolve(request, plaintext_length=None)
            fetched = await get_encryption_materials(self._manager, many)
            # If the request named no suite, only the answer tells.
            if _for_one_message(fetched.algorithm_suite):
                raise _NotCachedError
            return _Entry(fetched)

        def take(entry: _Entry[EncryptionMaterials]) -> bool:
            return entry.take(length, self._max_messages, self._max_bytes)

        # The specified identifier omits the policy (CVE-2026-6550) and the required context keys.
        key = (
            self._encryption_identifier(request),
            request.commitment_policy,
            request.required_encryption_context_keys,
        )
        with suppress(_NotCachedError):
            materials = await self._get(key, fetch, take)
            check_encrypt_policy(request.commitment_policy, materials.algorithm_suite)
            return materials
        return await get_encryption_materials(self._manager, request)

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        """Return materials from the cache, or from the underlying manager."""
        if _for_one_message(request.algorithm_suite):
            return await get_decryption_materials(self._manager, request)

        async def fetch() -> _Entry[DecryptionMaterials]:
            return _Entry(await get_decryption_materials(self._manager, request))

        # The specified identifier omits the reproduced context, which the underlying manager checks, and the
        # number of data keys, so that one more data key could be read as the start of a context.
        given = serialize_context(request.reproduced_encryption_context)
        key = (
            await self._decryption_identifier(request),
            len(request.encrypted_data_keys),
            request.commitment_policy,
            hashlib.sha384(given).digest(),
        )
        materials = await self._get(key, fetch, None)
        check_decrypt_policy(request.commitment_policy, materials.algorithm_suite)
        return materials

    async def _get(
        self,
        key: Hashable,
        fetch: Callable[[], Awaitable[_Entry[M]]],
        usable: Callable[[_Entry[M]], bool] | None,
    ) -> M:
        entry: _Entry[M]
        entry, cached = await self._cache.get(
            key,
            fetch,
            max_age=self._max_age,
            refresh_ahead=self._refresh_ahead,
            usable=usable,
            owner=self,
            observed_as="data keys",
        )
        return entry.reused if cached else entry.materials

    def _encryption_identifier(self, request: EncryptionMaterialsRequest) -> bytes:
        suite = request.algorithm_suite
        parts = [_CACHING_CMM, _FOR_ENCRYPT, self._partition.encode()]
        parts += [_WITHOUT_SUITE] if suite is None else [_WITH_SUITE, suite.id_bytes]
        parts.append(serialize_context(request.encryption_context))
        return hashlib.sha384(b"\0".join(parts)).digest()

    async def _decryption_identifier(self, request: DecryptionMaterialsRequest) -> bytes:
        parts = [_CACHING_CMM, _FOR_DECRYPT, self._partition.encode(), request.algorithm_suite.id_bytes]
        digest = hashlib.sha384(b"\0".join(parts) + b"\0")
        # There may be 65,535 data keys: yield to the event loop while they are sorted and digested.
        data_keys, runs = request.encrypted_data_keys, []
        for start in range(0, len(data_keys), _SORTED):
            runs.append(sorted([key.serialize() for key in data_keys[start : start + _SORTED]]))
            if start:
                await checkpoint()
        for index, data_key in enumerate(merge(*runs)):
            await checkpoint_every(index)
            digest.update(data_key)
        digest.update(b"\0" + serialize_context(request.encryption_context))
        return digest.digest()


def _for_one_message(suite: AlgorithmSuite) -> bool:
    # Without key derivation, two messages would use the same key with the same IVs.
    return suite.kdf_hash is None
