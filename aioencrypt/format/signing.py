"""The signature of a message: running digest, static-length ECDSA, strict DER, and compressed points.

Specification: framework/transitive-requirements.md#ecdsa, data-format/message-footer.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt.errors import ProviderError, SignatureError
from aioencrypt.format.suites import SignatureAlgorithm

Signer = Callable[[bytes], bytes]
"""Signs a digest and returns the signature as DER. Called again when the length does not fit."""

_ORDERS = {
    SignatureAlgorithm.ECDSA_P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    SignatureAlgorithm.ECDSA_P384: int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
        16,
    ),
}


# About one random signature in a hundred has another length, so this many in a row never happen by chance.
_MAX_SIGNATURES = 100


class RunningDigest:
    """The running digest of the signed bytes: header and body as they appear in the message.

    It uses `hashlib`, which releases the GIL for large inputs in every supported version.
    """

    def __init__(self, algorithm: SignatureAlgorithm) -> None:
        self._hash = hashlib.new(algorithm.hash_name)

    def update(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Add the next pieces of the message, in order."""
        for piece in pieces:
            self._hash.update(piece)

    def finish(self) -> bytes:
        """Return the digest of everything so far."""
        return self._hash.digest()


@lru_cache
def _curve(algorithm: SignatureAlgorithm) -> ec.EllipticCurve:
    return {"secp256r1": ec.SECP256R1, "secp384r1": ec.SECP384R1}[algorithm.curve]()


@lru_cache
def _prehashed(algorithm: SignatureAlgorithm) -> ec.ECDSA:
    hash_algorithm = {"sha256": hashes.SHA256, "sha384": hashes.SHA384}[algorithm.hash_name]
    return ec.ECDSA(Prehashed(hash_algorithm()))


def generate_signing_key(algorithm: SignatureAlgorithm) -> ec.EllipticCurvePrivateKey:
    """Return a new key pair for one message."""
    return ec.generate_private_key(_curve(algorithm))


def compressed_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public key as a compressed point (SEC 1, 2.3.3)."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


class KeySigner:
    """Signs with a private key in memory."""

    def __init__(self, algorithm: SignatureAlgorithm, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._scheme = _prehashed(algorithm)

    def __call__(self, digest: bytes) -> bytes:
        return self._key.sign(digest, self._scheme)


def sign_static_length(algorithm: SignatureAlgorithm, sign: Signer, digest: bytes) -> bytes:
    """Sign a digest so that the DER signature has a fixed length, which makes message lengths predictable.

    s and order - s are both valid, and their encodings usually differ in length. About once in a hundred
    times neither fits, and the digest is signed again. Raises `ProviderError` for a signer on another
    curve, a signer that repeats itself, and after `_MAX_SIGNATURES` attempts.
    """
    order = _ORDERS[algorithm]
    refused: set[bytes] = set()
    while len(refused) < _MAX_SIGNATURES:
        signature = bytes(sign(digest))
        if len(signature) == algorithm.signature_length:
            return signature
        if signature in refused:
            break
        refused.add(signature)
        r, s = _numbers(algorithm, signature)
        signature = encode_dss_signature(r, order - s)
        if len(signature) == algorithm.signature_length:
            return signature
    raise ProviderError(
        f"{len(refused)} different signatures of the signer do not have the {algorithm.signature_length} "
        "bytes that make the message length predictable; sign with a random nonce, not a deterministic one "
        "(RFC 6979), so that another attempt gives another length"
    )


def _numbers(algorithm: SignatureAlgorithm, signature: bytes) -> tuple[int, int]:
    """Return the integers of a signature; raises `ProviderError` if they cannot be on this curve."""
    try:
        r, s = decode_dss_signature(signature)
    except ValueError as error:
        raise ProviderError("the signer returned bytes that are not a DER signature") from error
    order = _ORDERS[algorithm]
    # The probability that both are shorter than this is 2**-128.
    short = max(r, s).bit_length() <= order.bit_length() - 64
    if short or not (0 < r < order and 0 < s < order):
        raise ProviderError(f"the signer does not sign on {algorithm.curve}: give it a key on that curve")
    return r, s


def verify(algorithm: SignatureAlgorithm, point: bytes, signature: bytes, digest: bytes) -> None:
    """Verify a signature with a public key given as a compressed point; raises `SignatureError`.

    The signature must be the canonical DER encoding of its integers, because lenient parsers have accepted
    invalid signatures (CVE-2024-23680).
    """
    if len(point) != algorithm.public_key_length:
        raise SignatureError(
            f"the verification key has {len(point)} bytes; a compressed {algorithm.curve} point has "
            f"{algorithm.public_key_length}"
        )
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_curve(algorithm), point)
        if encode_dss_signature(*decode_dss_signature(signature)) != signature:
            raise SignatureError("the signature in the footer is not valid DER")
        key.verify(signature, digest, _prehashed(algorithm))
    except ValueError as error:
        raise SignatureError(
            "the signature in the footer or the verification key cannot be parsed"
        ) from error
    except InvalidSignature as error:
        raise SignatureError(
            "the signature does not match: the message was changed, or not signed by its writer"
        ) from error
