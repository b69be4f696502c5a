"""Reading parts of messages, inspecting and rewrapping them, as a type checker sees it.

A line with `type: ignore` must be an error: mypy complains about each that is none.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import assert_type

from aioencrypt import (
    AlgorithmSuite,
    DefaultCMM,
    EncryptionClient,
    MessageHeader,
    Provenance,
    SeekableDecryptStream,
    ciphertext_length,
    open_seekable,
    plaintext_length,
)
from aioencrypt.inspection import InspectedKey, MessageInspection, inspect_message
from aioencrypt.materials import EncryptedDataKey, MasterKey
from aioencrypt.rewrap import (
    RewrappedHeader,
    RewrapResult,
    RewrapStream,
    rewrap_file,
    rewrap_header,
    rewrap_stream,
)
from aioencrypt.streams import RangeSource, SeekableSource, Source


class Ranges:
    async def size(self) -> int:
        return 0

    async def read_range(self, begin: int, stop: int) -> bytes:
        return b""

    async def aclose(self) -> None: ...


class NoRanges:
    async def size(self) -> int:
        return 0


async def seekable(key: MasterKey, client: EncryptionClient) -> None:
    ranges: RangeSource = Ranges()
    assert_type(open_seekable(ranges, key), SeekableDecryptStream)
    assert_type(client.open_seekable(Ranges(), DefaultCMM(key)), SeekableDecryptStream)
    sources: tuple[SeekableSource, ...] = (b"", bytearray(), memoryview(b""), "path", pathlib.Path(), ranges)
    for source in sources:
        open_seekable(source, key, accept_unverified_signature=True, cache_length=0, concurrency=1)
    open_seekable(NoRanges(), key)  # type: ignore[arg-type]
    open_seekable(b"", key, None)  # type: ignore[call-arg]
    open_seekable(b"", "key")  # type: ignore[arg-type]
    async with open_seekable(ranges, key) as stream:
        assert_type(stream, SeekableDecryptStream)
        assert_type(stream.header, MessageHeader)
        assert_type(stream.length, int)
        assert_type(stream.provenance, Provenance)
        assert_type(await stream.read(), bytes)
        assert_type(await stream.read_at(5, 6), bytes)
        assert_type(await stream.readexactly(5), bytes)
        assert_type(stream.seek(5, 1), int)
        assert_type(stream.tell(), int)
        async for chunk in stream:
            assert_type(chunk, bytes)
        again: Source = stream
        print(again)


async def inspection(key: MasterKey) -> None:
    told = await inspect_message(b"", message_length=5, max_encrypted_data_keys=3)
    assert_type(told, MessageInspection)
    signature = told.algorithm_suite.signature
    assert_type(ciphertext_length(1, header_length=1, frame_length=1, signature=signature), int)
    assert_type(plaintext_length(1, header_length=1, frame_length=0, signature=None), int)
    ciphertext_length(1, 1, 1, None)  # type: ignore[call-arg]
    plaintext_length(1, header_length=1, frame_length=1, signature=103)  # type: ignore[arg-type]
    await inspect_message("path")
    await inspect_message(Ranges())
    await inspect_message(5)  # type: ignore[arg-type]
    assert_type(told.algorithm_suite, AlgorithmSuite)
    assert_type(told.unauthenticated_context, Mapping[str, str])
    assert_type(told.keys, tuple[InspectedKey, ...])
    assert_type(told.keys[0].name, str | None)
    assert_type(told.key_arns, tuple[str, ...])
    assert_type(told.plaintext_length, int | None)
    told.encryption_context  # type: ignore[attr-defined] # noqa: B018


def kept(key: EncryptedDataKey) -> bool:
    return key.provider_id == "aws-kms"


async def rewrapping(old: MasterKey, new: MasterKey, client: EncryptionClient) -> None:
    async with rewrap_stream(
        b"", DefaultCMM(old), new_provider=new, keep=kept, encryption_client=client
    ) as stream:
        assert_type(stream, RewrapStream)
        assert_type(stream.header, MessageHeader)
        assert_type(stream.reencrypted, bool)
        assert_type(stream.rewrapped, RewrappedHeader | None)
        assert_type(await stream.read(), bytes)
    rewrap_stream(b"", old, new_provider=DefaultCMM(new))  # type: ignore[arg-type]
    rewrap_stream(b"", old, new)  # type: ignore[call-arg]
    rewrap_stream(b"", old, keep="all")  # type: ignore[arg-type]
    header = await rewrap_header("path", old, new_provider=new, accept_iv_reuse=True)
    assert_type(header.serialized, bytes)
    assert_type(header.old_length, int)
    result = await rewrap_file(pathlib.Path(), old, new_provider=new, keep=True, in_place=True, verify=True)
    assert_type(result, RewrapResult)
    assert_type(result.reencrypted, bool)
    await rewrap_file(b"", old, new_provider=new)  # type: ignore[arg-type]
