"""The CMM that requires pairs of the encryption context, and stores them in no message.

Specification: framework/required-encryption-context-cmm.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    CachingCMM,
    CommitmentPolicy,
    DefaultCMM,
    EncryptionClient,
    EncryptionContextMismatchError,
    MultiMasterKeyProvider,
    PolicyError,
    ProviderError,
    RawAESMasterKey,
    RequiredEncryptionContextCMM,
    RequiredEncryptionContextError,
    TagError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import (
    CryptographicMaterialsManager,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from tests.support.providers import OwnKey, OwnProvider
from tests.support.streaming import SIGNED, UNSIGNED, client_for, in_chunks
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

CONTEXT = {"größe": "ß", "tenant": "42", "zone": "7"}
AES = RawAESMasterKey("tests", "required", wrapping_key=bytes(32))
SPEC = "framework/required-encryption-context-cmm.md"

suites = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")


def only(*names: str) -> dict[str, str]:
    return {name: CONTEXT[name] for name in names}


class Watched:
    """A manager of a user: it logs the requests, and changes the answers."""

    def __init__(
        self,
        *,
        encryption: Callable[[EncryptionMaterials], EncryptionMaterials] = lambda answer: answer,
        decryption: Callable[[DecryptionMaterials], DecryptionMaterials] = lambda answer: answer,
    ) -> None:
        self._default = DefaultCMM(AES)
        self._encryption = encryption
        self._decryption = decryption
        self.requests: list[EncryptionMaterialsRequest | DecryptionMaterialsRequest] = []

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        self.requests.append(request)
        return self._encryption(await self._default.get_encryption_materials(request))

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        self.requests.append(request)
        return self._decryption(await self._default.decrypt_materials(request))


def to_encrypt(**changes: Any) -> EncryptionMaterialsRequest:
    given: dict[str, Any] = {
        "commitment_policy": CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        "encryption_context": CONTEXT,
        "algorithm_suite": UNSIGNED,
        "plaintext_length": 7,
    }
    return EncryptionMaterialsRequest(**given | changes)


async def to_decrypt(**changes: Any) -> DecryptionMaterialsRequest:
    materials = await DefaultCMM(AES).get_encryption_materials(to_encrypt())
    given: dict[str, Any] = {
        "algorithm_suite": UNSIGNED,
        "commitment_policy": CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        "encrypted_data_keys": materials.encrypted_data_keys,
        "encryption_context": only("größe", "zone"),
        "reproduced_encryption_context": only("tenant"),
    }
    return DecryptionMaterialsRequest(**given | changes)


# Construction


@pytest.mark.spec(f"{SPEC}#initialization")
@pytest.mark.parametrize(
    "given", [AES, OwnProvider("p", AES), MultiMasterKeyProvider(AES), DefaultCMM(AES), Watched()]
)
async def test_it_stands_over_a_key_a_provider_or_a_manager(given: Any) -> None:
    """A provider gets a default CMM."""
    cmm = RequiredEncryptionContextCMM(given, ["tenant"])
    assert isinstance(cmm, CryptographicMaterialsManager)
    message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    assert dict(header.encryption_context) == only("größe", "zone")
    assert (await decrypt(message, cmm, encryption_context=only("tenant"))).plaintext == b"secret"


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("tenant", TypeError, "^required_keys must be a collection of required keys, not str: write"),
    ([], ValueError, r"^required_keys is empty; without any, leave this CMM out$"),
    ([b"tenant"], TypeError, r"^each required key must be a str, not bytes$"),
    ([None], TypeError, r"^each required key must be a str, not NoneType$"),
    (["a", "aws-crypto-public-key"], ValueError, "'aws-crypto-public-key' starts with the reserved"),
    (["aws-crypto-"], ValueError, "^the required key 'aws-crypto-' starts with the reserved 'aws-crypto-'$"),
]


@pytest.mark.spec(f"{SPEC}#initialization")
@pytest.mark.parametrize(("required", "error", "text"), REFUSED, ids=range(len(REFUSED)))
def test_required_keys_that_are_refused(required: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RequiredEncryptionContextCMM(AES, required)


@pytest.mark.spec(f"{SPEC}#initialization")
@pytest.mark.parametrize("given", [None, "key", DefaultCMM, object()])
def test_what_is_neither_provider_nor_manager(given: Any) -> None:
    with pytest.raises(TypeError, match="is neither a master key, nor a provider, nor a CMM"):
        RequiredEncryptionContextCMM(given, ["tenant"])


@pytest.mark.parametrize(
    "required", [["b", "a"], ("a", "b"), {"b", "a"}, iter(["a", "b", "a"]), {"a": 1, "b": 2}]
)
def test_any_collection_of_keys(required: Any) -> None:
    cmm = RequiredEncryptionContextCMM(AES, required)
    assert repr(cmm) == (
        "RequiredEncryptionContextCMM(DefaultCMM(RawAESMasterKey('tests', 'required')), ['a', 'b'])"
    )


# Encrypting


@pytest.mark.spec(f"{SPEC}#get-encryption-materials")
@pytest.mark.parametrize(
    ("context", "missing"),
    [
        ({}, ("größe", "tenant")),
        (only("zone"), ("größe", "tenant")),
        (only("tenant", "zone"), ("größe",)),
        ({"Tenant": "42", "größe": "ß"}, ("tenant",)),
    ],
)
async def test_a_context_without_a_required_key_is_refused_before_any_key_is_called(
    context: dict[str, str], missing: tuple[str, ...]
) -> None:
    key = CountingKey()
    cmm = RequiredEncryptionContextCMM(key, ["tenant", "größe"])
    with pytest.raises(RequiredEncryptionContextError) as caught:
        await encrypt(b"secret", cmm, encryption_context=context)
    with pytest.raises(RequiredEncryptionContextError):
        await encrypt_stream(b"secret", cmm, encryption_context=context).__aenter__()
    assert caught.value.keys == missing
    assert isinstance(caught.value, PolicyError)
    assert "42" not in str(caught.value)
    assert key.calls == []


@pytest.mark.spec(f"{SPEC}#get-encryption-materials")
@pytest.mark.parametrize(
    ("before", "asked"),
    [
        (set(), {"tenant"}),
        ({"tenant"}, {"tenant"}),
        ({"zone"}, {"tenant", "zone"}),
    ],
)
async def test_the_manager_below_is_asked_to_keep_the_pairs_out(before: set[str], asked: set[str]) -> None:
    below = Watched()
    request = to_encrypt(required_encryption_context_keys=before)
    materials = await RequiredEncryptionContextCMM(below, ["tenant"]).get_encryption_materials(request)
    # and nothing else is changed
    assert below.requests == [attrs.evolve(request, required_encryption_context_keys=frozenset(asked))]
    assert materials.required_encryption_context_keys == asked
    assert dict(materials.encryption_context) == CONTEXT


@pytest.mark.spec(f"{SPEC}#get-encryption-materials")
@pytest.mark.parametrize(
    ("kept", "named"), [([], "'tenant', 'zone'"), (["zone"], "'tenant'"), (["größe"], "'tenant', 'zone'")]
)
async def test_a_manager_below_that_would_store_a_required_pair_is_not_believed(
    kept: list[str], named: str
) -> None:
    below = Watched(
        encryption=lambda answer: attrs.evolve(answer, required_encryption_context_keys=frozenset(kept))
    )
    cmm = RequiredEncryptionContextCMM(below, ["tenant", "zone"])
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"secret", cmm, encryption_context=CONTEXT)
    assert str(caught.value) == f"Watched would store the required encryption context keys {named}"


async def test_a_manager_below_may_keep_more_pairs_out() -> None:
    below = Watched(
        encryption=lambda answer: attrs.evolve(
            answer, required_encryption_context_keys=frozenset(["tenant", "zone"])
        )
    )
    cmm = RequiredEncryptionContextCMM(below, ["tenant"])
    message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    assert dict(header.encryption_context) == only("größe")
    assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"secret"


# Decrypting


@pytest.mark.spec(f"{SPEC}#decrypt-materials")
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ("größe", "tenant")),
        (only("zone"), ("größe", "tenant")),
        (only("tenant"), ("größe",)),
        # a pair that stands in the header must be given all the same
        ({"größe": "ß", "Tenant": "42"}, ("tenant",)),
    ],
)
async def test_decrypting_without_a_required_key_is_refused_before_any_key_is_called(
    given: dict[str, str], missing: tuple[str, ...]
) -> None:
    key = CountingKey()
    message, _ = await encrypt(b"secret", key, encryption_context=only("tenant"))
    key.calls.clear()
    cmm = RequiredEncryptionContextCMM(key, ["tenant", "größe"])
    with pytest.raises(RequiredEncryptionContextError) as caught:
        await decrypt(message, cmm, encryption_context=given)
    with pytest.raises(RequiredEncryptionContextError):
        await decrypt_stream(message, cmm, encryption_context=given).__aenter__()
    assert caught.value.keys == missing
    assert key.calls == []


@pytest.mark.spec(f"{SPEC}#decrypt-materials")
async def test_the_manager_below_gets_the_request_unchanged() -> None:
    below, request = Watched(), await to_decrypt()
    materials = await RequiredEncryptionContextCMM(below, ["tenant"]).decrypt_materials(request)
    assert len(below.requests) == 1
    assert below.requests[0] is request
    assert dict(materials.encryption_context) == CONTEXT
    assert materials.required_encryption_context_keys == {"tenant"}


@pytest.mark.spec(f"{SPEC}#decrypt-materials")
async def test_a_manager_below_that_leaves_a_required_pair_out_is_not_believed() -> None:
    below = Watched(
        decryption=lambda answer: attrs.evolve(
            answer, encryption_context=only("größe", "zone"), required_encryption_context_keys=frozenset()
        )
    )
    with pytest.raises(ProviderError) as caught:
        await RequiredEncryptionContextCMM(below, ["zone", "tenant"]).decrypt_materials(
            await to_decrypt(reproduced_encryption_context=only("tenant", "zone"))
        )
    assert str(caught.value) == (
        "Watched does not authenticate the required encryption context keys 'tenant'"
    )


# Messages


@pytest.mark.spec(
    f"{SPEC}#overview",
    "client-apis/encrypt.md#construct-the-header",
    "client-apis/decrypt.md#verify-the-header",
)
@suites
async def test_required_pairs_are_authenticated_and_not_stored(suite: AlgorithmSuite, tmp_path: Path) -> None:
    client = client_for(suite)
    cmm = RequiredEncryptionContextCMM(AES, ["tenant", "größe"])
    writing: Any = {"encryption_context": CONTEXT, "algorithm_suite": suite}
    message, header = await client.encrypt(b"secret", cmm, **writing)
    async with client.encrypt_stream(in_chunks(b"secret", 4), cmm, **writing) as stream:
        streamed = await stream.read()
        assert stream.header.encryption_context.keys() == header.encryption_context.keys()
    async with client.open(tmp_path / "file", "wb", provider=cmm, **writing) as writer:
        await writer.write(b"secret")
    for sealed in (message, streamed, await anyio.Path(tmp_path / "file").read_bytes()):
        stored = {key for key in header.encryption_context if not key.startswith("aws-crypto-")}
        assert stored == {"zone"}
        for name in ("tenant", "größe"):
            assert name.encode() not in sealed
        for given in (only("tenant", "größe"), CONTEXT):
            plaintext, read = await client.decrypt(sealed, cmm, encryption_context=given)
            assert plaintext == b"secret"
            assert read.encryption_context.keys() == header.encryption_context.keys()
            # readers without the CMM have to know of the pairs, too
            assert (await client.decrypt(sealed, AES, encryption_context=given)).plaintext == b"secret"
            async with client.decrypt_stream(in_chunks(sealed, 7), cmm, encryption_context=given) as reading:
                assert await reading.read() == b"secret"
        with pytest.raises(ProviderError):
            await client.decrypt(sealed, AES)


@pytest.mark.spec("client-apis/decrypt.md#verify-the-header")
@pytest.mark.parametrize(
    "given",
    [
        {"tenant": "43", "größe": "ß"},
        {"tenant": "ß", "größe": "42"},
        {"tenant": "42", "größe": "ß", "more": ""},
    ],
    ids=["another value", "swapped", "one more"],
)
@pytest.mark.parametrize("key", [AES, CountingKey()], ids=["bound by the key", "bound by the header alone"])
async def test_other_values_do_not_open(given: dict[str, str], key: Any) -> None:
    cmm = RequiredEncryptionContextCMM(key, ["tenant", "größe"])
    message, _ = await encrypt(b"secret", cmm, encryption_context=CONTEXT)
    expected = ProviderError if key is AES else TagError
    with pytest.raises(expected, match="'tenant', 'größe'") as caught:
        await decrypt(message, cmm, encryption_context=given)
    assert "43" not in str(caught.value)


async def test_a_required_pair_that_an_older_message_stores_must_have_its_value() -> None:
    message, _ = await encrypt(b"secret", AES, encryption_context=CONTEXT)
    cmm = RequiredEncryptionContextCMM(AES, ["tenant"])
    assert (await decrypt(message, cmm, encryption_context=only("tenant"))).plaintext == b"secret"
    with pytest.raises(EncryptionContextMismatchError) as caught:
        await decrypt(message, cmm, encryption_context={"tenant": "43"})
    assert caught.value.keys == ("tenant",)


async def test_one_over_another_requires_both() -> None:
    cmm = RequiredEncryptionContextCMM(RequiredEncryptionContextCMM(AES, ["zone"]), ["tenant"])
    message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    assert dict(header.encryption_context) == only("größe")
    for given, missing in ((only("zone"), "tenant"), (only("tenant"), "zone")):
        with pytest.raises(RequiredEncryptionContextError) as caught:
            await decrypt(message, cmm, encryption_context=given)
        assert caught.value.keys == (missing,)
    assert (await decrypt(message, cmm, encryption_context=only("zone", "tenant"))).plaintext == b"secret"


@pytest.mark.parametrize("outside", ["required", "caching"])
async def test_it_stands_over_and_under_a_cache(outside: str) -> None:
    key = OwnKey("a")
    inner = RequiredEncryptionContextCMM(key, ["tenant"])
    manager: Any = CachingCMM(inner, max_age=60)
    if outside == "required":
        manager = RequiredEncryptionContextCMM(CachingCMM(key, max_age=60), ["tenant"])
    async with manager:
        made = [await encrypt(b"secret", manager, encryption_context=CONTEXT) for _ in range(2)]
        assert key.log == ["generate a"]
        for message, header in made:
            assert "tenant" not in header.encryption_context
            for _ in range(2):
                given = only("tenant")
                assert (await decrypt(message, manager, encryption_context=given)).plaintext == b"secret"
            # a cached data key is no way around the pairs
            for wrong in ({}, {"tenant": "43"}, only("zone")):
                with pytest.raises((RequiredEncryptionContextError, ProviderError)):
                    await decrypt(message, manager, encryption_context=wrong)
        with pytest.raises(RequiredEncryptionContextError):
            await encrypt(b"secret", manager, encryption_context=only("zone"))


async def test_a_cache_that_others_fill_with_stored_pairs_is_not_asked() -> None:
    async with CachingCMM(AES, max_age=60) as shared:
        await encrypt(b"secret", shared, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
        cmm = RequiredEncryptionContextCMM(shared, ["tenant"])
        message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
        assert dict(header.encryption_context) == only("größe", "zone")
        assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"secret"


async def test_all_pairs_may_be_required() -> None:
    cmm = RequiredEncryptionContextCMM(AES, CONTEXT)
    message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    assert dict(header.encryption_context) == {}
    assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"secret"


async def test_a_signed_message_stores_its_verification_key() -> None:
    cmm = RequiredEncryptionContextCMM(AES, CONTEXT)
    message, header = await encrypt(b"secret", cmm, encryption_context=CONTEXT, algorithm_suite=SIGNED)
    assert list(header.encryption_context) == ["aws-crypto-public-key"]
    assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"secret"


async def test_the_policies_of_the_client_hold_below_it() -> None:
    cmm = RequiredEncryptionContextCMM(AES, ["tenant"])
    old = EncryptionClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    message, _ = await old.encrypt(b"secret", cmm, encryption_context=CONTEXT)
    with pytest.raises(aioencrypt.CommitmentPolicyError):
        await decrypt(message, cmm, encryption_context=CONTEXT)


# Life


async def test_it_enters_and_leaves_what_it_was_given() -> None:
    log: list[str] = []
    cmm = RequiredEncryptionContextCMM(OwnProvider("p", OwnKey("a"), log=log), ["tenant"])
    async with cmm as entered:
        assert entered is cmm
        async with cmm:
            pass
        assert log == ["enter p", "enter p", "leave p"]
    assert log == ["enter p", "enter p", "leave p", "leave p"]
    with pytest.raises(LookupError):
        async with cmm:
            raise LookupError("odd")
    assert log[4:] == ["enter p", "leave p with odd"]


async def test_a_manager_that_cannot_be_entered_is_left_alone() -> None:
    async with RequiredEncryptionContextCMM(Watched(), ["tenant"]) as cmm:
        message, _ = await encrypt(b"secret", cmm, encryption_context=CONTEXT)
        assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"secret"


async def test_provenance_passes_through() -> None:
    cmm = RequiredEncryptionContextCMM(AES, ["tenant"])
    result = await encrypt(b"secret", cmm, encryption_context=CONTEXT)
    assert result.provenance == (await encrypt(b"secret", AES)).provenance
    read = await decrypt(result.ciphertext, cmm, encryption_context=CONTEXT)
    assert [use.operation for use in read.provenance.keys] == ["decrypt"]
