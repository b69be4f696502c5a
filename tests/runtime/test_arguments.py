"""Options of every call: one rule and one text for each kind of mistake, wherever they are taken."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    AsyncCache,
    AWSConnection,
    CachingCMM,
    CommitmentPolicy,
    DiscoveryFilter,
    EncryptionClient,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    Limits,
    MultiRegion,
    Offload,
    RawAESMasterKey,
    RawRSAMasterKey,
    Release,
    RequiredEncryptionContextCMM,
    RSAPadding,
    SignaturePolicy,
)
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.integrations.http.conditions import BodyMeter
from aioencrypt.materials import DataKeyRequest, DecryptionMaterialsRequest, EncryptionMaterialsRequest
from aioencrypt.providers.kms.rsa import KMSEncryptionAlgorithm
from aioencrypt.rewrap import rewrap_stream
from tests.support import public
from tests.support.providers import OwnKey
from tests.support.rows import each_row

KEY = OwnKey("a")
CLIENT = EncryptionClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
RSA_ARN = "arn:aws:kms:us-east-1:123456789012:key/0e7b7a4e-4f27-4c5a-9f5b-2f0f6d3a1c11"

CHOICES: list[tuple[str, type[enum.Enum], Callable[[Any], object]]] = [
    ("commitment_policy", CommitmentPolicy, lambda value: EncryptionClient(commitment_policy=value)),
    ("offload", Offload, lambda value: EncryptionClient(offload=value)),
    ("algorithm_suite", AlgorithmSuite, lambda value: _allowed(value)),
    (
        "signature_policy",
        SignaturePolicy,
        lambda value: aioencrypt.decrypt_stream(b"", KEY, signature_policy=value),
    ),
    ("release", Release, lambda value: aioencrypt.decrypt_stream(b"", KEY, release=value)),
    ("release", Release, lambda value: aioencrypt.open(Path("none"), "rb", provider=KEY, release=value)),
    (
        "padding",
        RSAPadding,
        lambda value: RawRSAMasterKey("space", "name", padding=value, public_key=RSA_KEY),
    ),
    (
        "encryption_algorithm",
        KMSEncryptionAlgorithm,
        lambda value: KMSRSAMasterKey(RSA_ARN, public_key=RSA_KEY, encryption_algorithm=value),
    ),
    (
        "multi_region",
        MultiRegion,
        lambda value: KMSMasterKeyProvider(["alias/a"], multi_region=value),
    ),
]
POLICY = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
CHOICES += [
    ("algorithm_suite", AlgorithmSuite, lambda value: DataKeyRequest(algorithm_suite=value)),
    (
        "algorithm_suite",
        AlgorithmSuite,
        lambda value: EncryptionMaterialsRequest(commitment_policy=POLICY, algorithm_suite=value),
    ),
    (
        "commitment_policy",
        CommitmentPolicy,
        lambda value: EncryptionMaterialsRequest(commitment_policy=value),
    ),
    (
        "commitment_policy",
        CommitmentPolicy,
        lambda value: DecryptionMaterialsRequest(
            commitment_policy=value, algorithm_suite=next(iter(AlgorithmSuite)), encrypted_data_keys=()
        ),
    ),
]
each_choice = pytest.mark.parametrize(("name", "kind", "call"), CHOICES, ids=[row[0] for row in CHOICES])


def _allowed(suite: Any) -> object:
    """Take a suite with a policy that may write it: which one is not what is tested."""
    policy = next(
        policy
        for policy in CommitmentPolicy
        if not isinstance(suite, AlgorithmSuite) or policy.allows_encrypt(suite)
    )
    if isinstance(suite, str) and suite in AlgorithmSuite.__members__:
        return _allowed_text(suite)
    return EncryptionClient(commitment_policy=policy).encrypt_stream(b"", KEY, algorithm_suite=suite)


def _allowed_text(name: str) -> object:
    policy = next(policy for policy in CommitmentPolicy if policy.allows_encrypt(AlgorithmSuite[name]))
    suite: Any = name
    return EncryptionClient(commitment_policy=policy).encrypt_stream(b"", KEY, algorithm_suite=suite)


@each_choice
def test_members_and_their_documented_texts_are_taken(
    name: str, kind: type[enum.Enum], call: Callable[[Any], object]
) -> None:
    for member in kind:
        call(member)
        call(member.name)
        if isinstance(member.value, str):
            call(member.value)


@each_choice
def test_another_text_is_refused_with_the_values(
    name: str, kind: type[enum.Enum], call: Callable[[Any], object]
) -> None:
    for text in ("", "nothing", next(iter(kind)).name.lower() + " "):
        with pytest.raises(ValueError, match=f"^{name} is ") as caught:
            call(text)
        for member in kind:
            assert repr(member.value if isinstance(member.value, str) else member.name) in str(caught.value)


@each_choice
@each_row("wrong", [b"secret", 1.5, [], object(), enum.Enum])
def test_another_type_is_refused_without_its_value(
    name: str, kind: type[enum.Enum], call: Callable[[Any], object], wrong: Any
) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an? {kind.__name__}, not ") as caught:
        call(wrong)
    assert "secret" not in str(caught.value)


def test_every_option_that_is_an_enum_is_in_the_table() -> None:
    """An option that is a new enum must follow the rule."""
    enums = re.compile(rf"\b({'|'.join({kind.__name__ for _, kind, _ in CHOICES})})\b")
    package = Path(aioencrypt.__file__).parent
    options = {
        argument.arg
        for path in ("client.py", "rewrap.py", "inspection.py")
        for call in ast.walk(ast.parse((package / path).read_text()))
        if isinstance(call, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in call.args.kwonlyargs
        if argument.annotation and enums.search(ast.unparse(argument.annotation))
    }
    assert options == {"commitment_policy", "offload", "algorithm_suite", "signature_policy", "release"}
    defined = {
        node.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases)
    }
    # These are read from messages and given by no caller.
    read = {"ContentType", "SignatureAlgorithm", "State"}
    assert defined & set(public.NAMES) - read == {kind.__name__ for _, kind, _ in CHOICES}


INTS: list[tuple[str, int, bool, Callable[[Any], object]]] = [
    ("frame_length", 1, True, lambda value: CLIENT.encrypt_stream(b"", KEY, frame_length=value)),
    ("plaintext_length", 0, True, lambda value: CLIENT.encrypt_stream(b"", KEY, plaintext_length=value)),
    (
        "plaintext_length_bound",
        0,
        True,
        lambda value: CLIENT.encrypt_stream(b"", KEY, plaintext_length_bound=value),
    ),
    ("cache_length", 0, False, lambda value: CLIENT.open_seekable(b"", KEY, cache_length=value)),
    ("concurrency", 1, False, lambda value: CLIENT.open_seekable(b"", KEY, concurrency=value)),
    ("max_encrypted_data_keys", 1, True, lambda value: EncryptionClient(max_encrypted_data_keys=value)),
    ("frame_length", 1, False, lambda value: EncryptionClient(frame_length=value)),
    ("max_header_length", 0, True, lambda value: Limits(max_header_length=value)),
    ("max_frame_length", 0, True, lambda value: Limits(max_frame_length=value)),
    ("max_plaintext_length", 0, True, lambda value: Limits(max_plaintext_length=value)),
    ("max_messages", 1, False, lambda value: CachingCMM(KEY, max_age=1, max_messages=value)),
    ("max_bytes", 0, False, lambda value: CachingCMM(KEY, max_age=1, max_bytes=value)),
    ("capacity", 0, False, lambda value: CachingCMM(KEY, max_age=1, capacity=value)),
    ("capacity", 0, False, lambda value: AsyncCache(capacity=value)),
    ("max_length", 0, True, lambda value: BodyMeter({}, value)),
]


@pytest.mark.parametrize(("name", "lowest", "optional", "call"), INTS, ids=[row[0] for row in INTS])
def test_numbers(name: str, lowest: int, optional: bool, call: Callable[[Any], object]) -> None:
    call(lowest)
    wrongs: list[Any] = [1.5, "3", b"3", True, [], *([] if optional else [None])]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {type(wrong).__name__}"):
            call(wrong)
    with pytest.raises(ValueError, match=f"^{name} is {lowest - 1}; it must be {lowest} "):
        call(lowest - 1)
    if optional:
        call(None)


@pytest.mark.parametrize("wrong", ["1", b"1", None, True, [1]], ids=repr)
@pytest.mark.parametrize("name", ["max_age", "refresh_ahead"])
def test_seconds(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a number of seconds, not {type(wrong).__name__}$"):
        CachingCMM(KEY, **{"max_age": 60, name: wrong})


@each_row("wrong", ["false", 0, 1, None])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("net_v4_0_0_retry", lambda value: EncryptionClient(net_v4_0_0_retry=value)),
        (
            "accept_unverified_signature",
            lambda value: CLIENT.open_seekable(b"", KEY, accept_unverified_signature=value),
        ),
        (
            "accept_iv_reuse",
            lambda value: rewrap_stream(b"", KEY, new_provider=KEY, accept_iv_reuse=value),
        ),
        (
            "reencrypt",
            lambda value: rewrap_stream(b"", KEY, new_provider=KEY, reencrypt=value),
        ),
        ("verify", lambda value: rewrap_stream(b"", KEY, new_provider=KEY, verify=value)),
        ("accept_content_encoding", lambda value: BodyMeter({}, None, accept_content_encoding=value)),
    ],
)
def test_what_weakens_a_check_is_a_bool(name: str, call: Callable[[Any], object], wrong: Any) -> None:
    """The text 'false' of a configuration file would be true."""
    with pytest.raises(TypeError, match=f"^{name} must be a bool, not {type(wrong).__name__}$"):
        call(wrong)


PADDING = RSAPadding.PKCS1
SHA = KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256
COLLECTIONS: list[tuple[str, Callable[[Any], object]]] = [
    ("key_ids", KMSMasterKeyProvider),
    ("grant_tokens", lambda value: KMSMasterKeyProvider(["alias/a"], grant_tokens=value)),
    ("grant_tokens", lambda value: KMSDiscoveryMasterKeyProvider(discovery_filter=None, grant_tokens=value)),
    (
        "grant_tokens",
        lambda value: KMSRSAMasterKey(RSA_ARN, encryption_algorithm=SHA, grant_tokens=value),
    ),
    ("grant_tokens", lambda value: branch_key_store(grant_tokens=value)),
    ("accounts", lambda value: DiscoveryFilter(accounts=value)),
    ("required_keys", lambda value: RequiredEncryptionContextCMM(KEY, value)),
    ("regions", lambda value: aioencrypt.aws.limit_regions(SUPPLIER, value)),
    ("regions", lambda value: aioencrypt.aws.exclude_regions(SUPPLIER, value)),
]
SUPPLIER: Any = AWSConnection
KMS_ARN = KMSKeyArn(RSA_ARN)


def branch_key_store(**options: Any) -> BranchKeyStore:
    return BranchKeyStore("table", **{"logical_name": "name", "kms_configuration": KMS_ARN, **options})


@pytest.mark.parametrize("row", range(len(COLLECTIONS)))
def test_collections_of_text(row: int) -> None:
    name, call = COLLECTIONS[row]
    for wrong in ("alias/a", 5, None, True):
        with pytest.raises(
            TypeError, match=rf"^{name} must be a collection of .*, not {type(wrong).__name__}: write \["
        ):
            call(wrong)
    for item in (b"alias/a", 5, None, ["alias/a"]):
        with pytest.raises(TypeError, match=f"^each .* must be a str, not {type(item).__name__}"):
            call([item])
    call(iter(["alias/a"]))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("key_namespace", lambda value: RawAESMasterKey(value, "name", wrapping_key=bytes(32))),
        ("key_name", lambda value: RawAESMasterKey("space", value, wrapping_key=bytes(32))),
        (
            "key_name",
            lambda value: RawRSAMasterKey("space", value, padding=PADDING, public_key=RSA_KEY),
        ),
        ("partition", lambda value: CachingCMM(KEY, max_age=1, partition=value)),
        ("logical_name", lambda value: branch_key_store(logical_name=value)),
        ("store_id", lambda value: branch_key_store(store_id=value)),
        (
            "branch_key_id",
            lambda value: HierarchicalMasterKey(branch_key_store(), branch_key_id=value, max_age=1),
        ),
    ],
)
def test_texts_that_are_stored_are_valid_unicode(name: str, call: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match=f"^{name} is not valid Unicode text: surrogates not allowed$"):
        call("a\ud800")
    with pytest.raises(TypeError, match=f"^{name} must be a str, not bytes$"):
        call(b"a")
