"""OpenTelemetry: nothing that is exported holds a secret, wherever secrets were, and whatever failed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, StatusCode

from aioencrypt import (
    AWSConnection,
    CachingCMM,
    EncryptionError,
    KMSMasterKeyProvider,
    PolicyError,
    ProviderError,
    RawAESMasterKey,
    RequiredEncryptionContextCMM,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open as open_file,
    open_seekable,
)
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.branch_keys import World
from tests.support.kms import US, Call, wrapped
from tests.support.pages import ROOT, rows, section
from tests.support.rows import each_row
from tests.support.streaming import Feed, flipped, on_asyncio
from tests.support.telemetry import Telemetry, telemetry

PLAINTEXT = "Wolfsmilch am Hauptbahnhof"
CONTEXT_VALUE = "Nachtigall vom Ostufer"
CONTEXT_KEY = "Zuname der Patientin"
WRAPPING_KEY = b"Schluesselbund-mit-32-Bytes-hier"
GRANT_TOKEN = "Freibrief-Nummer-Elf"
SOURCE_TEXT = "Fehlertext der Quelle"
SERVICE_TEXT = "Meldung des Dienstes"
SECRETS = [
    PLAINTEXT,
    CONTEXT_VALUE,
    CONTEXT_KEY,
    WRAPPING_KEY.decode(),
    GRANT_TOKEN,
    SOURCE_TEXT,
    SERVICE_TEXT,
]
CONTEXT = {CONTEXT_KEY: CONTEXT_VALUE}
PAGE = ROOT / "docs" / "opentelemetry.md"
DOCUMENTED = {row[0].strip("`") for row in rows(section(PAGE, "## Spans"))} - {"attribute"}
KEY = RawAESMasterKey("tests", "secrets", wrapping_key=WRAPPING_KEY)

pytestmark = pytest.mark.anyio


def forms(secret: str) -> set[str]:
    """Return how a secret may look inside of JSON, in lower case."""
    data = secret.encode()
    return {
        secret.lower(),
        data.hex(),
        base64.b64encode(data).decode().rstrip("=").lower(),
        # what base64 makes of it when it starts elsewhere in a group of three
        base64.b64encode(b"\0" + data).decode()[4:-4].lower(),
        base64.b64encode(b"\0\0" + data).decode()[4:-4].lower(),
        str(list(data))[1:-1],
    }


def found_in(exported: str) -> list[str]:
    text = exported.lower()
    return [secret for secret in SECRETS if any(form in text for form in forms(secret))]


# What is tried


async def failing_source() -> AsyncIterator[bytes]:
    yield PLAINTEXT.encode()
    raise ConnectionResetError(f"{SOURCE_TEXT} {PLAINTEXT}")


class Spilling(RawAESMasterKey):
    """A key that says what it must not say."""

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        raise ValueError(f"{SERVICE_TEXT} {WRAPPING_KEY!r} {dict(request.encryption_context)}")

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        raise ProviderError(f"{SERVICE_TEXT} {WRAPPING_KEY!r} {dict(request.encryption_context)}")


class Answer(Exception):
    """An answer of a service that repeats what it was asked, in the shape of botocore's errors."""

    def __init__(self, parameters: object) -> None:
        super().__init__(f"{SERVICE_TEXT} {parameters}")
        self.response = {
            "Error": {"Code": "ValidationException", "Message": f"{SERVICE_TEXT} {parameters}"},
            "ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": 400},
        }


def kms_provider(around: Callable[..., Awaitable[Any]] | None = None) -> KMSMasterKeyProvider:
    kms = InMemoryKMS()
    key = kms.create_key(region=US)

    async def simply(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        return await call()

    clients = wrapped(kms, around or simply, US)
    # The one in memory does not know the token; what repeats it is in its place.
    return KMSMasterKeyProvider(
        [key], connection=AWSConnection(kms=clients), grant_tokens=[GRANT_TOKEN] if around else []
    )


async def refusing(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
    raise Answer(dict(parameters))


async def breaking(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
    raise ConnectionError(f"{SERVICE_TEXT} {dict(parameters)}")


async def round_trip(tmp_path: Path) -> None:
    for provider in (KEY, kms_provider(), RequiredEncryptionContextCMM(KEY, [CONTEXT_KEY])):
        message, _ = await encrypt(PLAINTEXT.encode(), provider, encryption_context=CONTEXT)
        await decrypt(message, provider, encryption_context=CONTEXT)
        async with encrypt_stream(Feed(PLAINTEXT.encode()), provider, encryption_context=CONTEXT) as writing:
            message = await writing.read()
        async with decrypt_stream(Feed(message), provider, encryption_context=CONTEXT) as reading:
            await reading.read()
        async with open_seekable(
            message, provider, encryption_context=CONTEXT, accept_unverified_signature=True
        ) as seekable:
            await seekable.read()
        path = tmp_path / "file"
        async with open_file(path, "wb", provider=provider, encryption_context=CONTEXT) as writer:
            await writer.write(PLAINTEXT.encode())


async def cached(tmp_path: Path) -> None:
    async with CachingCMM(kms_provider(), max_age=60, partition=CONTEXT_VALUE) as manager:
        for _ in range(2):
            message, _ = await encrypt(PLAINTEXT.encode(), manager, encryption_context=CONTEXT)
            await decrypt(message, manager)


async def branch_key_named_by_the_context(tmp_path: Path) -> None:
    world = await World.new().with_table()
    store = world.store()
    await store.create_key(branch_key_id=CONTEXT_VALUE, encryption_context=CONTEXT)

    async def supplier(context: Mapping[str, str]) -> str:
        return context[CONTEXT_KEY]

    key = HierarchicalMasterKey(store, branch_key_id_supplier=supplier, max_age=60)
    message, _ = await encrypt(PLAINTEXT.encode(), key, encryption_context=CONTEXT)
    await decrypt(message, key)
    with pytest.raises(ProviderError):
        await encrypt(PLAINTEXT.encode(), key, encryption_context={CONTEXT_KEY: SERVICE_TEXT})


async def source_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError, match=PLAINTEXT):
        async with encrypt_stream(failing_source(), KEY, encryption_context=CONTEXT) as stream:
            await stream.read()


async def caller_that_fails(tmp_path: Path) -> None:
    message, _ = await encrypt(PLAINTEXT.encode(), KEY, encryption_context=CONTEXT)

    async def read() -> None:
        async with decrypt_stream(message, KEY) as stream:
            raise ValueError(await stream.read())

    async def write() -> None:
        async with open_file(tmp_path / PLAINTEXT, "wb", provider=KEY, encryption_context=CONTEXT):
            raise PolicyError(CONTEXT_VALUE)

    with pytest.raises(ValueError, match=PLAINTEXT):
        await read()
    with pytest.raises(PolicyError, match=CONTEXT_VALUE):
        await write()


async def key_that_spills(tmp_path: Path) -> None:
    key = Spilling("tests", "secrets", wrapping_key=WRAPPING_KEY)
    with pytest.raises(ProviderError, match=r"Spilling\.generate_data_key raised ValueError"):
        await encrypt(PLAINTEXT.encode(), key, encryption_context=CONTEXT)
    message, _ = await encrypt(PLAINTEXT.encode(), KEY, encryption_context=CONTEXT)
    with pytest.raises(ProviderError, match=CONTEXT_VALUE):
        await decrypt(message, key)


async def service_that_repeats(tmp_path: Path) -> None:
    for around in (refusing, breaking):
        with pytest.raises(ProviderError, match=f"{CONTEXT_VALUE}.*{GRANT_TOKEN}"):
            await encrypt(PLAINTEXT.encode(), kms_provider(around), encryption_context=CONTEXT)


async def damage_and_mismatch(tmp_path: Path) -> None:
    message, _ = await encrypt(PLAINTEXT.encode(), KEY, encryption_context=CONTEXT)
    wrong = {CONTEXT_KEY: SERVICE_TEXT}
    for source, context in ((flipped(message, -120), CONTEXT), (message, wrong), (message[:-30], CONTEXT)):
        with pytest.raises(EncryptionError):
            await decrypt(source, KEY, encryption_context=context)
        with pytest.raises(EncryptionError):
            async with decrypt_stream(Feed(source), KEY, encryption_context=context) as stream:
                await stream.read()
    with pytest.raises(PolicyError):
        await encrypt(PLAINTEXT.encode(), RequiredEncryptionContextCMM(KEY, [CONTEXT_KEY]))


async def cancelled(tmp_path: Path) -> None:
    async def waiting(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        scope = group.cancel_scope
        # older versions of anyio take no reason
        scope.cancel(*[PLAINTEXT] * ("reason" in signature(scope.cancel).parameters))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        await encrypt(PLAINTEXT.encode(), kms_provider(waiting), encryption_context=CONTEXT)


CASES = [
    round_trip,
    cached,
    branch_key_named_by_the_context,
    source_that_fails,
    caller_that_fails,
    key_that_spills,
    service_that_repeats,
    damage_and_mismatch,
    cancelled,
]


@on_asyncio
@pytest.mark.parametrize("case", CASES)
async def test_nothing_exported_holds_a_secret(
    case: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    with telemetry() as memory:
        await case(tmp_path)
        exported = memory.exported()
    assert memory.spans
    assert found_in(exported) == []


@on_asyncio
@pytest.mark.parametrize("case", CASES)
async def test_spans_have_the_attributes_of_the_documentation_only(
    case: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    with telemetry() as memory:
        await case(tmp_path)
    for span in memory.spans:
        assert set(span.attributes or ()) <= DOCUMENTED
        assert (span.events, span.links, span.status.description) == ((), (), None)


@on_asyncio
async def test_each_attribute_of_the_documentation_is_there(tmp_path: Path) -> None:
    with telemetry() as memory:
        for case in (round_trip, branch_key_named_by_the_context):
            await case(tmp_path)
    assert {name for span in memory.spans for name in span.attributes or ()} == DOCUMENTED


@on_asyncio
async def test_the_metrics_are_those_of_the_documentation(tmp_path: Path) -> None:
    with telemetry() as memory:
        await cached(tmp_path)
    table = {row[0].strip("`"): row[1].strip("`") for row in rows(section(PAGE, "## Metrics"))}
    del table["metric"]
    assert {name: metric.unit for name, metric in memory.metrics().items()} == table


# The search itself


def spoil(memory: Telemetry, where: str, text: str) -> None:
    span = memory.tracer.start_span("span")
    match where:
        case "name":
            span.update_name(text)
        case "attribute":
            span.set_attribute("key", text)
        case "attribute name":
            span.set_attribute(text, 1)
        case "list":
            span.set_attribute("key", ["x", text])
        case "event":
            span.add_event("event", {"key": text})
        case "exception":
            span.record_exception(ValueError(text))
        case "status":
            span.set_status(StatusCode.ERROR, text)
        case "link":
            other = TracerProvider().get_tracer("other").start_span("other")
            span = memory.tracer.start_span("linked", links=[Link(other.get_span_context(), {"key": text})])
        case "metric":
            memory.meter_provider.get_meter("tests").create_counter("counter").add(1, {"key": text})
    span.end()


@on_asyncio
@each_row(
    "where",
    ["name", "attribute", "attribute name", "list", "event", "exception", "status", "link", "metric"],
)
@each_row(
    "form",
    [
        str,
        str.upper,
        lambda secret: secret.encode().hex(),
        lambda secret: base64.b64encode(b"12" + secret.encode() + b"1").decode(),
        lambda secret: repr(secret.encode()),
    ],
)
async def test_the_search_finds_what_it_looks_for(where: str, form: Callable[[str], str]) -> None:
    secret = SECRETS[0]
    with telemetry() as memory:
        await encrypt(b"x", KEY)
        spoil(memory, where, f"before {form(secret)} after")
        assert found_in(memory.exported()) == [secret]
