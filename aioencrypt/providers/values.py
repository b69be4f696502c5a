"""The requests and materials that client, cryptographic materials manager (CMM) and provider exchange.

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
    known = type(policy) is CommitmentPolicy
    return policy if known else check_choice("commitment_policy", policy, CommitmentPolicy)


def _suite(suite: AlgorithmSuite) -> AlgorithmSuite:
    known = type(suite) is AlgorithmSuite
    return suite if known else check_choice("algorithm_suite", suite, AlgorithmSuite)


def _suite_or_none(suite: AlgorithmSuite | None) -> AlgorithmSuite | None:
    return suite if suite is None or type(suite) is AlgorithmSuite else _suite(suite)


def _required() -> Any:
    return attrs.field(default=frozenset(), converter=frozenset, validator=_check_required)


def _check_required(instance: Any, attribute: Any, keys: frozenset[str]) -> None:
    if keys and (missing := keys - instance.encryption_context.keys()):
        names = ", ".join(map(repr, sorted(missing)))
        raise ValueError(f"required encryption context keys are not in the encryption context: {names}")


@attrs.frozen
class DataKey:
    """A plaintext data key. Its `repr` never shows the bytes."""

    plaintext: bytes = attrs.field(repr=False)

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


def refuse_copy(value: object) -> NoReturn:
    """Raise the error for pickling or copying a value with key bytes."""
    what = type(value).__name__
    raise TypeError(f"{what} has key bytes and cannot be pickled or copied: decrypt it where it is needed")


@attrs.frozen(kw_only=True, slots=False)
class DataKeyRequest:
    """The request to a master key. `encrypted_data_keys` is empty when encrypting."""

    algorithm_suite: AlgorithmSuite = attrs.field(converter=_suite)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    encrypted_data_keys: tuple[EncryptedDataKey, ...] = attrs.field(default=(), converter=_data_keys)

    # Cached, because a header may have thousands of encrypted data keys and thousands of pairs.
    @cached_property
    def serialized_context(self) -> bytes:
        """The canonical serialization of the encryption context."""
        return serialize_context(self.encryption_context)

    @cached_property
    def odd_serialized_contexts(self) -> Sequence[bytes]:
        """The serializations that older SDKs authenticated instead of `serialized_context`."""
        return odd_serializations(self.encryption_context)


@attrs.frozen
class KeyUse:
    """One use of a master key for a message: it generated, encrypted or decrypted the data key."""

    operation: Operation
    provider_id: str
    key_id: str


@attrs.frozen
class Provenance:
    """The master keys that supplied the data key of a message.

    When encrypting, `keys` has the order of the encrypted data keys; the first one generated the data key.
    When decrypting, it holds the one key that decrypted. `cached` means that the data key came from a
    cache, and these keys were used for an earlier message. A CMM that does not track its keys leaves it
    empty.
    """

    keys: tuple[KeyUse, ...] = ()
    cached: bool = False


@attrs.frozen(kw_only=True)
class EncryptionMaterialsRequest:
    """The request to a CMM for encryption materials.

    With `algorithm_suite` None, the CMM chooses a suite by the commitment policy. `plaintext_length` is the
    length of the plaintext in bytes, or an upper bound; None if neither is known.
    """

    commitment_policy: CommitmentPolicy = attrs.field(converter=_policy)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    algorithm_suite: AlgorithmSuite | None = attrs.field(default=None, converter=_suite_or_none)
    plaintext_length: int | None = None
    required_encryption_context_keys: frozenset[str] = _required()


@attrs.frozen(kw_only=True)
class EncryptionMaterials:
    """The materials to encrypt one message.

    `signer` signs a digest with the private key whose public key is in the encryption context. The pairs
    named by `required_encryption_context_keys` are authenticated but not stored.
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
    """The request to a CMM for decryption materials.

    `encryption_context` holds the pairs of the header, which are not verified yet;
    `reproduced_encryption_context` holds the pairs that the caller passed.
    """

    algorithm_suite: AlgorithmSuite = attrs.field(converter=_suite)
    commitment_policy: CommitmentPolicy = attrs.field(converter=_policy)
    encrypted_data_keys: tuple[EncryptedDataKey, ...] = attrs.field(converter=_data_keys)
    encryption_context: Mapping[str, str] = _context(factory=dict)
    reproduced_encryption_context: Mapping[str, str] = _context(factory=dict)


@attrs.frozen(kw_only=True)
class DecryptionMaterials:
    """The materials to decrypt one message.

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
