"""No frame of the package shows a key, or a value of an encryption context, in any error."""

from __future__ import annotations

import hmac
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest

import aioencrypt
import aioencrypt.integrations.s3 as s3
from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    CachingCMM,
    DecryptWriter,
    EncryptionClient,
    KMSECDHMasterKey,
    KMSMasterKeyProvider,
    Limits,
    MultiMasterKeyProvider,
    RawAESMasterKey,
    RawECDHMasterKey,
    RawRSAMasterKey,
    Release,
    RequiredEncryptionContextCMM,
    RSAPadding,
    encrypt,
    encrypt_stream,
)
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from aioencrypt.rewrap import rewrap_stream
from aioencrypt.runtime import secrets
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from tests.support import operations
from tests.support.ecdh import ec_key, private_pem as ec_pem
from tests.support.kms_pairs import rsa_kms_key, rsa_master_key
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3, S3Error
from tests.support.providers import OwnKey
from tests.support.rsa_keys import private_pem, rsa_key
from tests.support.secrets import assert_no_secrets
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


WRAPPED = EncryptedDataKey("a", b"b", b"c")
TEXT = "a password that is none"
NO_BYTES: Any = TEXT
NO_PROVIDER: Any = WRAPPING_KEY
KEY, OTHER = KnownKey(), KnownKey(bytes(32))


@attrs.define
class World:
    folder: Path
    message: bytes = b""
    kms: InMemoryKMS = attrs.field(factory=InMemoryKMS)
    dynamodb: InMemoryDynamoDB = attrs.field(factory=InMemoryDynamoDB)
    s3: MemoryS3 = attrs.field(factory=MemoryS3)

    @property
    def connection(self) -> AWSConnection:
        return AWSConnection(kms=self.kms.clients(REGION), dynamodb=self.dynamodb.clients(REGION))

    async def under(self, provider: Any, **changes: Any) -> bytes:
        options: dict[str, Any] = {"encryption_context": CONTEXT, "frame_length": 1000, **changes}
        return (await encrypt(PLAINTEXT, provider, **options)).ciphertext


# Ways to read a message, and ways to spoil one, or the reading of it.


async def read_whole(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("encryption_client", EncryptionClient())
    return await client.decrypt(message, provider, **options)


async def read_chunks(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("encryption_client", EncryptionClient())
    async with client.decrypt_stream(in_chunks(message, 100), provider, **options) as stream:
        return [chunk async for chunk in stream]


async def read_verified(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("encryption_client", EncryptionClient())
    options["release"] = Release.VERIFIED
    async with client.decrypt_stream(message, provider, **options) as stream:
        return await stream.read()


async def read_pushed(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    got: list[bytes] = []

    async def sink(data: bytes) -> None:
        got.append(data)

    async with DecryptWriter(sink, provider, **options) as writer:
        await writer.write(message[:100])
        await writer.write(message[100:])
    return got


async def read_anywhere(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("encryption_client", EncryptionClient())
    options.pop("signature_policy", None)
    async with client.open_seekable(message, provider, accept_unverified_signature=True, **options) as stream:
        return (
            await stream.read_at(0, 5000),
            await stream.read_at(4000, 1000),
            1 / ("signature" not in options),
        )


async def read_file(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    client = options.pop("encryption_client", EncryptionClient())
    path = world.folder / "message"
    path.write_bytes(message)
    async with client.open(path, "rb", provider=provider, **options) as stream:
        return await stream.read()


async def read_object(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    world.s3.put(message)
    async with s3.open_encrypted(world.s3, BUCKET, KEY_NAME, provider, **options) as stream:
        return await stream.read()


async def rewrap(world: World, message: bytes, provider: Any, options: dict[str, Any]) -> object:
    if "limits" in options:
        options["encryption_client"] = EncryptionClient(limits=options.pop("limits"))
    async with rewrap_stream(message, provider, new_provider=OTHER, verify=True, **options) as stream:
        return await stream.read()


READS = [read_whole, read_chunks, read_verified, read_pushed, read_anywhere, read_file, read_object, rewrap]

Reading = Callable[[World], tuple[bytes, Any, dict[str, Any]]]


def spoiled(position: int) -> Reading:
    return lambda world: (flipped(world.message, position), KEY, {})


def by(provider: Any, **options: Any) -> Reading:
    return lambda world: (world.message, provider, dict(options))


FAULTS: dict[str, Reading] = {
    "another key": by(KnownKey(bytes(16))),
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
    "cached": by(CachingCMM(KnownKey(bytes(16)), max_age=60)),
    "header length": by(KEY, limits=Limits(max_header_length=100)),
    "frame length": by(KEY, limits=Limits(max_frame_length=100)),
    "plaintext length": by(KEY, limits=Limits(max_plaintext_length=100)),
    "number of keys": by(KEY, encryption_client=EncryptionClient(max_encrypted_data_keys=1)),
}


SECRETS = (VALUE, WRAPPING_KEY[:31], DATA_KEY[:31], SHARED_SECRET)


async def assert_hidden(call: Awaitable[object]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one, other tests tell)
        await call
    assert_no_secrets(caught.value, *SECRETS)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("read", READS)
async def test_reading_shows_no_secret(read: Any, fault: str, tmp_path: Path) -> None:
    if (read, fault) == (read_anywhere, "signature"):
        pytest.skip("nobody verifies the signature who reads parts")
    world = World(tmp_path)
    world.message = await world.under(MultiMasterKeyProvider(KEY, OTHER))
    await assert_hidden(read(world, *FAULTS[fault](world)))


# Ways to write a message


async def write_whole(world: World, source: Any, provider: Any, options: dict[str, Any]) -> object:
    return await encrypt(source, provider, **options)


async def write_chunks(world: World, source: Any, provider: Any, options: dict[str, Any]) -> object:
    async with encrypt_stream(source, provider, **options) as stream:
        return await stream.read()


async def write_file(world: World, source: Any, provider: Any, options: dict[str, Any]) -> None:
    async with aioencrypt.open(world.folder / "message", "wb", provider=provider, **options) as writer:
        await writer.write(source if isinstance(source, bytes) else b"text")
        async for chunk in source:
            await writer.write(chunk)


async def write_object(world: World, source: Any, provider: Any, options: dict[str, Any]) -> object:
    return await s3.put_encrypted(world.s3, BUCKET, KEY_NAME, source, provider, **options)


WRITES = [write_whole, write_chunks, write_file, write_object]


async def failing() -> AsyncIterator[bytes]:
    yield b"text"
    raise OSError("the source fails")


Writing = Callable[[World], tuple[Any, dict[str, Any]]]


def under(provider: Any, **options: Any) -> Writing:
    return lambda world: (provider, {"encryption_context": CONTEXT, **options})


def kms_failing(code: str, operation: str | None = None) -> Writing:
    def prepare(world: World) -> tuple[Any, dict[str, Any]]:
        keys = [world.kms.create_key(region=REGION) for _ in range(2)]
        world.kms.fail_next(code, operation=operation)
        return KMSMasterKeyProvider(keys, connection=world.connection), {"encryption_context": CONTEXT}

    return prepare


def kms_answering(operation: str, **changes: object) -> Writing:
    def prepare(world: World) -> tuple[Any, dict[str, Any]]:
        keys = [world.kms.create_key(region=REGION) for _ in range(2)]
        world.kms.answer_next(operation, changes)
        return KMSMasterKeyProvider(keys, connection=world.connection), {"encryption_context": CONTEXT}

    return prepare


def agreeing(**changes: object) -> Writing:
    def prepare(world: World) -> tuple[Any, dict[str, Any]]:
        key = world.kms.create_key(key_spec="ECC_NIST_P256", key_usage="KEY_AGREEMENT")
        world.kms.answer_next("DeriveSharedSecret", changes)
        provider = KMSECDHMasterKey.static(key, ec_key("b").public_key(), connection=world.connection)
        return provider, {"encryption_context": CONTEXT}

    return prepare


NOT_WRITTEN: dict[str, Writing] = {
    "source": under(KEY),
    "a key that raises": under(OwnKey("own", error=ValueError("raised"))),
    "a second key that raises": under(MultiMasterKeyProvider(KEY, OwnKey("own", error=ValueError("raised")))),
    "bytes for a pair": under(AnsweringKey(answer=DATA_KEY)),
    "a pair of bytes": under(AnsweringKey(answer=(DATA_KEY, WRAPPED))),
    "three": under(AnsweringKey(answer=(DATA_KEY, DATA_KEY, DATA_KEY))),
    "a short data key": under(AnsweringKey(answer=(DataKey(DATA_KEY[:31]), WRAPPED))),
    "no encrypted key": under(AnsweringKey(answer=(DataKey(DATA_KEY), None))),
    "cached": under(CachingCMM(AnsweringKey(answer=DATA_KEY), max_age=60), plaintext_length=10),
    "a small RSA key": under(
        RawRSAMasterKey(
            "a", "b", padding=RSAPadding.OAEP_SHA512, public_key=rsa_key("small", 1024).public_key()
        )
    ),
    "reserved": under(KEY, encryption_context={"tenant": VALUE, "aws-crypto-x": VALUE}),
    "another type": under(KEY, encryption_context={"tenant": VALUE, "number": 5}),
    "no mapping": under(KEY, encryption_context=[("tenant", VALUE)]),
    "long": under(KEY, encryption_context={"tenant": VALUE * 3000}),
    "long with the public key": under(KEY, encryption_context={"tenant": (VALUE * 3000)[:65_500]}),
    "no Unicode": under(KEY, encryption_context={"tenant": VALUE + "\udc80"}),
    "required": under(RequiredEncryptionContextCMM(KEY, ["other"])),
    "frame length": under(KEY, frame_length=0),
    "suite": under(KEY, algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF),
    "plaintext length": under(KEY, plaintext_length=2),
    "no provider": under(WRAPPING_KEY),
    "KMS": kms_failing("AccessDeniedException"),
    "KMS, encrypting": kms_failing("KMSInternalException", "Encrypt"),
    "KMS, a short key": kms_answering("GenerateDataKey", Plaintext=DATA_KEY[:31]),
    "KMS, a key in text": kms_answering("GenerateDataKey", Plaintext=str(DATA_KEY)),
    "KMS, no ciphertext": kms_answering("GenerateDataKey", Plaintext=DATA_KEY, CiphertextBlob=None),
    "KMS, another key id": kms_answering("GenerateDataKey", Plaintext=DATA_KEY, KeyId="alias/x"),
    "KMS, agreement": agreeing(SharedSecret=SHARED_SECRET, KeyAgreementAlgorithm="other"),
    "KMS, a long secret": agreeing(SharedSecret=SHARED_SECRET + b"x"),
}


@pytest.mark.parametrize("fault", NOT_WRITTEN)
@pytest.mark.parametrize("write", WRITES)
async def test_writing_shows_no_secret(write: Any, fault: str, tmp_path: Path) -> None:
    if (write, fault) == (write_file, "source"):
        pytest.skip("the error does not come through the library")
    world = World(tmp_path)
    await assert_hidden(write(world, failing(), *NOT_WRITTEN[fault](world)))


async def refuse(number: int, arguments: Any) -> None:
    raise S3Error("AccessDenied")


async def put_refused(world: World) -> object:
    world.s3.faults["put"] = refuse
    return await s3.put_encrypted(world.s3, BUCKET, KEY_NAME, PLAINTEXT, KEY, encryption_context=CONTEXT)


async def part_refused(world: World) -> object:
    world.s3.faults["part"] = refuse
    return await s3.put_encrypted(
        world.s3,
        BUCKET,
        KEY_NAME,
        plaintext_of(6 * 2**20),
        KEY,
        encryption_context=CONTEXT,
        part_length=5 * 2**20,
    )


@pytest.mark.parametrize("write", [put_refused, part_refused])
async def test_a_refused_upload_shows_no_secret(write: Any, tmp_path: Path) -> None:
    await assert_hidden(write(World(tmp_path)))


# Keys, and stores of keys


async def rsa_of_kms(world: World) -> object:
    key = rsa_master_key(world.kms, rsa_kms_key(world.kms))
    data_key, encrypted = await key.generate_data_key(asked(UNSIGNED))
    world.kms.answer_next("Decrypt", {"Plaintext": data_key.plaintext + DATA_KEY})
    return await key.decrypt_data_key(asked(UNSIGNED, encrypted))


async def store_of(world: World) -> BranchKeyStore:
    key = world.kms.create_key(region=REGION)
    store = BranchKeyStore(
        "table", kms_configuration=KMSKeyArn(key), logical_name="store", connection=world.connection
    )
    await store.create_key_store()
    return store


async def branch_key_of_length(world: World) -> object:
    store = await store_of(world)
    name = await store.create_key("name", CONTEXT)
    world.kms.answer_next("Decrypt", {"Plaintext": DATA_KEY[:31]})
    return await store.active_branch_key(name)


async def branch_key_twice(world: World) -> object:
    store = await store_of(world)
    await store.create_key("name", CONTEXT)
    return await store.create_key("name", CONTEXT)


async def branch_key_not_made(world: World) -> object:
    store = await store_of(world)
    world.kms.fail_next("AccessDeniedException", operation="ReEncrypt")
    return await store.create_key("name", CONTEXT)


async def branch_key_of_wrong_context(world: World) -> object:
    wrong: Any = {"tenant": VALUE, "number": 5}
    return await (await store_of(world)).create_key("name", wrong)


async def branch_key_of_another_context(world: World) -> object:
    store = await store_of(world)
    name = await store.create_key("name", CONTEXT)
    key = HierarchicalMasterKey(store, branch_key_id=name, max_age=60)
    _, encrypted = await key.generate_data_key(asked(UNSIGNED))
    other = DataKeyRequest(
        algorithm_suite=UNSIGNED, encryption_context={"tenant": VALUE + "!"}, encrypted_data_keys=[encrypted]
    )
    return await key.decrypt_data_key(other)


def asked(suite: AlgorithmSuite, *keys: EncryptedDataKey) -> DataKeyRequest:
    return DataKeyRequest(algorithm_suite=suite, encryption_context=CONTEXT, encrypted_data_keys=keys)


@pytest.mark.parametrize(
    "use",
    [
        rsa_of_kms,
        branch_key_of_length,
        branch_key_twice,
        branch_key_not_made,
        branch_key_of_wrong_context,
        branch_key_of_another_context,
    ],
)
async def test_keys_show_no_secret(use: Any, tmp_path: Path) -> None:
    await assert_hidden(use(World(tmp_path)))


PKCS1 = RSAPadding.PKCS1
RSA_PEM, EC_PEM = private_pem(rsa_key()), ec_pem(ec_key("alice"))


@pytest.mark.parametrize(
    ("make", "secret"),
    [
        (lambda: RawAESMasterKey("a", "b", wrapping_key=WRAPPING_KEY[:31]), WRAPPING_KEY[:31]),
        (
            lambda: RawAESMasterKey("a", "b", wrapping_key=NO_BYTES),
            "a password that is none",
        ),
        (lambda: RawAESMasterKey("aws-kms", "b", wrapping_key=WRAPPING_KEY), WRAPPING_KEY),
        (
            lambda: RawRSAMasterKey("a", "b", padding=PKCS1, private_key=RSA_PEM[:-60]),
            RSA_PEM[100:160],
        ),
        (lambda: RawRSAMasterKey("a", "b", padding=PKCS1, private_key=EC_PEM), EC_PEM[40:80]),
        (lambda: RawRSAMasterKey("a", "b", padding=PKCS1, public_key=RSA_PEM), RSA_PEM[99:150]),
        (lambda: RawECDHMasterKey.discovery(private_key=EC_PEM[:-40]), EC_PEM[40:80]),
        (lambda: RawECDHMasterKey.static(private_key=EC_PEM, recipient_public_key=EC_PEM), EC_PEM[40:80]),
        (lambda: RawECDHMasterKey.ephemeral(recipient_public_key=EC_PEM), EC_PEM[40:80]),
        (lambda: MultiMasterKeyProvider(NO_PROVIDER), WRAPPING_KEY),
        (lambda: CachingCMM(NO_PROVIDER, max_age=1), WRAPPING_KEY),
        (lambda: RequiredEncryptionContextCMM(NO_PROVIDER, ["a"]), WRAPPING_KEY),
        (lambda: rewrap_stream(b"", KEY, new_provider=NO_PROVIDER), WRAPPING_KEY),
    ],
    ids=[
        "AES of 31 bytes",
        "AES of text",
        "AES of KMS",
        "RSA cut off",
        "RSA of a curve",
        "RSA public",
        "ECDH cut off",
        "ECDH recipient",
        "ECDH ephemeral",
        "multi",
        "caching",
        "required",
        "rewrap",
    ],
)
async def test_constructors_show_no_secret(make: Any, secret: bytes | str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert_no_secrets(caught.value, secret)


@pytest.mark.parametrize(
    ("operation", "file"),
    [
        ("one_shot", "format/derivation.py"),
        ("kms_rsa_key", "providers/kms/rsa.py"),
        ("raw_ecdh_key", "providers/key_agreement.py"),
    ],
)
async def test_what_authenticates_is_compared_in_constant_time(
    operation: str, file: str, tmp_path: Path
) -> None:
    callers: set[str] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call" and argument is hmac.compare_digest:
            callers.add(frame.f_code.co_filename)

    world = operations.World(operations.CASES[operation], tmp_path)
    await world.prepare()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        await world.run()
    finally:
        sys.setprofile(before)
        await world.finish()
    assert str(Path(aioencrypt.__file__).parent / file) in callers


PUBLIC = (
    *("aioencrypt", "aioencrypt.branch_keys", "aioencrypt.inspection", "aioencrypt.rewrap"),
    *(f"aioencrypt.integrations.{name}" for name in ("aiohttp", "asgi", "fsspec", "s3")),
)


def taking_a_context() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the public functions, methods and constructors that take an encryption context."""
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            thing = getattr(module, name)
            functions = {name: thing}
            if inspect.isclass(thing):
                # The constructors of attrs only keep what they get.
                made = () if attrs.has(thing) else ("__init__",)
                functions = {
                    f"{name}.{key}": value
                    for key, value in vars(thing).items()
                    if inspect.isfunction(value) and (not key.startswith("_") or key in made)
                }
            for key, function in functions.items():
                if inspect.isfunction(function):
                    names = inspect.signature(function).parameters
                    if "encryption_context" in names:
                        yield key, function


async def test_every_public_function_that_takes_a_context_hides_it() -> None:
    found = dict(taking_a_context())
    assert {"put_encrypted", "EncryptionClient.decrypt", "BranchKeyStore.create_key"} <= set(found)
    path = secrets.__file__
    assert [key for key, function in found.items() if function.__code__.co_filename != path] == []
