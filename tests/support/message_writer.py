"""A small writer of messages for tests; import it from `tests.support.messages`.

It follows the specification (data-format/) on its own, with primitives of `cryptography` and
nothing of `aioencrypt.format` but its values, so that the machines are compared with something that
they did not make. It also writes what the machines never write: non-framed bodies, full final
frames, random IVs, encryption contexts in any order, frames out of order.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aioencrypt.format import AlgorithmSuite, EncryptedDataKey

DEFAULT_KEYS = (EncryptedDataKey("test", b"key", b"wrapped"),)


@attrs.frozen
class _Suite:
    """A row of framework/algorithm-suites.md. `signature_length` is the static length in bytes."""

    version: int
    key_length: int
    kdf: hashes.HashAlgorithm | None = None
    curve: ec.EllipticCurve | None = None
    signature_hash: hashes.HashAlgorithm | None = None
    signature_length: int = 0


_SUITES = {
    0x0014: _Suite(1, 16),
    0x0046: _Suite(1, 24),
    0x0078: _Suite(1, 32),
    0x0114: _Suite(1, 16, hashes.SHA256()),
    0x0146: _Suite(1, 24, hashes.SHA256()),
    0x0178: _Suite(1, 32, hashes.SHA256()),
    0x0214: _Suite(1, 16, hashes.SHA256(), ec.SECP256R1(), hashes.SHA256(), 71),
    0x0346: _Suite(1, 24, hashes.SHA384(), ec.SECP384R1(), hashes.SHA384(), 103),
    0x0378: _Suite(1, 32, hashes.SHA384(), ec.SECP384R1(), hashes.SHA384(), 103),
    0x0478: _Suite(2, 32, hashes.SHA512()),
    0x0578: _Suite(2, 32, hashes.SHA512(), ec.SECP384R1(), hashes.SHA384(), 103),
}


def example_data_key(suite: AlgorithmSuite | int) -> bytes:
    """Return the same data key for a suite every time."""
    return bytes(range(1, 1 + _SUITES[_id(suite)].key_length))


def example_message_id(suite: AlgorithmSuite | int) -> bytes:
    """Return the same message id for a suite every time."""
    return bytes(range(100, 116 if _SUITES[_id(suite)].version == 1 else 132))


def _id(suite: AlgorithmSuite | int) -> int:
    return suite if isinstance(suite, int) else suite.value


def u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def sized(data: bytes) -> bytes:
    return u16(len(data)) + data


def context_bytes(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Serialize pairs in the order given; none are no bytes (framework/structures.md#serialization)."""
    encoded = b"".join(sized(key.encode()) + sized(value.encode()) for key, value in pairs)
    return u16(len(pairs)) + encoded if pairs else b""


def sorted_context(context: Mapping[str, str]) -> bytes:
    """Serialize a context as the specification asks for: sorted by the UTF-8 bytes of the keys."""
    return context_bytes(sorted(context.items(), key=lambda pair: pair[0].encode()))


def compressed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Compress the public point (SEC 1, 2.3.3)."""
    numbers = key.public_key().public_numbers()
    return bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(key.key_size // 8, "big")


def public_key_pair(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return the pair that carries the verification key in an encryption context."""
    return {"aws-crypto-public-key": base64.b64encode(compressed(key)).decode()}


def example_signing_key(suite: AlgorithmSuite | int) -> ec.EllipticCurvePrivateKey:
    """Return the same signing key for a signed suite every time."""
    curve = _SUITES[_id(suite)].curve
    assert curve
    return ec.derive_private_key(0xA10E, curve)


@attrs.frozen
class Message:
    """A message with the place of every field in it; the fields cover it without a gap.

    Names, in order: version, type, suite, message_id, context_length, context, edk_count, edk.0.id_length,
    edk.0.id, edk.0.info_length, edk.0.info, edk.0.ciphertext_length, edk.0.ciphertext, content_type,
    reserved, iv_length, frame_length, commitment, header_iv, header_tag; then frame.1.marker (only of a
    final frame), frame.1.sequence, frame.1.iv, frame.1.length (only of a final frame), frame.1.content,
    frame.1.tag or body.iv, body.length, body.content, body.tag; then footer.length, footer.signature.
    Frames are counted from 1 as they stand in the message.
    """

    data: bytes = attrs.field(repr=False)
    fields: Mapping[str, range] = attrs.field(repr=False)
    suite: AlgorithmSuite
    data_key: bytes
    message_id: bytes
    plaintext: bytes = attrs.field(repr=False)
    frame_length: int | None
    verification_key: bytes | None

    @property
    def signed_part(self) -> bytes:
        """Header and body: what the signature covers."""
        footer = self.fields.get("footer.length")
        return self.data[: footer.start] if footer else self.data

    @property
    def header_length(self) -> int:
        return self.fields["header_tag"].stop

    def __getitem__(self, field: str) -> bytes:
        place = self.fields[field]
        return self.data[place.start : place.stop]

    def field_at(self, position: int) -> str:
        """Name the field that a byte belongs to."""
        return next(name for name, place in self.fields.items() if position in place)

    def replaced(self, field: str, new: bytes) -> bytes:
        """Return the bytes of the message with other bytes in a field, of any length."""
        place = self.fields[field]
        return self.data[: place.start] + new + self.data[place.stop :]

    def sign(self, digest: bytes) -> bytes:
        """Sign, as a recorded signer: the digest must be that of this message."""
        name = "sha256" if self.suite.value == 0x0214 else "sha384"
        assert digest == hashlib.new(name, self.signed_part).digest()
        return self["footer.signature"]


class MessageWriter:
    """Writes a message field by field. `build_message` is the usual order; tests may take any other."""

    def __init__(
        self,
        suite: AlgorithmSuite | int,
        data_key: bytes,
        *,
        message_id: bytes | None = None,
        frame_length: int | None = 4096,
        random_ivs: bool = False,
        signing_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self.id = _id(suite)
        self.suite = _SUITES[self.id]
        self.data_key = data_key
        self.message_id = example_message_id(suite) if message_id is None else message_id
        self.frame_length = frame_length
        self.data = bytearray()
        self.fields: dict[str, range] = {}
        self._random_ivs = random_ivs
        self._frames = 0
        if self.suite.curve and signing_key is None:
            signing_key = example_signing_key(suite)
        self.signing_key = signing_key if self.suite.curve else None
        self.key, self.commitment = self._derive()
        self._gcm = AESGCM(self.key)

    def _derive(self) -> tuple[bytes, bytes]:
        """framework/transitive-requirements.md, framework/algorithm-suites.md#hkdf."""
        if self.suite.kdf is None:
            return self.data_key, b""
        id_bytes = u16(self.id)
        if self.suite.version == 1:
            info = id_bytes + self.message_id
            return self._hkdf(self.suite.key_length, None, info), b""
        key = self._hkdf(32, self.message_id, id_bytes + b"DERIVEKEY")
        return key, self._hkdf(32, self.message_id, b"COMMITKEY")

    def _hkdf(self, length: int, salt: bytes | None, info: bytes) -> bytes:
        assert self.suite.kdf
        return HKDF(self.suite.kdf, length, salt, info).derive(self.data_key)

    def add(self, field: str, data: bytes) -> None:
        self.fields[field] = range(len(self.data), len(self.data) + len(data))
        self.data += data

    def _iv(self, number: int) -> bytes:
        """Return the sequence number as IV, or a made-up one, as writers before 2015 used."""
        if self._random_ivs:
            return hashlib.sha256(b"iv %d" % number).digest()[:12]
        return number.to_bytes(12, "big")

    def header(
        self,
        context: bytes = b"",
        encrypted_data_keys: Sequence[EncryptedDataKey] = DEFAULT_KEYS,
        authenticated_context: bytes = b"",
    ) -> None:
        """data-format/message-header.md. `context` is serialized."""
        first = self.suite.version == 1
        self.add("version", bytes([self.suite.version]))
        if first:
            self.add("type", b"\x80")
        self.add("suite", u16(self.id))
        self.add("message_id", self.message_id)
        self.add("context_length", u16(len(context)))
        self.add("context", context)
        self.add("edk_count", u16(len(encrypted_data_keys)))
        for i, edk in enumerate(encrypted_data_keys):
            provider_id = edk.provider_id.encode("utf-8", "surrogateescape")
            named = (("id", provider_id), ("info", edk.provider_info), ("ciphertext", edk.ciphertext))
            for name, value in named:
                self.add(f"edk.{i}.{name}_length", u16(len(value)))
                self.add(f"edk.{i}.{name}", value)
        self.add("content_type", b"\x01" if self.frame_length is None else b"\x02")
        if first:
            self.add("reserved", bytes(4))
            self.add("iv_length", b"\x0c")
        self.add("frame_length", u32(self.frame_length or 0))
        self.add("commitment", self.commitment)
        iv = self._iv(0) if first else bytes(12)
        tag = self._gcm.encrypt(iv, b"", bytes(self.data) + authenticated_context)
        if first:
            self.add("header_iv", iv)
        self.add("header_tag", tag)

    def _seal(self, iv: bytes, kind: bytes, sequence: int, content: bytes) -> tuple[bytes, bytes]:
        """data-format/message-body-aad.md."""
        kind = b"AWSKMSEncryptionClient " + kind
        aad = self.message_id + kind + u32(sequence) + len(content).to_bytes(8, "big")
        sealed = self._gcm.encrypt(iv, content, aad)
        return sealed[:-16], sealed[-16:]

    def regular_frame(self, sequence: int, content: bytes) -> None:
        """data-format/message-body.md#regular-frame."""
        self._frames += 1
        name, iv = f"frame.{self._frames}", self._iv(sequence)
        sealed, tag = self._seal(iv, b"Frame", sequence, content)
        self.add(f"{name}.sequence", u32(sequence))
        self.add(f"{name}.iv", iv)
        self.add(f"{name}.content", sealed)
        self.add(f"{name}.tag", tag)

    def final_frame(self, sequence: int, content: bytes) -> None:
        """data-format/message-body.md#final-frame."""
        self._frames += 1
        name, iv = f"frame.{self._frames}", self._iv(sequence)
        sealed, tag = self._seal(iv, b"Final Frame", sequence, content)
        self.add(f"{name}.marker", b"\xff\xff\xff\xff")
        self.add(f"{name}.sequence", u32(sequence))
        self.add(f"{name}.iv", iv)
        self.add(f"{name}.length", u32(len(content)))
        self.add(f"{name}.content", sealed)
        self.add(f"{name}.tag", tag)

    def frames(self, plaintext: bytes, *, full_final_frame: bool = False) -> None:
        length = self.frame_length
        assert length
        count = max(0, len(plaintext) - 1) // length if full_final_frame else len(plaintext) // length
        for i in range(count):
            self.regular_frame(i + 1, plaintext[i * length : (i + 1) * length])
        self.final_frame(count + 1, plaintext[count * length :])

    def non_framed_body(self, content: bytes) -> None:
        """data-format/message-body.md#non-framed-data."""
        iv = self._iv(1)
        sealed, tag = self._seal(iv, b"Single Block", 1, content)
        self.add("body.iv", iv)
        self.add("body.length", len(content).to_bytes(8, "big"))
        self.add("body.content", sealed)
        self.add("body.tag", tag)

    def footer(self, signature: bytes | None = None) -> None:
        """data-format/message-footer.md. Signs until the signature has its static length."""
        if self.signing_key is None or self.suite.signature_hash is None:
            return
        while signature is None:
            made = self.signing_key.sign(bytes(self.data), ec.ECDSA(self.suite.signature_hash))
            signature = made if len(made) == self.suite.signature_length else None
        self.add("footer.length", u16(len(signature)))
        self.add("footer.signature", signature)

    def message(self, plaintext: bytes = b"") -> Message:
        """Return what was written."""
        return Message(
            bytes(self.data),
            dict(self.fields),
            AlgorithmSuite(self.id),
            self.data_key,
            self.message_id,
            plaintext,
            self.frame_length,
            compressed(self.signing_key) if self.signing_key else None,
        )


def build_message(
    suite: AlgorithmSuite | int,
    plaintext: bytes,
    *,
    data_key: bytes | None = None,
    message_id: bytes | None = None,
    encryption_context: Mapping[str, str] | bytes | None = None,
    encrypted_data_keys: Sequence[EncryptedDataKey] = DEFAULT_KEYS,
    frame_length: int | None = 4096,
    full_final_frame: bool = False,
    random_ivs: bool = False,
    authenticated_context: bytes = b"",
    signing_key: ec.EllipticCurvePrivateKey | None = None,
) -> Message:
    """Write a message. `frame_length` None makes it non-framed.

    What is not given is the same every time, the signature apart. An `encryption_context` of pairs is
    sorted; one of bytes is taken as it is. A reader that is to find the verification key in the header
    needs `public_key_pair` in the context. `full_final_frame`: plaintext of whole frames ends with a
    full final frame, not an empty one. `random_ivs`: of the header (version 1), the frames and a
    non-framed body.
    """
    writer = MessageWriter(
        suite,
        example_data_key(suite) if data_key is None else data_key,
        message_id=message_id,
        frame_length=frame_length,
        random_ivs=random_ivs,
        signing_key=signing_key,
    )
    context = (
        encryption_context
        if isinstance(encryption_context, bytes)
        else sorted_context(encryption_context or {})
    )
    writer.header(context, encrypted_data_keys, authenticated_context)
    if frame_length is None:
        writer.non_framed_body(plaintext)
    else:
        writer.frames(plaintext, full_final_frame=full_final_frame)
    writer.footer()
    return writer.message(plaintext)
