"""KMS keys when KMS says no, says nonsense, or says nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AWSConnection,
    KMSMasterKeyProvider,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
    encrypt_stream,
)
from aioencrypt.testing import InMemoryKMS, InMemoryKMSError
from tests.support.kms import (
    EU,
    OPERATIONS,
    SECRET,
    US,
    Call,
    calls_of,
    encrypted_data_key,
    failure,
    opened_with,
    provider_for,
    request,
    service_error_of,
    wrapped,
)
from tests.support.streaming import Feed, assert_idle, on_asyncio, on_asyncio_and_uvloop

pytestmark = pytest.mark.anyio


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# What KMS refuses


@attrs.frozen
class Refused:
    """A refusal: how to bring it about, and what the user is to see."""

    code: str
    retryable: bool = False
    advice: str = ""
    inject: Callable[[InMemoryKMS, str], object] | None = None


REFUSALS = [
    Refused(
        "AccessDeniedException", False, "allow the caller to use the key", lambda kms, key: kms.deny(key)
    ),
    Refused("DisabledException", False, "; enable the key", lambda kms, key: kms.disable_key(key)),
    Refused(
        "KMSInvalidStateException",
        False,
        "check the state of the key; it may be pending deletion",
        lambda kms, key: kms.schedule_key_deletion(key),
    ),
    Refused("ExpiredTokenException", False, "renew the credentials"),
    Refused("IncorrectKeyException", False, "the data key was encrypted under another key"),
    Refused("InvalidCiphertextException", False, "or the encryption context was changed"),
    Refused("NotFoundException", False, "check the key id, account and region"),
    Refused("UnrecognizedClientException", False, "check the credentials"),
    Refused("InvalidGrantTokenException"),
    Refused("ThrottlingException", True),
    Refused("RequestThrottledException", True),
    Refused("TooManyRequestsException", True),
    Refused("LimitExceededException", True),
    Refused("KMSInternalException", True),
    Refused("DependencyTimeoutException", True),
    Refused("KeyUnavailableException", True),
    # by its status, 500
    Refused("InternalFailure", True),
]


@on_asyncio
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("refused", REFUSALS, ids=lambda refused: refused.code)
async def test_a_refusal_is_told_with_code_request_id_and_advice(
    kms: InMemoryKMS, refused: Refused, operation: str
) -> None:
    def inject(key: str) -> None:
        if refused.inject:
            refused.inject(kms, key)
        else:
            kms.fail_next(refused.code, operation=OPERATIONS[operation])

    error, _ = await failure(operation, kms, inject)
    told = service_error_of(error)
    cause = told.__cause__
    assert isinstance(cause, InMemoryKMSError)
    assert cause.response["Error"]["Code"] == told.code == refused.code
    assert told.request_id == cause.response["ResponseMetadata"]["RequestId"]
    assert told.retryable is refused.retryable
    assert told.message.startswith(cause.response["Error"]["Message"])
    assert refused.advice in told.message
    assert str(told) == f"{refused.code}: {told.message} (request id {told.request_id})"
    assert kms.calls[-1].error == refused.code
    # once: the retries are the client's
    assert kms.call_count(OPERATIONS[operation]) == 1


@pytest.mark.parametrize("operation", ["generate", "decrypt"])
async def test_expired_credentials_can_be_renewed(kms: InMemoryKMS, operation: str) -> None:
    error, key = await failure(operation, kms, lambda key: kms.expire_credentials())
    assert service_error_of(error).code == "ExpiredTokenException"
    kms.renew_credentials()
    await encrypt(b"x", provider_for(kms, key))


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_dead_endpoint(kms: InMemoryKMS, operation: str) -> None:
    error, _ = await failure(operation, kms, lambda key: kms.outage(EU))
    told = service_error_of(error)
    assert isinstance(told.__cause__, ConnectionError)
    assert str(told) == f"ConnectionError: {told.__cause__}"
    assert (told.code, told.request_id, told.retryable) == (None, None, True)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("raised", "retryable"),
    [
        (ValueError("odd"), False),
        (OSError("broken"), True),
        (TimeoutError("slow"), True),
        (RuntimeError(), False),
    ],
)
async def test_any_exception_of_a_client_is_the_failure_of_its_key(
    kms: InMemoryKMS, operation: str, raised: Exception, retryable: bool
) -> None:
    spoiled: list[str] = []

    async def fail(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if parameters["KeyId"] in spoiled:
            raise raised
        return await call()

    error, _ = await failure(operation, kms, spoiled.append, clients=wrapped(kms, fail, US, EU))
    told = service_error_of(error)
    assert told.__cause__ is raised
    assert str(told) == (f"{type(raised).__name__}: {raised}" if str(raised) else "RuntimeError")
    assert (told.code, told.retryable) == (None, retryable)


@on_asyncio
@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3)])
async def test_an_interrupt_is_not_a_failure_of_a_key(kms: InMemoryKMS, raised: BaseException) -> None:
    async def interrupt(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        raise raised

    keys = [kms.create_key(), kms.create_key()]
    encrypted = [await encrypted_data_key(kms, key) for key in keys]
    provider = KMSMasterKeyProvider(keys, connection=AWSConnection(kms=wrapped(kms, interrupt, US)))
    for call in (provider.decrypt_data_key(request(*encrypted)), encrypt(b"x", provider)):
        with pytest.raises(type(raised)) as caught:
            await call
        assert caught.value is raised


# Every key must succeed: aws-kms-keyring.md#onencrypt


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#onencrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#onencrypt"
)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_encrypting_every_key_must_succeed_and_nothing_is_written(
    kms: InMemoryKMS, position: int
) -> None:
    keys = [kms.create_key(region=region) for region in (US, EU, US)]
    kms.deny(keys[position])
    source = Feed(b"plaintext")
    with pytest.raises(ProviderError, match="AccessDeniedException"):
        async with encrypt_stream(source, provider_for(kms, *keys)):
            pytest.fail("entered")
    assert source.reads == 0
    # without a data key there is nothing to encrypt
    assert (kms.call_count("GenerateDataKey"), kms.call_count("Encrypt") > 0) == (1, position > 0)
    kms.allow(keys[position])
    await encrypt(b"x", provider_for(kms, *keys))


async def test_the_first_failure_cancels_the_other_calls_and_is_one_error(kms: InMemoryKMS) -> None:
    keys = [kms.create_key() for _ in range(5)]
    hanging = anyio.Event()
    ended: list[str] = []

    async def hang(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if parameters["KeyId"] == keys[3]:
            await hanging.wait()
        elif operation == "Encrypt":
            if parameters["KeyId"] == keys[4]:
                hanging.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(parameters["KeyId"])
        return await call()

    kms.disable_key(keys[3])
    with pytest.raises(ProviderError) as caught, anyio.fail_after(10):
        await encrypt(b"x", KMSMasterKeyProvider(keys, connection=AWSConnection(kms=wrapped(kms, hang, US))))
    assert [attempt.key_id for attempt in caught.value.attempts] == [keys[3]]
    assert isinstance(caught.value.__cause__, ServiceError)
    assert sorted(ended) == sorted([keys[1], keys[2], keys[4]])
    assert_idle()


async def test_several_failures_at_once_are_one_error(kms: InMemoryKMS) -> None:
    keys = [kms.create_key() for _ in range(4)]
    for key in keys[1:]:
        kms.deny(key)
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"x", provider_for(kms, *keys))
    assert len(caught.value.attempts) == 1
    assert caught.value.attempts[0].key_id in keys[1:]


# The next key is tried: aws-kms-keyring.md#ondecrypt


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt"
)
async def test_decrypting_every_failure_is_kept_in_order(kms: InMemoryKMS) -> None:
    denied, cut, garbled, hanging = (
        kms.create_key(),
        kms.create_key(region=EU),
        kms.create_key(),
        kms.create_key(),
    )
    good = kms.create_key()
    keys = [denied, cut, garbled, hanging, good]
    encrypted = [await encrypted_data_key(kms, key) for key in keys]
    kms.deny(denied)
    kms.outage(EU)

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if parameters["KeyId"] == hanging:
            await anyio.sleep_forever()
        answer = await call()
        return {} if parameters["KeyId"] == garbled else answer

    provider = KMSMasterKeyProvider(
        keys, connection=AWSConnection(kms=wrapped(kms, around, US, EU), timeout=0.02)
    )
    with anyio.fail_after(10):
        assert await opened_with(kms, provider, *encrypted) == [denied, cut, garbled, good]
    kms.schedule_key_deletion(good)
    with pytest.raises(ProviderError) as caught:
        await provider.decrypt_data_key(request(*encrypted))
    assert str(caught.value).startswith(
        "none of the 5 encrypted data keys of the message could be decrypted; "
    )
    assert [attempt.key_id for attempt in caught.value.attempts] == keys
    assert [type(attempt.error) for attempt in caught.value.attempts] == [
        ServiceError, ServiceError, ProviderError, ServiceError, ServiceError
    ]  # fmt: skip
    for attempt in caught.value.attempts:
        assert str(attempt) in str(caught.value)


# Time


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_answer_in_time_is_the_failure_of_that_key(kms: InMemoryKMS, operation: str) -> None:
    spoiled: list[str] = []

    async def hang(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if parameters["KeyId"] in spoiled:
            # the loop is late: what a clock says about the time that has passed does not matter
            time.sleep(0.01)
            await anyio.sleep_forever()
        return await call()

    error, _ = await failure(operation, kms, spoiled.append, clients=wrapped(kms, hang, US, EU), timeout=0.02)
    told = service_error_of(error)
    assert str(told) == "no answer within 0.02 seconds"
    assert isinstance(told.__cause__, TimeoutError)
    assert (told.code, told.request_id, told.retryable) == (None, None, True)
    assert_idle()


async def test_a_supplier_counts_in_the_time(kms: InMemoryKMS) -> None:
    async def hang(region: str | None) -> Any:
        await anyio.sleep_forever()

    provider = KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=hang, timeout=0.01))
    with pytest.raises(ProviderError, match=r"no answer within 0\.01 seconds"), anyio.fail_after(10):
        await encrypt(b"x", provider)


async def test_without_a_time_limit_the_caller_sets_it(kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key(), timeout=None)
    kms.latency = 3600
    with pytest.raises(TimeoutError), anyio.fail_after(0.02):
        await encrypt(b"x", provider)
    kms.latency = 0.03
    await encrypt(b"x", provider)


# Cancellation


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cancelled_in_a_call(kms: InMemoryKMS, operation: str) -> None:
    keys = [kms.create_key(), kms.create_key(), kms.create_key()]
    message, _ = await encrypt(b"x", provider_for(kms, *keys))
    kms.reset_calls()
    called = anyio.Event()
    ended: list[str] = []

    async def hang(name: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if name != OPERATIONS[operation]:
            return await call()
        called.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(parameters["KeyId"])

    provider = KMSMasterKeyProvider(keys, connection=AWSConnection(kms=wrapped(kms, hang, US)))
    async with anyio.create_task_group() as group:
        group.start_soon(decrypt, message, provider) if operation == "decrypt" else group.start_soon(
            encrypt, b"x", provider
        )
        await called.wait()
        await checkpoint()
        group.cancel_scope.cancel()
    # no other key is tried after a cancellation
    assert sorted(ended) == sorted(keys[1:] if operation == "encrypt" else keys[:1])
    assert_idle()
    assert (await decrypt(message, provider_for(kms, *keys))).plaintext == b"x"


@on_asyncio_and_uvloop
@pytest.mark.parametrize("way", ["cancel", "cancel twice", "timeout"])
async def test_cancelled_by_asyncio(kms: InMemoryKMS, way: str) -> None:
    keys = [kms.create_key(), kms.create_key()]
    provider = provider_for(kms, *keys)
    kms.latency = 3600
    if way == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await encrypt(b"x", provider)
    else:
        task = asyncio.create_task(encrypt(b"x", provider))
        while not kms.calls:
            await asyncio.sleep(0)
        for _ in way.split():
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert calls_of(kms) == [("GenerateDataKey", US, keys[0])]
    assert_idle()
    kms.latency = 0
    await encrypt(b"x", provider)


# The log


async def test_calls_are_logged_at_debug_without_secrets(
    kms: InMemoryKMS, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    error, key = await failure("encrypt", kms, lambda key: kms.disable_key(key))
    await encrypt(b"x", provider_for(kms, kms.create_key()), encryption_context={"t": SECRET})
    records = [record for record in caplog.records if record.name.startswith("aioencrypt")]
    assert {record.levelno for record in records} == {logging.DEBUG}
    lines = [record.getMessage() for record in records]
    assert [line.split(" under ")[0] for line in lines] == [
        "KMS GenerateDataKey", "KMS Encrypt", "KMS GenerateDataKey"
    ]  # fmt: skip
    assert key in lines[1]
    assert str(error.attempts[0].error) in lines[1]
    assert SECRET not in "".join(lines)
