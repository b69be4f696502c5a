"""Keys in another form than the argument takes: the error names the argument and says what to do."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from aioencrypt import KMSECDHMasterKey, KMSRSAMasterKey, RawECDHMasterKey, RawRSAMasterKey, RSAPadding
from tests.support.rows import each_row

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
PRIVATE: dict[type, Any] = {rsa.RSAPrivateKey: RSA, ec.EllipticCurvePrivateKey: EC}
ARN = "arn:aws:kms:us-east-1:123456789012:key/0e7b7a4e-4f27-4c5a-9f5b-2f0f6d3a1c11"
PADDING = RSAPadding.OAEP_SHA256

Call = Callable[[Any], object]
TAKES_PRIVATE: list[tuple[str, Any, Call]] = [
    ("private_key", RSA, lambda key: RawRSAMasterKey("a", "b", padding=PADDING, private_key=key)),
    ("private_key", EC, lambda key: RawECDHMasterKey.discovery(private_key=key)),
    (
        "private_key",
        EC,
        lambda key: RawECDHMasterKey.static(private_key=key, recipient_public_key=EC.public_key()),
    ),
]
TAKES_PUBLIC: list[tuple[str, Any, Call]] = [
    ("public_key", RSA, lambda key: RawRSAMasterKey("a", "b", padding=PADDING, public_key=key)),
    ("recipient_public_key", EC, lambda key: RawECDHMasterKey.ephemeral(recipient_public_key=key)),
    (
        "recipient_public_key",
        EC,
        lambda key: RawECDHMasterKey.static(private_key=EC, recipient_public_key=key),
    ),
    (
        "public_key",
        RSA,
        lambda key: KMSRSAMasterKey(ARN, encryption_algorithm="RSAES_OAEP_SHA_256", public_key=key),  # type: ignore[arg-type]
    ),
    (
        "recipient_public_key",
        EC,
        lambda key: KMSECDHMasterKey.static(ARN, key),
    ),
]


def private(key: Any, encoding: Encoding, form: PrivateFormat, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    made: bytes = key.private_bytes(encoding, form, encryption)
    return made


def public(key: Any, encoding: Encoding, form: PublicFormat) -> bytes:
    made: bytes = key.public_key().public_bytes(encoding, form)
    return made


def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pkcs12(key: Any) -> bytes:
    return serialize_key_and_certificates(None, key, None, None, NoEncryption())


def other(key: Any) -> Any:
    return EC if key is RSA else RSA


INFO = PublicFormat.SubjectPublicKeyInfo
FOR_PRIVATE: dict[str, tuple[Callable[[Any], object], str]] = {
    "PKCS8 DER": (lambda key: private(key, Encoding.DER, PrivateFormat.PKCS8), "DER: give PEM, or load it"),
    "traditional DER": (
        lambda key: private(key, Encoding.DER, PrivateFormat.TraditionalOpenSSL),
        "DER: give PEM, or load it with cryptography's load_der_private_key",
    ),
    "encrypted DER": (
        lambda key: private(key, Encoding.DER, PrivateFormat.PKCS8, b"secret"),
        "DER: give PEM, or load it",
    ),
    "OpenSSH": (
        lambda key: private(key, Encoding.PEM, PrivateFormat.OpenSSH),
        "in OpenSSH format: load it with cryptography's load_ssh_private_key",
    ),
    "encrypted": (
        lambda key: private(key, Encoding.PEM, PrivateFormat.PKCS8, b"secret"),
        "encrypted PEM: load it with cryptography's load_pem_private_key and a password",
    ),
    "public PEM": (lambda key: public(key, Encoding.PEM, INFO), "a public key: give the private key"),
    "public DER": (lambda key: public(key, Encoding.DER, INFO), "a public key: give the private key"),
    "public OpenSSH": (
        lambda key: public(key, Encoding.OpenSSH, PublicFormat.OpenSSH),
        "a public key: give the private key",
    ),
    "certificate": (certificate, "a certificate, which has no private key"),
    "public object": (
        lambda key: key.public_key(),
        r"not an .* private key: give PEM .* not \w+Public",
    ),
    "text": (
        lambda key: private(key, Encoding.PEM, PrivateFormat.PKCS8).decode(),
        "not an .* private key: give PEM bytes",
    ),
    "other kind": (
        lambda key: private(other(key), Encoding.PEM, PrivateFormat.PKCS8),
        "not an .* private key: give PEM bytes",
    ),
    "JWK": (lambda key: b"{}", "not a valid private key in PEM: it has no BEGIN line; decode .* JWK first"),
    "PKCS #12": (pkcs12, "DER: give PEM, or load it with .* or load_pkcs12 and give"),
    "None of these": (lambda key: b"secret", "not a valid private key in PEM"),
}
FOR_PUBLIC: dict[str, tuple[Callable[[Any], object], str]] = {
    "private PEM": (
        lambda key: private(key, Encoding.PEM, PrivateFormat.PKCS8),
        "a private key: give the public key here",
    ),
    "traditional PEM": (
        lambda key: private(key, Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
        "a private key: give the public key here",
    ),
    "private DER": (lambda key: private(key, Encoding.DER, PrivateFormat.PKCS8), "a private key: give"),
    "private OpenSSH": (lambda key: private(key, Encoding.PEM, PrivateFormat.OpenSSH), "a private key: give"),
    "OpenSSH": (
        lambda key: public(key, Encoding.OpenSSH, PublicFormat.OpenSSH),
        "in OpenSSH format: load it with cryptography's load_ssh_public_key",
    ),
    "certificate": (certificate, r"a certificate: load it with .* give its public_key\(\)$"),
    "private object": (lambda key: key, "not an .* public key"),
    "other kind": (lambda key: public(other(key), Encoding.PEM, INFO), "not an .* public key"),
    "None of these": (lambda key: b"secret", "not a valid public key in PEM or DER"),
}


@each_row("form", FOR_PRIVATE)
@pytest.mark.parametrize(("name", "key", "call"), TAKES_PRIVATE)
def test_private_keys(name: str, key: Any, call: Call, form: str) -> None:
    make, text = FOR_PRIVATE[form]
    with pytest.raises((TypeError, ValueError), match=f"^{name} is {text}") as caught:
        call(make(key))
    assert "secret" not in str(caught.value)


@each_row("form", FOR_PUBLIC)
@pytest.mark.parametrize(("name", "key", "call"), TAKES_PUBLIC)
def test_public_keys(name: str, key: Any, call: Call, form: str) -> None:
    make, text = FOR_PUBLIC[form]
    with pytest.raises((TypeError, ValueError), match=f"^{name} is ({text})") as caught:
        call(make(key))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("form", ["object", "bytes"])
def test_halves_of_two_keys(form: str) -> None:
    """What one half encrypts, the other could not decrypt: found out years later."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    half: Any = stranger.public_key() if form == "object" else public(stranger, Encoding.DER, INFO)
    with pytest.raises(ValueError, match=r"^public_key does not belong to private_key: give both halves"):
        RawRSAMasterKey("a", "b", padding=PADDING, public_key=half, private_key=RSA)
    own: Any = RSA.public_key() if form == "object" else public(RSA, Encoding.DER, INFO)
    RawRSAMasterKey("a", "b", padding=PADDING, public_key=own, private_key=RSA)
