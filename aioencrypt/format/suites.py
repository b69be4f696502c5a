"""The table of algorithm suites, and the commitment policies.

Specification: framework/algorithm-suites.md, framework/commitment-policy.md.
"""

from __future__ import annotations

import enum

import attrs

IV_LENGTH = 12
TAG_LENGTH = 16


class SignatureAlgorithm(enum.Enum):
    """ECDSA over a curve with a hash.

    `signature_length` is the length of the DER signature that this library writes, in bytes;
    `max_signature_length` that of the longest DER signature on the curve; `public_key_length` that
    of a compressed point.
    """

    ECDSA_P256 = ("secp256r1", "sha256", 71, 72, 33)
    ECDSA_P384 = ("secp384r1", "sha384", 103, 104, 49)

    def __init__(
        self,
        curve: str,
        hash_name: str,
        signature_length: int,
        max_signature_length: int,
        public_key_length: int,
    ) -> None:
        self.curve: str = curve
        self.hash_name: str = hash_name
        self.signature_length: int = signature_length
        self.max_signature_length: int = max_signature_length
        self.public_key_length: int = public_key_length


@attrs.frozen
class _Row:
    """The properties of a suite. `kdf_hash` None means the identity KDF."""

    version: int
    data_key_length: int
    kdf_hash: str | None = None
    signature: SignatureAlgorithm | None = None
    committing: bool = False


_P256 = SignatureAlgorithm.ECDSA_P256
_P384 = SignatureAlgorithm.ECDSA_P384

_ROWS = {
    0x0014: _Row(1, 16),
    0x0046: _Row(1, 24),
    0x0078: _Row(1, 32),
    0x0114: _Row(1, 16, "sha256"),
    0x0146: _Row(1, 24, "sha256"),
    0x0178: _Row(1, 32, "sha256"),
    0x0214: _Row(1, 16, "sha256", _P256),
    0x0346: _Row(1, 24, "sha384", _P384),
    0x0378: _Row(1, 32, "sha384", _P384),
    0x0478: _Row(2, 32, "sha512", committing=True),
    0x0578: _Row(2, 32, "sha512", _P384, committing=True),
}


class AlgorithmSuite(enum.Enum):
    """An algorithm suite; its value is the id in the message header.

    Lengths are in bytes. `data_key_length` is the length both of the data key and of the AES key derived
    from it.
    """

    ALG_AES_128_GCM_IV12_TAG16_NO_KDF = 0x0014
    ALG_AES_192_GCM_IV12_TAG16_NO_KDF = 0x0046
    ALG_AES_256_GCM_IV12_TAG16_NO_KDF = 0x0078
    ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256 = 0x0114
    ALG_AES_192_GCM_IV12_TAG16_HKDF_SHA256 = 0x0146
    ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256 = 0x0178
    ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256 = 0x0214
    ALG_AES_192_GCM_IV12_TAG16_HKDF_SHA384_ECDSA_P384 = 0x0346
    ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA384_ECDSA_P384 = 0x0378
    ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY = 0x0478
    ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384 = 0x0578

    def __init__(self, suite_id: int) -> None:
        row = _ROWS[suite_id]
        self.id_bytes: bytes = suite_id.to_bytes(2, "big")
        self.version: int = row.version
        self.data_key_length: int = row.data_key_length
        self.kdf_hash: str | None = row.kdf_hash
        self.signature: SignatureAlgorithm | None = row.signature
        self.committing: bool = row.committing
        self.message_id_length: int = 16 if row.version == 1 else 32
        self.suite_data_length: int = 32 if row.committing else 0

    @property
    def signed(self) -> bool:
        """Whether messages end with a signature."""
        return self.signature is not None

    @property
    def footer_length(self) -> int:
        """The length of the footer that this library writes: 0 without a signature."""
        return 2 + self.signature.signature_length if self.signature else 0


SUITES = {suite.value: suite for suite in AlgorithmSuite}
"""The suites by their ids."""


class CommitmentPolicy(enum.Enum):
    """Which suites may encrypt and decrypt, with regard to key commitment.

    Specification: framework/commitment-policy.md#supported-commitment-policy-enum.
    """

    FORBID_ENCRYPT_ALLOW_DECRYPT = "forbid-encrypt-allow-decrypt"
    REQUIRE_ENCRYPT_ALLOW_DECRYPT = "require-encrypt-allow-decrypt"
    REQUIRE_ENCRYPT_REQUIRE_DECRYPT = "require-encrypt-require-decrypt"

    @property
    def default_suite(self) -> AlgorithmSuite:
        """The suite for encrypting if the caller names none."""
        if self is CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT:
            return AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA384_ECDSA_P384
        return AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384

    def allows_encrypt(self, suite: AlgorithmSuite) -> bool:
        """Tell whether the policy allows encrypting with this suite."""
        return suite.committing is not (self is CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)

    def allows_decrypt(self, suite: AlgorithmSuite) -> bool:
        """Tell whether the policy allows decrypting this suite."""
        return suite.committing or self is not CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
