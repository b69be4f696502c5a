"""Every public operation that waits, as a table: each one in a world of its own, ready to be interrupted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import anyio
import attrs
from aiobotocore.session import AioSession
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.requests import Request

import aioencrypt
import aioencrypt.integrations.aiohttp as on_aiohttp
import aioencrypt.integrations.asgi as on_asgi
import aioencrypt.integrations.fsspec
import aioencrypt.integrations.s3 as s3
from aioencrypt import (
    AWSConnection,
    CachingCMM,
    DefaultCMM,
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSECDHMasterKey,
    KMSEncryptionAlgorithm,
    KMSMasterKey,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    RawECDHMasterKey,
    RawRSAMasterKey,
    Release,
    RequiredEncryptionContextCMM,
    RSAPadding,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.aws import KMSClientFactory
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.inspection import inspect_message
from aioencrypt.materials import DataKeyRequest, MasterKey
from aioencrypt.rewrap import rewrap_file, rewrap_header, rewrap_stream
from aioencrypt.runtime.event_loops import on_trio
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from tests.support import public
from tests.support.caching import reading, writing
from tests.support.ecdh import ec_key
from tests.support.encrypted_fs import OTHER_PROVIDER, AsyncMemoryFileSystem, over
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3
from tests.support.rsa_keys import rsa_key
from tests.support.streaming import KEY, UNSIGNED, in_chunks, plaintext_of

REGION = "us-east-1"
PLAINTEXT = plaintext_of(20_000)
# Sealed in a thread, as one frame, and digested in another.
LONG_FRAME = 1_500_000
LONG = plaintext_of(LONG_FRAME + 10_000)
NEW_KEY = RawAESMasterKey("tests", "new", wrapping_key=bytes(32))


class CountingSession(AioSession):  # type: ignore[misc]
    """A session of aiobotocore whose clients are in memory, and are counted while they are open."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.open = 0
        self.made = False

    def create_client(self, service_name: str, region_name: str | None = None, **options: Any) -> Any:
        return self._client(service_name, region_name or REGION)

    @asynccontextmanager
    async def _client(self, service: str, region: str) -> AsyncIterator[Any]:
        self.made = True
        await checkpoint()
        self.open += 1
        try:
            await checkpoint()
            yield (self.world.kms if service == "kms" else self.world.dynamodb).client(region)
        finally:
            self.open -= 1


class World:
    """What an operation works on: services in memory, a folder, and what is entered before it."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.target = folder / "target"
        self.kms, self.dynamodb, self.s3 = InMemoryKMS(), InMemoryDynamoDB(), MemoryS3(min_part_length=1)
        self.session = CountingSession(self)
        self.stack = AsyncExitStack()
        self.message = b""
        self.things: list[Any] = []

    async def prepare(self) -> None:
        self.target.write_bytes(b"old")
        self.message, _ = await encrypt(PLAINTEXT, KEY, frame_length=1000)
        if self.case.prepare:
            await self.case.prepare(self)

    async def run(self) -> None:
        await self.case.run(self)

    async def finish(self) -> None:
        self.things.clear()
        await self.stack.aclose()

    @property
    def has_connections(self) -> bool:
        """Whether clients, bodies or uploads are to be closed, which takes an await."""
        return self.session.made or bool(self.s3.calls)

    @property
    def has_children(self) -> bool:
        """Whether a task group may be open when it ends."""
        return bool(self.s3.calls) or self.case.run is asgi_response

    def left(self) -> list[str]:
        """Name what is open and should not be."""
        left = []
        if self.session.open:
            left.append(f"{self.session.open} clients")
        if self.s3.open_bodies:
            left.append(f"{self.s3.open_bodies} bodies of S3")
        if self.s3.uploads:
            left.append(f"{len(self.s3.uploads)} uploads to S3")
        return left

    async def message_under(self, provider: Any, plaintext: bytes = PLAINTEXT, **options: Any) -> bytes:
        return (await encrypt(plaintext, provider, **options)).ciphertext

    def reach(self) -> dict[str, Any]:
        """Return the arguments with which providers make their clients here, or get them on trio."""
        if on_trio():
            kms = self.kms.clients(REGION, "eu-west-1")
            return {"connection": AWSConnection(kms=kms, dynamodb=self.dynamodb.clients(REGION))}
        return {"connection": AWSConnection(region=REGION, session=self.session)}


@attrs.frozen
class Case:
    run: Callable[[World], Awaitable[object]]
    prepare: Callable[[World], Awaitable[object]] | None = None


CASES: dict[str, Case] = {}
Body = Callable[[World], Awaitable[object]]


def case(function: Body) -> Body:
    """Enter a function into the table."""
    CASES[function.__name__] = Case(function)
    return function


def prepared(prepare: Body) -> Callable[[Body], Body]:
    """Enter a function into the table, with what precedes it uninterrupted."""

    def enter(function: Body) -> Body:
        CASES[function.__name__] = Case(function, prepare)
        return function

    return enter


# Messages as a whole, and streams


@case
async def one_shot(world: World) -> None:
    message, _ = await encrypt(PLAINTEXT, KEY, encryption_context={"a": "b"})
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def one_shot_from_sources(world: World) -> None:
    message, _ = await encrypt(in_chunks(PLAINTEXT, 6000), KEY)
    assert (await decrypt(in_chunks(message, 6000), KEY)).plaintext == PLAINTEXT


@case
async def one_shot_in_threads(world: World) -> None:
    message, _ = await encrypt(LONG, KEY, frame_length=LONG_FRAME)
    assert (await decrypt(message, KEY)).plaintext == LONG


@case
async def encrypt_stream_read(world: World) -> None:
    async with encrypt_stream(in_chunks(PLAINTEXT, 6000), KEY, frame_length=1000) as stream:
        message = await stream.read(1000) + await stream.readexactly(1000)
        message += await stream.readline() + await stream.read()
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def encrypt_stream_iterated(world: World) -> None:
    async with encrypt_stream(in_chunks(LONG, 600_000), KEY, frame_length=LONG_FRAME) as stream:
        message = b"".join([chunk async for chunk in stream])
    assert (await decrypt(message, KEY)).plaintext == LONG


@case
async def encrypt_stream_received(world: World) -> None:
    stream = encrypt_stream(PLAINTEXT, KEY)
    async with stream:
        receiver = stream.as_anyio()
        message = await receiver.receive(100) + await stream.read()
    await stream.aclose()
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def decrypt_stream_read(world: World) -> None:
    async with decrypt_stream(in_chunks(world.message, 6000), KEY) as stream:
        plaintext = await stream.read(1000) + await stream.readexactly(1000)
        plaintext += await stream.readline() + await stream.read()
    assert plaintext == PLAINTEXT


async def _long_message(world: World) -> None:
    world.message = await world.message_under(KEY, LONG, frame_length=LONG_FRAME)


@prepared(_long_message)
async def decrypt_stream_in_threads(world: World) -> None:
    async with decrypt_stream(in_chunks(world.message, 600_000), KEY) as stream:
        assert b"".join([chunk async for chunk in stream]) == LONG


@prepared(_long_message)
async def decrypt_stream_verified(world: World) -> None:
    async with decrypt_stream(world.message, KEY, release=Release.VERIFIED) as stream:
        assert await stream.read() == LONG


class Sink:
    """Takes plaintext, and lets the loop go on."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        await checkpoint()
        self.data += data


@case
async def decrypt_writer(world: World) -> None:
    sink = Sink()
    async with aioencrypt.DecryptWriter(sink, KEY) as writer:
        for start in range(0, len(world.message), 6000):
            await writer.write(world.message[start : start + 6000])
        await writer.aclose()
    assert sink.data == PLAINTEXT


@prepared(_long_message)
async def decrypt_writer_verified(world: World) -> None:
    sink = Sink()
    async with aioencrypt.DecryptWriter(sink, KEY, release=Release.VERIFIED) as writer:
        await writer.write(world.message)
        assert sink.data == b""
    assert sink.data == LONG


@case
async def decrypt_writer_aborted(world: World) -> None:
    async with aioencrypt.DecryptWriter(Sink(), KEY) as writer:
        await writer.write(world.message[:-1])
        await writer.abort()


@case
async def abandoned_streams(world: World) -> None:
    for stream in (encrypt_stream(in_chunks(PLAINTEXT, 100), KEY), decrypt_stream(world.message, KEY)):
        async with stream:
            await stream.read(10)
            stream.abandon()
        await stream.aclose()


# Files


@case
async def write_file(world: World) -> None:
    async with aioencrypt.open(world.target, "wb", provider=KEY, frame_length=1000) as writer:
        for start in range(0, len(PLAINTEXT), 6000):
            await writer.write(PLAINTEXT[start : start + 6000])
    assert (await decrypt(world.target.read_bytes(), KEY)).plaintext == PLAINTEXT


@case
async def write_file_and_give_up(world: World) -> None:
    for end in ("aclose", "abort"):
        writer = await aioencrypt.open(world.target, "wb", provider=KEY).__aenter__()
        try:
            await writer.write(PLAINTEXT)
        finally:
            await getattr(writer, end)()


async def _message_in_file(world: World) -> None:
    world.target.write_bytes(await world.message_under(KEY, frame_length=1000))


@prepared(_message_in_file)
async def read_file(world: World) -> None:
    async with aioencrypt.open(world.target, "rb", provider=KEY) as stream:
        assert await stream.read() == PLAINTEXT


@prepared(_message_in_file)
async def read_at_any_place(world: World) -> None:
    stream = open_seekable(world.target, KEY, accept_unverified_signature=True)
    async with stream:
        assert await stream.read_at(15_000, 3000) == PLAINTEXT[15_000:18_000]
        assert await stream.read(2000) == PLAINTEXT[:2000]
        assert await stream.readexactly(10) == PLAINTEXT[2000:2010]
        assert await anext(stream) == PLAINTEXT[2010:][: 1 << 20]
    await stream.aclose()


@prepared(_message_in_file)
async def rewrap_a_file(world: World) -> None:
    await rewrap_file(world.target, KEY, new_provider=NEW_KEY)
    assert (await decrypt(world.target.read_bytes(), NEW_KEY)).plaintext == PLAINTEXT


@prepared(_message_in_file)
async def inspect_a_file(world: World) -> None:
    assert (await inspect_message(world.target)).encrypted_data_keys


@case
async def rewrap_a_stream(world: World) -> None:
    async with rewrap_stream(in_chunks(world.message, 6000), KEY, new_provider=NEW_KEY) as stream:
        message = await stream.read()
    assert (await decrypt(message, NEW_KEY)).plaintext == PLAINTEXT


async def _unsigned(world: World) -> None:
    world.message = await world.message_under(KEY, algorithm_suite=UNSIGNED)


@prepared(_unsigned)
async def rewrap_a_header(world: World) -> None:
    async with aclosing(in_chunks(world.message, 100)) as source:
        header = await rewrap_header(source, KEY, new_provider=NEW_KEY, accept_iv_reuse=True)
    message = header.serialized + world.message[header.old_length :]
    assert (await decrypt(message, NEW_KEY)).plaintext == PLAINTEXT


# Providers and master keys


async def _use(provider: MasterKeyProvider) -> None:
    """Use everything that a provider can do."""
    async with provider:
        await provider.warm_up()
        message, _ = await encrypt(PLAINTEXT, provider, encryption_context={"tenant": "1"})
        assert (await decrypt(message, provider)).plaintext == PLAINTEXT
    await provider.aclose()
    if isinstance(provider, MasterKey):
        async with provider:
            await _use_key(provider)


async def _use_key(key: MasterKey) -> None:
    request = DataKeyRequest(algorithm_suite=UNSIGNED, encryption_context={"tenant": "1"})
    data_key, encrypted = await key.generate_data_key(request)
    again = await key.encrypt_data_key(data_key, request)
    for data in (encrypted, again):
        assert (await key.unwrap_data_key(data, request)).plaintext == data_key.plaintext


@case
async def raw_aes_key(world: World) -> None:
    await _use(KEY)


@case
async def raw_rsa_key(world: World) -> None:
    await _use(
        RawRSAMasterKey(
            "a",
            "b",
            padding=RSAPadding.OAEP_SHA256,
            private_key=rsa_key(),
            public_key=rsa_key().public_key(),
        )
    )


@case
async def raw_ecdh_key(world: World) -> None:
    peer = ec_key("b").public_key()
    await _use(RawECDHMasterKey.static(private_key=ec_key("a"), recipient_public_key=peer))


@case
async def kms_keys(world: World) -> None:
    arns = [world.kms.create_key(region=region) for region in (REGION, "eu-west-1")]
    await _use(KMSMasterKeyProvider(arns, **world.reach()))
    provider = KMSMasterKeyProvider(arns, **world.reach())
    async with provider:
        [key, *_] = await provider.encryption_keys(writing_request())
        assert isinstance(key, KMSMasterKey)
        await _use_key(key)


def writing_request() -> DataKeyRequest:
    return DataKeyRequest(algorithm_suite=UNSIGNED, encryption_context={})


@case
async def kms_discovery(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    message = await world.message_under(
        KMSMasterKeyProvider([arn], connection=AWSConnection(kms=world.kms.clients(REGION)))
    )
    discovery_filter = DiscoveryFilter([arn.split(":")[4]])
    async with KMSDiscoveryMasterKeyProvider(discovery_filter=discovery_filter, **world.reach()) as provider:
        await provider.warm_up()
        with suppress(ProviderError):  # it only decrypts
            await provider.encryption_keys(writing_request())
        assert (await decrypt(message, provider)).plaintext == PLAINTEXT
    await provider.aclose()


@case
async def kms_rsa_key(world: World) -> None:
    arn = world.kms.create_key(key_spec="RSA_2048", private_key=rsa_key())
    key = KMSRSAMasterKey(
        arn,
        encryption_algorithm=KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256,
        public_key=rsa_key().public_key(),
        **world.reach(),
    )
    async with key:
        await key.warm_up()
        await _use_key(key)
        message = await world.message_under(key, algorithm_suite=UNSIGNED)
        assert (await decrypt(message, key)).plaintext == PLAINTEXT
    await key.aclose()


@case
async def kms_ecdh_key(world: World) -> None:
    arn = world.kms.create_key(key_spec="ECC_NIST_P256", key_usage="KEY_AGREEMENT")
    await _use(KMSECDHMasterKey.static(arn, ec_key("b").public_key(), **world.reach()))


@case
async def several_providers(world: World) -> None:
    arns = [world.kms.create_key(region=region) for region in (REGION, "eu-west-1")]
    provider = MultiMasterKeyProvider(
        KMSMasterKeyProvider(arns[:1], **world.reach()), KMSMasterKeyProvider(arns[1:], **world.reach()), KEY
    )
    await _use(provider)


@case
async def client_suppliers(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    factory = KMSClientFactory(**world.reach())
    async with factory:
        supplier = aioencrypt.aws.limit_regions(
            aioencrypt.aws.exclude_regions(factory, ["eu-west-1"]), [REGION]
        )
        await _use(KMSMasterKeyProvider([arn], connection=AWSConnection(kms=supplier)))
    await factory.aclose()


# Branch keys


def _store(world: World) -> BranchKeyStore:
    arn = world.kms.create_key(region=REGION)
    return BranchKeyStore("table", kms_configuration=KMSKeyArn(arn), logical_name="store", **world.reach())


async def _store_with_table(world: World) -> None:
    world.things.append(_store(world))
    async with world.things[0] as store:
        await store.create_key_store()


@case
async def make_a_key_store(world: World) -> None:
    async with _store(world) as store:
        await store.create_key_store()


@prepared(_store_with_table)
async def branch_keys(world: World) -> None:
    [store] = world.things
    async with store:
        await store.warm_up()
        name = await store.create_key()
        await store.version_key(name)
        active = await store.active_branch_key(name)
        await store.branch_key_version(name, active.version)
        await store.beacon_key(name)
    await store.aclose()


@prepared(_store_with_table)
async def hierarchical_key(world: World) -> None:
    [store] = world.things
    async with store:
        name = await store.create_key()
    await _use(HierarchicalMasterKey(store, branch_key_id=name, max_age=60))


# Managers


async def _use_manager(manager: Any) -> None:
    async with manager:
        materials = await manager.get_encryption_materials(writing(context={"tenant": "1"}))
        await manager.decrypt_materials(reading(materials, given={"tenant": "1"}))
        message, _ = await encrypt(PLAINTEXT, manager, encryption_context={"tenant": "1"})
        given = {"tenant": "1"}
        assert (await decrypt(message, manager, encryption_context=given)).plaintext == PLAINTEXT


@case
async def default_manager(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    await _use_manager(DefaultCMM(KMSMasterKeyProvider([arn], **world.reach())))


@case
async def caching_manager(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    await _use_manager(CachingCMM(KMSMasterKeyProvider([arn], **world.reach()), max_age=60))


@case
async def required_context_manager(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    below = DefaultCMM(KMSMasterKeyProvider([arn], **world.reach()))
    await _use_manager(RequiredEncryptionContextCMM(below, required_keys=["tenant"]))


@case
async def cache(world: World) -> None:
    async def fetch() -> str:
        await checkpoint()
        return "value"

    async with aioencrypt.AsyncCache[str]() as cache:
        for _ in range(2):
            assert (await cache.get("key", fetch, max_age=60))[0] == "value"
    await cache.aclose()


# S3


@case
async def s3_put_in_parts(world: World) -> None:
    await s3.put_encrypted(
        world.s3, BUCKET, KEY_NAME, in_chunks(LONG, 300_000), KEY, part_length=5 * 1024 * 1024 // 4 * 4
    )


async def _s3_object(world: World) -> None:
    world.s3.put(await world.message_under(KEY, algorithm_suite=UNSIGNED, frame_length=1000))


@prepared(_s3_object)
async def s3_read(world: World) -> None:
    async with s3.open_encrypted(world.s3, BUCKET, KEY_NAME, KEY) as stream:
        assert await stream.read() == PLAINTEXT
    async with s3.open_seekable_encrypted(world.s3, BUCKET, KEY_NAME, KEY) as stream:
        assert await stream.read_at(5000, 10) == PLAINTEXT[5000:5010]


@prepared(_s3_object)
async def s3_range_source(world: World) -> None:
    source = s3.S3RangeSource(world.s3, BUCKET, KEY_NAME)
    try:
        assert await source.size()
        assert await source.read_range(0, 10)
    finally:
        await source.aclose()


@prepared(_s3_object)
async def s3_rewrap(world: World) -> None:
    await s3.rewrap_encrypted(world.s3, BUCKET, KEY_NAME, KEY, new_provider=NEW_KEY)
    assert (await decrypt(world.s3.stored.data, NEW_KEY)).plaintext == PLAINTEXT


# HTTP


def _aiohttp_request(body: bytes, content_type: str = "application/octet-stream") -> web.Request:
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)

    async def feed() -> None:
        for start in range(0, len(body), 6000):
            stream.feed_data(body[start : start + 6000])
            await checkpoint()
        stream.feed_eof()

    stream.feed_data(body)
    stream.feed_eof()
    headers = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return make_mocked_request("PUT", "/", headers=headers, payload=stream)


@case
async def aiohttp_upload(world: World) -> None:
    async with on_aiohttp.encrypt_upload(_aiohttp_request(PLAINTEXT), KEY, max_length=10**6) as stream:
        message = await stream.read()
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def aiohttp_form(world: World) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + PLAINTEXT + b"\r\n--x--\r\n"
    part = await on_aiohttp.form_part(_aiohttp_request(body, "multipart/form-data; boundary=x"), "file")
    async with on_aiohttp.encrypt_upload(part, KEY, max_length=10**6) as stream:
        message = await stream.read()
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def aiohttp_payload(world: World) -> None:
    writer: Any = Sink()
    async with on_aiohttp.encrypted_payload(PLAINTEXT, KEY) as payload:
        await payload.write_with_length(writer, payload.size)
        await payload.stop()
    assert (await decrypt(writer.data, KEY)).plaintext == PLAINTEXT


@case
async def aiohttp_response(world: World) -> None:
    request = _aiohttp_request(b"")
    await on_aiohttp.decrypted_response(request, world.message, KEY)


@case
async def aiohttp_provider(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    async with on_aiohttp.open_provider(web.Application(), KMSMasterKeyProvider([arn], **world.reach())):
        await checkpoint()


def _scope() -> dict[str, Any]:
    return {
        "type": "http", "method": "GET", "path": "/", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-length", str(len(PLAINTEXT)).encode())], "app": Starlette(),
    }  # fmt: skip


@case
async def asgi_upload(world: World) -> None:
    pieces = [PLAINTEXT[:10_000], PLAINTEXT[10_000:]]

    async def receive() -> Mapping[str, Any]:
        await checkpoint()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    request = Request(_scope(), receive)  # type: ignore[arg-type]
    async with on_asgi.encrypt_upload(request, KEY, max_length=10**6) as stream:
        message = await stream.read()
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@case
async def asgi_response(world: World) -> None:
    sent: list[bytes] = []

    async def receive() -> Mapping[str, Any]:
        await anyio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        await checkpoint()
        sent.append(message.get("body", b""))

    response = on_asgi.DecryptedResponse(world.message, KEY)
    await response(_scope(), receive, send)  # type: ignore[arg-type]
    assert b"".join(sent) == PLAINTEXT


@case
async def asgi_provider(world: World) -> None:
    arn = world.kms.create_key(region=REGION)
    async with on_asgi.open_provider(Starlette(), KMSMasterKeyProvider([arn], **world.reach())):
        await checkpoint()


# fsspec


async def _fs(world: World) -> None:
    target = AsyncMemoryFileSystem(asynchronous=True)
    fs = over(target, asynchronous=True)
    new = over(target, asynchronous=True, provider=OTHER_PROVIDER)
    world.things += [fs, new]
    await fs._pipe_file("/memory/file", PLAINTEXT)


@prepared(_fs)
async def encrypted_files(world: World) -> None:
    fs, new = world.things
    async with fs, new:
        await fs._pipe_file("/memory/other", PLAINTEXT)
        assert await fs._cat_file("/memory/file", 5, 10) == PLAINTEXT[5:10]
        assert await fs._cat_ranges(["/memory/file"] * 2, [0, 5], [5, 10])
        await fs._rewrap("/memory/other", new)
        assert (await fs._info("/memory/file"))["size"] == len(PLAINTEXT)
        await fs._inspect("/memory/file")
        async with await fs.open_async("/memory/other", "wb") as file:
            await file.write(PLAINTEXT)
        assert await fs._ls("/memory", detail=True)
        assert await fs._find("/memory")
        if not on_trio():  # fsspec copies and moves on asyncio alone
            await fs._mv("/memory/other", "/memory/moved")
        await fs._rmdir("/memory/folder")


@prepared(_fs)
async def encrypted_files_on_disk(world: World) -> None:
    fs, _ = world.things
    (world.folder / "source.kept").write_bytes(PLAINTEXT)
    await fs._put_file(str(world.folder / "source.kept"), "/memory/put")
    await fs._get_file("/memory/put", str(world.target))
    assert world.target.read_bytes() == PLAINTEXT


# Which operations there are


MODULES: tuple[ModuleType, ...] = (*public.MODULES, s3, on_aiohttp, on_asgi, aioencrypt.integrations.fsspec)
# Documented hooks, which fsspec calls.
_HOOKS = (
    "_cat_file",
    "_cat_ranges",
    "_get_file",
    "_put_file",
    "_pipe_file",
    "_info",
    "_ls",
    "_find",
    "_rewrap",
    "_inspect",
)
_METHODS = ("__aenter__", "__aexit__", "__anext__", "__call__")


def public_operations() -> dict[str, CodeType]:
    """Return the code of everything public that waits: functions, methods, entering and leaving objects."""
    found: dict[str, CodeType] = {}
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            where = f"{module.__name__}.{name}"
            if inspect.isclass(value):
                found |= {f"{where}.{method}": code for method, code in _methods(value)}
            elif _waits(inspect.unwrap(value)):
                found[where] = inspect.unwrap(value).__code__
    return found


def _methods(cls: type) -> Iterator[tuple[str, CodeType]]:
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return
    for base in cls.__mro__:
        if not base.__module__.startswith("aioencrypt") or getattr(base, "_is_protocol", False):
            continue
        for name, value in vars(base).items():
            function = inspect.unwrap(value) if callable(value) else None
            public = not name.startswith("_") or name in _METHODS or name in _HOOKS
            if public and function is not None and _waits(function) and getattr(cls, name) is value:
                yield name, function.__code__


def _waits(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
