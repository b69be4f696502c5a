"""Reading from S3 over lost connections, and never two objects as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest

from aioencrypt import ServiceError, TagError
from aioencrypt.integrations.s3 import ranges as s3_ranges
from tests.support.memory_s3 import Body, MemoryS3, S3Error
from tests.support.s3_reading import (
    FRAME,
    OTHER,
    PLAINTEXT,
    Read,
    each_kind,
    named,
    opened,
    ranges,
    read,
    reset,
    seekable,
    short_ranges,
    stored,
)
from tests.support.streaming import UNSIGNED, sealed

__all__ = ["short_ranges"]

pytestmark = pytest.mark.anyio


# Lost connections


@pytest.mark.parametrize(
    "error",
    [
        reset(),
        TimeoutError(),
        None,
        named("ResponseStreamingError", "HTTPClientError"),
        named("EndpointConnectionError", "ConnectionError"),
        named("ClientPayloadError"),
        named("ServerDisconnectedError", "ClientConnectionError"),
        named("IncompleteReadError"),
        named("RemoteProtocolError", "TransportError"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_reading_goes_on_behind_the_last_byte(error: BaseException | None) -> None:
    client = await stored()
    size, etag = len(client.stored.data), client.stored.etag
    # In the header, between two frames, in the middle of one, right behind the last byte.
    cuts = [0, 10, 30_000, 1, 60_001]
    client.cuts = [(length, error) for length in cuts] + [(size - sum(cuts), error)]
    assert await read(client) == PLAINTEXT
    starts = [sum(cuts[:number]) for number in range(1, 6)]
    assert ranges(client) == [f"bytes={start}-1048575" for start in [0, *starts]]
    assert [call.get("IfMatch") for call in client.called("get")] == [None, *[etag] * 5]
    assert client.open_bodies == 0


async def test_a_range_goes_on_behind_its_last_byte() -> None:
    client = await stored()
    async with seekable(client) as stream:
        client.cuts = [(7, reset()), (0, None), (100, reset())]
        assert await stream.read_at(5 * FRAME, 2 * FRAME) == PLAINTEXT[5 * FRAME : 7 * FRAME]
    first, *others = ranges(client)[2:]
    assert first
    start, last = map(int, first.removeprefix("bytes=").split("-"))
    assert others == [f"bytes={start + done}-{last}" for done in (7, 7, 107)]


async def test_a_connection_that_is_lost_too_often_is_an_error() -> None:
    client = await stored()
    lost = reset()
    client.cuts = [(5_000, reset()), *[(0, lost)] * 3]
    with pytest.raises(ServiceError) as caught:
        await read(client)
    assert str(caught.value) == (f"the connection was lost 4 times at byte 5000 of {len(client.stored.data)}")
    assert caught.value.retryable
    assert caught.value.__cause__ is lost
    assert len(client.called("get")) == 4
    assert client.open_bodies == 0


async def test_as_long_as_bytes_arrive_connections_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_ranges, "_PAUSE", 0)
    client = await stored(PLAINTEXT[:FRAME])
    client.cuts = [(1_000, reset()), (0, reset()), (0, reset())] * 9
    assert await read(client) == PLAINTEXT[:FRAME]


@each_kind
async def test_an_error_that_is_no_lost_connection_is_told_at_once(read_all: Read) -> None:
    client = await stored()
    wrong = named("FlexibleChecksumError")
    client.cuts = [(8_000, wrong)]
    with pytest.raises(ServiceError, match="FlexibleChecksumError: as told") as caught:
        await read_all(client)
    assert caught.value.__cause__ is wrong
    assert not caught.value.retryable
    assert len(client.called("get")) == 1
    assert client.open_bodies == 0


async def test_a_call_that_fails_on_the_way_is_told() -> None:
    client = await stored()
    client.cuts = [(8_000, reset())]

    async def second(number: int, arguments: Mapping[str, Any]) -> None:
        if number == 2:
            raise S3Error("SlowDown", 503)

    client.faults["get"] = second
    with pytest.raises(ServiceError, match="SlowDown") as caught:
        await read(client)
    assert caught.value.retryable


async def test_a_body_that_stalls_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    client = await stored()
    stalls = iter([True])
    give = Body.read

    async def stall(self: Body, amt: int) -> bytes:
        if next(stalls, False):
            await anyio.sleep_forever()
        return await give(self, amt)

    monkeypatch.setattr(Body, "read", stall)
    assert await read(client, timeout=0.5) == PLAINTEXT
    assert len(client.called("get")) == 2


# Another object in its place


async def read_while(client: MemoryS3, change: Callable[[], object]) -> bytes:
    async with opened(client) as stream:
        change()
        return await stream.read()


@pytest.mark.usefixtures("short_ranges")
@pytest.mark.parametrize("knows_conditions", [True, False], ids=["IfMatch", "ETag only"])
async def test_an_object_that_changes_while_a_connection_is_lost_is_an_error(knows_conditions: bool) -> None:
    client = await stored()
    client.knows_conditions = knows_conditions
    client.cuts = [(2 * FRAME, None), (10_000, reset())]
    other = await sealed(OTHER, UNSIGNED, frame_length=FRAME)
    with pytest.raises(ServiceError, match="open it again") as caught:
        await read_while(client, lambda: client.put(other))
    assert caught.value.code == "PreconditionFailed"
    assert client.open_bodies == 0
    assert await read(client) == OTHER


@pytest.mark.parametrize("knows_conditions", [True, False], ids=["IfMatch", "ETag only"])
async def test_an_object_that_changes_between_two_ranges_is_an_error(knows_conditions: bool) -> None:
    client = await stored()
    client.knows_conditions = knows_conditions
    async with seekable(client) as stream:
        client.put(await sealed(OTHER, UNSIGNED, frame_length=FRAME))
        with pytest.raises(ServiceError, match="open it again") as caught:
            await stream.read_at(5 * FRAME, 10)
    assert caught.value.code == "PreconditionFailed"
    assert client.open_bodies == 0


@pytest.mark.usefixtures("short_ranges")
async def test_an_object_that_changes_where_nobody_can_tell_fails_authentication() -> None:
    client = await stored()
    client.stored.etag = ""
    client.cuts = [(2 * FRAME, None), (10_000, reset())]
    other = await sealed(OTHER, UNSIGNED, frame_length=FRAME)

    def change() -> None:
        client.put(other).etag = ""

    with pytest.raises(TagError):
        await read_while(client, change)


@each_kind
async def test_a_version_is_read_whatever_comes_after_it(read_all: Read) -> None:
    client = MemoryS3()
    client.versioned = True
    version = client.put(await sealed(PLAINTEXT, UNSIGNED)).version_id
    client.put(await sealed(OTHER, UNSIGNED))
    assert await read_all(client) == OTHER
    assert await read_all(client, version_id=version) == PLAINTEXT
