"""Public and private keys of key agreement: their forms, their curves, and what is none of them.

Specification: framework/raw-ecdh-keyring.md#ecc-keys, framework/key-agreement-schemas.md.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aioencrypt.providers.key_agreement import load_private_key, load_public_key, public_key_of
from tests.support.ecdh import CURVES, ec_key, point, private_pem, public_der, public_pem
from tests.support.rsa_keys import rsa_key

each_curve = pytest.mark.parametrize("curve", CURVES)


@pytest.mark.spec(
    "framework/raw-ecdh-keyring.md#ecc-keys",
    "framework/raw-ecdh-keyring.md#supported-curve-specifications",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#ecc-keys",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#supported-curve-specifications",
)
@each_curve
def test_public_keys_of_each_form(curve: str) -> None:
    key = ec_key("first", curve)
    for form in (public_der(key), public_pem(key), b"\n" + public_pem(key), key.public_key()):
        loaded = load_public_key(form, "public_key")
        assert (loaded.curve.name, loaded.point, loaded.der) == (curve, point(key), public_der(key))
        assert point(key).hex() not in repr(loaded.key)


@each_curve
def test_private_keys_of_each_form(curve: str) -> None:
    key = ec_key("first", curve)
    for form in (private_pem(key), private_pem(key, form=PrivateFormat.TraditionalOpenSSL), key):
        loaded = load_private_key(form, "private_key")
        assert loaded.private_numbers() == key.private_numbers()
        assert public_key_of(loaded, "private_key").point == point(key)


def test_keys_are_told_apart_by_their_points() -> None:
    first, second = (load_public_key(public_der(ec_key(name)), "x") for name in ("first", "second"))
    assert first == load_public_key(public_pem(ec_key("first")), "x")
    assert first != second


OFF_THE_CURVE = bytearray(public_der(ec_key("first")))
OFF_THE_CURVE[-1] ^= 1
AT_INFINITY = bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d03010703020000")
SM2 = (
    bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200") + public_der(ec_key("first"))[-65:]
)


@pytest.mark.spec("framework/raw-ecdh-keyring.md#initialization")
@pytest.mark.parametrize(
    ("key", "text"),
    [
        (bytes(OFF_THE_CURVE), "is not a valid public key in PEM or DER: "),
        (AT_INFINITY, "is not a valid public key in PEM or DER: .*infinity"),
        (SM2, "is not a valid public key in PEM or DER: .*1.2.156.10197.1.301"),
        (b"", "is not a valid public key in PEM or DER: "),
        (b"-----BEGIN PUBLIC KEY-----", "is not a valid public key in PEM or DER: "),
        (public_der(ec_key("first"))[:-1], "is not a valid public key in PEM or DER: "),
        (public_der(ec_key("first")) + b"\0", "is not a valid public key in PEM or DER: "),
        (point(ec_key("first")), "is not a valid public key in PEM or DER: "),
    ],
    ids=["off", "infinity", "SM2", "empty", "PEM cut", "DER cut", "DER longer", "point"],
)
def test_bytes_that_are_no_public_key(key: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^recipient_public_key {text}") as caught:
        load_public_key(key, "recipient_public_key")
    assert caught.value.__cause__ is not None


@pytest.mark.spec(
    "framework/raw-ecdh-keyring.md#supported-curve-specifications",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#supported-curve-specifications",
    "framework/raw-ecdh-keyring.md#curve-specification",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#curve-specification",
)
@pytest.mark.parametrize(
    "curve", [ec.SECP256K1(), ec.SECP224R1(), ec.BrainpoolP256R1()], ids=lambda curve: curve.name
)
def test_other_curves(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    expected = f"^my_key is on the curve {curve.name}; key agreement supports P-256, P-384 and P-521$"
    for form in (key.public_key(), public_der(key), public_pem(key)):
        with pytest.raises(ValueError, match=expected):
            load_public_key(form, "my_key")
    with pytest.raises(ValueError, match=expected):
        public_key_of(key, "my_key")


RSA = rsa_key()
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    "key",
    [
        RSA.public_key(),
        RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ED.public_key(),
        ED.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ec_key("first"),
        public_pem(ec_key("first")).decode(),
        None,
        7,
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_no_ec_public_key(key: object) -> None:
    with pytest.raises(TypeError, match=r"^my_key is not an EC public key: give PEM or DER bytes "):
        load_public_key(key, "my_key")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        RSA,
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ED,
        ec_key("first").public_key(),
        private_pem(ec_key("first")).decode(),
        None,
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_no_ec_private_key(key: object) -> None:
    with pytest.raises(TypeError, match=r"^my_key is not an EC private key: give PEM bytes "):
        load_private_key(key, "my_key")  # type: ignore[arg-type]


@pytest.mark.spec(
    "framework/key-agreement-schemas.md#publickeydiscovery",
    "framework/key-agreement-schemas.md#rawprivatekeytostaticpublickey",
)
@pytest.mark.parametrize(
    "key",
    [
        b"",
        private_pem(ec_key("first"))[:-30],
    ],
    ids=["empty", "cut"],
)
def test_bytes_that_are_no_private_key_in_pem(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"^my_key is not a valid private key in PEM: ") as caught:
        load_private_key(key, "my_key")
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_encrypted_private_key() -> None:
    encrypted = private_pem(ec_key("first"), BestAvailableEncryption(b"a password"))
    with pytest.raises(ValueError, match=r"^my_key is encrypted PEM: load it with ") as caught:
        load_private_key(encrypted, "my_key")
    assert isinstance(caught.value.__cause__, TypeError)


@each_curve
def test_keys_of_two_curves(curve: str) -> None:
    ours = load_public_key(ec_key("first", curve).public_key(), "x")
    for other in CURVES:
        theirs = load_public_key(ec_key("second", other).public_key(), "x")
        if other == curve:
            ours.check_curve_of(theirs, names="a and b")
        else:
            with pytest.raises(ValueError, match=rf"^a and b are on different curves, {curve} and {other}; "):
                ours.check_curve_of(theirs, names="a and b")
