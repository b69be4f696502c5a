"""Master keys and master key providers: the interfaces, and what they share.

Specification: framework/keyring-interface.md; what it calls a keyring is a master key or a provider
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

from aioencrypt.errors import Attempt, AttemptLog, Operation, ProviderClosedError, ProviderError
from aioencrypt.format import AlgorithmSuite, EncryptedDataKey
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.materials import DataKey, DataKeyRequest, KeyUse, Provenance, refuse_copy
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.plugins import (
    await_answer,
    call_method,
    call_sync,
    check_answer,
    method_name,
    read_attribute,
)

_KEYS_PER_TURN = 64
_KEY_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Keys that an error names of a message that belongs to none of ours, the characters of each, and how many
# data keys are looked through for them.
_NAMED = 5
_NAMED_LENGTH = 200
_LOOKED_THROUGH = 64
# What raw AES keys write behind their name (framework/raw-aes-keyring.md#key-provider-information).
_RAW_AES_LENGTHS = (TAG_LENGTH * 8).to_bytes(4, "big") + IV_LENGTH.to_bytes(4, "big")


@attrs.frozen
class DecryptedDataKey:
    """A data key, the encrypted form it came from, and the master key that opened it."""

    data_key: DataKey
    encrypted_data_key: EncryptedDataKey
    master_key: MasterKey

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    @property
    def provenance(self) -> Provenance:
        """The key that opened; attempts that failed before do not count."""
        return Provenance((_use("decrypt", *key_names(self.master_key)),))


# The same few keys serve message after message.
_use = lru_cache(maxsize=256)(KeyUse)


class MasterKeyProvider(ABC):
    """Gives master keys.

    `async with` is for providers that hold something open; by default it does nothing.
    """

    @abstractmethod
    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        """Return the keys to encrypt with: the first generates the data key, the others encrypt it.

        Raises `ProviderError` where this provider only decrypts.
        """

    @abstractmethod
    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        """Try the encrypted data keys of the request, in order, and return the first that opens.

        Raises `ProviderError` with every attempt.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave `async with`. By default there is nothing to close."""

    async def warm_up(self) -> None:
        """Make what the first request would have to make. By default there is nothing."""


class MasterKey(MasterKeyProvider):
    """A key that generates, encrypts and decrypts data keys. As a provider it supplies itself."""

    @property
    @abstractmethod
    def provider_id(self) -> str:
        """The provider id of the encrypted data keys of this key."""

    @property
    @abstractmethod
    def key_id(self) -> str:
        """The name of this key, for messages to people."""

    @abstractmethod
    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        """Tell whether this key made the encrypted data key, as far as that shows. Does no I/O."""

    @abstractmethod
    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        """Make a new data key of the suite's length, and encrypt it."""

    @abstractmethod
    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        """Encrypt a data key that another key made."""

    @abstractmethod
    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        """Decrypt one encrypted data key that this key owns: one attempt. Any exception is its failure."""

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
        raise no_data_key(request, attempts, [self])


def provider_advice(given: object) -> str:
    """Return what to make of an object that was given as a provider, for the end of an error."""
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
    """Let the loop go on, now and then, while somebody looks through encrypted data keys.

    A header may have 65,535 of them.
    """
    if index % _KEYS_PER_TURN == _KEYS_PER_TURN - 1:
        await checkpoint()


def _owns(key: MasterKey, encrypted_data_key: EncryptedDataKey, attempts: AttemptLog) -> bool:
    """Ask a key whether it owns a data key; a failure goes to `attempts`."""
    try:
        name = method_name(key, "owns_data_key")
        return call_sync(name, key.owns_data_key, encrypted_data_key, kind=bool)
    except ProviderError as error:
        attempts.add(attempt("decrypt", key, error))
        return False


async def try_decrypt(
    key: MasterKey, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest, attempts: AttemptLog
) -> DecryptedDataKey | None:
    """Make one attempt; a failure goes to `attempts`, and None is returned."""
    try:
        name = method_name(key, "unwrap_data_key")
        data_key = await await_answer(name, key.unwrap_data_key(encrypted_data_key, request), DataKey)
        check_data_key(name, data_key, request.algorithm_suite)
    except ProviderClosedError:
        raise
    except Exception as error:
        attempts.add(attempt("decrypt", key, error))
        # Long contexts make one attempt take long, and a header may ask for thousands.
        await checkpoint()
        return None
    return DecryptedDataKey(data_key, encrypted_data_key, key)


def attempt(operation: Operation, key: MasterKey, error: Exception) -> Attempt:
    """Return the record of a failed attempt."""
    return Attempt(operation, *key_names(key), error)


def key_names(key: MasterKey) -> tuple[str, str]:
    """Return provider id and key id of a key that anybody may have written; raises `ProviderError`."""
    return read_attribute(key, "provider_id", str), read_attribute(key, "key_id", str)


def stored_name(key: EncryptedDataKey) -> str | None:
    """Return the key ARN, the branch key id, or the name of a raw key; None where that is no text."""
    info = key.provider_info
    if info[-IV_LENGTH - len(_RAW_AES_LENGTHS) : -IV_LENGTH] == _RAW_AES_LENGTHS:
        info = info[: -IV_LENGTH - len(_RAW_AES_LENGTHS)]
    try:
        name = info.decode()
    except UnicodeDecodeError:
        return None
    return name if name.isprintable() else None


def no_data_key(
    request: DataKeyRequest, attempts: AttemptLog, given: Sequence[MasterKeyProvider] = (), advice: str = ""
) -> ProviderError:
    """Return the error for a message of which no data key could be decrypted.

    Of what was `given`, it names the master keys. `advice` ends the text where no key was tried.
    """
    count = len(request.encrypted_data_keys)
    if attempts.kept:
        return ProviderError(
            f"none of the {count} encrypted data keys of the message could be decrypted",
            attempts.kept,
            omitted=attempts.omitted,
        )
    wanted = _listed((key.provider_id, stored_name(key)) for key in request.encrypted_data_keys)
    ours = _listed(key_names(key) for key in given if isinstance(key, MasterKey))
    return ProviderError(
        f"none of the {count} encrypted data keys of the message belongs to a master key given here; "
        f"they come from the providers {wanted}" + (f"; given are {ours}" if ours else "") + advice,
        unclaimed=True,
    )


def _listed(keys: Iterable[tuple[str, str | None]]) -> str:
    """Return the first of some provider ids with names of their keys."""
    some = [*islice(keys, _LOOKED_THROUGH + 1)]
    names = [
        f"{provider[:_NAMED_LENGTH]!r}" + (f" ({name[:_NAMED_LENGTH]!r})" if name else "")
        for provider, name in dict.fromkeys(some[:_LOOKED_THROUGH])
    ]
    more = len(names) > _NAMED or len(some) > _LOOKED_THROUGH
    return ", ".join(names[:_NAMED]) + (" and more" if more else "")


def check_data_key(name: str, data_key: object, suite: AlgorithmSuite) -> None:
    """Check a data key that a method answered with, its length too; raises `ProviderError`."""
    key = check_answer(name, data_key, DataKey)
    if not isinstance(key.plaintext, bytes):
        raise ProviderError(f"{name} returned a DataKey of {describe_type(key.plaintext)}, not bytes")
    if len(key.plaintext) != suite.data_key_length:
        raise ProviderError(
            f"{name}: the data key has {len(key.plaintext)} bytes; the suite needs {suite.data_key_length}"
        )


def check_encrypted_data_key(name: str, encrypted_data_key: object) -> None:
    """Check an encrypted data key that a method answered with; raises `ProviderError`."""
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
    """Let a provider decrypt the data key of a message, and check its answer; raises `ProviderError`."""
    opened = await call_method(provider, "decrypt_data_key", request, kind=DecryptedDataKey)
    check_opened(provider, opened, request)
    return opened


def check_opened(provider: MasterKeyProvider, opened: DecryptedDataKey, request: DataKeyRequest) -> None:
    """Check a decrypted data key that a provider answered with; raises `ProviderError`."""
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
    """Generate a data key with the provider's first key and encrypt it with all others at once.

    The encrypted data keys are in the order of the keys. Every key must succeed: the first failure
    cancels the others and is one `ProviderError`.
    """
    keys = await _encryption_keys(provider, request)
    try:
        name = method_name(keys[0], "generate_data_key")
        answer = keys[0].generate_data_key(request)
        data_key, first = _checked_pair(name, [*await await_answer(name, answer, tuple)], request)
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


def _checked_pair(name: str, pair: list[Any], request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
    """Check what `generate_data_key` returned. No local holds what may be a bare data key."""
    count = len(pair)
    if count != 2:
        pair.clear()
        raise ProviderError(f"{name} returned a tuple of {count}, not a data key and its encrypted form")
    data_key = check_answer(name, pair.pop(0), DataKey)
    check_data_key(name, data_key, request.algorithm_suite)
    check_encrypted_data_key(name, pair[0])
    return data_key, pair[0]


async def wrap_data_key(
    provider: MasterKeyProvider, data_key: DataKey, request: DataKeyRequest
) -> tuple[EncryptedDataKey, ...]:
    """Encrypt a data key that a message has with all of the provider's keys; otherwise as `make_data_key`."""
    keys = await _encryption_keys(provider, request)
    return tuple(await _encrypt_with_all(keys, data_key, request))


async def _encryption_keys(provider: MasterKeyProvider, request: DataKeyRequest) -> Sequence[MasterKey]:
    keys = await given_keys(provider, request)
    if not keys:
        raise ProviderError("the provider gave no master key to encrypt with")
    return keys


async def given_keys(provider: MasterKeyProvider, request: DataKeyRequest) -> Sequence[MasterKey]:
    """Return the keys to encrypt with, if the provider gives such; raises `ProviderError`."""
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
            name = method_name(key, "encrypt_data_key")
            answer = await await_answer(name, key.encrypt_data_key(data_key, request), EncryptedDataKey)
            check_encrypted_data_key(name, answer)
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
