"""Headers for tests: parsed whole, and in pieces as the decryptor does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from aioencrypt.format import AlgorithmSuite, EncryptedDataKey
from aioencrypt.format.header import ReceivedHeader, parse_header
from aioencrypt.format.wire import ByteQueue
from tests.support.messages import Message, build_message

V1 = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
V2 = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
CONTEXT = {"tenant": "42", "": "empty key", "b\u00fc": ""}
KEYS = (
    EncryptedDataKey("aws-kms", b"arn:1", b"wrapped 1"),
    EncryptedDataKey("raw", b"\x00\xff", b"wrapped 2"),
    EncryptedDataKey("aws-kms", b"arn:0", b""),
    EncryptedDataKey("", b"", b""),
    EncryptedDataKey("aws-kms", b"arn:1", b"wrapped 1"),
)

each_suite = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")
each_version = pytest.mark.parametrize("suite", [V1, V2], ids=["v1", "v2"])


def message_of(suite: AlgorithmSuite, frame_length: int | None = 4096, **options: Any) -> Message:
    options = {"encryption_context": CONTEXT, "encrypted_data_keys": KEYS} | options
    return build_message(suite, b"text", frame_length=frame_length, **options)


def parse(data: bytes | ByteQueue, **limits: int | None) -> ReceivedHeader | int:
    """Parse what is there: the header, or the number of bytes that it waits for."""
    if isinstance(data, bytes):
        queue = ByteQueue()
        queue.append(data)
    else:
        queue = data
    try:
        return next(parse_header(queue, **limits))
    except StopIteration as stop:
        received: ReceivedHeader = stop.value
        return received


def parsed(data: bytes, **limits: int | None) -> ReceivedHeader:
    received = parse(data, **limits)
    assert isinstance(received, ReceivedHeader), f"waits for {received} bytes"
    return received


def parsed_in_pieces(pieces: Iterable[bytes], length: int) -> ReceivedHeader:
    """Parse a header of this length in pieces, as the decryptor does: never before enough is there."""
    queue = ByteQueue()
    parser = parse_header(queue)
    wanted = fed = 0
    for piece in pieces:
        queue.append(piece)
        fed += len(piece)
        if len(queue) < wanted:
            continue
        try:
            wanted = next(parser)
        except StopIteration as stop:
            received: ReceivedHeader = stop.value
            return received
        assert 0 < wanted <= length - fed
    raise AssertionError(f"waits for {wanted} bytes")


def part(message: Message, start: str, stop: str) -> bytes:
    return message.data[message.fields[start].start : message.fields[stop].stop]
