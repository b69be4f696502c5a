"""What goes wrong between aiobotocore and an endpoint, and what an error means by its shape."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)

from aioencrypt import (
    AWSConnection,
    EncryptionError,
    KMSDiscoveryMasterKeyProvider,
    ProviderError,
    ServiceError,
    encrypt,
)
from aioencrypt.aws.errors import service_error
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import sealed, strict
from tests.support.kms import EU, ID, SECRET, US, arn, calls_of, request, service_error_of
from tests.support.streaming import assert_idle, collected, on_asyncio

pytestmark = pytest.mark.anyio
collect_what_the_tests_left = pytest.fixture(autouse=True, scope="module")(collected)

KEY = arn(f"key/{ID}")
ONCE = AioConfig(retries={"total_max_attempts": 1})


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


async def failure(*key_ids: str, **options: Any) -> ProviderError:
    """Return the error of encrypting with a provider that makes its clients."""
    async with strict(*key_ids, **options) as provider:
        with pytest.raises(ProviderError, match=r"^could not") as caught:
            await encrypt(b"x", provider, encryption_context={"tenant": SECRET})
    error = caught.value
    assert error.__cause__ is error.attempts[0].error
    assert SECRET not in str(error)
    assert_idle()
    return error


@attrs.define
class Endpoint:
    """Answers every request with the same bytes, and keeps the head of each."""

    url: str = ""
    heads: list[str] = attrs.field(factory=list)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        endpoint.heads.append(head)
        await reader.readexactly(int(head.partition("Content-Length: ")[2].partition("\r\n")[0]))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        endpoint.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        yield endpoint


def http(
    status: str, body: str, *, content_type: str = "application/x-amz-json-1.1", missing: int = 0
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body) + missing}",
        "x-amzn-RequestId: request-1",
    ]
    return "\r\n".join([*lines, "", body]).encode()


# Nobody to ask


@on_asyncio
async def test_no_credentials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    told = service_error_of(await failure(KEY, kms=url))
    assert isinstance(told.__cause__, NoCredentialsError)
    assert str(told).endswith("; set up AWS credentials, or name a profile= of the connection")
    assert (told.code, told.request_id, told.retryable) == (None, None, False)


@on_asyncio
async def test_no_region(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    told = service_error_of(await failure("alias/app", kms=url))
    assert isinstance(told.__cause__, NoRegionError)
    assert str(told).endswith("; set AWS_DEFAULT_REGION, or give the key ARN")
    assert (told.code, told.request_id, told.retryable) == (None, None, False)
    # no exception of botocore crosses the border while warming up, either
    async with strict("alias/app", kms=url) as provider:
        with pytest.raises(ServiceError, match="set AWS_DEFAULT_REGION") as caught:
            await provider.warm_up()
        assert isinstance(caught.value.__cause__, NoRegionError)


@on_asyncio
@pytest.mark.parametrize("region", ["us-east-1.evil.example", "x@evil", "evil/", "-", "é", "a" * 64])
async def test_a_region_in_a_message_that_cannot_be_one(region: str) -> None:
    """Discovery takes the region from the message, where anybody may have written it."""
    encrypted = EncryptedDataKey("aws-kms", arn(f"key/{ID}", region=region).encode(), b"blob")
    async with KMSDiscoveryMasterKeyProvider(
        discovery_filter=None, connection=AWSConnection(client_config=ONCE)
    ) as discovery:
        with pytest.raises(ProviderError, match="InvalidRegionError"):
            await discovery.decrypt_data_key(request(encrypted))


@on_asyncio
async def test_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    told = service_error_of(await failure(KEY, kms=url, client_config=ONCE))
    assert isinstance(told.__cause__, EndpointConnectionError)
    assert url in str(told)
    assert (told.code, told.request_id, told.retryable) == (None, None, True)


# Nobody who answers in time


@on_asyncio
async def test_the_read_timeout_of_the_client(kms: InMemoryKMS, url: str) -> None:
    kms.latency = 3600
    config = AioConfig(read_timeout=0.05, retries={"total_max_attempts": 1})
    told = service_error_of(await failure(kms.create_key(), kms=url, client_config=config))
    assert isinstance(told.__cause__, ReadTimeoutError)
    assert str(told).startswith("ReadTimeoutError: ")
    assert (told.code, told.retryable) == (None, True)


@on_asyncio
async def test_the_time_limit_is_around_all_retries(kms: InMemoryKMS, url: str) -> None:
    kms.latency = 3600
    config = AioConfig(read_timeout=0.05, retries={"total_max_attempts": 100})
    error = await failure(kms.create_key(), kms=url, client_config=config, timeout=2)
    told = service_error_of(error)
    assert str(told) == "no answer within 2 seconds"
    assert isinstance(told.__cause__, TimeoutError)
    assert told.retryable
    assert kms.call_count() >= 1


# What KMS answers


@on_asyncio
async def test_a_refusal_of_kms(kms: InMemoryKMS, url: str) -> None:
    key, other = kms.create_key(), kms.create_key(region=EU)
    kms.deny(other)
    told = service_error_of(await failure(key, other, kms=url))
    cause = told.__cause__
    assert isinstance(cause, ClientError)
    assert told.code == "AccessDeniedException"
    assert told.request_id == cause.response["ResponseMetadata"]["RequestId"]
    assert told.request_id is not None
    assert len(told.request_id) == 36
    assert "allow the caller to use the key" in told.message
    assert not told.retryable
    assert calls_of(kms) == [("GenerateDataKey", US, key), ("Encrypt", EU, other)]


@on_asyncio
async def test_botocore_retries_and_nobody_else(kms: InMemoryKMS, url: str) -> None:
    key = kms.create_key()
    # of the retry modes, "standard" repeats this one
    kms.fail_next("LimitExceededException")
    async with strict(key, kms=url) as provider:
        await sealed(provider)
    assert [call.error for call in kms.calls] == ["LimitExceededException", None]
    kms.reset_calls()
    kms.fail_next("ThrottlingException", times=2)
    config = AioConfig(retries={"total_max_attempts": 2})
    told = service_error_of(await failure(key, kms=url, client_config=config))
    assert (told.code, told.retryable) == ("ThrottlingException", True)
    assert kms.call_count() == 2


@on_asyncio
@pytest.mark.parametrize(
    ("config", "status", "mode", "extra", "attempts"),
    [
        (None, 500, "standard", "aioencrypt", 3),
        (AioConfig(user_agent_extra="mine"), 400, "standard", "mine", 1),
        (ONCE, 500, "standard", "aioencrypt", 1),
        (AioConfig(retries={"mode": "legacy", "total_max_attempts": 2}), 500, "legacy", "aioencrypt", 2),
    ],
    ids=["ours", "user agent", "attempts", "mode"],
)
async def test_a_config_goes_over_ours_and_leaves_the_rest(
    config: AioConfig | None, status: int, mode: str, extra: str, attempts: int
) -> None:
    async with answering(http(f"{status} No", "{}")) as endpoint:
        await failure(KEY, kms=endpoint.url, client_config=config)
    assert len(endpoint.heads) == attempts
    agent = endpoint.heads[0].partition("User-Agent: ")[2].partition("\r\n")[0].split()
    assert f"cfg/retry-mode#{mode}" in agent
    assert agent[-1] == extra


@attrs.frozen
class Answer:
    """An answer, and the error that it means."""

    name: str
    data: bytes
    kind: type[EncryptionError] = ServiceError
    text: str = ""
    code: str | None = None
    request_id: str | None = None
    retryable: bool = False
    cause: type[BaseException] = Exception


ANSWERS = [
    Answer("no HTTP", b"what?\r\n\r\n", text="HTTPClientError: ", retryable=True, cause=HTTPClientError),
    Answer("nothing", b"", text="ConnectionClosedError: ", retryable=True, cause=ConnectionClosedError),
    Answer(
        "cut off",
        http("200 OK", "{}", missing=9),
        text="ConnectionClosedError: ",
        retryable=True,
        cause=ConnectionClosedError,
    ),
    Answer("500", http("500 Oops", "<html>"), code="500", retryable=True, cause=ClientError),
    Answer("503", http("503 Later", ""), code="503", retryable=True, cause=ClientError),
    Answer(
        "403 of a proxy",
        http("403 No", "<html>", content_type="text/html"),
        code="403",
        request_id="request-1",
        cause=ClientError,
    ),
    Answer(
        "an error with a namespace",
        http("400 No", json.dumps({"__type": "com.amazonaws.kms#DisabledException", "message": "off"})),
        text="DisabledException: off; enable the key (request id request-1)",
        code="DisabledException",
        request_id="request-1",
        cause=ClientError,
    ),
    Answer("a list", http("200 OK", "[]"), cause=AttributeError),
    Answer("null", http("200 OK", "null"), cause=AttributeError),
    Answer("wrong types", http("200 OK", '{"Plaintext": 5, "KeyId": 7}'), cause=TypeError),
    Answer("deep", http("200 OK", "[" * 100_000), cause=RecursionError),
    Answer("html", http("200 OK", "<html>", content_type="text/html"), ProviderError, "answer of KMS has no"),
    Answer("empty", http("200 OK", "{}"), ProviderError, "answer of KMS has no"),
    Answer(
        "no base64", http("200 OK", json.dumps({"Plaintext": "?", "KeyId": KEY})), ProviderError, "has no"
    ),
    Answer(
        "short",
        http("200 OK", json.dumps({"Plaintext": "c2hvcnQ=", "CiphertextBlob": "AA==", "KeyId": KEY})),
        ProviderError,
        "the data key has 5 bytes; the suite needs 32",
    ),
]


@on_asyncio
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
async def test_an_endpoint_that_is_not_kms(answer: Answer) -> None:
    async with answering(answer.data) as endpoint:
        error = await failure(KEY, kms=endpoint.url, client_config=ONCE)
    told = error.attempts[0].error
    assert type(told) is answer.kind
    assert answer.text in str(told)
    assert len(endpoint.heads) == 1
    if isinstance(told, ServiceError):
        assert isinstance(told.__cause__, answer.cause)
        assert (told.code, told.retryable) == (answer.code, answer.retryable)
        assert told.request_id == answer.request_id


# Errors by their shape: no botocore needed


class Shaped(Exception):
    """An error of any other client."""

    def __init__(self, response: object) -> None:
        super().__init__("shaped")
        self.response = response


def error_of(code: object = "SomeException", **metadata: object) -> Shaped:
    return Shaped({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata})


@pytest.mark.parametrize(
    ("error", "text", "code", "request_id", "retryable"),
    [
        (error_of(), "SomeException: no", "SomeException", None, False),
        (error_of(RequestId="r"), "SomeException: no (request id r)", "SomeException", "r", False),
        (error_of(RequestId=7), "SomeException: no (request id 7)", "SomeException", "7", False),
        (error_of(HTTPStatusCode=499), "SomeException: no", "SomeException", None, False),
        (error_of(HTTPStatusCode=500), "SomeException: no", "SomeException", None, True),
        (error_of(HTTPStatusCode="500"), "SomeException: no", "SomeException", None, False),
        (error_of(HTTPStatusCode=None), "SomeException: no", "SomeException", None, False),
        (error_of("MyThrottledThing"), "MyThrottledThing: no", "MyThrottledThing", None, True),
        (error_of(404), "404: no", "404", None, False),
        (error_of(None), "unknown: no", "unknown", None, False),
        (error_of("A\n\x1b[31mB"), r"A\n\x1b[31mB: no", r"A\n\x1b[31mB", None, False),
        (error_of("A", RequestId="r\u2028"), r"A: no (request id r\u2028)", "A", r"r\u2028", False),
        (Shaped({"Error": {"Code": "A", "Message": "b\r\nc"}}), r"A: b\r\nc", "A", None, False),
        (ValueError("a\nb"), r"ValueError: a\nb", None, None, False),
        (error_of("KMSInternalException"), "KMSInternalException: no", "KMSInternalException", None, True),
        (Shaped({"Error": {}}), "unknown: no message", "unknown", None, False),
        (Shaped({"Error": {"Code": "A"}, "ResponseMetadata": None}), "A: no message", "A", None, False),
        (Shaped({"Error": {"Code": "A"}, "ResponseMetadata": ["r"]}), "A: no message", "A", None, False),
        (Shaped({"Error": "A"}), "Shaped: shaped", None, None, False),
        (Shaped({}), "Shaped: shaped", None, None, False),
        (Shaped(None), "Shaped: shaped", None, None, False),
        (Shaped("text"), "Shaped: shaped", None, None, False),
        (ValueError(), "ValueError", None, None, False),
        (ConnectionResetError("gone"), "ConnectionResetError: gone", None, None, True),
        (TimeoutError(), "TimeoutError", None, None, True),
        (type("ConnectionError", (Exception,), {})("x"), "ConnectionError: x", None, None, True),
        (type("Mine", (type("HTTPClientError", (Exception,), {}),), {})("x"), "Mine: x", None, None, True),
        (
            type("NoCredentialsError", (Exception,), {})("none"),
            "NoCredentialsError: none; set up AWS credentials, or name a profile= of the connection",
            None,
            None,
            False,
        ),
    ],
)  # fmt: skip
def test_an_error_is_known_by_its_shape(
    error: Exception, text: str, code: str | None, request_id: str | None, retryable: bool
) -> None:
    told = service_error(error)
    assert str(told) == text
    assert (told.code, told.request_id, told.retryable) == (code, request_id, retryable)
