"""The values between client, manager, provider and key: frozen, and silent about secrets."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest

from aioencrypt import AlgorithmSuite, CommitmentPolicy, Limits, Provenance
from aioencrypt.format.context import read_only, serialize_context
from aioencrypt.materials import (
    DataKey,
    DataKeyRequest,
    DecryptedDataKey,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    KeyUse,
)
from tests.support.providers import OwnKey
from tests.support.rows import each_row

SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
POLICY = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
DATA_KEY = DataKey(b"plaintext data key of 32 bytes..")
WRAPPED = EncryptedDataKey("provider", b"info", b"ciphertext")

MAKERS: dict[type, Callable[[dict[str, str]], Any]] = {
    DataKeyRequest: lambda context: DataKeyRequest(
        algorithm_suite=SUITE, encryption_context=context, encrypted_data_keys=(WRAPPED,)
    ),
    EncryptionMaterialsRequest: lambda context: EncryptionMaterialsRequest(
        commitment_policy=POLICY, encryption_context=context
    ),
    EncryptionMaterials: lambda context: EncryptionMaterials(
        algorithm_suite=SUITE,
        data_key=DATA_KEY,
        encrypted_data_keys=(WRAPPED,),
        encryption_context=context,
        signer=lambda digest: digest,
    ),
    DecryptionMaterialsRequest: lambda context: DecryptionMaterialsRequest(
        algorithm_suite=SUITE,
        commitment_policy=POLICY,
        encrypted_data_keys=(WRAPPED,),
        encryption_context=context,
        reproduced_encryption_context=context,
    ),
    DecryptionMaterials: lambda context: DecryptionMaterials(
        algorithm_suite=SUITE, data_key=DATA_KEY, encryption_context=context
    ),
}
CONTEXT_FIELDS = [(cls, "encryption_context") for cls in MAKERS] + [
    (DecryptionMaterialsRequest, "reproduced_encryption_context")
]
each_value = pytest.mark.parametrize("cls", MAKERS, ids=lambda cls: cls.__name__)


def made(cls: type) -> Any:
    return MAKERS[cls]({"tenant": "forty-two", "größe": "secret"})


@each_value
def test_every_field_is_frozen(cls: type) -> None:
    value = made(cls)
    for field in attrs.fields(cls):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@each_value
def test_fields_are_given_by_name(cls: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        cls(SUITE)


@pytest.mark.parametrize(
    ("cls", "field"), CONTEXT_FIELDS, ids=lambda value: getattr(value, "__name__", value)
)
def test_contexts_are_read_only_copies(cls: type, field: str) -> None:
    context = {"tenant": "42"}
    value = MAKERS[cls](context)
    context["tenant"] = "43"
    context["more"] = ""
    kept = getattr(value, field)
    assert kept == {"tenant": "42"}
    with pytest.raises(TypeError):
        kept["tenant"] = "44"
    with pytest.raises(TypeError, match="read-only"):
        kept.clear()


def test_a_changed_copy_is_read_only_too() -> None:
    context = {"a": "1"}
    value = attrs.evolve(made(EncryptionMaterials), encryption_context=context)
    context.clear()
    assert value.encryption_context == {"a": "1"}


def test_a_read_only_view_does_not_follow_its_mapping() -> None:
    context = {"a": "1"}
    view = read_only(context)
    again = read_only(view)
    context["a"] = "2"
    assert (view["a"], again["a"]) == ("1", "1")


@pytest.mark.spec("framework/structures.md#signing-key")
@each_value
def test_reprs_say_nothing_secret(cls: type) -> None:
    text = repr(made(cls))
    assert "encryption_context=<2 pairs>" in text
    for secret in ("plaintext data key", "ciphertext", "tenant", "forty-two", "größe", "secret", "lambda"):
        assert secret not in text


@pytest.mark.spec(
    "framework/structures.md#plaintext-data-key", "framework/structures.md#plaintext-data-key-1"
)
def test_the_reprs_of_data_keys() -> None:
    assert repr(DATA_KEY) == "DataKey()"
    text = repr(DecryptedDataKey(DATA_KEY, WRAPPED, OwnKey("own")))
    assert text == (
        "DecryptedDataKey(data_key=DataKey(), encrypted_data_key="
        "EncryptedDataKey(provider_id='provider', provider_info=b'info'), master_key=OwnKey('own'))"
    )


def _pickled(value: object, protocol: int) -> object:
    return pickle.loads(pickle.dumps(value, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": partial(_pickled, protocol=n) for n in range(6)},
}
each_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@each_row(
    "value",
    [
        DATA_KEY,
        made(EncryptionMaterials),
        made(DecryptionMaterials),
        DecryptedDataKey(DATA_KEY, WRAPPED, OwnKey("own")),
    ],
)
@each_copy
def test_what_has_key_bytes_is_not_copied(value: object, duplicate: Callable[[object], object]) -> None:
    text = r"has key bytes and cannot be pickled or copied: decrypt it where it is needed$"
    with pytest.raises(TypeError, match=text):
        duplicate(value)
    assert "plaintext data key" not in repr(value)


VALUES: list[tuple[Any, Any, Any]] = [
    *(
        (made(cls), made(cls), MAKERS[cls]({"tenant": "43"}))
        for cls in (DataKeyRequest, EncryptionMaterialsRequest, DecryptionMaterialsRequest)
    ),
    (WRAPPED, EncryptedDataKey("provider", b"info", b"ciphertext"), EncryptedDataKey("p", b"", b"")),
    (Limits(), Limits(), Limits(max_frame_length=5)),
    (KeyUse("encrypt", "a", "b"), KeyUse("encrypt", "a", "b"), KeyUse("encrypt", "a", "c")),
    (Provenance(), Provenance(), Provenance(cached=True)),
]


@pytest.mark.parametrize(("value", "same", "other"), VALUES, ids=lambda value: type(value).__name__)
@each_copy
def test_what_has_no_key_bytes_is_a_value(
    value: Any, same: Any, other: Any, duplicate: Callable[[Any], Any]
) -> None:
    if isinstance(value, DataKeyRequest):
        assert value.serialized_context  # what it remembers changes nothing
    for equal in (same, duplicate(value)):
        assert equal == value
        assert hash(equal) == hash(value)
        assert repr(equal) == repr(value)
    assert value != other
    assert len({value, same, other, duplicate(value)}) == 2


def test_data_keys_are_values() -> None:
    assert DataKey(b"a") == DataKey(b"a") != DataKey(b"b")


@pytest.mark.spec(
    "framework/cmm-interface.md#encryption-materials-request",
    "framework/cmm-interface.md#decrypt-materials-request",
)
def test_what_requests_leave_out() -> None:
    assert DataKeyRequest(algorithm_suite=SUITE) == DataKeyRequest(
        algorithm_suite=SUITE, encryption_context={}, encrypted_data_keys=()
    )
    request = EncryptionMaterialsRequest(commitment_policy=POLICY)
    assert request.algorithm_suite is None
    assert request.plaintext_length is None
    assert request.encryption_context == {}
    assert request.required_encryption_context_keys == frozenset()


@pytest.mark.spec("framework/structures.md#structure-2", "framework/structures.md#fields")
def test_what_materials_leave_out() -> None:
    writing = EncryptionMaterials(
        algorithm_suite=SUITE, data_key=DATA_KEY, encrypted_data_keys=(WRAPPED,), encryption_context={}
    )
    assert (writing.signer, writing.required_encryption_context_keys) == (None, frozenset())
    reading = DecryptionMaterials(algorithm_suite=SUITE, data_key=DATA_KEY, encryption_context={})
    assert (reading.verification_key, reading.required_encryption_context_keys) == (None, frozenset())


def test_a_context_is_serialized_once() -> None:
    request = DataKeyRequest(algorithm_suite=SUITE, encryption_context={"secret": "42"})
    other = DataKeyRequest(algorithm_suite=SUITE, encryption_context={"secret": "42"})
    assert request.serialized_context == serialize_context({"secret": "42"})
    assert request.serialized_context is request.serialized_context
    assert request.odd_serialized_contexts is request.odd_serialized_contexts
    assert request == other
    assert repr(request) == repr(other)
    assert attrs.evolve(request, encryption_context={}).serialized_context == b""
