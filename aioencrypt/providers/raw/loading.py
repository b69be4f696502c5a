"""Load the private and public keys that callers pass: key objects, PEM, and DER for public keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.secrets import hides_locals

K = TypeVar("K")

_LOAD_IT = "load it with cryptography's {} and give the key object"


@hides_locals
def load_public(name: str, given: object, kind: type[K], what: str) -> K:
    """Return a public key of the class `kind`. Errors call it `what` and the argument `name`.

    Raises `ValueError` for bytes that cannot be loaded, and `TypeError` for other types.
    """
    loaded = given
    if isinstance(given, bytes):
        _refuse(name, _mistaken_public(given))
        # KMS returns public keys in DER.
        load = load_pem_public_key if _is_pem(given) else load_der_public_key
        try:
            loaded = load(given)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{name} is not a valid public key in PEM or DER: {error}") from error
    if not isinstance(loaded, kind):
        raise TypeError(
            f"{name} is not {what} public key: give PEM or DER bytes (SubjectPublicKeyInfo) "
            f"or an {kind.__name__}, not {describe_type(loaded)}"
        )
    return loaded


@hides_locals
def load_private(name: str, given: object, kind: type[K], what: str) -> K:
    """Return a private key; otherwise like `load_public`."""
    loaded = given
    if isinstance(given, bytes):
        _refuse(name, _mistaken_private(given))
        try:
            loaded = load_pem_private_key(given, password=None)
        except TypeError as error:
            how = "load_pem_private_key and a password,"
            raise ValueError(f"{name} is encrypted PEM: {_LOAD_IT.format(how)}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{name} is not a valid private key in PEM: {error}") from error
    if not isinstance(loaded, kind):
        raise TypeError(
            f"{name} is not {what} private key: give PEM bytes (PKCS #8) or an {kind.__name__}, "
            f"not {describe_type(loaded)}"
        )
    return loaded


def _refuse(name: str, mistake: str | None) -> None:
    if mistake:
        raise ValueError(f"{name} is {mistake}")


def _is_pem(given: bytes) -> bool:
    return given.lstrip().startswith(b"-----")


def _label(given: bytes) -> bytes:
    """Return the first line of PEM data, or the first word of an OpenSSH public key."""
    return given.lstrip()[:80].partition(b"\n" if _is_pem(given) else b" ")[0]


def _is_ssh_public(given: bytes) -> bool:
    return _label(given).startswith((b"ssh-", b"ecdsa-sha2-", b"---- BEGIN SSH2"))


def _mistaken_public(given: bytes) -> str | None:
    """Recognise other data passed as a public key; return what it is and what to do."""
    label = _label(given)
    if b"PRIVATE KEY" in label or (not _is_pem(given) and _loads(load_der_private_key, given, None)):
        return "a private key: give the public key here"
    if _is_ssh_public(given):
        return f"in OpenSSH format: {_LOAD_IT.format('load_ssh_public_key')}"
    if b"CERTIFICATE" in label:
        return (
            "a certificate: load it with cryptography's load_pem_x509_certificate and give its public_key()"
        )
    return None


def _mistaken_private(given: bytes) -> str | None:
    """Recognise other data passed as a private key; return what it is and what to do."""
    label = _label(given)
    if b"PUBLIC KEY" in label or _is_ssh_public(given) or _loads(load_der_public_key, given):
        return "a public key: give the private key here"
    if b"OPENSSH PRIVATE KEY" in label:
        return f"in OpenSSH format: {_LOAD_IT.format('load_ssh_private_key')}"
    if b"CERTIFICATE" in label:
        return "a certificate, which has no private key: give PEM of the private key"
    if given[:1] == b"\x30":
        return f"DER: give PEM, or {_LOAD_IT.format('load_der_private_key or load_pkcs12')}"
    if given and b"-----BEGIN" not in given:
        return "not a valid private key in PEM: it has no BEGIN line; decode base64, hexadecimal or JWK first"
    return None


def _loads(load: Callable[..., object], given: bytes, *arguments: object) -> bool:
    if given[:1] != b"\x30":
        return False
    try:
        load(given, *arguments)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True
