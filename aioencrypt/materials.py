"""The values that go between client, cryptographic materials manager (CMM), provider and master key.

Specification: framework/structures.md, framework/cmm-interface.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import attrs

from aioencrypt.errors import Operation
from aioencrypt.format import AlgorithmSuite, CommitmentPolicy, EncryptedDataKey
from aioencrypt.format.context import odd_serializations, read_only, serialize_context
from aioencrypt.format.signing import Signer
from aioencrypt.runtime.arguments import check_choice


def _context(**changes: Any) -> Any:
    return attrs.field(converter=read_only, **changes)


def _data_keys(keys: Iterable[EncryptedDataKey]) -> tuple[EncryptedDataKey, ...]:
    return tuple(keys)


def _policy(policy: CommitmentPolicy) -> CommitmentPolicy:
    return check_choice("commitment_policy", policy, CommitmentPolicy)


def _suite(suite: AlgorithmSuite) -> AlgorithmSuite:
    return check_choice("algorithm_suite", suite, AlgorithmSuite)


def _suite_or_none(suite: AlgorithmSuite | None) -> AlgorithmSuite | None:
    return None if suite is None else _suite(suite)


def _required() -> Any:
    return attrs.field(default=frozenset(), converter=frozenset, validator=_check_required)


def _check_required(instance: Any, attribute: Any, keys: frozenset[str]) -> None:
    if missing := keys - instance.encryption_context.keys():
        names = ", ".join(map(repr, sorted(missing)))
        raise ValueError(f"required encryption context keys are not in the encryption context: {names}")


@attrs.frozen
class DataKey:
    """A plaintext data key. Its bytes never show in a repr."""

    plaintext: bytes = attrs.field(repr=False)

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


def refuse_copy(value: object) -> NoReturn:
    """Raise the error for pickling or copying a value that has key bytes."""
    what = type(value).__name__
    raise TypeError(f"{what} has key bytes and cannot be pickled or copied: decrypt it where it is needed")


@attrs.frozen(kw_only=True, slots=False)
class DataKeyRequest:
    """What a master key gets to know. `encrypted_data_keys` is empty when encrypting."""

    algorithm_suite: AlgorithmSuite = attrs.field(converter=_suite)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    encrypted_data_keys: tuple[EncryptedDataKey, ...] = attrs.field(default=(), converter=_data_keys)

    # Strangers may send thousands of encrypted data keys, and a context of thousands of pairs with them.
    @cached_property
    def serialized_context(self) -> bytes:
        """The canonical bytes of the encryption context, computed once for all encrypted data keys."""
        return serialize_context(self.encryption_context)

    @cached_property
    def odd_serialized_contexts(self) -> Sequence[bytes]:
        """What older SDKs authenticated in place of `serialized_context`."""
        return odd_serializations(self.encryption_context)


@attrs.frozen
class KeyUse:
    """What a master key did for a message: generated its data key, encrypted or decrypted it."""

    operation: Operation
    provider_id: str
    key_id: str


@attrs.frozen
class Provenance:
    """Where the data key of a message comes from.

    Encrypting, `keys` are in the order of the encrypted data keys: the first generated. Decrypting,
    there is the one key that opened. `cached` says that a cache answered, so that these keys did
    their work for an earlier message. Empty where a CMM does not say.
    """

    keys: tuple[KeyUse, ...] = ()
    cached: bool = False


@attrs.frozen(kw_only=True)
class EncryptionMaterialsRequest:
    """Asks a CMM for encryption materials.

    `algorithm_suite` None leaves the choice to the CMM, by the commitment policy. `plaintext_length`
    is the length of the plaintext in bytes, or an upper bound of it; None where neither is known.
    """

    commitment_policy: CommitmentPolicy = attrs.field(converter=_policy)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    algorithm_suite: AlgorithmSuite | None = attrs.field(default=None, converter=_suite_or_none)
    plaintext_length: int | None = None
    required_encryption_context_keys: frozenset[str] = _required()


@attrs.frozen(kw_only=True)
class EncryptionMaterials:
    """What is needed to write one message.

    `signer` signs digests with the private key whose public half stands in the encryption context.
    Pairs named by `required_encryption_context_keys` are authenticated but not stored.
    """

    algorithm_suite: AlgorithmSuite
    data_key: DataKey
    encrypted_data_keys: tuple[EncryptedDataKey, ...] = attrs.field(converter=_data_keys)
    encryption_context: Mapping[str, str] = _context()
    required_encryption_context_keys: frozenset[str] = _required()
    signer: Signer | None = attrs.field(default=None, repr=False)
    provenance: Provenance = Provenance()

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


@attrs.frozen(kw_only=True)
class DecryptionMaterialsRequest:
    """Asks a CMM for decryption materials.

    `encryption_context` holds the pairs of the header, which are not verified yet;
    `reproduced_encryption_context` those that the caller gave.
    """

    algorithm_suite: AlgorithmSuite = attrs.field(converter=_suite)
    commitment_policy: CommitmentPolicy = attrs.field(converter=_policy)
    encrypted_data_keys: tuple[EncryptedDataKey, ...] = attrs.field(converter=_data_keys)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    reproduced_encryption_context: Mapping[str, str] = _context(factory=dict)


@attrs.frozen(kw_only=True)
class DecryptionMaterials:
    """What is needed to read one message.

    `encryption_context` holds all pairs; those named by `required_encryption_context_keys` are
    authenticated but not stored. `verification_key` is a compressed point.
    """

    algorithm_suite: AlgorithmSuite
    data_key: DataKey
    encryption_context: Mapping[str, str] = _context()
    required_encryption_context_keys: frozenset[str] = _required()
    verification_key: bytes | None = None
    provenance: Provenance = Provenance()

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)
