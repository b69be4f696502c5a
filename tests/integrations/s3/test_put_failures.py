"""Writing into S3 that fails, or is cancelled: the error is the one that happened, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any

import anyio
import pytest

from aioencrypt import KMSMasterKeyProvider, PlaintextLengthError, ProviderError, ServiceError, StreamError
from aioencrypt.integrations.s3 import PutResult, objects, put_encrypted, upload as s3_upload
from aioencrypt.testing import InMemoryKMS
from tests.support.cancelling import Way, each_way, each_way_without_uvloop
from tests.support.memory_s3 import BUCKET, KEY_NAME, Fault, MemoryS3, S3Error
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    assert_idle,
    in_chunks,
    on_asyncio,
    opened,
    plaintext_of,
)

pytestmark = pytest.mark.anyio

PART = 1000
PLAINTEXT = plaintext_of(4 * PART + 100)
PARTS = 5
ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts be as small as tests want them, as if S3 did."""
    monkeypatch.setattr(objects, "MIN_PART_LENGTH", 1)


def memory_s3(**faults: Fault) -> MemoryS3:
    client = MemoryS3(min_part_length=PART)
    client.faults = faults
    return client


async def put(client: MemoryS3, source: Any = PLAINTEXT, **options: Any) -> PutResult:
    changed: dict[str, Any] = {"algorithm_suite": UNSIGNED, "frame_length": 500, "part_length": PART}
    return await put_encrypted(client, BUCKET, KEY_NAME, source, KEY, **changed | options)


def failing(error: BaseException, number: int = 1) -> Fault:
    async def fault(called: int, arguments: Mapping[str, Any]) -> None:
        if called == number:
            raise error

    return fault


async def stuck(number: int, arguments: Mapping[str, Any]) -> None:
    await anyio.sleep_forever()


def assert_nothing_left(client: MemoryS3) -> None:
    assert client.uploads == {}
    assert client.objects == {}
    assert not any(client.running.values())
    assert_idle()


# What S3 refuses


async def test_nothing_here_is_about_one_request_only() -> None:
    assert (await put(memory_s3())).parts == PARTS


@pytest.mark.parametrize(
    ("operation", "number"),
    [("create", 1), *(("part", number) for number in range(1, PARTS + 1)), ("complete", 1)],
)
async def test_a_call_that_fails_ends_the_upload(operation: str, number: int) -> None:
    refused = S3Error("AccessDenied", 403, "no")
    client = memory_s3(**{operation: failing(refused, number)})
    with pytest.raises(ServiceError) as caught:
        await put(client)
    error = caught.value
    assert str(error) == (
        "AccessDenied: no; check the policies of the bucket and of the caller (request id request-1)"
    )
    assert (error.code, error.request_id, error.retryable) == ("AccessDenied", "request-1", False)
    assert error.__cause__ is refused
    assert not hasattr(error, "__notes__")
    assert ("abort" in client.operations) is (operation != "create")
    assert_nothing_left(client)


async def test_one_request_that_fails_leaves_nothing() -> None:
    client = memory_s3(put=failing(S3Error("SlowDown", 503)))
    with pytest.raises(ServiceError, match="SlowDown: as told") as caught:
        await put(client, b"")
    assert caught.value.retryable
    assert client.operations == ["put"]


async def test_a_part_that_fails_cancels_those_on_their_way_and_the_source() -> None:
    stalled = anyio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield PLAINTEXT[: 3 * PART + 600]
        stalled.set()
        await anyio.sleep_forever()

    async def fault(number: int, arguments: Mapping[str, Any]) -> None:
        await stalled.wait()
        if arguments["PartNumber"] < 3:
            await anyio.sleep_forever()
        raise S3Error("InternalError", 500)

    client = memory_s3(part=fault)
    with pytest.raises(ServiceError, match="InternalError"):
        await put(client, source(), concurrency=5)
    assert len(client.called("part")) == 3
    assert_nothing_left(client)


async def test_a_call_without_an_answer_has_a_time_limit() -> None:
    client = memory_s3(part=stuck)
    with pytest.raises(ServiceError, match=r"no answer within 0\.01 seconds") as caught:
        await put(client, timeout=0.01)
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert_nothing_left(client)


@pytest.mark.parametrize(
    ("method", "field"), [("create_multipart_upload", "UploadId"), ("upload_part", "ETag")]
)
async def test_an_answer_that_lacks_something_is_an_error(method: str, field: str) -> None:
    client: Any = memory_s3()
    call = getattr(client, method)

    async def without(**arguments: Any) -> Mapping[str, Any]:
        return {name: value for name, value in (await call(**arguments)).items() if name != field}

    setattr(client, method, without)
    with pytest.raises(ServiceError, match=f"the answer of S3 has no {field}"):
        await put(client)
    assert client.objects == {}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
async def test_what_ends_a_program_is_not_wrapped(error: BaseException) -> None:
    client = memory_s3(part=failing(error, 2))
    with pytest.raises(type(error)) as caught:
        await put(client)
    assert caught.value is error
    assert_nothing_left(client)


@on_asyncio
async def test_a_part_that_somebody_else_cancels_is_missed() -> None:
    client = memory_s3(part=failing(asyncio.CancelledError(), 2))
    with pytest.raises(StreamError, match="a part was cancelled, and not by the caller of the upload"):
        await put(client)
    assert_nothing_left(client)


@on_asyncio
async def test_a_beginning_that_somebody_else_cancels_is_missed() -> None:
    client = memory_s3(create=failing(asyncio.CancelledError()))
    with pytest.raises(StreamError, match="the upload was cancelled, and not by its caller"):
        await put(client)
    assert_nothing_left(client)


# What comes before S3


class SourceError(Exception):
    pass


@pytest.mark.parametrize("length", [10, PART - 200, 2 * PART, len(PLAINTEXT)])
async def test_an_error_of_the_source_passes_as_it_is(length: int) -> None:
    error = SourceError("gone")

    async def source() -> AsyncIterator[bytes]:
        async for chunk in in_chunks(PLAINTEXT[:length], 100):
            yield chunk
        raise error

    client = memory_s3()
    with pytest.raises(SourceError) as caught:
        await put(client, source())
    assert caught.value is error
    assert ("create" in client.operations) is (length > PART)
    assert_nothing_left(client)


@pytest.mark.parametrize("given", [len(PLAINTEXT) - 1, len(PLAINTEXT) + 1])
async def test_a_source_that_is_not_as_long_as_was_said_leaves_nothing(given: int) -> None:
    client = memory_s3()
    with pytest.raises(PlaintextLengthError):
        await put(client, in_chunks(PLAINTEXT, 300), plaintext_length=given)
    assert "abort" in client.operations
    assert_nothing_left(client)


async def test_nothing_is_called_without_a_data_key() -> None:
    kms = InMemoryKMS()
    kms.outage("us-east-1")
    client = memory_s3()
    provider = KMSMasterKeyProvider([ARN], connection=kms.connection("us-east-1"))
    with pytest.raises(ProviderError):
        await put_encrypted(client, BUCKET, KEY_NAME, PLAINTEXT, provider)
    assert client.calls == []


# Clean-up that fails


async def test_an_upload_that_cannot_be_aborted_is_noted_on_the_error() -> None:
    client = memory_s3(
        part=failing(S3Error("InternalError", 500), 3), abort=failing(S3Error("AccessDenied", 403, "no"))
    )
    with pytest.raises(ServiceError, match="InternalError") as caught:
        await put(client)
    [upload_id] = client.uploads
    assert caught.value.__notes__ == [
        f"the multipart upload {upload_id} could not be aborted, and its parts are still there, "
        "and paid for: "
        "AccessDenied: no; check the policies of the bucket and of the caller (request id request-1)"
    ]


async def test_an_upload_that_is_not_there_any_more_needs_no_note() -> None:
    # The end of an upload whose answer was lost.
    client = memory_s3(
        complete=failing(S3Error("InternalError", 500)), abort=failing(S3Error("NoSuchUpload"))
    )
    with pytest.raises(ServiceError, match="InternalError") as caught:
        await put(client)
    assert not hasattr(caught.value, "__notes__")


async def test_aborting_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "_CLEAN_UP_SECONDS", 0.01)
    client = memory_s3(part=failing(S3Error("InternalError", 500)), abort=stuck)
    with pytest.raises(ServiceError, match="InternalError") as caught:
        await put(client)
    assert caught.value.__notes__[0].endswith("no answer within 0.01 seconds")


# Cancellation


@each_way_without_uvloop
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_an_upload_that_is_cancelled_anywhere_leaves_nothing(way: Way, suite: Any) -> None:
    for number in count():
        client = memory_s3()

        async def operation(client: MemoryS3 = client) -> None:
            pieces = [PLAINTEXT[start : start + 700] for start in range(0, len(PLAINTEXT), 700)]
            await put(client, Feed(*pieces), algorithm_suite=suite, concurrency=2)

        reached, cancelled = await way.at(number, operation)
        assert client.uploads == {}
        assert not any(client.running.values())
        assert_idle()
        if client.objects:  # as a whole, however late the cancellation came
            assert await opened(client.stored.data, suite) == PLAINTEXT
        else:
            assert cancelled
        if not reached:
            break
    assert number > 12


@each_way
@pytest.mark.parametrize("operation", ["create", "part", "complete"])
async def test_a_call_that_hangs_can_be_cancelled(
    way: Way, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if operation == "create":  # is waited for, so that it can be aborted
        monkeypatch.setattr(s3_upload, "_CLEAN_UP_SECONDS", 0.01)
    reached = anyio.Event()

    async def hang(number: int, arguments: Mapping[str, Any]) -> None:
        reached.set()
        await anyio.sleep_forever()

    client = memory_s3(**{operation: hang})
    await way.when(reached, lambda: put(client))
    assert_nothing_left(client)


@each_way
async def test_an_upload_that_begins_while_it_is_cancelled_is_aborted(way: Way) -> None:
    reached = anyio.Event()
    released = anyio.Event()

    async def begin(number: int, arguments: Mapping[str, Any]) -> None:
        reached.set()
        await released.wait()

    async def release() -> None:
        released.set()

    client = memory_s3(create=begin)
    await way.during(reached, lambda: put(client), release)
    assert client.operations == ["create", "abort"]
    assert_nothing_left(client)


@each_way
async def test_aborting_goes_on_when_it_is_cancelled(way: Way) -> None:
    reached = anyio.Event()
    released = anyio.Event()

    async def abort(number: int, arguments: Mapping[str, Any]) -> None:
        reached.set()
        await released.wait()

    async def release() -> None:
        released.set()

    client = memory_s3(part=failing(S3Error("InternalError", 500), 3), abort=abort)
    await way.during(reached, lambda: put(client), release)
    assert_nothing_left(client)


async def test_a_timeout_around_an_upload_is_the_callers() -> None:
    client = memory_s3(part=stuck)
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await put(client)
    assert_nothing_left(client)
