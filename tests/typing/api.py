"""The public API as a type checker sees it: `mypy` reads this file, nothing runs it.

A line with `type: ignore` must be an error: mypy complains about each that is none.
"""

from __future__ import annotations

import asyncio
import io
import pathlib
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, assert_type

import aiofiles
import aiohttp
import anyio
import anyio.abc
import httpx
from aiohttp import web
from starlette.datastructures import UploadFile
from starlette.requests import Request

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    Attempt,
    CommitmentPolicy,
    DecryptResult,
    DecryptStream,
    DecryptWriter,
    EncryptionClient,
    EncryptResult,
    EncryptStream,
    EncryptWriter,
    IncompleteReadError,
    LimitError,
    Limits,
    MessageError,
    MessageHeader,
    Offload,
    PlaintextLengthError,
    ProviderError,
    RawAESMasterKey,
    Release,
    ServiceError,
    SignaturePolicy,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.format import (
    ContentType,
    EndOfMessage,
    Event,
    HeaderParsed,
    HeaderVerified,
    MessageDecryptor,
    MessageEncryptor,
    NeedData,
    OpenWork,
    Plaintext,
    SealWork,
    State,
    VerifyWork,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.streams import PlaintextSink, Source
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient, KMSCall
from aioencrypt.testing.kms import KMSServer, run_in_thread

if TYPE_CHECKING:
    pass

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))


async def results() -> None:
    encrypted = await encrypt(b"", key)
    assert_type(encrypted, EncryptResult)
    assert_type(encrypted.ciphertext, bytes)
    assert_type(encrypted.header, MessageHeader)
    ciphertext, header = encrypted
    assert_type(ciphertext, bytes)
    assert_type(header, MessageHeader)
    decrypted = await decrypt(ciphertext, key)
    assert_type(decrypted, DecryptResult)
    plaintext, header = decrypted
    assert_type(plaintext, bytes)
    assert_type(decrypted.plaintext, bytes)
    both: tuple[bytes, MessageHeader] = decrypted
    one, two, three = encrypted  # type: ignore[misc]
    repr(encrypted.plaintext)  # type: ignore[attr-defined]
    repr(decrypted.ciphertext)  # type: ignore[attr-defined]
    del both, one, two, three


async def options() -> None:
    await encrypt(
        b"",
        key,
        encryption_context=MappingProxyType({"tenant": "42"}),
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=65536,
        plaintext_length=0,
        plaintext_length_bound=None,
    )
    await decrypt(
        b"",
        key,
        encryption_context={"tenant": "42"},
        signature_policy=SignaturePolicy.REQUIRE,
        limits=Limits(max_header_length=None, max_frame_length=1, max_plaintext_length=2),
    )
    await encrypt(b"", key, {"tenant": "42"})  # type: ignore[call-arg]
    await encrypt(b"", key, encryption_context={"tenant": 42})  # type: ignore[dict-item]
    await encrypt(b"", key, algorithm_suite=0x0578)  # type: ignore[arg-type]
    await encrypt(b"", key, release=Release.VERIFIED)  # type: ignore[call-arg]
    await encrypt(b"", provider=None)  # type: ignore[arg-type]
    await decrypt(b"", key, release=Release.VERIFIED)  # type: ignore[call-arg]
    await decrypt(b"", key, signature_policy="allow")  # type: ignore[arg-type]
    await decrypt(b"", key, frame_length=4096)  # type: ignore[call-arg]
    encrypt_stream(b"", key, release=Release.STREAM)  # type: ignore[call-arg]
    Limits(1)  # type: ignore[call-arg]


async def streams() -> None:
    encrypting = encrypt_stream(b"", key)
    assert_type(encrypting, EncryptStream)
    async with encrypting as stream:
        assert_type(stream, EncryptStream)
        assert_type(stream.header, MessageHeader)
        assert_type(stream.ciphertext_length, int | None)
        assert_type(await stream.read(), bytes)
        assert_type(await stream.readexactly(1), bytes)
        assert_type(await stream.readline(limit=10), bytes)
        assert_type(stream.as_anyio(), anyio.abc.ByteReceiveStream)
        assert_type([chunk async for chunk in stream], list[bytes])
        stream.abandon()
        repr(stream.verified)  # type: ignore[attr-defined]
        for _ in stream:  # type: ignore[attr-defined]
            pass
    async with decrypt_stream(b"", key, release=Release.VERIFIED) as reader:
        assert_type(reader, DecryptStream)
        assert_type(reader.verified, bool)
        assert_type([chunk async for chunk in reader], list[bytes])
        await reader.aclose()
        repr(reader.ciphertext_length)  # type: ignore[attr-defined]
        reader.header = None  # type: ignore[misc, assignment]
    with decrypt_stream(b"", key):  # type: ignore[attr-defined]
        pass
    await encrypt_stream(b"", key)  # type: ignore[misc]


class Sink:
    async def write(self, data: bytes) -> None: ...


async def pushing(client: EncryptionClient, file: EncryptWriter, queue: asyncio.Queue[bytes]) -> None:
    sinks: tuple[PlaintextSink, ...] = (Sink(), Sink().write, file, queue.put)
    for sink in sinks:
        assert_type(client.decrypt_writer(sink, key, release=Release.VERIFIED), DecryptWriter)
    async with DecryptWriter(queue.put, key, limits=Limits(), encryption_client=client) as writer:
        assert_type(writer, DecryptWriter)
        assert_type(writer.header, MessageHeader)
        assert_type(writer.verified, bool)
        assert_type(await writer.write(memoryview(b"")), int)
        await writer.aclose()
        await writer.write("text")  # type: ignore[arg-type]
    DecryptWriter(print, key)  # type: ignore[arg-type]
    DecryptWriter(io.BytesIO(), key)  # type: ignore[arg-type]
    DecryptWriter(Sink(), key, None)  # type: ignore[call-arg]


async def files(client: EncryptionClient) -> None:
    assert_type(aioencrypt.open("x", "rb", provider=key), DecryptStream)
    assert_type(aioencrypt.open(pathlib.Path("x"), "wb", provider=key), EncryptWriter)
    assert_type(client.open("x", "rb", provider=key, release=Release.VERIFIED), DecryptStream)
    async with client.open("x", "wb", provider=key, frame_length=1) as writer:
        assert_type(writer, EncryptWriter)
        assert_type(writer.header, MessageHeader)
        assert_type(await writer.write(memoryview(b"")), int)
        await writer.abort()
        await writer.write("text")  # type: ignore[arg-type]
        repr(writer.read)  # type: ignore[attr-defined]
    aioencrypt.open("x", "rb")  # type: ignore[call-overload]
    aioencrypt.open("x", "r", provider=key)  # type: ignore[call-overload]
    aioencrypt.open("x", "rb", provider=key, frame_length=1)  # type: ignore[call-overload]
    aioencrypt.open("x", "wb", provider=key, release=Release.VERIFIED)  # type: ignore[call-overload]
    aioencrypt.open(3, "rb", provider=key)  # type: ignore[call-overload]


async def clients() -> None:
    client = EncryptionClient(
        commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT,
        max_encrypted_data_keys=3,
        limits=Limits(),
        offload=Offload.THREADS,
    )
    assert_type(client.commitment_policy, CommitmentPolicy)
    assert_type(await client.encrypt(b"", key), EncryptResult)
    assert_type(await client.decrypt(b"", key), DecryptResult)
    assert_type(client.encrypt_stream(b"", key), EncryptStream)
    assert_type(client.decrypt_stream(b"", key), DecryptStream)
    client.commitment_policy = CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT  # type: ignore[misc]
    EncryptionClient(CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT)  # type: ignore[call-arg]
    EncryptionClient(commitment_policy="require")  # type: ignore[arg-type]


async def generator() -> AsyncIterator[bytes]:
    yield b""


async def text_generator() -> AsyncIterator[str]:
    yield ""


class OwnReader:
    async def read(self, n: int = -1) -> bytes:
        return b""


class TextReader:
    async def read(self, n: int = -1) -> str:
        return ""


async def sources(
    request: web.Request,
    part: aiohttp.BodyPartReader,
    response: aiohttp.ClientResponse,
    asyncio_reader: asyncio.StreamReader,
    starlette_request: Request,
    upload: UploadFile,
    httpx_response: httpx.Response,
    tcp: anyio.abc.ByteReceiveStream,
    pipe: anyio.abc.ObjectReceiveStream[bytes],
    texts: anyio.abc.ObjectReceiveStream[str],
    binary: BinaryIO,
) -> None:
    every: list[Source] = [
        b"",
        bytearray(),
        memoryview(b""),
        request.content,
        response.content,
        part,
        asyncio_reader,
        starlette_request,
        upload,
        httpx_response,
        tcp,
        pipe,
        binary,
        io.BytesIO(),
        generator(),
        OwnReader(),
        encrypt_stream(b"", key),
        decrypt_stream(b"", key),
        await anyio.open_file("x", "rb"),
    ]
    with open("x", "rb") as file:
        await encrypt(file, key)
    async with aiofiles.open("x", "rb") as opened:
        await encrypt(opened, key)
    for source in every:
        await encrypt(source, key)
        decrypt_stream(source, key)
    await encrypt("text", key)  # type: ignore[arg-type]
    await encrypt(pathlib.Path("x"), key)  # type: ignore[arg-type]
    await encrypt(io.StringIO(), key)  # type: ignore[arg-type]
    await encrypt(text_generator(), key)  # type: ignore[arg-type]
    await encrypt(texts, key)  # type: ignore[arg-type]
    await encrypt(TextReader(), key)  # type: ignore[arg-type]
    await encrypt(None, key)  # type: ignore[arg-type]
    await encrypt([b""], key)  # type: ignore[arg-type]


# What comes out


def headers(header: MessageHeader) -> None:
    assert_type(header.version, int)
    assert_type(header.algorithm_suite, AlgorithmSuite)
    assert_type(header.message_id, bytes)
    assert_type(header.encryption_context, Mapping[str, str])
    assert_type(header.encrypted_data_keys, tuple[EncryptedDataKey, ...])
    assert_type(header.content_type, ContentType)
    assert_type(header.frame_length, int)
    assert_type(header.encrypted_data_keys[0].provider_info, bytes)
    assert_type(AlgorithmSuite(0x0578).signed, bool)
    assert_type(AlgorithmSuite(0x0578).data_key_length, int)
    assert_type(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT.default_suite, AlgorithmSuite)
    header.frame_length = 1  # type: ignore[misc]
    header.encryption_context["tenant"] = "43"  # type: ignore[index]


def errors(error: Exception) -> None:
    match error:
        case ServiceError():
            assert_type(error.code, str | None)
            assert_type(error.message, str)
            assert_type(error.request_id, str | None)
            assert_type(error.retryable, bool)
        case ProviderError():
            assert_type(error.retryable, bool)
            assert_type(error.attempts, tuple[Attempt, ...])
            assert_type(error.summary, str)
            assert_type(error.attempts[0].error, Exception)
        case LimitError():
            assert_type((error.parameter, error.limit, error.actual), tuple[str, int, int])
        case IncompleteReadError():
            assert_type(error.partial, bytes)
            assert_type(error.expected, int)
        case PlaintextLengthError():
            assert_type((error.expected, error.actual), tuple[int, int])
        case aioencrypt.EncryptionContextMismatchError():
            assert_type(error.keys, tuple[str, ...])
        case MessageError():
            repr(error.attempts)  # type: ignore[attr-defined]


def machines(reader: MessageDecryptor, writer: MessageEncryptor) -> None:
    event = reader.next_event()
    assert_type(event, Event)
    match event:
        case NeedData():
            reader.receive(b"")
        case HeaderParsed(header) | HeaderVerified(header):
            assert_type(header, MessageHeader)
        case OpenWork() | VerifyWork():
            reader.settle(event, event.crypt())
        case Plaintext(data):
            assert_type(data, bytes)
        case _:
            assert_type(event, EndOfMessage)
    assert_type(reader.state, State)
    work = writer.seal(b"", last=True)
    assert_type(work, SealWork)
    assert_type(writer.ciphertext_length, int | None)
    writer.settle(work)
    reader.settle(work, b"")  # type: ignore[arg-type]


async def in_tests(memory: InMemoryKMS) -> None:
    assert_type(memory.create_key(region="us-east-1", multi_region=True), str)
    assert_type(memory.clients("us-east-1"), dict[str, InMemoryKMSClient])
    assert_type(memory.calls, list[KMSCall])
    memory.latency = 0.5
    async with KMSServer(memory) as server:
        assert_type(server.url, str)
    with run_in_thread(memory) as url:
        assert_type(url, str)
    memory.create_key("us-east-1")  # type: ignore[call-arg]
