"""No frame of the package shows a key or a value of an encryption context, whatever error passes through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import aioencrypt.integrations.s3 as s3
from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    CachingCMM,
    DataKey,
    DataKeyRequest,
    EncryptedDataKey,
    EncryptionClient,
    Limits,
    RawAESMasterKey,
    Release,
    RequiredEncryptionContextCMM,
    encrypt,
    rewrap_stream,
)
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3
from tests.support.providers import OwnKey
from tests.support.secrets import leaks
from tests.support.streaming import flipped, in_chunks, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

REGION = "us-east-1"
VALUE = "a value that nobody may see"
CONTEXT = {"tenant": VALUE, "region": "north"}
WRAPPING_KEY, DATA_KEY = bytes(range(100, 132)), bytes(range(140, 172))
SHARED_SECRET = bytes(range(60, 92))
UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
PLAINTEXT = plaintext_of(5000)


class KnownKey(RawAESMasterKey):
    """A key whose data keys are known."""

    def __init__(self, key: bytes = WRAPPING_KEY, answer: object = DATA_KEY) -> None:
        super().__init__("tests", "known", wrapping_key=key)
        self.answer = answer

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = DataKey(DATA_KEY)
        return data_key, await self.encrypt_data_key(data_key, request)


class AnsweringKey(KnownKey):
    """A key that answers something else than a data key, with the bytes of one in it."""

    async def generate_data_key(self, request: DataKeyRequest) -> Any:
        return self.answer

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> Any:
        return self.answer


KEY, OTHER = KnownKey(), KnownKey(bytes(32))


@attrs.define
class World:
    folder: Path
    message: bytes = b""
    kms: InMemoryKMS = attrs.field(factory=InMemoryKMS)
    dynamodb: InMemoryDynamoDB = attrs.field(factory=InMemoryDynamoDB)
    s3: MemoryS3 = attrs.field(factory=MemoryS3)

    @property
    def header_length(self) -> int:
        return self.message.index(PLAINTEXT[:0], 600)

    @property
    def connection(self) -> AWSConnection:
        return AWSConnection(kms=self.kms.clients(REGION), dynamodb=self.dynamodb.clients(REGION))

    async def under(self, provider: Any, **options: Any) -> bytes:
        options = {"encryption_context": CONTEXT, "frame_length": 1000} | options
        return (await encrypt(PLAINTEXT, provider, **options)).ciphertext


Cases = dict[str, Callable[[World], Awaitable[object]]]

# Ways to read a message, and ways to spoil one, or the reading of it.


async def read_whole(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("client", EncryptionClient())
    return await client.decrypt(message, provider, **options)


async def read_chunks(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("client", EncryptionClient())
    async with client.decrypt_stream(in_chunks(message, 100), provider, **options) as stream:
        return [chunk async for chunk in stream]


async def read_verified(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("client", EncryptionClient())
    options["release"] = Release.VERIFIED
    async with client.decrypt_stream(message, provider, **options) as stream:
        return await stream.read()


async def read_anywhere(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("client", EncryptionClient())
    options.pop("signature_policy", None)
    async with client.open_seekable(message, provider, accept_unverified_signature=True, **options) as stream:
        return (
            await stream.read_at(0, 5000),
            await stream.read_at(4000, 1000),
            1 / ("signature" not in options),
        )


async def read_file(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("client", EncryptionClient())
    path = world.folder / "message"
    path.write_bytes(message)
    async with client.open(path, "rb", provider=provider, **options) as stream:
        return await stream.read()


async def read_object(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    options["encryption_client"] = options.pop("client", None)
    world.s3.put(message)
    async with s3.open_encrypted(world.s3, BUCKET, KEY_NAME, provider, **options) as stream:
        return await stream.read()


async def rewrap(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    for name in ("signature_policy", "limits"):
        options.pop(name, None)
    async with rewrap_stream(message, provider, new_provider=OTHER, verify=True, **options) as stream:
        return await stream.read()


READS = [read_whole, read_chunks, read_verified, read_anywhere, read_file, read_object, rewrap]

Reading = Callable[[World], tuple[bytes, Any, dict[str, Any]]]


def spoiled(position: int) -> Reading:
    return lambda world: (flipped(world.message, position), KEY, {})


def by(provider: Any, **options: Any) -> Reading:
    return lambda world: (world.message, provider, options)


FAULTS: dict[str, Reading] = {
    "another key": by(KnownKey(bytes(32))),
    "no such key": by(RawAESMasterKey("tests", "none", wrapping_key=WRAPPING_KEY)),
    "another data key": by(AnsweringKey(answer=DataKey(bytes(32)))),
    "bytes for a data key": by(AnsweringKey(answer=DATA_KEY)),
    "a short data key": by(AnsweringKey(answer=DataKey(DATA_KEY[:31]))),
    "a bytearray as data key": by(AnsweringKey(answer=DataKey(bytearray(DATA_KEY)))),  # type: ignore[arg-type]
    "a key that raises": by(OwnKey("own", error=ValueError("raised"))),
    "message type": spoiled(0),
    "header tag": lambda world: (flipped(world.message, world.message.index(b"north")), KEY, {}),
    "context is no UTF-8": lambda world: (
        world.message.replace(VALUE.encode(), VALUE.encode()[:-1] + b"\xff"),
        KEY,
        {},
    ),
    "frame": spoiled(-1500),
    "signature": spoiled(-3),
    "cut in the header": lambda world: (world.message[:200], KEY, {}),
    "cut in the body": lambda world: (world.message[:-1500], KEY, {}),
    "trailing": lambda world: (world.message + b"x", KEY, {}),
    "another context": by(KEY, encryption_context={"region": "south", "tenant": VALUE}),
    "more context": by(KEY, encryption_context={**CONTEXT, "secret": VALUE}),
    "context of another type": by(KEY, encryption_context={"tenant": VALUE, "number": 5}),
    "context that is no mapping": by(KEY, encryption_context=[("tenant", VALUE)]),
    "long context": by(KEY, encryption_context={"tenant": VALUE * 3000}),
    "context that is no Unicode": by(KEY, encryption_context={"tenant": VALUE + "\udc80"}),
    "required context": by(
        RequiredEncryptionContextCMM(KEY, ["tenant"]), encryption_context={"region": "north"}
    ),
    "no provider": by(WRAPPING_KEY),
    "cached": by(CachingCMM(KnownKey(bytes(32)), max_age=60)),
    "header length": by(KEY, limits=Limits(max_header_length=100)),
    "frame length": by(KEY, limits=Limits(max_frame_length=100)),
    "plaintext length": by(KEY, limits=Limits(max_plaintext_length=100)),
    "number of keys": by(KEY, client=EncryptionClient(max_encrypted_data_keys=1)),
}


def shows(error: BaseException) -> list[str]:
    return leaks(error, VALUE, WRAPPING_KEY[:31], DATA_KEY[:31], SHARED_SECRET)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_reading(fault: str, read: Any, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.message = await world.under(KEY)
    try:
        await read(world, *FAULTS[fault](world))
    except BaseException as error:
        print(type(error), error)
        assert shows(error) == []
    else:
        pytest.skip("no error")
