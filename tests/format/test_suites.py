"""The table of suites against the official SDK's, and what the commitment policies allow."""

from __future__ import annotations

import pytest
from aws_encryption_sdk.identifiers import Algorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from aioencrypt.format import AlgorithmSuite, CommitmentPolicy, SignatureAlgorithm
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH

FORBID = CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
ALLOW = CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT
REQUIRE = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
CURVES: dict[SignatureAlgorithm, type[ec.EllipticCurve]] = {
    SignatureAlgorithm.ECDSA_P256: ec.SECP256R1,
    SignatureAlgorithm.ECDSA_P384: ec.SECP384R1,
}

each_suite = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")


@pytest.mark.spec(
    "framework/algorithm-suites.md#supported-format-algorithm-suites-enum",
    "framework/algorithm-suites.md#supported-algorithm-suites-enum",
    "framework/algorithm-suites.md#supported-algorithm-suites",
    "framework/algorithm-suites.md#algorithm-suite-id",
)
def test_all_suites_are_there() -> None:
    assert {suite.value for suite in AlgorithmSuite} == {row.algorithm_id for row in Algorithm}


@pytest.mark.spec(
    "framework/algorithm-suites.md#overview", "framework/algorithm-suites.md#encryption-algorithm-mode"
)
@each_suite
def test_rows_are_those_of_the_official_sdk(suite: AlgorithmSuite) -> None:
    official = Algorithm.get_by_id(suite.value)
    assert suite.id_bytes == official.id_as_bytes()
    assert suite.version == official.message_format_version
    assert suite.data_key_length == official.data_key_len == official.kdf_input_len
    assert suite.message_id_length == official.message_id_length()
    assert suite.suite_data_length == official.algorithm_suite_data_length()
    assert suite.committing is official.is_committing()
    assert suite.signed is official.is_signing()
    assert (official.iv_len, official.tag_len) == (IV_LENGTH, TAG_LENGTH)
    # The official table keeps a hash for the identity KDF too, where it means nothing.
    assert (suite.kdf_hash is None) is not official.safe_to_cache()
    if suite.kdf_hash:
        assert suite.kdf_hash == official.kdf_hash_type.name


@each_suite
def test_signatures_are_those_of_the_official_sdk(suite: AlgorithmSuite) -> None:
    official = Algorithm.get_by_id(suite.value)
    if suite.signature is None:
        assert suite.footer_length == 0
        return
    assert suite.signature.curve == official.signing_algorithm_info.name
    assert suite.signature.hash_name == official.signing_hash_type.name
    assert suite.signature.signature_length == official.signature_len
    assert suite.footer_length == 2 + official.signature_len


@pytest.mark.parametrize("algorithm", SignatureAlgorithm)
def test_lengths_follow_from_the_curve(algorithm: SignatureAlgorithm) -> None:
    curve = CURVES[algorithm]()
    assert curve.name == algorithm.curve
    longest = 2**curve.key_size - 1
    assert algorithm.max_signature_length == len(encode_dss_signature(longest, longest))
    assert algorithm.signature_length == algorithm.max_signature_length - 1
    assert algorithm.public_key_length == 1 + curve.key_size // 8


@pytest.mark.spec(
    "framework/commitment-policy.md#esdkrequire_encrypt_allow_decrypt",
    "framework/commitment-policy.md#esdkrequire_encrypt_require_decrypt",
)
def test_default_suites() -> None:
    assert FORBID.default_suite.value == 0x0378
    assert ALLOW.default_suite.value == 0x0578
    assert REQUIRE.default_suite.value == 0x0578


@pytest.mark.spec(
    "framework/commitment-policy.md#supported-format-commitment-policy-enum",
    "framework/commitment-policy.md#supported-commitment-policy-enum",
    "framework/commitment-policy.md#esdkforbid_encrypt_allow_decrypt",
    "framework/commitment-policy.md#esdkrequire_encrypt_allow_decrypt",
    "framework/commitment-policy.md#esdkrequire_encrypt_require_decrypt",
)
@each_suite
def test_policies(suite: AlgorithmSuite) -> None:
    """framework/commitment-policy.md: committing suites are 0x0478 and 0x0578."""
    committing = suite.value in (0x0478, 0x0578)
    assert FORBID.allows_encrypt(suite) is not committing
    assert ALLOW.allows_encrypt(suite) is committing
    assert REQUIRE.allows_encrypt(suite) is committing
    assert FORBID.allows_decrypt(suite)
    assert ALLOW.allows_decrypt(suite)
    assert REQUIRE.allows_decrypt(suite) is committing


@pytest.mark.parametrize("policy", CommitmentPolicy)
def test_a_default_suite_may_be_written_and_read(policy: CommitmentPolicy) -> None:
    assert policy.allows_encrypt(policy.default_suite)
    assert policy.allows_decrypt(policy.default_suite)
