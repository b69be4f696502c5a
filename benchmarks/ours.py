"""The contestants that are always there: our streams, and the bare primitives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from common import MIB
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import AlgorithmSuite, EncryptionClient, Limits, RawAESMasterKey

T = TypeVar("T")

NAMESPACE, NAME, KEY_BYTES = "benchmarks", "key", bytes(range(32))
KEY = RawAESMasterKey(NAMESPACE, NAME, wrapping_key=KEY_BYTES)
SUITES = {
    "unsigned": AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
    "signed": AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
}
CLIENT = EncryptionClient(limits=Limits(max_frame_length=None))
# Messages come from sockets, and there no frame begins where a read begins.
ODD_LENGTH = 777
TAG_LENGTH = 16


def random_data(length: int) -> bytes:
    """Return bytes that nothing can guess or compress."""
    return os.urandom(length)


def cut(data: bytes, length: int, first: int = 0) -> list[bytes]:
    """Cut data into pieces of one length, after a first one of `first` bytes."""
    start = [data[:first]] if first else []
    return start + [data[i : i + length] for i in range(first, len(data), length)]


async def source(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces that are there."""
    for piece in pieces:
        yield piece


async def encrypted(pieces: Sequence[bytes], suite: str, frame: int) -> float:
    """Encrypt a stream and drop the message; returns seconds."""
    start = time.perf_counter()
    stream = CLIENT.encrypt_stream(source(pieces), KEY, algorithm_suite=SUITES[suite], frame_length=frame)
    async with stream:
        async for _ in stream:
            pass
    return time.perf_counter() - start


async def decrypted(pieces: Sequence[bytes]) -> float:
    """Decrypt a stream and drop the plaintext; returns seconds."""
    start = time.perf_counter()
    async with CLIENT.decrypt_stream(source(pieces), KEY) as stream:
        async for _ in stream:
            pass
    return time.perf_counter() - start


async def encrypted_whole(data: bytes, suite: str, frame: int) -> float:
    """Encrypt bytes at once; returns seconds."""
    start = time.perf_counter()
    await CLIENT.encrypt(data, KEY, algorithm_suite=SUITES[suite], frame_length=frame)
    return time.perf_counter() - start


async def decrypted_whole(message: bytes) -> float:
    """Decrypt bytes at once; returns seconds."""
    start = time.perf_counter()
    await CLIENT.decrypt(message, KEY)
    return time.perf_counter() - start


def message_of(data: bytes, suite: str, frame: int) -> bytes:
    """Return data as a message."""
    call = CLIENT.encrypt(data, KEY, algorithm_suite=SUITES[suite], frame_length=frame)
    return run(call).ciphertext


def run(call: Coroutine[Any, Any, T]) -> T:
    """Run in a new event loop."""
    return asyncio.run(call)


# The limits: the same frames with nothing around them


def _iv(sequence: int) -> bytes:
    return sequence.to_bytes(12, "big")


def _aad(sequence: int, length: int) -> bytes:
    """Return an AAD as long as that of a frame."""
    text = b"AWSKMSEncryptionClient Frame"
    return b"%b%b%b%b" % (KEY_BYTES, text, sequence.to_bytes(4, "big"), length.to_bytes(8, "big"))


def bare_encrypt(data: bytes, frame: int) -> float:
    """Seal frame after frame into one buffer; returns seconds."""
    aead, frames, out = AESGCM(KEY_BYTES), memoryview(data), bytearray(frame + TAG_LENGTH)
    start = time.perf_counter()
    for sequence, place in enumerate(range(0, len(data), frame), 1):
        aead.encrypt_into(_iv(sequence), frames[place : place + frame], _aad(sequence, frame), out)
    return time.perf_counter() - start


def bare_frames(data: bytes, frame: int) -> bytes:
    """Return what `bare_decrypt` opens."""
    aead, frames = AESGCM(KEY_BYTES), memoryview(data)
    return b"".join(
        aead.encrypt(_iv(sequence), frames[place : place + frame], _aad(sequence, frame))
        for sequence, place in enumerate(range(0, len(data), frame), 1)
    )


def bare_decrypt(sealed: bytes, frame: int) -> float:
    """Open frame after frame into one buffer; returns seconds."""
    aead, frames, out = AESGCM(KEY_BYTES), memoryview(sealed), bytearray(frame)
    stride = frame + TAG_LENGTH
    start = time.perf_counter()
    for sequence, place in enumerate(range(0, len(sealed), stride), 1):
        aead.decrypt_into(_iv(sequence), frames[place : place + stride], _aad(sequence, frame), out)
    return time.perf_counter() - start


def bare_digest(data: bytes) -> float:
    """Digest a megabyte at a time; returns seconds."""
    digest, bytes_ = hashlib.sha384(), memoryview(data)
    start = time.perf_counter()
    for place in range(0, len(data), MIB):
        digest.update(bytes_[place : place + MIB])
    return time.perf_counter() - start
