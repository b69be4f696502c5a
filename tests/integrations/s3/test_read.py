"""Reading from S3: whole and at random, what is asked for, and what is let go."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicyError,
    EncryptionContextMismatchError,
    LimitError,
    Limits,
    Release,
    ServiceError,
    SignaturePolicy,
    SignaturePolicyError,
    TruncatedMessageError,
    UnverifiedStreamError,
)
from aioencrypt.integrations.s3 import ranges as s3_ranges
from tests.support.cancelling import Way, each_way, each_way_without_uvloop
from tests.support.memory_s3 import BUCKET, KEY_NAME, Body, MemoryS3, S3Error
from tests.support.s3_reading import (
    FRAME,
    PLAINTEXT,
    Read,
    each_kind,
    named,
    opened,
    ranges,
    read,
    read_seekable,
    reset,
    seekable,
    short_ranges,
    stored,
)
from tests.support.streaming import SIGNED, UNSIGNED, assert_idle, client_for, plaintext_of

__all__ = ["short_ranges"]

pytestmark = pytest.mark.anyio


# The whole object


@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_one_request_reads_the_whole_object(suite: Any) -> None:
    client = await stored(suite=suite)
    async with opened(client) as stream:
        assert stream.header.algorithm_suite is suite
        assert b"".join([chunk async for chunk in stream]) == PLAINTEXT
        assert stream.verified
    assert client.called("get") == [{"Bucket": BUCKET, "Key": KEY_NAME, "Range": "bytes=0-1048575"}]
    assert client.open_bodies == 0


async def test_no_connection_is_open_while_nothing_is_read() -> None:
    client = await stored()
    stream = opened(client)
    await stream.__aenter__()
    assert await stream.read(10) == PLAINTEXT[:10]
    assert client.open_bodies == 0
    with pytest.raises(UnverifiedStreamError):
        await stream.__aexit__(None, None, None)
    assert client.open_bodies == 0
    async with opened(client) as abandoned:
        abandoned.abandon()
    assert client.open_bodies == 0


async def test_what_decrypt_stream_takes_is_taken() -> None:
    client = await stored(suite=SIGNED, encryption_context={"tenant": "42"})
    assert await read(client, encryption_context={"tenant": "42"}, release=Release.VERIFIED) == PLAINTEXT
    refused: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"encryption_context": {"tenant": "43"}}, EncryptionContextMismatchError),
        ({"signature_policy": SignaturePolicy.FORBID}, SignaturePolicyError),
        ({"limits": Limits(max_frame_length=100)}, LimitError),
    ]
    for options, error in refused:
        with pytest.raises(error):
            await read(client, **options)
    assert client.open_bodies == 0


async def test_the_encryption_client_has_the_say() -> None:
    suite = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    client = await stored(suite=suite)
    for read_all in (read, read_seekable):
        with pytest.raises(CommitmentPolicyError):
            await read_all(client)
        assert await read_all(client, encryption_client=client_for(suite)) == PLAINTEXT


@each_kind
async def test_further_arguments_go_with_every_call(read_all: Read) -> None:
    client = await stored()
    client.versioned = True
    version = client.put(client.stored.data).version_id
    client.put(b"newer")
    client.cuts = [(100, reset())]
    extra = {"RequestPayer": "requester", "SSECustomerKey": "k"}
    assert await read_all(client, version_id=version, extra=extra) == PLAINTEXT
    for call in client.called("get"):
        assert {name: call.get(name) for name in extra} == extra
        assert call["VersionId"] == version
    with pytest.raises(ValueError, match="extra has Range, which GetArguments does not support"):
        await read_all(client, extra={"Range": "bytes=0-1"})


@each_kind
async def test_what_is_not_there_is_told_on_entry(read_all: Read) -> None:
    client = MemoryS3()
    with pytest.raises(ServiceError, match="check the key of the object") as caught:
        await read_all(client)
    assert (caught.value.code, caught.value.request_id) == ("NoSuchKey", "request-1")
    assert isinstance(caught.value.__cause__, S3Error)


@each_kind
async def test_an_empty_object_is_no_message(read_all: Read) -> None:
    client = MemoryS3()
    client.put(b"")
    with pytest.raises(TruncatedMessageError):
        await read_all(client)
    assert client.open_bodies == 0


@each_kind
@pytest.mark.parametrize("length", [0, 1, FRAME, 3 * FRAME])
async def test_objects_of_any_length(read_all: Read, length: int) -> None:
    assert await read_all(await stored(PLAINTEXT[:length])) == PLAINTEXT[:length]


@pytest.mark.usefixtures("short_ranges")
@pytest.mark.parametrize("length", [2 * FRAME - 200, 2 * FRAME, 4 * FRAME, len(PLAINTEXT)])
async def test_a_long_object_is_read_in_ranges_without_a_gap(length: int) -> None:
    client = await stored(PLAINTEXT[:length])
    size = len(client.stored.data)
    assert await read(client) == PLAINTEXT[:length]
    spans = sorted([int(bound) for bound in bounds(text)] for text in ranges(client))
    assert [start for start, _ in spans] == [0, *[last + 1 for _, last in spans[:-1]]]
    assert spans[-1][1] + 1 >= size
    assert spans[-1][0] < size
    assert client.most_running["get"] <= 2
    assert client.open_bodies == 0


@pytest.mark.usefixtures("short_ranges")
async def test_a_failure_in_a_range_fetched_ahead_is_raised_in_its_place() -> None:
    client = await stored()
    wrong = named("FlexibleChecksumError")

    async def fail(number: int, arguments: Any) -> None:
        if arguments["Range"].startswith(f"bytes={6 * FRAME}-"):
            raise wrong

    client.faults["get"] = fail
    received = bytearray()

    async def read_into() -> None:
        async with opened(client) as stream:
            async for chunk in stream:
                received.extend(chunk)

    with pytest.raises(ServiceError, match="FlexibleChecksumError") as caught:
        await read_into()
    assert caught.value.__cause__ is wrong
    assert received == PLAINTEXT[: len(received)]
    assert len(received) >= 4 * FRAME
    assert client.open_bodies == 0


@each_way
@pytest.mark.usefixtures("short_ranges")
async def test_ranges_fetched_ahead_end_with_the_stream(way: Way) -> None:
    client = await stored()
    reached = anyio.Event()

    async def third(number: int, arguments: Any) -> None:
        if number == 3:
            reached.set()
            await anyio.sleep_forever()

    client.faults["get"] = third
    await way.when(reached, lambda: read(client))
    assert client.open_bodies == 0
    assert client.running["get"] == 0
    assert_idle()


# At random


async def test_only_what_is_needed_is_read() -> None:
    client = await stored()
    data = client.stored.data
    async with seekable(client) as stream:
        assert stream.length == len(PLAINTEXT)
        opening = ranges(client)
        assert opening == ["bytes=0-8191", f"bytes={len(data) - 140}-{len(data) - 1}"]
        assert await stream.read_at(len(PLAINTEXT) - 50) == PLAINTEXT[-50:]
        assert ranges(client) == opening
        assert await stream.read_at(3 * FRAME + 5, 10) == PLAINTEXT[3 * FRAME + 5 : 3 * FRAME + 15]
        stream.seek(7 * FRAME)
        assert await stream.read(10) == PLAINTEXT[7 * FRAME : 7 * FRAME + 10]
    assert len(ranges(client)) == 4
    assert client.open_bodies == 0


async def test_reading_on_reads_ahead_further_and_further() -> None:
    plaintext = plaintext_of(2_000_000)
    client = await stored(plaintext, frame_length=1000)
    async with seekable(client) as stream:
        whole = b"".join([await stream.read(1000) for _ in range(2000)])
    assert whole == plaintext
    lengths = [int(end) - int(start) for start, end in map(bounds, ranges(client)[2:])]
    assert len(lengths) < 12
    assert lengths[2] < lengths[3] < lengths[4]


def bounds(text: str | None) -> list[str]:
    assert text
    return text.removeprefix("bytes=").split("-")


async def test_ranges_are_read_at_the_same_time() -> None:
    plaintext = plaintext_of(5_000_000)
    client = await stored(plaintext)
    async with seekable(client, concurrency=3) as stream:
        assert await stream.read() == plaintext
    assert client.most_running["get"] == 3


async def test_a_signed_message_is_read_at_random_by_those_who_accept_that() -> None:
    client = await stored(suite=SIGNED)
    with pytest.raises(SignaturePolicyError):
        await read_seekable(client)
    assert await read_seekable(client, accept_unverified_signature=True) == PLAINTEXT


WRONG_BODIES: list[Any] = [None, b"bytes", "text", {}]


@pytest.mark.parametrize("use", [read, read_seekable])
@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("Body", wrong) for wrong in WRONG_BODIES),
        *(("ContentLength", wrong) for wrong in (None, "5", b"5", 1.5)),
    ],
)
async def test_an_answer_that_lacks_a_field_is_an_error(use: Any, field: str, wrong: object) -> None:
    client: Any = await stored()
    get_object = client.get_object

    async def wrongly(**arguments: Any) -> Any:
        answer = await get_object(**arguments) if field != "Body" else {}
        answer.pop("ContentRange", None)
        return {**answer, field: wrong}

    client.get_object = wrongly
    with pytest.raises(ServiceError, match=f"^the answer of S3 has no {field}$"):
        await use(client)
    assert client.open_bodies == 0


@pytest.mark.usefixtures("short_ranges")
async def test_a_store_that_ignores_ranges_is_told_apart() -> None:
    client = await stored()
    client.knows_ranges = False
    with pytest.raises(ServiceError, match="is not the range that was asked for"):
        await read_seekable(client)
    small = await stored(PLAINTEXT[:100])
    small.knows_ranges = False
    assert await read_seekable(small) == PLAINTEXT[:100]
    assert await read(client) == PLAINTEXT
    client.cuts = [(1000, reset())]
    with pytest.raises(ServiceError, match="is not the range that was asked for"):
        await read(client)
    assert client.open_bodies == small.open_bodies == 0


# Cancellation


@each_way_without_uvloop
@each_kind
async def test_reading_that_is_cancelled_anywhere_lets_the_connection_go(
    way: Way, read_all: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_ranges, "_PAUSE", 0)
    client = await stored(PLAINTEXT[: 3 * FRAME])
    for number in count():
        client.cuts = [(9_000, reset()), (0, reset()), (0, reset())]
        reached, cancelled = await way.at(number, lambda: read_all(client))
        assert cancelled is reached
        assert client.open_bodies == 0
        assert_idle()
        if not reached:
            break
    assert number > 8


@each_way
async def test_a_body_that_hangs_can_be_cancelled(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await stored()
    reached = anyio.Event()

    async def hang(self: Body, amt: int) -> bytes:
        reached.set()
        await anyio.sleep_forever()
        return b""

    monkeypatch.setattr(Body, "read", hang)
    await way.when(reached, lambda: read(client))
    assert client.open_bodies == 0


@pytest.mark.parametrize("name", ["close", "aclose"])
async def test_bodies_that_are_closed_in_another_way(name: str) -> None:
    closed: list[str] = []

    class Other:
        async def read(self, amt: int) -> bytes:
            return b""

    async def aclose(self: Other) -> None:
        closed.append(name)

    setattr(Other, name, aclose)
    await s3_ranges.close_body(Other())
    assert closed == [name]
