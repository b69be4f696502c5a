"""ECDH key agreement for raw and KMS keys: public keys, key derivation and wrapping.

Specification: framework/key-agreement-schemas.md, framework/raw-ecdh-keyring.md#structure.
"""

from __future__ import annotations

import hmac
import os

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt.errors import ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.providers.raw.loading import load_private, load_public
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.secrets import hides_locals

RAW_ECDH_PROVIDER_ID = "raw-ecdh"
KMS_ECDH_PROVIDER_ID = "aws-kms-ecdh"
_PROVIDER_IDS = (RAW_ECDH_PROVIDER_ID, KMS_ECDH_PROVIDER_ID)

_VERSION = b"\x01"
_SALT_LENGTH = 32
_COMMITMENT_LENGTH = 32
_WRAPPING_KEY_LENGTH = 32
# A zero IV is safe: each wrapping key comes from a random salt and is used once.
_IV = bytes(IV_LENGTH)


@attrs.frozen
class Curve:
    """An elliptic curve: its names here and in KMS, its lengths in bytes, and the cost of one agreement.

    `cost` is in microseconds and includes generating a key pair or decoding a public key.
    """

    name: str
    kms_name: str
    group: ec.EllipticCurve = attrs.field(eq=False, repr=False)
    secret_length: int
    cost: float

    @property
    def point_length(self) -> int:
        """The length of a compressed public key."""
        return 1 + self.secret_length


_CURVES = (
    Curve("p256", "ECC_NIST_P256", ec.SECP256R1(), 32, cost=60),
    Curve("p384", "ECC_NIST_P384", ec.SECP384R1(), 48, cost=350),
    Curve("p521", "ECC_NIST_P521", ec.SECP521R1(), 66, cost=300),
)


@attrs.frozen
class PublicKey:
    """A public key on a supported curve. `point` is the compressed point, as messages store it."""

    curve: Curve
    point: bytes
    key: ec.EllipticCurvePublicKey = attrs.field(eq=False, repr=False)

    @property
    def der(self) -> bytes:
        """The key in DER (SubjectPublicKeyInfo), the format of KMS."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def check_curve_of(self, other: PublicKey, *, names: str) -> None:
        """Raise `ValueError` if the two keys, called `names` in the error, are on different curves."""
        if self.curve != other.curve:
            raise ValueError(
                f"{names} are on different curves, {self.curve.name} and {other.curve.name}; "
                "both parties need keys of one curve"
            )


def public_key_of(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey, what: str) -> PublicKey:
    """Return the public key of a loaded key; raises `ValueError` if its curve is not supported."""
    public = key if isinstance(key, ec.EllipticCurvePublicKey) else key.public_key()
    for curve in _CURVES:
        if public.curve.name == curve.group.name:
            return PublicKey(curve, public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint), public)
    raise ValueError(
        f"{what} is on the curve {public.curve.name}; key agreement supports P-256, P-384 and P-521"
    )


def load_public_key(key: ec.EllipticCurvePublicKey | bytes, what: str) -> PublicKey:
    """Load a public key from DER, PEM or a key object; `what` names the argument.

    Loading checks that the point is on the curve and not at infinity. Raises `ValueError`, and `TypeError`
    if it is not an EC public key.
    """
    loaded = load_public(what, key, ec.EllipticCurvePublicKey, "an EC")  # type: ignore[type-abstract]
    return public_key_of(loaded, what)


@hides_locals
def load_private_key(key: ec.EllipticCurvePrivateKey | bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Load a private key from PEM or a key object; raises `ValueError` and `TypeError`."""
    return load_private(what, key, ec.EllipticCurvePrivateKey, "an EC")  # type: ignore[type-abstract]


@attrs.frozen
class Parties:
    """The public keys in an encrypted data key, as unchecked compressed points."""

    curve: Curve
    sender: bytes
    recipient: bytes

    @property
    def provider_info(self) -> bytes:
        """The provider info of an encrypted data key."""
        length = self.curve.point_length.to_bytes(4, "big")
        return _VERSION + length + self.recipient + length + self.sender

    def sender_public_key(self) -> PublicKey:
        """Return the sender's public key; raises `ProviderError` if the point is not on the curve."""
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(self.curve.group, self.sender)
        except ValueError as error:
            raise ProviderError(
                f"the sender's public key in the message is not a point on {self.curve.name}"
            ) from error
        return PublicKey(self.curve, self.sender, key)


def parties_of(encrypted_data_key: EncryptedDataKey) -> Parties | None:
    """Parse the provider info of an encrypted data key; return None if no ECDH key wrote it."""
    if encrypted_data_key.provider_id not in _PROVIDER_IDS:
        return None
    info = encrypted_data_key.provider_info
    for curve in _CURVES:
        end = 5 + curve.point_length
        parties = Parties(curve, sender=info[end + 4 :], recipient=info[5:end])
        # Serializing again and comparing checks the version and both lengths.
        if len(info) == end + 4 + curve.point_length and parties.provider_info == info:
            return parties
    return None


def _fixed_info(parties: Parties, request: DataKeyRequest) -> bytes:
    # The specification has the first field in upper case; every implementation uses lower case.
    return b"\0".join(
        (
            b"ecdh-key-derivation",
            parties.curve.name.encode(),
            b"HMAC_SHA384",
            parties.sender + parties.recipient,
            _VERSION,
            request.serialized_context,
        )
    )


@hides_locals
def _derive(secret: bytes, fixed_info: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Return the commitment key and the wrapping key."""
    derived = KBKDFHMAC(
        algorithm=hashes.SHA384(),
        mode=Mode.CounterMode,
        length=_COMMITMENT_LENGTH + _WRAPPING_KEY_LENGTH,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=fixed_info,
        context=salt,
        fixed=None,
    ).derive(secret)
    return derived[:_COMMITMENT_LENGTH], derived[_COMMITMENT_LENGTH:]


@hides_locals
def wrap(
    secret: bytes, parties: Parties, *, data_key: DataKey, request: DataKeyRequest, provider_id: str
) -> EncryptedDataKey:
    """Encrypt a data key under the shared secret of sender and recipient."""
    fixed_info = _fixed_info(parties, request)
    salt = os.urandom(_SALT_LENGTH)
    commitment, wrapping_key = _derive(secret, fixed_info, salt)
    sealed = AESGCM(wrapping_key).encrypt(_IV, data_key.plaintext, fixed_info)
    return EncryptedDataKey(provider_id, parties.provider_info, salt + commitment + sealed)


def check_ciphertext(encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> None:
    """Check the length of a ciphertext against the suite; raises `ProviderError`."""
    length = len(encrypted_data_key.ciphertext)
    expected = _SALT_LENGTH + _COMMITMENT_LENGTH + request.algorithm_suite.data_key_length + TAG_LENGTH
    if length != expected:
        raise ProviderError(
            f"the encrypted data key has a ciphertext of {length} bytes; the suite needs {expected}"
        )


@hides_locals
def unwrap(
    secret: bytes, parties: Parties, *, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest
) -> DataKey:
    """Decrypt a data key; raises `ProviderError`."""
    check_ciphertext(encrypted_data_key, request)
    ciphertext = encrypted_data_key.ciphertext
    start = _SALT_LENGTH + _COMMITMENT_LENGTH
    fixed_info = _fixed_info(parties, request)
    commitment, wrapping_key = _derive(secret, fixed_info, ciphertext[:_SALT_LENGTH])
    if not hmac.compare_digest(commitment, ciphertext[_SALT_LENGTH:start]):
        raise ProviderError(
            "the commitment key does not match: another private key or encryption context, "
            "or a changed encrypted data key"
        )
    try:
        return DataKey(AESGCM(wrapping_key).decrypt(_IV, ciphertext[start:], fixed_info))
    except InvalidTag as error:
        raise ProviderError("the encrypted data key fails authentication: it was changed") from error
