"""The interfaces of master keys and providers, and the checks and errors that all of them share.

Specification: framework/keyring-interface.md. A keyring of the specification is a master key or a provider
here.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Set
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio
import attrs
from anyio.lowlevel import checkpoint

from aioencrypt.errors import (
    Attempt,
    AttemptLog,
    Operation,
    ProviderClosedError,
    ProviderError,
    ServiceError,
)
from aioencrypt.format import AlgorithmSuite, EncryptedDataKey
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.providers.values import DataKey, DataKeyRequest, KeyUse, Provenance, refuse_copy
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.plugins import (
    call_method,
    call_sync,
    check_answer,
    is_ours,
    method_name,
    read_attribute,
)

_KMS = "aws-kms"
_KEYS_PER_TURN = 64
_KEY_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Limits for the list of unknown keys in an error message: keys, characters of a name, data keys examined.
_NAMED = 5
_NAMED_LENGTH = 200
_LOOKED_THROUGH = 64
# Raw AES keys append these lengths to their name (framework/raw-aes-keyring.md#key-provider-information).
_RAW_AES_LENGTHS = (TAG_LENGTH * 8).to_bytes(4, "big") + IV_LENGTH.to_bytes(4, "big")


@attrs.frozen
class DecryptedDataKey:
    """A data key, its encrypted form, and the master key that decrypted it."""

    data_key: DataKey
    encrypted_data_key: EncryptedDataKey
    master_key: MasterKey

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    @property
    def provenance(self) -> Provenance:
        """The master key that decrypted; failed attempts do not count."""
        return Provenance((_use("decrypt", *key_names(self.master_key)),))


# Cached, because the same few keys serve message after message.
_use = lru_cache(maxsize=256)(KeyUse)


class MasterKeyProvider(ABC):
    """Base class of everything that supplies master keys.

    `async with` is for providers that hold resources; by default it does nothing.
    """

    @abstractmethod
    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        """Return the keys to encrypt with: the first generates the data key, the others also encrypt it.

        Raises `ProviderError` if this provider cannot encrypt.
        """

    @abstractmethod
    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        """Try the encrypted data keys of the request in order; return the first one that decrypts.

        Raises `ProviderError` with the failed attempts.
        """

    @property
    def named_keys(self) -> Sequence[MasterKey]:
        """The keys that an error lists if no data key of a message belongs to any key. By default none."""
        return ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave `async with`. By default this does nothing."""

    async def warm_up(self) -> None:
        """Prepare for the first request, e.g. create clients. By default this does nothing."""


class MasterKey(MasterKeyProvider):
    """A key that generates, encrypts and decrypts data keys. As a provider it supplies itself."""

    @property
    @abstractmethod
    def provider_id(self) -> str:
        """The provider id of the encrypted data keys of this key."""

    @property
    @abstractmethod
    def key_id(self) -> str:
        """The name of this key in errors, logs and provenance."""

    @abstractmethod
    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        """Tell whether this key may have made the encrypted data key. Must not do I/O."""

    @abstractmethod
    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        """Generate a data key of the suite's length and encrypt it."""

    @abstractmethod
    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        """Encrypt a data key that another key generated."""

    @abstractmethod
    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        """Decrypt one encrypted data key that this key owns. Any exception counts as a failed attempt."""

    @property
    def named_keys(self) -> Sequence[MasterKey]:
        return (self,)

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return (self,)

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        attempts = AttemptLog()
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if _owns(self, encrypted_data_key, attempts):
                opened = await try_decrypt(self, encrypted_data_key, request, attempts)
                if opened:
                    return opened
        raise no_data_key(request, attempts, self)


def provider_advice(given: object) -> str:
    """Return advice for an object passed as a provider by mistake, as the end of an error message."""
    if isinstance(given, type):
        return ": give an object of it"
    if isinstance(given, bytes | bytearray | memoryview):
        return ": key bytes go into a RawAESMasterKey, and a source comes before the provider"
    if isinstance(given, str) and (given.startswith(("arn:", "alias/", "mrk-")) or _KEY_ID.fullmatch(given)):
        return ": name keys of KMS with KMSMasterKeyProvider([...])"
    if isinstance(given, str | os.PathLike):
        return ": read the key from its file and make a RawAESMasterKey or RawRSAMasterKey of it"
    if isinstance(given, Sequence | Set):
        if any(isinstance(item, MasterKeyProvider) for item in given):
            return ": join several providers with MultiMasterKeyProvider(first, *others)"
        return ": name keys of KMS with KMSMasterKeyProvider([...])"
    if hasattr(given, "private_numbers") or hasattr(given, "public_numbers"):
        return ": make a RawRSAMasterKey or a RawECDHMasterKey of the key"
    if hasattr(given, "read") or hasattr(given, "__aiter__"):
        return ": a source comes before the provider"
    return ""


async def checkpoint_every(index: int) -> None:
    """Yield to the event loop after every 64 encrypted data keys: a header may have 65,535 of them."""
    if index % _KEYS_PER_TURN == _KEYS_PER_TURN - 1:
        await checkpoint()


def _owns(key: MasterKey, encrypted_data_key: EncryptedDataKey, attempts: AttemptLog) -> bool:
    """Ask a key whether it owns a data key; record a failure in `attempts`."""
    try:
        if is_ours(key):
            return key.owns_data_key(encrypted_data_key)
        name = method_name(key, "owns_data_key")
        return call_sync(name, lambda: key.owns_data_key(encrypted_data_key), kind=bool)
    except (ProviderError, ServiceError) as error:
        attempts.add(attempt("decrypt", key, error))
        return False


async def try_decrypt(
    key: MasterKey, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest, attempts: AttemptLog
) -> DecryptedDataKey | None:
    """Make one attempt; return None if it failed, and record the failure in `attempts`."""
    try:
        data_key = await call_method(key, "unwrap_data_key", encrypted_data_key, request, kind=DataKey)
        check_data_key(method_name(key, "unwrap_data_key"), data_key, request.algorithm_suite)
    except ProviderClosedError:
        raise
    except Exception as error:
        attempts.add(attempt("decrypt", key, error))
        # An attempt takes long if the context is long, and a header may cause thousands of attempts.
        await checkpoint()
        return None
    return DecryptedDataKey(data_key, encrypted_data_key, key)


def attempt(operation: Operation, key: MasterKey, error: Exception) -> Attempt:
    """Return the record of a failed attempt."""
    return Attempt(operation, *key_names(key), error)


def key_names(key: MasterKey) -> tuple[str, str]:
    """Return the provider id and key id of a user-supplied key; raises `ProviderError`."""
    if is_ours(key):
        return key.provider_id, key.key_id
    return read_attribute(key, "provider_id", str), read_attribute(key, "key_id", str)


def stored_name(key: EncryptedDataKey) -> str | None:
    """Return the key ARN, branch key id or raw key name in the provider info; None if it is not text."""
    info = key.provider_info
    if info[-IV_LENGTH - len(_RAW_AES_LENGTHS) : -IV_LENGTH] == _RAW_AES_LENGTHS:
        info = info[: -IV_LENGTH - len(_RAW_AES_LENGTHS)]
    try:
        name = info.decode()
    except UnicodeDecodeError:
        return None
    return name if name.isprintable() else None


def no_data_key(request: DataKeyRequest, attempts: AttemptLog, given: MasterKeyProvider) -> ProviderError:
    """Return the error for a message none of whose data keys `given` could decrypt."""
    count = len(request.encrypted_data_keys)
    if attempts.kept:
        return ProviderError(
            f"none of the {count} encrypted data keys of the message could be decrypted",
            attempts.kept,
            omitted=attempts.omitted,
            retryable=attempts.retryable,
        )
    wanted = _listed((key.provider_id, stored_name(key)) for key in request.encrypted_data_keys)
    names = [key_names(key) for key in given.named_keys]
    ours, advice = _listed(names), ""
    if _KMS in {key.provider_id for key in request.encrypted_data_keys} and any(
        provider_id == _KMS and ":key/" not in key_id for provider_id, key_id in names
    ):
        advice = "; only a key ARN decrypts: name the key by its key ARN"
    return ProviderError(
        f"none of the {count} encrypted data keys of the message belongs to a master key given here; "
        f"they come from the providers {wanted}" + (f"; given are {ours}" if ours else "") + advice,
        unclaimed=True,
    )


def _listed(keys: Iterable[tuple[str, str | None]]) -> str:
    """Return the first few provider ids with the names of their keys."""
    some = [*islice(keys, _LOOKED_THROUGH + 1)]
    names = [
        f"{provider[:_NAMED_LENGTH]!r}" + (f" ({name[:_NAMED_LENGTH]!r})" if name else "")
        for provider, name in dict.fromkeys(some[:_LOOKED_THROUGH])
    ]
    more = len(names) > _NAMED or len(some) > _LOOKED_THROUGH
    return ", ".join(names[:_NAMED]) + (" and more" if more else "")


def check_data_key(name: str, data_key: object, suite: AlgorithmSuite) -> None:
    """Check the type and length of a data key that the method `name` returned; raises `ProviderError`."""
    key = data_key if type(data_key) is DataKey else check_answer(name, data_key, DataKey)
    if not isinstance(key.plaintext, bytes):
        raise ProviderError(f"{name} returned a DataKey of {describe_type(key.plaintext)}, not bytes")
    if len(key.plaintext) != suite.data_key_length:
        raise ProviderError(
            f"{name}: the data key has {len(key.plaintext)} bytes; the suite needs {suite.data_key_length}"
        )


def check_encrypted_data_key(name: str, encrypted_data_key: object) -> None:
    """Check an encrypted data key that the method `name` returned; raises `ProviderError`."""
    key = check_answer(name, encrypted_data_key, EncryptedDataKey)
    for field, value, kind in (
        ("provider_id", key.provider_id, str),
        ("provider_info", key.provider_info, bytes),
        ("ciphertext", key.ciphertext, bytes),
    ):
        if not isinstance(value, kind):
            raise ProviderError(
                f"{name} returned an EncryptedDataKey with {describe_type(value)} as {field}, "
                f"not {kind.__name__}"
            )
    try:
        key.serialize()
    except ValueError as error:
        raise ProviderError(
            f"{name} returned an EncryptedDataKey that fits into no message: {error}"
        ) from error


async def open_data_key(provider: MasterKeyProvider, request: DataKeyRequest) -> DecryptedDataKey:
    """Have a provider decrypt the data key of a message, and check the result; raises `ProviderError`."""
    if is_ours(provider):
        return await provider.decrypt_data_key(request)
    opened = await call_method(provider, "decrypt_data_key", request, kind=DecryptedDataKey)
    check_opened(provider, opened, request)
    return opened


def check_opened(provider: MasterKeyProvider, opened: DecryptedDataKey, request: DataKeyRequest) -> None:
    """Check a decrypted data key that a provider returned; raises `ProviderError`."""
    name = method_name(provider, "decrypt_data_key")
    check_data_key(name, opened.data_key, request.algorithm_suite)
    if not isinstance(opened.master_key, MasterKey):
        raise ProviderError(
            f"{name} returned {describe_type(opened.master_key)} as master_key, not a MasterKey"
        )
    key_names(opened.master_key)


async def make_data_key(
    provider: MasterKeyProvider, request: DataKeyRequest
) -> tuple[DataKey, tuple[EncryptedDataKey, ...], Provenance]:
    """Generate a data key with the provider's first key, and encrypt it with all others concurrently.

    The encrypted data keys are in the order of the keys. Every key must succeed: the first failure cancels
    the others and is raised as `ProviderError`.
    """
    keys = await _encryption_keys(provider, request)
    try:
        answer = call_method(keys[0], "generate_data_key", request, kind=tuple)
        data_key, first = _checked_pair(keys[0], [*await answer], request)
    except ProviderClosedError:
        raise
    except Exception as error:
        raise _could_not("generate", keys[0], error) from error
    use = _use("generate", *key_names(keys[0]))
    if len(keys) == 1:
        return data_key, (first,), Provenance((use,))
    others = await _encrypt_with_all(keys[1:], data_key, request)
    uses = [_use("encrypt", *key_names(key)) for key in keys[1:]]
    return data_key, (first, *others), Provenance((use, *uses))


def _checked_pair(
    key: MasterKey, pair: list[Any], request: DataKeyRequest
) -> tuple[DataKey, EncryptedDataKey]:
    """Check the result of `generate_data_key`. No local variable holds what may be a bare data key."""
    name, count = method_name(key, "generate_data_key"), len(pair)
    if count != 2:
        pair.clear()
        raise ProviderError(f"{name} returned a tuple of {count}, not a data key and its encrypted form")
    data_key = check_answer(name, pair.pop(0), DataKey)
    check_data_key(name, data_key, request.algorithm_suite)
    if not is_ours(key):
        check_encrypted_data_key(name, pair[0])
    return data_key, pair[0]


async def wrap_data_key(
    provider: MasterKeyProvider, data_key: DataKey, request: DataKeyRequest
) -> tuple[EncryptedDataKey, ...]:
    """Encrypt an existing data key with all keys of the provider; otherwise like `make_data_key`."""
    keys = await _encryption_keys(provider, request)
    return tuple(await _encrypt_with_all(keys, data_key, request))


async def _encryption_keys(provider: MasterKeyProvider, request: DataKeyRequest) -> Sequence[MasterKey]:
    keys = await given_keys(provider, request)
    if not keys:
        raise ProviderError("the provider returned no master key to encrypt with")
    return keys


async def given_keys(provider: MasterKeyProvider, request: DataKeyRequest) -> Sequence[MasterKey]:
    """Return the provider's keys to encrypt with, checked; raises `ProviderError`."""
    if is_ours(provider):
        return await provider.encryption_keys(request)
    sequence: type[Sequence[MasterKey]] = Sequence  # type: ignore[type-abstract]
    keys = await call_method(provider, "encryption_keys", request, kind=sequence)
    for key in keys:
        if not isinstance(key, MasterKey):
            name = method_name(provider, "encryption_keys")
            raise ProviderError(f"{name} returned {describe_type(key)}, not master keys")
    return keys


async def _encrypt_with_all(
    keys: Sequence[MasterKey], data_key: DataKey, request: DataKeyRequest
) -> list[EncryptedDataKey]:
    encrypted: dict[int, EncryptedDataKey] = {}
    failures: list[tuple[MasterKey, BaseException]] = []

    async def encrypt(index: int, key: MasterKey) -> None:
        try:
            answer = await call_method(key, "encrypt_data_key", data_key, request, kind=EncryptedDataKey)
            if not is_ours(key):
                check_encrypted_data_key(method_name(key, "encrypt_data_key"), answer)
            encrypted[index] = answer
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # raised below, outside the group, which would wrap it
            failures.append((key, error))
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, key in enumerate(keys):
            group.start_soon(encrypt, index, key)
    for index, key in enumerate(keys):
        if index not in encrypted and not failures:
            failures.append((key, ProviderError("the call was cancelled, and not by its caller")))
    if failures:
        key, error = failures[0]
        if isinstance(error, ProviderClosedError) or not isinstance(error, Exception):
            raise error
        raise _could_not("encrypt", key, error) from error
    return [encrypted[index] for index in range(len(keys))]


def _could_not(operation: Operation, key: MasterKey, error: Exception) -> ProviderError:
    return ProviderError(f"could not {operation} a data key", [attempt(operation, key, error)])
