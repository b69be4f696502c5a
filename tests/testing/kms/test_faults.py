"""Faults, latency and the log of the in-memory KMS."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import attrs
import pytest

from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient, InMemoryKMSError, KMSCall
from aioencrypt.testing.kms.keys import KeyMaterial

US, EU = "us-east-1", "eu-west-1"


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def key(kms: InMemoryKMS) -> str:
    return kms.create_key()


@pytest.fixture
def client(kms: InMemoryKMS) -> InMemoryKMSClient:
    return kms.client(US)


# Faults


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", 400),
        ("KMSInternalException", 500),
        ("KeyUnavailableException", 500),
        ("DependencyTimeoutException", 503),
        ("ServiceUnavailable", 503),
    ],
)
async def test_fail_next(
    kms: InMemoryKMS, client: InMemoryKMSClient, key: str, code: str, status: int
) -> None:
    kms.fail_next(code, times=2, message="why not")
    for _ in range(2):
        with pytest.raises(InMemoryKMSError) as caught:
            await client.describe_key(KeyId=key)
        assert caught.value.response["Error"] == {"Code": code, "Message": "why not"}
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    await client.describe_key(KeyId=key)


@pytest.mark.anyio
async def test_faults_queue_up_and_wait_for_what_they_concern(kms: InMemoryKMS) -> None:
    keys = {region: kms.create_key(region=region) for region in (US, EU)}
    kms.fail_next("ThrottlingException", operation="Encrypt", region=EU)
    kms.fail_next("KMSInternalException", region=EU)
    kms.fail_next("KeyUnavailableException", region=EU)
    await kms.client(US).encrypt(KeyId=keys[US], Plaintext=b"secret")
    client = kms.client(EU)
    with pytest.raises(InMemoryKMSError, match="KMSInternalException"):
        await client.describe_key(KeyId=keys[EU])
    with pytest.raises(InMemoryKMSError, match="ThrottlingException"):
        await client.encrypt(KeyId=keys[EU], Plaintext=b"secret")
    with pytest.raises(InMemoryKMSError, match="KeyUnavailableException"):
        await client.encrypt(KeyId=keys[EU], Plaintext=b"secret")
    await client.encrypt(KeyId=keys[EU], Plaintext=b"secret")


@pytest.mark.anyio
async def test_an_outage_concerns_one_region(kms: InMemoryKMS) -> None:
    kms.latency = 3600  # a connection that breaks does not take its time
    key = kms.create_key(region=EU)
    kms.outage(EU)
    with pytest.raises(ConnectionError, match=EU):
        await kms.client(EU).describe_key(KeyId=key)
    kms.latency = 0
    await kms.client(US).describe_key(KeyId=kms.create_key(region=US))
    kms.recover(EU)
    await kms.client(EU).describe_key(KeyId=key)
    assert [call.error for call in kms.calls] == ["ConnectionError", None, None]


@pytest.mark.anyio
async def test_answers_can_be_altered(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    kms.answer_next("GenerateDataKey", {"Plaintext": b"short", "CiphertextBlob": None})
    kms.answer_next("GenerateDataKey", {"KeyId": "another"}, times=2)
    blob = (await client.encrypt(KeyId=key, Plaintext=b"secret"))["CiphertextBlob"]
    with pytest.raises(InMemoryKMSError):
        await client.generate_data_key(KeyId="nobody", NumberOfBytes=32)
    altered = await client.generate_data_key(KeyId=key, NumberOfBytes=32)
    assert (altered["Plaintext"], altered["KeyId"]) == (b"short", key)
    assert "CiphertextBlob" not in altered
    for _ in range(2):
        altered = await client.generate_data_key(KeyId=key, NumberOfBytes=32)
        assert (len(altered["Plaintext"]), altered["KeyId"]) == (32, "another")
    assert (await client.generate_data_key(KeyId=key, NumberOfBytes=32))["KeyId"] == key
    assert (await client.decrypt(CiphertextBlob=blob))["Plaintext"] == b"secret"


# Latency


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_latency_is_a_duration(kms: InMemoryKMS, seconds: float) -> None:
    with pytest.raises(ValueError, match="latency"):
        kms.latency = seconds
    with pytest.raises(ValueError, match="latency"):
        InMemoryKMS(latency=seconds)


@pytest.mark.anyio
async def test_calls_wait_at_the_same_time(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    kms.latency = 0.1
    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(lambda: client.describe_key(KeyId=key))
    assert 0.1 <= time.monotonic() - started < 2.5
    assert kms.call_count() == 50


@pytest.mark.anyio
async def test_errors_take_their_time_too(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    kms.latency = 0.05
    started = time.monotonic()
    with pytest.raises(InMemoryKMSError):
        await client.describe_key(KeyId="nobody")
    assert time.monotonic() - started >= 0.05


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_was_made(
    kms: InMemoryKMS, client: InMemoryKMSClient, key: str
) -> None:
    kms.latency = 3600
    with anyio.move_on_after(0.02) as scope:
        await client.describe_key(KeyId=key)
    assert scope.cancelled_caught
    assert [call.error for call in kms.calls] == [None]


@pytest.mark.anyio
async def test_every_call_can_be_cancelled_even_without_latency(client: InMemoryKMSClient, key: str) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.describe_key(KeyId=key)
    assert scope.cancelled_caught


@pytest.mark.asyncio
async def test_cancelled_by_asyncio(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    kms.latency = 3600
    task = asyncio.create_task(client.describe_key(KeyId=key))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.describe_key(KeyId=key)
    kms.latency = 0
    await client.describe_key(KeyId=key)
    assert kms.call_count("DescribeKey") == 3


# The log


@pytest.mark.anyio
async def test_the_log(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    kms.create_alias("alias/app", key)
    token = kms.create_grant(key, "Encrypt")
    context = {"tenant": "42"}
    made = await client.encrypt(
        KeyId="alias/app", Plaintext=b"secret", EncryptionContext=context, GrantTokens=[token]
    )
    context["tenant"] = "43"
    with pytest.raises(InMemoryKMSError):
        await client.decrypt(CiphertextBlob=made["CiphertextBlob"])
    with pytest.raises(InMemoryKMSError):
        await kms.client(EU).describe_key(KeyId=key)
    await client.re_encrypt(
        CiphertextBlob=made["CiphertextBlob"],
        SourceKeyId=key,
        SourceEncryptionContext={"tenant": "42"},
        DestinationKeyId="alias/app",
        DestinationEncryptionContext={"to": "there"},
    )
    assert kms.calls == [
        KMSCall("Encrypt", US, "alias/app", {"tenant": "42"}, (token,), None),
        KMSCall("Decrypt", US, None, {}, (), "InvalidCiphertextException"),
        KMSCall("DescribeKey", EU, key, {}, (), "NotFoundException"),
        KMSCall("ReEncrypt", US, "alias/app", {"to": "there"}, (), None),
    ]
    assert (kms.call_count(), kms.call_count("Decrypt"), kms.call_count("GenerateDataKey")) == (4, 1, 0)
    kms.calls.clear()
    assert kms.call_count() == 4
    kms.reset_calls()
    assert kms.calls == []


@pytest.mark.anyio
async def test_the_log_takes_garbage(kms: InMemoryKMS) -> None:
    parameters: dict[str, Any] = {"KeyId": 7, "EncryptionContext": [1], "GrantTokens": 3}
    with pytest.raises(InMemoryKMSError):
        await kms.invoke(US, "Encrypt", parameters)
    assert kms.calls == [KMSCall("Encrypt", US, None, {}, (), "ValidationException")]


@pytest.mark.anyio
async def test_a_record_cannot_be_changed(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    await client.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext={"a": "1"})
    (call,) = kms.calls
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        call.error = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        call.encryption_context["a"] = "2"  # type: ignore[index]


@pytest.mark.anyio
async def test_nothing_secret_is_shown(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    with pytest.raises(InMemoryKMSError) as caught:
        await client.encrypt(KeyId="nobody", Plaintext=b"plain", EncryptionContext={"tenant": "hush"})
    shown = f"{kms!r} {client!r} {kms.calls!r} {caught.value!r} {caught.value} {KeyMaterial('id', b'hush')!r}"
    assert "tenant" in shown
    assert "hush" not in shown
    assert "plain" not in shown


def test_the_error_has_the_shape_of_a_client_error() -> None:
    response = {
        "Error": {"Code": "NotFoundException", "Message": "gone"},
        "ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": 400},
    }
    error = InMemoryKMSError(response, "Decrypt")
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.response, copied.operation_name) == (response, "Decrypt")
    assert str(copied) == str(error)


@pytest.mark.anyio
async def test_an_error_leaves_no_cycle(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    class Plaintext(bytearray):
        pass

    async def fail(call: Callable[[Plaintext], Coroutine[Any, Any, Any]]) -> weakref.ref[Plaintext]:
        plaintext = Plaintext(b"secret")
        with pytest.raises((InMemoryKMSError, ConnectionError)):
            await call(plaintext)
        return weakref.ref(plaintext)

    gc.disable()
    try:
        refused = await fail(lambda plaintext: client.encrypt(KeyId="nobody", Plaintext=plaintext))
        kms.outage(US)
        cut = await fail(lambda plaintext: client.encrypt(KeyId=key, Plaintext=plaintext))
        assert refused() is None
        assert cut() is None
    finally:
        gc.enable()


# Loops and threads


def test_no_loop_is_needed_and_none_is_kept() -> None:
    kms = InMemoryKMS()
    key = kms.create_key()
    client = kms.client(US)
    for _ in range(2):
        asyncio.run(client.describe_key(KeyId=key))
        anyio.run(lambda: client.describe_key(KeyId=key), backend="trio")
    assert kms.call_count() == 4


def test_several_threads(kms: InMemoryKMS) -> None:
    async def work() -> None:
        client = kms.client(US)
        for _ in range(100):
            key = kms.create_key()
            made = await client.generate_data_key(KeyId=key, NumberOfBytes=32)
            await client.decrypt(CiphertextBlob=made["CiphertextBlob"])

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kms.call_count() == 800
    assert {call.error for call in kms.calls} == {None}


def test_clients_by_region(kms: InMemoryKMS) -> None:
    clients = kms.clients(US, EU)
    assert {region: client.region for region, client in clients.items()} == {US: US, EU: EU}
