"""S3 over HTTP, with aiobotocore: moto's server, the official SDK at the other end, lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import boto3
import pytest

from aioencrypt import AlgorithmSuite, ServiceError, UnverifiedStreamError
from aioencrypt.integrations.s3 import (
    open_encrypted,
    open_seekable_encrypted,
    put_encrypted,
    rewrap_encrypted,
)
from tests.support import official
from tests.support.cancelling import Way, _by_task
from tests.support.moto import moto_server
from tests.support.rewrapping import NEW, OLD, V1_UNSIGNED, message_of, opens
from tests.support.s3_http import BUCKET, Proxy, proxied, s3_client, uploads
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    assert_idle,
    client_for,
    collected,
    in_chunks,
    on_asyncio,
    on_asyncio_and_uvloop,
    plaintext_of,
    sealed,
)

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
PART = 5 * MIB
LONG = plaintext_of(12 * MIB)
SHORT = LONG[:100_000]
FAST: dict[str, Any] = {"frame_length": 64 * 1024, "algorithm_suite": UNSIGNED, "part_length": PART}

# Once, because it takes longer than most tests.
nothing_left = pytest.fixture(autouse=True, scope="module")(collected)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        client.close()
        yield url


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    async with proxied(url) as found:
        yield found


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with s3_client(url) as client:
        yield client


async def read(client: Any, key: str, **options: Any) -> bytes:
    async with open_encrypted(client, BUCKET, key, KEY, **options) as stream:
        return await stream.read()


# There and back


@on_asyncio_and_uvloop
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_an_object_of_several_parts(client: Any, suite: AlgorithmSuite) -> None:
    source = in_chunks(LONG, 300_000)
    result = await put_encrypted(client, BUCKET, "long", source, KEY, **FAST | {"algorithm_suite": suite})
    head = await client.head_object(Bucket=BUCKET, Key="long")
    assert (result.parts, result.etag) == (3, head["ETag"])
    assert result.ciphertext_length == head["ContentLength"]
    assert await read(client, "long") == LONG
    async with open_seekable_encrypted(
        client, BUCKET, "long", KEY, accept_unverified_signature=suite.signed
    ) as stream:
        assert stream.length == len(LONG)
        assert await stream.read_at(7 * MIB - 5, 100_000) == LONG[7 * MIB - 5 :][:100_000]
        assert await stream.read() == LONG
    assert await uploads(client) == []
    assert_idle()


@on_asyncio
async def test_what_is_said_of_an_object_is_there(client: Any) -> None:
    for key, source in (("said-short", SHORT), ("said-long", LONG)):
        result = await put_encrypted(
            client,
            BUCKET,
            key,
            source,
            KEY,
            metadata={"origin": "tests"},
            tagging={"größe": "a+b=c"},
            content_type="text/csv",
            extra={"StorageClass": "STANDARD_IA"},
            **FAST,
        )
        head = await client.head_object(Bucket=BUCKET, Key=key)
        assert head["Metadata"] == {"origin": "tests"}
        assert (head["ContentType"], head["StorageClass"]) == ("text/csv", "STANDARD_IA")
        tagging = await client.get_object_tagging(Bucket=BUCKET, Key=key)
        assert tagging["TagSet"] == [{"Key": "größe", "Value": "a+b=c"}]
        assert result.parts == (1 if source is SHORT else 3)


@on_asyncio
@pytest.mark.parametrize("kind", official.KINDS)
@pytest.mark.parametrize("length", [len(SHORT), 6 * MIB], ids=["one request", "parts"])
async def test_the_official_sdk_decrypts_what_was_put(
    url: str, client: Any, kind: official.Kind, length: int
) -> None:
    key = official.aes_key(256)
    result = await put_encrypted(client, BUCKET, "official", LONG[:length], key.ours, **FAST)
    assert (result.parts > 1) is (length > PART)
    boto = boto3.client("s3", region_name="us-east-1", endpoint_url=url)
    message = boto.get_object(Bucket=BUCKET, Key="official")["Body"].read()
    boto.close()
    plaintext, _ = official.read(message, key.official(kind), UNSIGNED)
    assert plaintext == LONG[:length]


@on_asyncio
@pytest.mark.parametrize("kind", official.KINDS)
async def test_what_the_official_sdk_wrote_is_read(url: str, client: Any, kind: official.Kind) -> None:
    key = official.aes_key(256)
    boto = boto3.client("s3", region_name="us-east-1", endpoint_url=url)
    boto.put_object(Bucket=BUCKET, Key="official", Body=official.write(SHORT, key.official(kind), UNSIGNED))
    boto.close()
    async with open_encrypted(client, BUCKET, "official", key.ours) as stream:
        assert await stream.read() == SHORT
    async with open_seekable_encrypted(client, BUCKET, "official", key.ours) as seekable:
        assert await seekable.read_at(50_000, 10) == SHORT[50_000:50_010]


@on_asyncio
async def test_versions(client: Any) -> None:
    versions = [
        (await put_encrypted(client, "versioned", "key", text, KEY)).version_id for text in (b"old", b"new")
    ]
    assert len(set(versions)) == 2
    for version, text in ((versions[0], b"old"), (versions[1], b"new"), (None, b"new")):
        async with open_encrypted(client, "versioned", "key", KEY, version_id=version) as stream:
            assert await stream.read() == text


@on_asyncio
async def test_each_request_has_a_length_and_a_checksum(proxy: tuple[str, Proxy]) -> None:
    url, watched = proxy
    async with s3_client(url) as client:
        await put_encrypted(client, BUCKET, "short", SHORT, KEY, **FAST)
        result = await put_encrypted(client, BUCKET, "long", in_chunks(LONG, MIB), KEY, **FAST)
    puts = watched.fields(b"PUT")
    assert all(b"transfer-encoding" not in fields for fields in puts)
    assert all(b"x-amz-checksum-crc32" in fields for fields in puts)
    lengths = [int(fields[b"content-length"]) for fields in puts]
    assert sorted(lengths[1:]) == [result.ciphertext_length - 2 * PART, PART, PART]


# Refused


@on_asyncio
async def test_what_s3_refuses_has_its_code_and_its_request_id(client: Any) -> None:
    with pytest.raises(ServiceError) as caught:
        await put_encrypted(client, "no-such-bucket", "key", SHORT, KEY)
    assert caught.value.code == "NoSuchBucket"
    assert caught.value.request_id
    for opening in (open_encrypted, open_seekable_encrypted):
        with pytest.raises(ServiceError, match="check the key of the object") as refused:
            await opening(client, BUCKET, "no-such-key", KEY).__aenter__()
        assert refused.value.code == "NoSuchKey"
        assert refused.value.request_id


@on_asyncio
@pytest.mark.parametrize("source", [SHORT, LONG], ids=["one request", "parts"])
async def test_an_object_that_is_there_is_not_replaced_where_that_is_said(client: Any, source: bytes) -> None:
    await put_encrypted(client, BUCKET, "there", b"first", KEY)
    with pytest.raises(ServiceError, match="has changed in the meantime; open it again") as caught:
        await put_encrypted(client, BUCKET, "there", source, KEY, extra={"IfNoneMatch": "*"}, **FAST)
    assert caught.value.code == "PreconditionFailed"
    assert await read(client, "there") == b"first"
    assert await uploads(client) == []


# Lost connections


@on_asyncio_and_uvloop
async def test_a_connection_lost_in_the_middle_of_a_body_is_replaced(
    proxy: tuple[str, Proxy], client: Any
) -> None:
    await put_encrypted(client, BUCKET, "lost", LONG, KEY, **FAST)
    url, watched = proxy
    async with s3_client(url) as reader:
        watched.cuts[b"GET"] = [500_000, 1 * MIB, 2_000]
        assert await read(reader, "lost") == LONG
        starts = {field[b"range"].removeprefix(b"bytes=").split(b"-")[0] for field in watched.fields(b"GET")}
        assert len(starts) == len(watched.fields(b"GET"))  # nothing was read twice
        async with open_seekable_encrypted(reader, BUCKET, "lost", KEY) as stream:
            watched.cuts[b"GET"] = [50_000]
            assert await stream.read_at(5 * MIB, 500_000) == LONG[5 * MIB :][:500_000]
        assert watched.cuts == {b"GET": []}
    await watched.idle()
    assert_idle()


@on_asyncio
async def test_an_object_that_changes_meanwhile_is_an_error(proxy: tuple[str, Proxy], client: Any) -> None:
    await put_encrypted(client, BUCKET, "changed", LONG, KEY, **FAST)
    url, _ = proxy

    async def read_while_it_changes(reader: Any) -> None:
        async with open_encrypted(reader, BUCKET, "changed", KEY) as stream:
            await put_encrypted(client, BUCKET, "changed", LONG, KEY, **FAST)
            await stream.read()

    async def read_parts_while_it_changes(reader: Any) -> None:
        async with open_seekable_encrypted(reader, BUCKET, "changed", KEY) as stream:
            await put_encrypted(client, BUCKET, "changed", LONG, KEY, **FAST)
            await stream.read_at(5 * MIB, 10)

    async with s3_client(url) as reader:
        for reading in (read_while_it_changes, read_parts_while_it_changes):
            with pytest.raises(ServiceError, match="open it again") as caught:
                await reading(reader)
            assert caught.value.code == "PreconditionFailed"


# A pool of one connection


@on_asyncio
async def test_one_connection_is_enough_to_read_and_write(url: str) -> None:
    async with s3_client(url, max_pool_connections=1) as narrow:
        await put_encrypted(narrow, BUCKET, "source", LONG, KEY, **FAST)
        async with open_encrypted(narrow, BUCKET, "source", KEY) as source:
            result = await put_encrypted(narrow, BUCKET, "copy", source, KEY, timeout=20, **FAST)
        assert result.parts > 1
        assert await read(narrow, "copy") == LONG
        for suite in (UNSIGNED, V1_UNSIGNED):  # encrypted anew; copied
            message = await message_of(suite, LONG)
            await narrow.put_object(Bucket=BUCKET, Key="old", Body=message)
            await rewrap_encrypted(
                narrow,
                BUCKET,
                "old",
                OLD,
                new_provider=NEW,
                part_length=PART,
                timeout=20,
                encryption_client=client_for(suite),
            )
            answer = await narrow.get_object(Bucket=BUCKET, Key="old")
            assert await opens(NEW, await answer["Body"].read(), suite) == LONG


@on_asyncio
async def test_an_upload_whose_connection_is_lost_leaves_nothing(
    proxy: tuple[str, Proxy], client: Any
) -> None:
    url, watched = proxy
    async with s3_client(url) as writer:
        watched.cuts[b"PUT"] = [10] * 10
        with pytest.raises(ServiceError) as caught:
            await put_encrypted(writer, BUCKET, "cut", LONG, KEY, **FAST)
    assert caught.value.retryable
    assert await uploads(client) == []
    with pytest.raises(ServiceError, match="NoSuchKey"):
        await read(client, "cut")


@on_asyncio
async def test_a_part_is_sent_again_by_the_client(proxy: tuple[str, Proxy], client: Any) -> None:
    url, watched = proxy
    async with s3_client(url, retries={"mode": "standard", "total_max_attempts": 2}) as writer:
        watched.cuts[b"PUT"] = [10, 10]  # the first is aiohttp's
        await put_encrypted(writer, BUCKET, "again", LONG, KEY, concurrency=1, **FAST)
    assert len(watched.fields(b"PUT")) == 5
    assert await read(client, "again") == LONG


@on_asyncio
async def test_leaving_early_lets_the_connection_go(proxy: tuple[str, Proxy], client: Any) -> None:
    await put_encrypted(client, BUCKET, "left", LONG, KEY, **FAST)
    url, watched = proxy
    async with s3_client(url, max_pool_connections=1) as reader:
        for _ in range(3):  # with one connection, none of them may be kept
            stream = open_encrypted(reader, BUCKET, "left", KEY)
            await stream.__aenter__()
            assert await stream.read(10) == LONG[:10]
            with pytest.raises(UnverifiedStreamError):
                await stream.__aexit__(None, None, None)
        assert await read(reader, "left") == LONG
        await watched.idle()
    assert_idle()


# Cancellation


@on_asyncio_and_uvloop
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_no_upload_is_left_wherever_a_task_is_cancelled(client: Any, twice: bool) -> None:
    way = Way("task", _by_task, twice)
    for number in count():
        reached, _ = await way.at(
            number, lambda: put_encrypted(client, BUCKET, "cancelled", LONG[: 6 * MIB], KEY, **FAST)
        )
        assert await uploads(client) == []
        assert_idle()
        if not reached:
            break
    assert number > 5


@on_asyncio_and_uvloop
@pytest.mark.parametrize("after", [b"POST", b"PUT", b"PUT 3", b"POST 2"])
async def test_no_upload_is_left_when_a_call_on_its_way_is_cancelled(
    proxy: tuple[str, Proxy], client: Any, after: bytes
) -> None:
    url, watched = proxy
    method, _, number = after.partition(b" ")
    async with s3_client(url) as writer:
        task = asyncio.create_task(
            put_encrypted(writer, BUCKET, "cancelled", LONG, KEY, concurrency=1, **FAST)
        )
        while len(watched.fields(method)) < int(number or 1):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await uploads(client) == []
        await watched.idle()
        assert_idle()


# Other keys


@on_asyncio
async def test_rewrapping_copies_in_s3(proxy: tuple[str, Proxy], client: Any) -> None:
    message = await message_of(V1_UNSIGNED, LONG, frame_length=64 * 1024)
    said = {"Metadata": {"origin": "tests"}, "ContentType": "text/csv"}
    await client.put_object(Bucket=BUCKET, Key="rewrap", Body=message, Tagging="a=b", **said)
    url, watched = proxy
    async with s3_client(url) as writer:
        result = await rewrap_encrypted(
            writer, BUCKET, "rewrap", OLD, new_provider=NEW, encryption_client=client_for(V1_UNSIGNED)
        )
    assert not result.reencrypted
    assert result.copied_length > len(message) - PART - 1000
    assert sum(int(fields[b"content-length"]) for fields in watched.fields(b"PUT")) == PART
    answer = await client.get_object(Bucket=BUCKET, Key="rewrap")
    new = await answer["Body"].read()
    assert (len(new), answer["ETag"]) == (result.ciphertext_length, result.etag)
    assert await opens(NEW, new, V1_UNSIGNED) == LONG
    assert await opens(OLD, new, V1_UNSIGNED) is None
    assert {name: answer[name] for name in said} == said
    assert (await client.get_object_tagging(Bucket=BUCKET, Key="rewrap"))["TagSet"] == [
        {"Key": "a", "Value": "b"}
    ]
    assert await uploads(client) == []


@on_asyncio
@pytest.mark.parametrize("length", [len(SHORT), len(LONG)], ids=["one request", "parts"])
async def test_rewrapping_what_must_be_encrypted_anew(client: Any, length: int) -> None:
    message = await sealed(LONG[:length], SIGNED, frame_length=64 * 1024)
    await client.put_object(Bucket=BUCKET, Key="anew", Body=message, Metadata={"origin": "tests"})
    result = await rewrap_encrypted(client, BUCKET, "anew", KEY, new_provider=NEW)
    assert (result.reencrypted, result.copied_length) == (True, 0)
    answer = await client.get_object(Bucket=BUCKET, Key="anew")
    assert answer["Metadata"] == {"origin": "tests"}
    async with open_encrypted(client, BUCKET, "anew", NEW) as stream:
        assert await stream.read() == LONG[:length]
    answer["Body"].close()
