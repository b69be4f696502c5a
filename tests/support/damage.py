"""Small whole messages of each kind under real raw AES keys, and what is done to them."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    EncryptionClient,
    Limits,
    MessageHeader,
    MultiMasterKeyProvider,
    RawAESMasterKey,
)
from aioencrypt.materials import EncryptedDataKey
from tests.support.message_writer import (
    Message,
    MessageWriter,
    build_message,
    example_data_key,
    example_signing_key,
    public_key_pair,
    sorted_context,
    u32,
)

NAMESPACE = "ns"
WRAPPING_KEYS = {"left": bytes(range(32)), "right": bytes(range(50, 82))}
LEFT, RIGHT = (RawAESMasterKey(NAMESPACE, name, wrapping_key=key) for name, key in WRAPPING_KEYS.items())
# Readers hold the second of two keys: the first encrypted data key is another's.
BOTH = MultiMasterKeyProvider(LEFT, RIGHT)
READER = RIGHT
CONTEXT = {"tenant": "42", "ä": ""}
FRAME_LENGTH = 8
PLAINTEXT = b"three frames, or 21 b"


def wrap(name: str, data_key: bytes, context: Mapping[str, str]) -> EncryptedDataKey:
    """Encrypt a data key (framework/raw-aes-keyring.md#onencrypt) under a key of `WRAPPING_KEYS`."""
    iv = bytes(range(200, 212))
    sealed = AESGCM(WRAPPING_KEYS[name]).encrypt(iv, data_key, sorted_context(context))
    return EncryptedDataKey(NAMESPACE, name.encode() + u32(128) + u32(12) + iv, sealed)


def unwrap(key: EncryptedDataKey, context: Mapping[str, str]) -> bytes:
    """Decrypt a data key (framework/raw-aes-keyring.md#ondecrypt)."""
    name, iv = key.provider_info[:-20].decode(), key.provider_info[-12:]
    return AESGCM(WRAPPING_KEYS[name]).decrypt(iv, key.ciphertext, sorted_context(context))


@attrs.frozen
class Kind:
    """A kind of message."""

    suite: AlgorithmSuite
    framed: bool

    def __str__(self) -> str:
        return f"{self.suite.value:04x}-{'framed' if self.framed else 'non-framed'}"

    def client(self, limits: Limits = Limits(max_frame_length=None)) -> EncryptionClient:  # noqa: B008
        """Return a client that reads and writes this kind, by default frames of any length."""
        policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        if not self.suite.committing:
            policy = CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
        return EncryptionClient(commitment_policy=policy, limits=limits)

    async def message(self, plaintext: bytes = PLAINTEXT) -> Message:
        """Write a message under both keys: framed with `encrypt`, non-framed with the writer of the tests."""
        return await self._encrypted(plaintext) if self.framed else self._written(plaintext)

    async def _encrypted(self, plaintext: bytes) -> Message:
        written, header = await self.client().encrypt(
            plaintext,
            BOTH,
            encryption_context=CONTEXT,
            algorithm_suite=self.suite,
            frame_length=FRAME_LENGTH,
        )
        return located(written, header, plaintext)

    def _written(self, plaintext: bytes) -> Message:
        pair = public_key_pair(example_signing_key(self.suite)) if self.suite.signed else {}
        context = {**CONTEXT, **pair}
        data_key = example_data_key(self.suite)
        return build_message(
            self.suite,
            plaintext,
            frame_length=None,
            encryption_context=context,
            encrypted_data_keys=[wrap(name, data_key, context) for name in WRAPPING_KEYS],
        )


def located(data: bytes, header: MessageHeader, plaintext: bytes) -> Message:
    """Find the place of every field of a framed message: write it again, byte for byte."""
    suite, context = header.algorithm_suite, header.encryption_context
    writer = MessageWriter(
        suite,
        unwrap(header.encrypted_data_keys[0], context),
        message_id=header.message_id,
        frame_length=header.frame_length,
    )
    writer.header(sorted_context(context), header.encrypted_data_keys)
    writer.frames(plaintext)
    writer.footer(data[len(writer.data) + 2 :])
    assert writer.data == data
    point = context.get("aws-crypto-public-key")
    return attrs.evolve(
        writer.message(plaintext), verification_key=None if point is None else base64.b64decode(point)
    )


@attrs.frozen
class Damage:
    """Changed bytes of a message, and the field where the change is."""

    data: bytes = attrs.field(repr=False)
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} in {self.field}"


def flips(message: Message) -> Iterator[Damage]:
    """Flip every bit, one at a time."""
    for field, place in message.fields.items():
        for position, bit in itertools.product(place, range(8)):
            changed = bytearray(message.data)
            changed[position] ^= 1 << bit
            yield Damage(bytes(changed), field, f"byte {position} bit {bit}")


def truncations(message: Message) -> Iterator[Damage]:
    """Cut the message off before every byte."""
    for field, place in message.fields.items():
        for position in place:
            yield Damage(message.data[:position], field, f"cut at {position}")


def row(field: str) -> str:
    """Return the row of a table that a field belongs to: frames are not told apart."""
    part, _, name = field.partition(".")
    number, _, frame_field = name.partition(".")
    return f"frame.{frame_field}" if part == "frame" and number.isdigit() else field


def frame_ends(message: Message) -> list[int]:
    """Return where each part ends after which something is released: header, and regular frames."""
    regular = sum(field.endswith(".sequence") for field in message.fields) - 1
    ends = [message.fields[f"frame.{number + 1}.tag"].stop for number in range(regular)]
    return [message.header_length, *ends]


def released_before(message: Message, field: str) -> bytes:
    """Return what is released before a field: the plaintext of the regular frames before its frame.

    The last frame of a signed message, and a non-framed body, are not released before the footer is right.
    """
    passed = sum(end <= message.fields[field].start for end in frame_ends(message)) - 1
    return message.plaintext[: max(0, passed) * (message.frame_length or 0)]


async def pieces(data: bytes, ends: Sequence[int]) -> AsyncIterator[bytes]:
    """Yield data in pieces that end where these parts end, so that a frame comes on its own."""
    for start, stop in itertools.pairwise((0, *(end for end in ends if end < len(data)), len(data))):
        yield data[start:stop]
