"""The CMM that a client makes of a provider.

Specification: framework/default-cmm.md, framework/cmm-interface.md.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    CommitmentPolicyError,
    DefaultCMM,
    EncryptionContextMismatchError,
    MalformedMessageError,
    MultiMasterKeyProvider,
    Provenance,
    ProviderClosedError,
    ProviderError,
    SignatureError,
    decrypt,
)
from aioencrypt.materials import (
    CryptographicMaterialsManager,
    DataKey,
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterialsRequest,
    KeyUse,
)
from aioencrypt.runtime.arguments import describe_type
from tests.support.messages import build_message, example_data_key, example_signing_key, public_key_pair
from tests.support.providers import CONTEXT, SUITE, OwnKey, OwnProvider, asking
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, on_asyncio

pytestmark = pytest.mark.anyio

FORBID, ALLOW, REQUIRE = CommitmentPolicy
PUBLIC_KEY = "aws-crypto-public-key"
COMMITTING = {0x0478, 0x0578}
SIGNING = {0x0214: ec.SECP256R1(), 0x0346: ec.SECP384R1(), 0x0378: ec.SECP384R1(), 0x0578: ec.SECP384R1()}
each_suite = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
each_policy = pytest.mark.parametrize("policy", CommitmentPolicy, ids=lambda policy: policy.name)


def policy_for(suite: AlgorithmSuite) -> CommitmentPolicy:
    return REQUIRE if suite.value in COMMITTING else FORBID


def writing(
    suite: AlgorithmSuite | None = None,
    policy: CommitmentPolicy | None = None,
    context: Mapping[str, str] = CONTEXT,
    required: frozenset[str] = frozenset(),
) -> EncryptionMaterialsRequest:
    return EncryptionMaterialsRequest(
        commitment_policy=policy or (policy_for(suite) if suite else REQUIRE),
        algorithm_suite=suite,
        encryption_context=context,
        required_encryption_context_keys=required,
    )


def reading(
    key: OwnKey,
    suite: AlgorithmSuite = SUITE,
    *,
    policy: CommitmentPolicy = ALLOW,
    context: Mapping[str, str] = CONTEXT,
    reproduced: Mapping[str, str] | None = None,
    wrapped_with: Mapping[str, str] | None = None,
) -> DecryptionMaterialsRequest:
    """Ask for materials of a message whose data key was wrapped with a context, by default the header's."""
    asked = asking(suite=suite, context=context if wrapped_with is None else wrapped_with)
    return DecryptionMaterialsRequest(
        algorithm_suite=suite,
        commitment_policy=policy,
        encrypted_data_keys=(key.wrap(DataKey(example_data_key(suite)), asked),),
        encryption_context=context,
        reproduced_encryption_context=reproduced or {},
    )


# What it is made of


@pytest.mark.spec("framework/default-cmm.md#initialization", "framework/default-cmm.md#initialization-1")
@pytest.mark.parametrize(
    "wrong", [None, "key", OwnKey, DefaultCMM(OwnKey("a"))], ids=lambda value: type(value).__name__
)
def test_it_takes_a_provider(wrong: object) -> None:
    with pytest.raises(
        TypeError, match=rf"^DefaultCMM needs a master key or a provider, not {describe_type(wrong)}(: |$)"
    ):
        DefaultCMM(wrong)  # type: ignore[arg-type]


def test_what_it_says_of_itself() -> None:
    cmm = DefaultCMM(OwnKey("a"))
    assert repr(cmm) == "DefaultCMM(OwnKey('a'))"
    assert isinstance(cmm, CryptographicMaterialsManager)


async def test_it_enters_and_leaves_its_provider() -> None:
    provider = OwnProvider("p")
    cmm = DefaultCMM(provider)
    async with cmm as entered, cmm:
        assert entered is cmm
        assert provider.entries == 2
    assert provider.entries == 0
    with pytest.raises(ZeroDivisionError):
        async with cmm:
            raise ZeroDivisionError("in flight")
    assert provider.log[-1] == "leave p with in flight"
    provider.on_enter = OSError("no entry")
    with pytest.raises(OSError, match="no entry"):
        await cmm.__aenter__()
    assert provider.entries == 0


# Encryption materials


@pytest.mark.spec("framework/default-cmm.md#get-encryption-materials")
@each_policy
async def test_the_suite_of_the_policy(policy: CommitmentPolicy) -> None:
    materials = await DefaultCMM(OwnKey("a")).get_encryption_materials(writing(policy=policy))
    assert materials.algorithm_suite.value == (0x0378 if policy is FORBID else 0x0578)


@pytest.mark.spec(
    "framework/default-cmm.md#get-encryption-materials", "framework/default-cmm.md#decrypt-materials"
)
@each_policy
@each_row("suite", AlgorithmSuite)
@on_asyncio
async def test_the_suite_of_the_request(policy: CommitmentPolicy, suite: AlgorithmSuite) -> None:
    key = OwnKey("a")
    request = writing(suite, policy)
    if (suite.value in COMMITTING) is (policy is not FORBID):
        materials = await DefaultCMM(key).get_encryption_materials(request)
        assert materials.algorithm_suite is suite
        assert len(materials.data_key.plaintext) == suite.data_key_length
        return
    with pytest.raises(CommitmentPolicyError) as caught:
        await DefaultCMM(key).get_encryption_materials(request)
    assert str(caught.value) == (
        f"commitment policy {policy.name} does not allow encrypting with {suite.name}; "
        f"leave algorithm_suite out to get {policy.default_suite.name}"
    )
    assert key.log == []


@pytest.mark.spec(
    "framework/default-cmm.md#get-encryption-materials",
    "framework/cmm-interface.md#get-encryption-materials",
    "framework/structures.md#signing-key",
)
@each_suite
@on_asyncio
async def test_the_verification_key_goes_into_the_context(suite: AlgorithmSuite) -> None:
    caller = dict(CONTEXT)
    seen: list[Mapping[str, str]] = []

    class Seeing(OwnKey):
        async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
            seen.append(request.encryption_context)
            return await super().generate_data_key(request)

    materials = await DefaultCMM(Seeing("a")).get_encryption_materials(writing(suite, context=caller))
    assert caller == CONTEXT
    assert seen == [materials.encryption_context]
    curve = SIGNING.get(suite.value)
    if curve is None:
        assert materials.encryption_context == CONTEXT
        assert materials.signer is None
        return
    assert materials.encryption_context.keys() == {*CONTEXT, PUBLIC_KEY}
    point = base64.b64decode(materials.encryption_context[PUBLIC_KEY], validate=True)
    assert len(point) == 1 + curve.key_size // 8
    assert point[0] in (2, 3)
    assert materials.signer
    sha = hashes.SHA256() if suite.value == 0x0214 else hashes.SHA384()
    signature = materials.signer(hashlib.new(sha.name, b"message").digest())
    ec.EllipticCurvePublicKey.from_encoded_point(curve, point).verify(signature, b"message", ec.ECDSA(sha))


@pytest.mark.spec("framework/default-cmm.md#get-encryption-materials")
async def test_everything_is_new_for_each_message() -> None:
    cmm = DefaultCMM(OwnKey("a"))
    made = [await cmm.get_encryption_materials(writing()) for _ in range(5)]
    assert len({materials.data_key.plaintext for materials in made}) == 5
    assert len({materials.encryption_context[PUBLIC_KEY] for materials in made}) == 5


@pytest.mark.spec("framework/default-cmm.md#get-encryption-materials")
@pytest.mark.parametrize("suite", [SIGNED, SUITE], ids=["signed", "unsigned"])
async def test_the_reserved_key_is_never_overwritten(suite: AlgorithmSuite) -> None:
    key = OwnKey("a")
    with pytest.raises(ValueError, match=f"already has the reserved key '{PUBLIC_KEY}'") as caught:
        await DefaultCMM(key).get_encryption_materials(writing(suite, context={PUBLIC_KEY: "secret"}))
    assert "secret" not in str(caught.value)
    assert key.log == []


@pytest.mark.spec(
    "framework/default-cmm.md#get-encryption-materials",
    "framework/cmm-interface.md#get-encryption-materials",
    "framework/structures.md#encrypted-data-keys",
    "framework/default-cmm.md#get-encryption-materials-master-key-provider",
)
async def test_the_data_key_is_that_of_all_keys() -> None:
    keys = [OwnKey(name) for name in "abc"]
    materials = await DefaultCMM(MultiMasterKeyProvider(*keys)).get_encryption_materials(writing())
    asked = asking(context=materials.encryption_context)
    assert [edk.provider_info for edk in materials.encrypted_data_keys] == [b"a", b"b", b"c"]
    for key, edk in zip(keys, materials.encrypted_data_keys, strict=True):
        assert await key.unwrap_data_key(edk, asked) == materials.data_key


async def test_the_error_of_the_provider_passes() -> None:
    error = ProviderClosedError("open it first")
    with pytest.raises(ProviderClosedError) as closed:
        await DefaultCMM(OwnKey("a", error=error)).get_encryption_materials(writing())
    assert closed.value is error
    with pytest.raises(ProviderError, match="could not generate a data key"):
        await DefaultCMM(OwnKey("a", length=5)).get_encryption_materials(writing())


@pytest.mark.spec("framework/cmm-interface.md#get-encryption-materials")
async def test_required_keys_are_handed_on() -> None:
    context = {"tenant": "42", "user": "7"}
    materials = await DefaultCMM(OwnKey("a")).get_encryption_materials(
        writing(context=context, required=frozenset({"tenant"}))
    )
    assert materials.required_encryption_context_keys == {"tenant"}
    assert materials.encryption_context["tenant"] == "42"


@pytest.mark.spec(
    "framework/cmm-interface.md#get-encryption-materials",
    "framework/structures.md#required-encryption-context-keys",
)
async def test_required_keys_must_be_in_the_context() -> None:
    """cmm-interface.md#get-encryption-materials: there must be a matching key."""
    with pytest.raises(ValueError, match="'other'"):
        await DefaultCMM(OwnKey("a")).get_encryption_materials(writing(required=frozenset({"other"})))


# Decryption materials


@pytest.mark.spec("framework/default-cmm.md#decrypt-materials")
@each_policy
@each_row("suite", AlgorithmSuite)
@on_asyncio
async def test_the_policy_for_reading(policy: CommitmentPolicy, suite: AlgorithmSuite) -> None:
    key = OwnKey("a")
    context = {PUBLIC_KEY: "AAAA"} if suite.value in SIGNING else {}
    request = reading(key, suite, policy=policy, context=context)
    if suite.value in COMMITTING or policy is not REQUIRE:
        materials = await DefaultCMM(key).decrypt_materials(request)
        assert materials == DecryptionMaterials(
            algorithm_suite=suite,
            data_key=DataKey(example_data_key(suite)),
            encryption_context=context,
            verification_key=b"\0\0\0" if context else None,
            provenance=Provenance((KeyUse("decrypt", "own", "a"),)),
        )
        return
    with pytest.raises(CommitmentPolicyError) as caught:
        await DefaultCMM(key).decrypt_materials(request)
    assert str(caught.value) == (
        f"commitment policy REQUIRE_ENCRYPT_REQUIRE_DECRYPT does not allow decrypting {suite.name}, "
        "which has no key commitment; use REQUIRE_ENCRYPT_ALLOW_DECRYPT"
    )
    assert key.log == []


@pytest.mark.spec(
    "framework/default-cmm.md#decrypt-materials", "framework/cmm-interface.md#decrypt-materials"
)
@each_suite
@on_asyncio
async def test_signed_suites_have_a_verification_key_and_others_none(suite: AlgorithmSuite) -> None:
    """default-cmm.md#decrypt-materials: both are refused, before the provider is asked."""
    key = OwnKey("a")
    wrong = {} if suite.value in SIGNING else {PUBLIC_KEY: "AAAA"}
    expected, text = (
        (MalformedMessageError, "the header has a verification key, but the algorithm suite does not sign")
        if wrong
        else (SignatureError, "the algorithm suite signs, but the header has no verification key")
    )
    with pytest.raises(expected) as caught:
        await DefaultCMM(key).decrypt_materials(reading(key, suite, context=wrong))
    assert type(caught.value) is expected
    assert str(caught.value) == text
    assert key.log == []


@pytest.mark.parametrize(
    "text",
    ["A", "AAA", "AA=", "AA==AA==", "AA AA", "AAAA\n", "AA-_", "ßßßß", "A\0AA", "=", "AAAAA"],
)
async def test_a_verification_key_that_is_no_base64(text: str) -> None:
    key = OwnKey("a")
    with pytest.raises(SignatureError, match=r"^the verification key in the header is not base64$") as caught:
        await DefaultCMM(key).decrypt_materials(reading(key, SIGNED, context={PUBLIC_KEY: text}))
    assert isinstance(caught.value.__cause__, ValueError)
    assert key.log == []


def point_text(point: bytes) -> str:
    return base64.b64encode(point).decode()


GOOD_POINT = base64.b64decode(public_key_pair(example_signing_key(SIGNED))[PUBLIC_KEY])


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x02",
        GOOD_POINT[:-1],
        GOOD_POINT + b"\0",
        b"\x05" + GOOD_POINT[1:],
        b"\x02" + b"\xff" * 48,
        bytes(49),
        bytes([GOOD_POINT[0] ^ 1]) + GOOD_POINT[1:],
    ],
    ids=lambda point: f"{len(point)} bytes from {point[:2].hex()}",
)
async def test_a_verification_key_that_is_no_point(point: bytes) -> None:
    """It is used when the signature is there: nothing of the last frame is released."""
    key = OwnKey("a")
    context = {**CONTEXT, PUBLIC_KEY: point_text(point)}
    wrapped = reading(key, SIGNED, context=context).encrypted_data_keys
    message = build_message(
        SIGNED, b"attack at dawn", encryption_context=context, encrypted_data_keys=wrapped
    )
    with pytest.raises(SignatureError):
        await decrypt(message.data, key)
    right = {**CONTEXT, PUBLIC_KEY: point_text(GOOD_POINT)}
    wrapped = reading(key, SIGNED, context=right).encrypted_data_keys
    message = build_message(SIGNED, b"attack at dawn", encryption_context=right, encrypted_data_keys=wrapped)
    assert (await decrypt(message.data, key)).plaintext == b"attack at dawn"


STORED = {"tenant": "42", "user": "7", "empty": "", "city": "Paris"}


@pytest.mark.spec("framework/cmm-interface.md#decrypt-materials")
@pytest.mark.parametrize(
    ("reproduced", "required"),
    [
        ({}, set()),
        ({"tenant": "42"}, set()),
        (STORED, set()),
        ({"empty": ""}, set()),
        ({"other": "1"}, {"other"}),
        ({"tenant": "42", "other": "1", "more": ""}, {"other", "more"}),
        ({"Tenant": "43"}, {"Tenant"}),
    ],
)
async def test_pairs_that_the_caller_reproduces(reproduced: Mapping[str, str], required: set[str]) -> None:
    """Those that the header lacks are taken as authenticated, and the provider gets all of them."""
    key = OwnKey("a")
    request = reading(key, context=STORED, reproduced=reproduced, wrapped_with={**STORED, **reproduced})
    materials = await DefaultCMM(key).decrypt_materials(request)
    assert materials.encryption_context == {**STORED, **reproduced}
    assert materials.required_encryption_context_keys == required
    assert materials.data_key == DataKey(example_data_key(SUITE))
    assert request.encryption_context == STORED


@pytest.mark.spec("framework/cmm-interface.md#decrypt-materials")
@pytest.mark.parametrize(
    ("reproduced", "keys"),
    [
        ({"tenant": "43"}, ("tenant",)),
        ({"tenant": ""}, ("tenant",)),
        ({"empty": "x"}, ("empty",)),
        ({"tenant": "42 "}, ("tenant",)),
        ({"city": "PARIS"}, ("city",)),
        ({"user": "8", "other": "1", "tenant": "43"}, ("user", "tenant")),
        ({"tenant": "42", "user": "8"}, ("user",)),
    ],
)
async def test_pairs_that_the_header_has_otherwise(
    reproduced: Mapping[str, str], keys: tuple[str, ...]
) -> None:
    key = OwnKey("a")
    with pytest.raises(EncryptionContextMismatchError) as caught:
        await DefaultCMM(key).decrypt_materials(reading(key, context=STORED, reproduced=reproduced))
    assert caught.value.keys == keys
    assert key.log == []


@pytest.mark.spec("framework/cmm-interface.md#decrypt-materials")
async def test_a_reproduced_verification_key_is_compared_too() -> None:
    key = OwnKey("a")
    stored = {PUBLIC_KEY: point_text(GOOD_POINT)}
    same = reading(key, SIGNED, context=stored, reproduced=stored)
    assert (await DefaultCMM(key).decrypt_materials(same)).verification_key == GOOD_POINT
    other = reading(key, SIGNED, context=stored, reproduced={PUBLIC_KEY: point_text(GOOD_POINT[:-1])})
    with pytest.raises(EncryptionContextMismatchError):
        await DefaultCMM(key).decrypt_materials(other)
    # One that only the caller has is none of the header's.
    absent = reading(key, SIGNED, context={}, reproduced=stored)
    with pytest.raises(SignatureError, match="the header has no verification key"):
        await DefaultCMM(key).decrypt_materials(absent)


@pytest.mark.spec(
    "framework/default-cmm.md#decrypt-materials",
    "framework/default-cmm.md#decrypt-materials-master-key-provider",
)
async def test_the_provider_cannot_open() -> None:
    key = OwnKey("a")
    with pytest.raises(ProviderError, match="does not open") as caught:
        await DefaultCMM(key).decrypt_materials(reading(key, wrapped_with={"tenant": "43"}))
    assert [attempt.operation for attempt in caught.value.attempts] == ["decrypt"]


async def test_a_context_that_its_public_key_makes_too_long_costs_no_call() -> None:
    """A manager may have added pairs to the context that the client checked."""
    key = OwnKey("a")
    request = EncryptionMaterialsRequest(
        commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        encryption_context={"k": "v" * 65528},
    )
    with pytest.raises(ValueError, match="above the 65535 of the message format"):
        await DefaultCMM(key).get_encryption_materials(request)
    assert key.log == []
