"""Signatures of one length, strict DER, compressed points."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt.errors import ProviderError, SignatureError
from aioencrypt.format import SignatureAlgorithm
from aioencrypt.format.signing import (
    KeySigner,
    RunningDigest,
    compressed_point,
    generate_signing_key,
    sign_static_length,
    verify,
)
from tests.support.messages import compressed

P256, P384 = SignatureAlgorithm
HASHES: dict[SignatureAlgorithm, hashes.HashAlgorithm] = {P256: hashes.SHA256(), P384: hashes.SHA384()}
# SEC 2, 2.4.2 and 2.5.1.
ORDERS = {
    P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    P384: (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
}
TEXT = b"header and body"

each_algorithm = pytest.mark.parametrize("algorithm", SignatureAlgorithm, ids=lambda value: value.curve)


def digest_of(algorithm: SignatureAlgorithm, data: bytes = TEXT) -> bytes:
    return hashlib.new(algorithm.hash_name, data).digest()


def signature_of(algorithm: SignatureAlgorithm, key: ec.EllipticCurvePrivateKey) -> bytes:
    return sign_static_length(algorithm, KeySigner(algorithm, key), digest_of(algorithm))


def of_length(algorithm: SignatureAlgorithm, key: ec.EllipticCurvePrivateKey, length: int) -> bytes:
    """Sign until the signature has this length; a longer or shorter one comes soon."""
    while True:
        made = key.sign(TEXT, ec.ECDSA(HASHES[algorithm]))
        if len(made) == length:
            return made


@pytest.mark.spec(
    "framework/transitive-requirements.md#ecdsa",
    "framework/algorithm-suites.md#asymmetric-signature-algorithm",
)
@each_algorithm
def test_signatures_have_one_length_and_verify(algorithm: SignatureAlgorithm) -> None:
    key = generate_signing_key(algorithm)
    digest = digest_of(algorithm)
    for _ in range(200):
        signature = signature_of(algorithm, key)
        assert len(signature) == {P256: 71, P384: 103}[algorithm]
        verify(algorithm, compressed_point(key), signature, digest)
    key.public_key().verify(signature, TEXT, ec.ECDSA(HASHES[algorithm]))


@each_algorithm
def test_a_signature_that_is_too_long_is_turned_into_one_that_fits(algorithm: SignatureAlgorithm) -> None:
    """With r and s both long, order - s is short: no second signature is needed."""
    key = generate_signing_key(algorithm)
    long = of_length(algorithm, key, algorithm.max_signature_length)
    once = iter([long])
    signature = sign_static_length(algorithm, lambda _: next(once), digest_of(algorithm))
    r, s = decode_dss_signature(long)
    assert decode_dss_signature(signature) == (r, ORDERS[algorithm] - s)
    verify(algorithm, compressed_point(key), signature, digest_of(algorithm))


@each_algorithm
def test_a_signature_that_is_too_short_is_turned_into_one_that_fits(algorithm: SignatureAlgorithm) -> None:
    key = generate_signing_key(algorithm)
    short = of_length(algorithm, key, algorithm.signature_length - 1)
    fitting = of_length(algorithm, key, algorithm.signature_length)
    # A very short integer would need a second signature; the signer has one to give.
    answers = iter([short, fitting])
    signature = sign_static_length(algorithm, lambda _: next(answers), digest_of(algorithm))
    assert len(signature) == algorithm.signature_length
    verify(algorithm, compressed_point(key), signature, digest_of(algorithm))


@each_algorithm
def test_a_signer_is_asked_again_until_the_length_fits(algorithm: SignatureAlgorithm) -> None:
    fitting = signature_of(algorithm, generate_signing_key(algorithm))
    # An r that is far too short fits neither way.
    too_short = [encode_dss_signature(r, ORDERS[algorithm] // 2) for r in (1, 2**200)]
    answers = iter([*too_short, fitting])
    asked: list[bytes] = []

    def sign(digest: bytes) -> bytes:
        asked.append(digest)
        return next(answers)

    assert sign_static_length(algorithm, sign, b"digest") == fitting
    assert asked == [b"digest"] * 3


@each_algorithm
def test_a_signer_that_repeats_itself_is_told_why_that_fails(algorithm: SignatureAlgorithm) -> None:
    """As deterministic signatures do (RFC 6979), once in a hundred messages."""
    answer, asked = encode_dss_signature(1, ORDERS[algorithm] // 2), []

    def sign(digest: bytes) -> bytes:
        asked.append(digest)
        return answer

    with pytest.raises(ProviderError, match=r"not a deterministic one \(RFC 6979\)"):
        sign_static_length(algorithm, sign, b"digest")
    assert len(asked) == 2


@each_algorithm
def test_signatures_that_never_fit_end(algorithm: SignatureAlgorithm) -> None:
    numbers = itertools.count(1)
    with pytest.raises(ProviderError, match=r"^100 different signatures of the signer"):
        sign_static_length(
            algorithm, lambda _: encode_dss_signature(next(numbers), ORDERS[algorithm] // 2), b"digest"
        )


@pytest.mark.parametrize(("algorithm", "other"), [(P256, P384), (P384, P256)])
def test_a_signer_of_another_curve_is_refused_at_once(
    algorithm: SignatureAlgorithm, other: SignatureAlgorithm
) -> None:
    signer = KeySigner(other, generate_signing_key(other))
    asked: list[bytes] = []

    def sign(digest: bytes) -> bytes:
        asked.append(digest)
        return signer(digest_of(other))

    with pytest.raises(ProviderError, match=f"the signer does not sign on {algorithm.curve}"):
        sign_static_length(algorithm, sign, b"digest")
    assert len(asked) == 1


@pytest.mark.parametrize("answer", [b"", b"no DER", bytes(70)])
def test_a_signer_that_returns_something_else_is_refused(answer: bytes) -> None:
    with pytest.raises(ProviderError, match="not a DER signature"):
        sign_static_length(P384, lambda _: answer, b"digest")


@each_algorithm
def test_s_may_be_either_of_two(algorithm: SignatureAlgorithm) -> None:
    """ECDSA is malleable; static lengths rest on it."""
    key = generate_signing_key(algorithm)
    r, s = decode_dss_signature(signature_of(algorithm, key))
    other = encode_dss_signature(r, ORDERS[algorithm] - s)
    verify(algorithm, compressed_point(key), other, digest_of(algorithm))


@pytest.mark.spec(
    "framework/transitive-requirements.md#ecdsa",
    "framework/algorithm-suites.md#asymmetric-signature-algorithm",
)
@each_algorithm
def test_another_digest_key_or_signature(algorithm: SignatureAlgorithm) -> None:
    key, other = generate_signing_key(algorithm), generate_signing_key(algorithm)
    signature, digest = signature_of(algorithm, key), digest_of(algorithm)
    cases = [
        (compressed_point(key), signature, digest_of(algorithm, b"other")),
        (compressed_point(other), signature, digest),
        (compressed_point(key), signature_of(algorithm, other), digest),
    ]
    for case in cases:
        with pytest.raises(SignatureError, match="does not match") as caught:
            verify(algorithm, *case)
        assert caught.value.__cause__ is not None


def der(r: bytes, s: bytes) -> bytes:
    content = b"\x02" + bytes([len(r)]) + r + b"\x02" + bytes([len(s)]) + s
    return b"\x30" + bytes([len(content)]) + content


def other_encodings(signature: bytes) -> dict[str, bytes]:
    """Return the same two integers, encoded in ways that are not DER."""
    r, s = (value.to_bytes(value.bit_length() // 8 + 1, "big") for value in decode_dss_signature(signature))
    assert der(r, s) == signature
    content = signature[2:]
    return {
        "long-form length of the sequence": b"\x30\x81" + signature[1:],
        "longer-form length of the sequence": b"\x30\x82\x00" + signature[1:],
        "indefinite length": b"\x30\x80" + content + b"\x00\x00",
        "long-form length of an integer": b"\x30" + bytes([len(content) + 1]) + b"\x02\x81" + content[1:],
        "leading zero in r": der(b"\x00" + r, s),
        "leading zero in s": der(r, b"\x00" + s),
        "trailing byte": signature + b"\x00",
        "trailing bytes inside": b"\x30" + bytes([len(content) + 2]) + content + b"\x05\x00",
        "a third integer": b"\x30" + bytes([len(content) + 3]) + content + b"\x02\x01\x01",
        "another tag": b"\x31" + signature[1:],
    }


@each_algorithm
def test_a_signature_has_one_encoding(algorithm: SignatureAlgorithm) -> None:
    key = generate_signing_key(algorithm)
    for encoding in other_encodings(signature_of(algorithm, key)).values():
        with pytest.raises(SignatureError):
            verify(algorithm, compressed_point(key), encoding, digest_of(algorithm))


@each_algorithm
def test_numbers_that_are_no_signature(algorithm: SignatureAlgorithm) -> None:
    key = generate_signing_key(algorithm)
    r, s = decode_dss_signature(signature_of(algorithm, key))
    order = ORDERS[algorithm]
    size = algorithm.public_key_length - 1
    signatures = [
        encode_dss_signature(*pair)
        for pair in [(0, 0), (r, 0), (0, s), (order, s), (r, order), (r + order, s), (1, 1)]
    ]
    negative = der((-r).to_bytes(size + 1, "big", signed=True), s.to_bytes(size + 1, "big"))
    for signature in [*signatures, negative, b"", b"\x30", b"\x30\x00", bytes(70), b"\xff" * 70]:
        with pytest.raises(SignatureError):
            verify(algorithm, compressed_point(key), signature, digest_of(algorithm))


@pytest.mark.spec("framework/transitive-requirements.md#ecdsa")
@each_algorithm
def test_points(algorithm: SignatureAlgorithm) -> None:
    key = generate_signing_key(algorithm)
    point = compressed_point(key)
    assert point == compressed(key)
    assert len(point) == algorithm.public_key_length
    signature, digest = signature_of(algorithm, key), digest_of(algorithm)
    uncompressed = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    mirrored = bytes([point[0] ^ 1]) + point[1:]
    beyond_the_field = point[:1] + b"\xff" * (len(point) - 1)
    wrong = [b"", b"\x00", uncompressed, point[:-1], point + b"\x00", b"\x04" + point[1:], bytes(len(point))]
    for bad in [*wrong, mirrored, beyond_the_field]:
        with pytest.raises(SignatureError):
            verify(algorithm, bad, signature, digest)


@each_algorithm
def test_x_that_is_not_on_the_curve(algorithm: SignatureAlgorithm) -> None:
    """About half of all x have no y."""
    key = generate_signing_key(algorithm)
    size = algorithm.public_key_length - 1
    for x in range(20):
        with pytest.raises(SignatureError):
            verify(
                algorithm,
                b"\x02" + x.to_bytes(size, "big"),
                signature_of(algorithm, key),
                digest_of(algorithm),
            )


@each_algorithm
def test_the_length_of_a_point_is_said(algorithm: SignatureAlgorithm) -> None:
    with pytest.raises(SignatureError, match=f"has 5 bytes; .* has {algorithm.public_key_length}"):
        verify(algorithm, bytes(5), b"", b"")


@each_algorithm
def test_the_running_digest(algorithm: SignatureAlgorithm) -> None:
    running = RunningDigest(algorithm)
    running.update([TEXT[:3], memoryview(TEXT)[3:5]])
    running.update([])
    running.update([TEXT[5:]])
    assert running.finish() == digest_of(algorithm)
    assert running.finish() == digest_of(algorithm)


def test_signing_keys_are_new_each_time() -> None:
    assert compressed_point(generate_signing_key(P256)) != compressed_point(generate_signing_key(P256))
