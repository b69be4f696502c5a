"""The in-memory KMS over HTTP: requests of no SDK, the control endpoints, and the command."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
import pytest_asyncio

import aioencrypt.testing
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import KMSServer, main
from tests.support.kms_pairs import curve_key, der

US, EU = "us-east-1", "eu-west-1"
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0"
)

no_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT and SIGTERM")


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest_asyncio.fixture
async def session(kms: InMemoryKMS) -> AsyncIterator[aiohttp.ClientSession]:
    async with KMSServer(kms) as server, aiohttp.ClientSession(server.url) as session:
        yield session


async def post(
    session: aiohttp.ClientSession,
    body: bytes | dict[str, Any],
    *,
    target: str | None = "TrentService.Encrypt",
    authorization: str | None = AUTHORIZATION,
) -> tuple[int, Any]:
    headers = {"X-Amz-Target": target, "Authorization": authorization}
    async with session.post(
        "/",
        data=body if isinstance(body, bytes) else json.dumps(body),
        headers={name: value for name, value in headers.items() if value is not None},
    ) as response:
        assert response.content_type == "application/x-amz-json-1.1"
        assert len(response.headers["x-amzn-RequestId"]) == 36
        return response.status, json.loads(await response.read())


# Requests


@pytest.mark.asyncio
async def test_a_request_and_its_answer(kms: InMemoryKMS, session: aiohttp.ClientSession) -> None:
    key = kms.create_key()
    body = {"KeyId": key, "Plaintext": base64.b64encode(b"secret").decode(), "EncryptionContext": {"a": "1"}}
    status, answer = await post(session, body)
    assert status == 200
    assert answer.keys() == {"KeyId", "CiphertextBlob", "EncryptionAlgorithm"}
    body = {"CiphertextBlob": answer["CiphertextBlob"], "EncryptionContext": {"a": "1"}}
    status, answer = await post(session, body, target="TrentService.Decrypt")
    assert (status, base64.b64decode(answer["Plaintext"])) == (200, b"secret")
    status, answer = await post(session, body | {"KeyId": "nobody"}, target="TrentService.Decrypt")
    assert status == 400
    assert answer == {"__type": "NotFoundException", "message": f"Key '{key[:-36]}nobody' does not exist"}


@pytest.mark.asyncio
async def test_dates_are_numbers(session: aiohttp.ClientSession) -> None:
    _, answer = await post(session, b"{}", target="TrentService.CreateKey")
    assert isinstance(answer["KeyMetadata"]["CreationDate"], float)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"KeyId": "k", "Plaintext": "*"}',
        b'{"KeyId": "k", "Plaintext": 7}',
        b'{"KeyId": "k", "Plaintext": ["YQ=="]}',
        '{"KeyId": "k", "Plaintext": "ü"}'.encode(),
    ],
)
async def test_bodies_that_are_none(session: aiohttp.ClientSession, body: bytes) -> None:
    status, answer = await post(session, body)
    assert (status, answer["__type"]) == (400, "SerializationException")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", "ValidationException"),
        (b'{"KeyId": null, "Plaintext": "YQ=="}', "ValidationException"),
        (b'{"KeyId": "k", "Plaintext": null}', "ValidationException"),
        (b'{"KeyId": "k", "Plaintext": ""}', "ValidationException"),
        (b'{"KeyId": {"a": 1}, "Plaintext": "YQ=="}', "ValidationException"),
        (b'{"KeyId": "k", "Plaintext": "YQ==", "EncryptionContext": {"a": 1}}', "ValidationException"),
        (
            b'{"KeyId": "k", "Plaintext": "YQ==", "EncryptionContext": {"a": "\\ud800"}}',
            "ValidationException",
        ),
        (b'{"KeyId": "\\ud800", "Plaintext": "YQ=="}', "NotFoundException"),
        (b'{"KeyId": "k", "Plaintext": "YQ==", "Novelty": 1}', "UnsupportedOperationException"),
    ],
)
async def test_bodies_that_make_no_sense(session: aiohttp.ClientSession, body: bytes, code: str) -> None:
    status, answer = await post(session, body)
    assert (status, answer["__type"]) == (400, code)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "target", [None, "", "Encrypt", "TrentService.", "TrentService.Dance", "DynamoDB_20120810.Get"]
)
async def test_unknown_targets(session: aiohttp.ClientSession, target: str | None) -> None:
    status, answer = await post(session, b"{}", target=target)
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "MissingAuthenticationTokenException"),
        ("Basic YTpi", "IncompleteSignatureException"),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, S",
            "IncompleteSignatureException",
        ),
        ("AWS4-HMAC-SHA256 Credential=a/20260101/moon/kms/aws4_request, S", "IncompleteSignatureException"),
    ],
)
async def test_unsigned_requests(
    kms: InMemoryKMS, session: aiohttp.ClientSession, authorization: str | None, code: str
) -> None:
    status, answer = await post(session, b"{}", authorization=authorization)
    assert (status, answer["__type"]) == (400, code)
    assert kms.call_count() == 0


@pytest.mark.asyncio
async def test_other_methods_and_paths(session: aiohttp.ClientSession) -> None:
    for method, path, status in (("GET", "/", 405), ("POST", "/elsewhere", 404), ("PUT", "/_calls", 405)):
        async with session.request(method, path) as response:
            assert response.status == status


# Control


@pytest.mark.asyncio
async def test_reading_the_log(kms: InMemoryKMS, session: aiohttp.ClientSession) -> None:
    body = {"KeyId": "nobody", "Plaintext": "YQ==", "EncryptionContext": {"a": "1"}, "GrantTokens": ["t"]}
    await post(session, body)
    async with session.get("/_calls") as response:
        assert await response.json() == {
            "count": 1,
            "calls": [
                {
                    "operation": "Encrypt",
                    "region": US,
                    "key_id": "nobody",
                    "encryption_context": {"a": "1"},
                    "grant_tokens": ["t"],
                    "error": "NotFoundException",
                }
            ],
        }
    async with session.delete("/_calls") as response:
        assert response.status == 204
    assert kms.call_count() == 0


async def control(session: aiohttp.ClientSession, faults: object) -> int:
    async with session.post("/_faults", json=faults) as response:
        if response.status == 400:
            assert (await response.json())["message"]
        return response.status


@pytest.mark.asyncio
async def test_injecting_faults(kms: InMemoryKMS, session: aiohttp.ClientSession) -> None:
    key = kms.create_key()
    body = {"KeyId": key, "NumberOfBytes": 32}

    async def ask() -> tuple[int, Any]:
        return await post(session, body, target="TrentService.GenerateDataKey")

    failure = {"code": "DependencyTimeoutException", "operation": "GenerateDataKey"}
    assert await control(session, {"fail_next": failure}) == 204
    status, answer = await ask()
    assert (status, answer["__type"]) == (503, "DependencyTimeoutException")

    assert await control(session, {"deny": {"key_arn": key, "operations": ["GenerateDataKey"]}}) == 204
    assert (await ask())[1]["__type"] == "AccessDeniedException"
    assert await control(session, {"allow": {"key_arn": key}}) == 204
    assert await control(session, {"expire_credentials": {}}) == 204
    assert (await ask())[1]["__type"] == "ExpiredTokenException"
    assert await control(session, {"renew_credentials": {}, "latency": {"seconds": 0.01}}) == 204
    assert kms.latency == 0.01
    changes = {"Plaintext": base64.b64encode(b"short").decode(), "KeyId": None}
    assert (
        await control(session, {"answer_next": {"operation": "GenerateDataKey", "changes": changes}}) == 204
    )
    _, answer = await ask()
    assert base64.b64decode(answer["Plaintext"]) == b"short"
    assert "KeyId" not in answer

    assert await control(session, {"outage": {"region": US}}) == 204
    with pytest.raises(aiohttp.ClientError):
        await ask()
    assert await control(session, {"recover": {"region": US}}) == 204
    assert (await ask())[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("operation", "field"), [("GetPublicKey", "PublicKey"), ("DeriveSharedSecret", "SharedSecret")]
)
async def test_injecting_blobs_of_key_pairs(
    kms: InMemoryKMS, session: aiohttp.ClientSession, operation: str, field: str
) -> None:
    key = kms.create_key(key_spec="ECC_NIST_P256")
    public = base64.b64encode(der(curve_key())).decode()
    body = {"KeyId": key} | (
        {"KeyAgreementAlgorithm": "ECDH", "PublicKey": public} if field == "SharedSecret" else {}
    )
    changes = {field: base64.b64encode(b"short").decode()}
    assert await control(session, {"answer_next": {"operation": operation, "changes": changes}}) == 204
    _, answer = await post(session, body, target=f"TrentService.{operation}")
    assert base64.b64decode(answer[field]) == b"short"
    _, answer = await post(session, body, target=f"TrentService.{operation}")
    assert len(base64.b64decode(answer[field])) == (32 if field == "SharedSecret" else len(der(curve_key())))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "faults",
    [
        [],
        7,
        {"dance": {}},
        {"outage": "eu-west-1"},
        {"outage": {"region": "moon"}},
        {"latency": {"seconds": "long"}},
        {"latency": {"seconds": -1}},
        {"fail_next": {}},
        {"fail_next": {"code": "ThrottlingException", "times": 0}},
        {"deny": {"key_arn": "nobody"}},
        {"answer_next": {"operation": "Decrypt", "changes": {"Plaintext": "*"}}},
    ],
)
async def test_faults_that_are_none(session: aiohttp.ClientSession, faults: object) -> None:
    assert await control(session, faults) == 400


@pytest.mark.asyncio
async def test_faults_that_are_no_json(session: aiohttp.ClientSession) -> None:
    async with session.post("/_faults", data=b"{") as response:
        assert response.status == 400


# The command


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start the command and yield it with the lines that it printed first; it must have ended by itself."""
    root = Path(aioencrypt.testing.__file__).parents[2]
    # without asyncio's debug mode: on a busy machine it reports slow steps, and stderr has to stay empty
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "aioencrypt.testing.kms", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        assert process.stdout is not None
        keys = arguments.count("--key") or 2
        try:
            yield process, [process.stdout.readline().rstrip("\n") for _ in range(1 + keys)]
            assert process.wait(20) == 0
            assert process.communicate() == ("", "")
        finally:
            process.kill()


@pytest.fixture
def connect() -> Iterator[Callable[[str, str], Any]]:
    clients = []

    def connect(url: str, region: str) -> Any:
        client = boto3.client(
            "kms",
            endpoint_url=url,
            region_name=region,
            aws_access_key_id="anybody",
            aws_secret_access_key="anything",
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@no_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command(connect: Callable[[str, str], Any], number: signal.Signals) -> None:
    with running() as (process, (url, *keys)):
        assert [key.split(":")[3] for key in keys] == [US, EU]
        for region, key in zip((US, EU), keys, strict=True):
            client = connect(url, region)
            blob = client.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
            assert client.decrypt(KeyId=key, CiphertextBlob=blob)["Plaintext"] == b"secret"
        process.send_signal(number)


@no_signals
def test_the_command_with_keys_and_aliases(connect: Callable[[str, str], Any]) -> None:
    primary = "arn:aws-us-gov:kms:us-gov-west-1:999988887777:key/mrk-1234"
    replica = "arn:aws-us-gov:kms:us-gov-east-1:999988887777:key/mrk-1234"
    arguments = ("--key", primary, "--key", replica, "--alias", f"alias/app={replica}", "--latency", "0.01")
    with running(*arguments) as (process, (url, *keys)):
        assert keys == [primary, replica]
        blob = connect(url, "us-gov-west-1").encrypt(KeyId="mrk-1234", Plaintext=b"secret")["CiphertextBlob"]
        opened = connect(url, "us-gov-east-1").decrypt(CiphertextBlob=blob, KeyId="alias/app")
        assert (opened["KeyId"], opened["Plaintext"]) == (replica, b"secret")
        process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "nobody"], "'nobody' is not a key ARN"),
        (["--key", "arn:aws:kms:moon:111122223333:key/1"], "'moon' is not the name of an AWS region"),
        (
            [
                "--key",
                "arn:aws:kms:us-east-1:111122223333:key/1",
                "--key",
                "arn:aws-cn:kms:us-east-1:111122223333:key/1",
            ],
            "all keys are in one partition",
        ),
        (["--alias", "alias/app=nobody"], "NotFoundException"),
        (["--alias", "alias/app"], "NotFoundException"),
        (["--latency", "-1"], "latency"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_address_that_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--host", "192.0.2.1"])
    assert caught.value.code == 1
    assert "python -m aioencrypt.testing.kms: " in capsys.readouterr().err
