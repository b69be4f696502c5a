"""The hierarchical master key: one call to a key store serves many messages.

Specification: framework/aws-kms/aws-kms-hierarchical-keyring.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, runtime_checkable
from uuid import UUID

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from aioencrypt.errors import AttemptLog, ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.providers.base import DecryptedDataKey, MasterKey, checkpoint_every, no_data_key
from aioencrypt.providers.branch_keys.items import KEY_LENGTH, BranchKeyMaterials
from aioencrypt.providers.raw.names import not_copied, random_data_key
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.arguments import (
    check_age,
    check_cache_name,
    check_partition,
    check_type,
    describe_type,
    encode_text,
)
from aioencrypt.runtime.cache import AsyncCache
from aioencrypt.runtime.plugins import call_async, call_method, check_answer, method_name
from aioencrypt.runtime.secrets import hides_locals, secret_bytes

_PROVIDER_ID = "aws-kms-hierarchy"
_LABEL = _PROVIDER_ID.encode()
_SALT_LENGTH = 16
_VERSION_START = _SALT_LENGTH + IV_LENGTH
_VERSION_LENGTH = 16
_KEY_START = _VERSION_START + _VERSION_LENGTH
_MAX_LENGTH = 0xFFFF
# A cache identifier starts with a resource id and a scope id, as the specification of the keyring says.
_HIERARCHY, _FOR_ENCRYPT, _FOR_DECRYPT = b"\x02", b"\x01", b"\x02"


@runtime_checkable
class BranchKeyReader(Protocol):
    """The source of branch keys: a `BranchKeyStore`, or any object with these methods.

    Two readers with the same `logical_name` share cached keys. An exception from a method becomes the
    failure of the master key that called it.
    """

    @property
    def logical_name(self) -> str:
        """The name of the store, which is bound to each of its keys."""
        ...

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        """Return the version of a branch key to encrypt with."""
        ...

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        """Return one version, a UUID as text, of a branch key."""
        ...


@attrs.frozen
class _BranchKey:
    """One version of a branch key, as the cache keeps it."""

    branch_key_id: bytes
    version: bytes
    key: bytes = attrs.field(repr=False, converter=secret_bytes)

    def _aead(self, salt: bytes) -> AESGCM:
        kdf = KBKDFHMAC(
            algorithm=SHA256(),
            mode=Mode.CounterMode,
            length=32,
            rlen=4,
            llen=4,
            location=CounterLocation.BeforeFixed,
            label=_LABEL,
            context=salt,
            fixed=None,
        )
        return AESGCM(kdf.derive(self.key))

    def _aad(self, request: DataKeyRequest) -> bytes:
        return _LABEL + self.branch_key_id + self.version + request.serialized_context

    @hides_locals
    def wrap(self, data_key: DataKey, request: DataKeyRequest) -> bytes:
        salt, iv = os.urandom(_SALT_LENGTH), os.urandom(IV_LENGTH)
        return salt + iv + self.version + self._aead(salt).encrypt(iv, data_key.plaintext, self._aad(request))

    @hides_locals
    def unwrap(self, ciphertext: bytes, request: DataKeyRequest) -> DataKey:
        aead = self._aead(ciphertext[:_SALT_LENGTH])
        iv, sealed = ciphertext[_SALT_LENGTH:_VERSION_START], ciphertext[_KEY_START:]
        try:
            return DataKey(aead.decrypt(iv, sealed, self._aad(request)))
        except InvalidTag as error:
            raise ProviderError(
                "the encrypted data key fails authentication: another branch key or encryption context"
            ) from error


class HierarchicalMasterKey(MasterKey):
    """Wrap data keys under a branch key, which is read from a key store and cached.

    Give `branch_key_id`, or `branch_key_id_supplier`: an async function that takes the encryption context of
    a message and returns the branch key id. If it raises or returns another type, this master key fails
    with `ProviderError`.

    A branch key is cached for `max_age` seconds. A revoked permission keeps working until then. In its last
    `refresh_ahead` seconds a branch key is fetched again in the background.

    Several keys may share a `cache`. They share branch keys if their `partition` and the logical names of
    their stores are equal; without `partition`, they share none. Each keeps to its own `max_age`. Without
    `cache`, the key creates one for 1,000 branch keys, and empties it when the last `async with` is left.
    `async with` enters the key store.
    """

    def __init__(
        self,
        key_store: BranchKeyReader,
        *,
        branch_key_id: str | None = None,
        branch_key_id_supplier: Callable[[Mapping[str, str]], Awaitable[str]] | None = None,
        max_age: float,
        cache: AsyncCache[Any] | None = None,
        partition: str | UUID | None = None,
        refresh_ahead: float = 0.0,
    ) -> None:
        if isinstance(key_store, type) or not isinstance(key_store, BranchKeyReader):
            raise TypeError(
                f"key_store must be a BranchKeyStore, or have its methods, not {describe_type(key_store)}"
            )
        if (branch_key_id is None) == (branch_key_id_supplier is None):
            raise ValueError("give either branch_key_id or branch_key_id_supplier")
        if branch_key_id is not None:
            _check_branch_key_id(branch_key_id)
        elif not callable(branch_key_id_supplier):
            kind = describe_type(branch_key_id_supplier)
            raise TypeError(f"branch_key_id_supplier must be an async function, not {kind}")
        check_age(max_age, refresh_ahead)
        self._key_store = key_store
        self._branch_key_id = branch_key_id
        self._supplier = branch_key_id_supplier
        self._max_age = max_age
        self._refresh_ahead = refresh_ahead
        self._own_cache = cache is None
        self._cache: AsyncCache[Any] = check_type(
            "cache", AsyncCache() if cache is None else cache, AsyncCache
        )
        self._partition = check_partition(partition)
        logical_name = check_cache_name("the logical name of the key store", key_store.logical_name)
        self._shared_by = f"{self._partition}\0{logical_name}".encode()
        self._entries = 0

    def __repr__(self) -> str:
        if self._branch_key_id is None:
            return f"HierarchicalMasterKey({self._key_store!r}, branch_key_id_supplier=...)"
        return f"HierarchicalMasterKey({self._key_store!r}, branch_key_id={self._branch_key_id!r})"

    def __reduce__(self) -> NoReturn:
        raise not_copied(self)

    @property
    def provider_id(self) -> str:
        return _PROVIDER_ID

    @property
    def key_id(self) -> str:
        return "as branch_key_id_supplier says" if self._branch_key_id is None else self._branch_key_id

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        if encrypted_data_key.provider_id != _PROVIDER_ID:
            return False
        return self._branch_key_id is None or encrypted_data_key.provider_info == self._branch_key_id.encode()

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return (await self._chosen(request),)

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        chosen = await self._chosen(request)
        branch_key = await self._active(chosen.key_id)
        ciphertext = branch_key.wrap(data_key, request)
        return EncryptedDataKey(_PROVIDER_ID, branch_key.branch_key_id, ciphertext)

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        if self._supplier is None:
            return await super().decrypt_data_key(request)
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if self.owns_data_key(encrypted_data_key):
                chosen = await self._chosen(request)
                return await chosen.decrypt_data_key(request)
        # Messages of other keys are not the supplier's business.
        raise no_data_key(request, AttemptLog(), self)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        chosen = await self._chosen(request)
        if not chosen.owns_data_key(encrypted_data_key):
            raise ProviderError("the encrypted data key is not under the branch key of this message")
        ciphertext = encrypted_data_key.ciphertext
        expected = _KEY_START + request.algorithm_suite.data_key_length + TAG_LENGTH
        if len(ciphertext) != expected:
            raise ProviderError(f"the encrypted data key has {len(ciphertext)} bytes; {expected} were due")
        version = UUID(bytes=ciphertext[_VERSION_START:_KEY_START])
        branch_key = await self._version(chosen.key_id, str(version))
        return branch_key.unwrap(ciphertext, request)

    async def __aenter__(self) -> Self:
        if isinstance(self._key_store, AbstractAsyncContextManager):
            await self._key_store.__aenter__()
        self._entries += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, self._entries = self._entries, max(0, self._entries - 1)
        try:
            if self._own_cache and not self._entries:
                await self._cache.aclose()
        finally:
            if entered and isinstance(self._key_store, AbstractAsyncContextManager):
                await self._key_store.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Leave `async with`; the last time, forget the branch keys of an own cache."""
        await self.__aexit__(None, None, None)

    async def warm_up(self) -> None:
        """Fetch the active branch key, if it is always the same; raises as the key store does."""
        if self._branch_key_id is not None:
            await self._active(self._branch_key_id)

    async def _chosen(self, request: DataKeyRequest) -> HierarchicalMasterKey:
        """Return the key with the branch key of a request: this one, or one that is alike but for that."""
        if self._supplier is None:
            return self
        branch_key_id = await call_async(
            "branch_key_id_supplier", self._supplier, request.encryption_context, kind=str
        )
        try:
            return HierarchicalMasterKey(
                self._key_store,
                branch_key_id=branch_key_id,
                max_age=self._max_age,
                cache=self._cache,
                partition=self._partition,
                refresh_ahead=self._refresh_ahead,
            )
        except ValueError as error:
            raise ProviderError(f"branch_key_id_supplier gave no branch key id: {error}") from error

    async def _active(self, branch_key_id: str) -> _BranchKey:
        return await self._cached(_FOR_ENCRYPT, "active_branch_key", branch_key_id)

    async def _version(self, branch_key_id: str, version: str) -> _BranchKey:
        return await self._cached(_FOR_DECRYPT, "branch_key_version", branch_key_id, version)

    async def _cached(self, scope: bytes, method: str, *names: str) -> _BranchKey:
        async def fetch() -> _BranchKey:
            answer = await call_method(self._key_store, method, *names, kind=BranchKeyMaterials)
            return _checked(method_name(self._key_store, method), answer, *names)

        identifier = hashlib.sha384(
            b"\0".join((_HIERARCHY, scope, self._shared_by, "\0".join(names).encode()))
        ).digest()
        branch_key: _BranchKey
        branch_key, _ = await self._cache.get(
            identifier,
            fetch,
            max_age=self._max_age,
            refresh_ahead=self._refresh_ahead,
            # Not the key store itself, which may be a user's and have no hash.
            owner=id(self._key_store),
            observed_as="branch keys",
        )
        return branch_key


@hides_locals
def _checked(
    name: str, materials: BranchKeyMaterials, branch_key_id: str, version: str | None = None
) -> _BranchKey:
    """Check what a key store answered: what is wrapped under another key might never be opened again."""
    if materials.branch_key_id != branch_key_id or version not in (None, materials.version):
        raise ProviderError(f"{name} answered for another branch key, or another version of it")
    try:
        parsed = UUID(check_answer(name, materials.version, str))
    except ValueError as error:
        raise ProviderError(f"{name} answered with a version that is no UUID") from error
    if str(parsed) != materials.version:
        raise ProviderError(f"{name} answered with a version that is not written as UUIDs are")
    key = check_answer(name, materials.key, bytes)
    if len(key) != KEY_LENGTH:
        raise ProviderError(f"{name}: the branch key has {len(key)} bytes; it must have {KEY_LENGTH}")
    return _BranchKey(branch_key_id.encode(), parsed.bytes, key)


def _check_branch_key_id(branch_key_id: str) -> None:
    length = len(encode_text("branch_key_id", branch_key_id))
    if not 0 < length <= _MAX_LENGTH:
        raise ValueError(f"the branch key id has {length} bytes; it may have 1 to {_MAX_LENGTH}")
