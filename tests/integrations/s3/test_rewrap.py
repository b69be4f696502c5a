"""Other master keys for objects in S3: what is copied there, what is written anew, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest

from aioencrypt import AlgorithmSuite, PolicyError, ServiceError, SignaturePolicyError, TagError
from aioencrypt.integrations.s3 import RewrapObjectResult, objects, rewrap as s3_rewrap, rewrap_encrypted
from tests.support.cancelling import Way, each_way_without_uvloop
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3, S3Error
from tests.support.rewrapping import (
    NEW,
    OLD,
    OTHER,
    V1_SIGNED,
    V1_UNSIGNED,
    message_of,
    names,
    not_other,
    opens,
)
from tests.support.streaming import SIGNED, UNSIGNED, assert_idle, client_for, flipped, plaintext_of

pytestmark = pytest.mark.anyio

PART = 1000
FIRST = 500
COPY = 700
PLAINTEXT = plaintext_of(3000)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts be as small as tests want them, as if S3 did."""
    monkeypatch.setattr(objects, "MIN_PART_LENGTH", 1)
    monkeypatch.setattr(s3_rewrap, "MIN_PART_LENGTH", FIRST)
    monkeypatch.setattr(s3_rewrap, "_COPY_LENGTH", COPY)


async def stored(suite: AlgorithmSuite = V1_UNSIGNED, plaintext: bytes = PLAINTEXT, **said: Any) -> MemoryS3:
    client = MemoryS3(min_part_length=FIRST)
    client.put(await message_of(suite, plaintext), **said)
    return client


async def rewrap(client: MemoryS3, suite: AlgorithmSuite = V1_UNSIGNED, **options: Any) -> RewrapObjectResult:
    changed: dict[str, Any] = {
        "new_provider": NEW,
        "encryption_client": client_for(suite),
        "part_length": PART,
    }
    return await rewrap_encrypted(client, BUCKET, KEY_NAME, OLD, **changed | options)


# What is read, copied and written


async def test_where_a_new_header_is_enough_s3_copies_the_body() -> None:
    client = await stored()
    old, etag = client.stored.data, client.stored.etag
    result = await rewrap(client)
    new = client.stored.data
    assert names(result.header.encrypted_data_keys) == ["new"]
    assert await opens(NEW, new, V1_UNSIGNED) == PLAINTEXT
    assert await opens(OLD, new, V1_UNSIGNED) is None
    # The body is the old one, byte for byte, and only its start was sent.
    start = len(old) - result.copied_length
    assert new[FIRST:] == old[start:]
    assert [len(call["Body"]) for call in client.called("part")] == [FIRST]
    ranges = [call["CopySourceRange"] for call in client.called("copy")]
    assert ranges == [
        f"bytes={first}-{min(first + COPY, len(old)) - 1}" for first in range(start, len(old), COPY)
    ]
    for call in client.called("copy"):
        assert call["CopySource"] == {"Bucket": BUCKET, "Key": KEY_NAME}
        assert call["CopySourceIfMatch"] == etag
    assert client.called("complete")[0]["IfMatch"] == etag
    assert not result.reencrypted
    assert (result.parts, result.etag) == (1 + len(ranges), client.stored.etag)
    assert result.ciphertext_length == len(new)
    assert (client.open_bodies, client.uploads) == (0, {})


@pytest.mark.parametrize("beyond", [0, 1])
async def test_what_is_no_longer_than_a_part_is_written_as_a_whole(beyond: int) -> None:
    client = await stored()
    result = await rewrap(client, part_length=len(client.stored.data) - beyond)
    assert (result.copied_length > 0) is (beyond > 0)
    assert ("put" in client.operations) is (beyond == 0)
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT


@pytest.mark.parametrize("left", [-1, 0, 1, COPY, COPY + 1])
async def test_the_last_part_is_copied_however_short_it_is(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stored()
    size = len(client.stored.data)
    shorter = (await rewrap(await stored())).ciphertext_length - size
    monkeypatch.setattr(s3_rewrap, "MIN_PART_LENGTH", size + shorter - left)
    result = await rewrap(client)
    assert result.copied_length == max(left, 0)
    assert result.ciphertext_length == size + shorter == len(client.stored.data)
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT


async def test_a_header_longer_than_the_first_part_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_rewrap, "MIN_PART_LENGTH", 1)
    client = await stored()
    client.min_part_length = 1
    result = await rewrap(client)
    assert len(client.called("part")[0]["Body"]) == len(client.stored.data) - result.copied_length
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT


@pytest.mark.parametrize("part_length", [500, 700, 1000, 2900])
@pytest.mark.parametrize("verify", [False, True], ids=["copied", "written"])
async def test_parts_are_equal_for_stores_that_ask_for_it(part_length: int, verify: bool) -> None:
    client = await stored()
    result = await rewrap(client, part_length=part_length, equal_parts=True, verify=verify)
    sent = [len(call["Body"]) for call in client.called("part")]
    spans = [call["CopySourceRange"].removeprefix("bytes=").split("-") for call in client.called("copy")]
    lengths = sent + [int(last) + 1 - int(first) for first, last in spans]
    assert set(lengths[:-1]) == {part_length}
    assert 0 < lengths[-1] <= part_length
    assert sum(lengths) == result.ciphertext_length
    assert bool(spans) is not verify
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT


@pytest.mark.parametrize("suite", [UNSIGNED, SIGNED, V1_SIGNED], ids=["v2", "v2 signed", "v1 signed"])
async def test_what_must_be_encrypted_anew_is_read_and_written_once(suite: AlgorithmSuite) -> None:
    client = await stored(suite)
    etag = client.stored.etag
    result = await rewrap(client, suite)
    assert (result.reencrypted, result.copied_length) == (True, 0)
    assert len(client.called("get")) == 1
    assert "copy" not in client.operations
    assert client.called("complete")[0]["IfMatch"] == etag
    assert await opens(NEW, client.stored.data, suite) == PLAINTEXT
    assert await opens(OLD, client.stored.data, suite) is None


async def test_who_accepts_the_reuse_of_an_iv_has_version_2_copied() -> None:
    client = await stored(UNSIGNED)
    result = await rewrap(client, UNSIGNED, accept_iv_reuse=True)
    assert not result.reencrypted
    assert result.copied_length > 2000
    assert await opens(NEW, client.stored.data, UNSIGNED) == PLAINTEXT


async def test_keys_are_added_and_removed() -> None:
    client = await stored()
    result = await rewrap(client, keep=True)
    assert names(result.header.encrypted_data_keys) == ["old", "other", "new"]
    result = await rewrap(client, keep=not_other, new_provider=None)
    assert names(result.header.encrypted_data_keys) == ["old", "new"]
    for key in (OLD, NEW):
        assert await opens(key, client.stored.data, V1_UNSIGNED) == PLAINTEXT
    assert await opens(OTHER, client.stored.data, V1_UNSIGNED) is None


@pytest.mark.parametrize("verify", [True, False])
async def test_frames_are_verified_on_the_way_where_that_is_asked_for(verify: bool) -> None:
    client = await stored()
    client.stored.data = flipped(client.stored.data, -50)
    damaged = client.stored.data
    if verify:
        with pytest.raises(TagError):
            await rewrap(client, verify=True)
        assert client.stored.data == damaged
        assert client.uploads == {}
    else:
        await rewrap(client)
        assert client.stored.data[-100:] == damaged[-100:]
    assert client.open_bodies == 0


async def test_a_lost_connection_is_read_on() -> None:
    client = await stored(UNSIGNED)
    client.cuts = [(1200, ConnectionResetError())]
    await rewrap(client, UNSIGNED)
    assert [call.get("Range") for call in client.called("get")] == ["bytes=0-1048575", "bytes=1200-1048575"]
    assert await opens(NEW, client.stored.data, UNSIGNED) == PLAINTEXT


# What is kept


SAID: dict[str, Any] = {
    "Metadata": {"origin": "tests"},
    "ContentType": "text/csv",
    "CacheControl": "no-store",
    "StorageClass": "STANDARD_IA",
    "ServerSideEncryption": "aws:kms",
    "SSEKMSKeyId": "some key",
    "BucketKeyEnabled": True,
}
WAYS = pytest.mark.parametrize("part_length", [PART, 100 * PART], ids=["copied", "written"])


def said(client: MemoryS3) -> dict[str, Any]:
    [call] = client.called("put") + client.called("create")
    ours = {"Bucket", "Key", "Body", "ChecksumAlgorithm", "ChecksumCRC32", "IfMatch"}
    return {name: value for name, value in call.items() if name not in ours}


@WAYS
async def test_what_was_said_of_the_object_is_kept(part_length: int) -> None:
    client = await stored(**SAID, TagCount=2, TagSet={"a b": "ü", "c": ""})
    await rewrap(client, part_length=part_length)
    assert said(client) == {**SAID, "Tagging": "a+b=%C3%BC&c="}
    client = await stored()
    await rewrap(client, part_length=part_length)
    assert said(client) == {}
    assert "tagging" not in client.operations


@WAYS
async def test_the_caller_may_say_otherwise(part_length: int) -> None:
    client = await stored(**SAID)
    await rewrap(client, part_length=part_length, extra={"StorageClass": "STANDARD", "SSEKMSKeyId": "other"})
    kept = {name: SAID[name] for name in ("Metadata", "ContentType", "CacheControl")}
    assert said(client) == {**kept, "StorageClass": "STANDARD", "SSEKMSKeyId": "other"}


async def test_the_key_of_a_customer_reads_copies_and_writes() -> None:
    client = await stored(TagCount=1, TagSet={"a": "b"})
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k", "SSECustomerKeyMD5": "m"}
    await rewrap(
        client, extra={**customer, "ExpectedBucketOwner": "111122223333", "CacheControl": "no-store"}
    )
    for operation in ("get", "create", "part", "copy", "complete"):
        for call in client.called(operation):
            assert customer.items() <= call.items()
            assert call["ExpectedBucketOwner"] == "111122223333"
            assert ("CacheControl" in call) is (operation == "create")
    for call in client.called("copy"):
        assert {f"CopySource{name}": value for name, value in customer.items()}.items() <= call.items()
    [tagging] = client.called("tagging")
    assert tagging == {"Bucket": BUCKET, "Key": KEY_NAME, "ExpectedBucketOwner": "111122223333"}


@WAYS
async def test_a_version_is_read_and_written_as_the_newest(part_length: int) -> None:
    client = await stored()
    client.versioned = True
    version = client.put(client.stored.data, TagCount=1, TagSet={"a": "b"}).version_id
    client.put(b"newer")
    result = await rewrap(client, version_id=version, part_length=part_length)
    assert result.version_id == client.stored.version_id
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT
    for call in client.called("copy"):
        assert call["CopySource"]["VersionId"] == version
    assert client.called("tagging")[0]["VersionId"] == version
    for call in client.called("complete") + client.called("put"):
        assert "IfMatch" not in call


async def test_a_store_without_entity_tags_is_asked_for_none() -> None:
    client: Any = await stored()
    call = client.get_object

    async def without(**arguments: Any) -> Mapping[str, Any]:
        return {name: value for name, value in (await call(**arguments)).items() if name != "ETag"}

    client.get_object = without
    await rewrap(client)
    assert await opens(NEW, client.stored.data, V1_UNSIGNED) == PLAINTEXT
    for arguments in client.called("copy") + client.called("complete"):
        assert not {name for name in arguments if "IfMatch" in name}


# What goes wrong


@pytest.mark.parametrize("operation", ["copy", "complete", "put"])
async def test_an_object_that_was_changed_meanwhile_stays(operation: str) -> None:
    client = await stored()

    async def change(number: int, arguments: Mapping[str, Any]) -> None:
        client.put(b"newer")

    client.faults[operation] = change
    with pytest.raises(ServiceError, match="PreconditionFailed") as caught:
        await rewrap(client, part_length=100 * PART if operation == "put" else PART)
    assert caught.value.code == "PreconditionFailed"
    assert client.stored.data == b"newer"
    assert client.uploads == {}


async def test_a_copy_that_fails_leaves_the_object_as_it_was() -> None:
    client = await stored()
    old = client.stored.data

    async def second(number: int, arguments: Mapping[str, Any]) -> None:
        if number == 2:
            raise S3Error("InternalError", 500)

    client.faults["copy"] = second
    with pytest.raises(ServiceError, match="InternalError"):
        await rewrap(client)
    assert client.stored.data == old
    assert client.uploads == {}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({}, "CopyPartResult"),
        ({"CopyPartResult": None}, "CopyPartResult"),
        ({"CopyPartResult": {}}, "ETag"),
        ({"CopyPartResult": {"ETag": 5}}, "ETag"),
    ],
)
async def test_an_answer_to_a_copy_that_lacks_a_field_is_an_error(answer: Any, field: str) -> None:
    client: Any = await stored()

    async def upload_part_copy(**arguments: Any) -> Any:
        return answer

    client.upload_part_copy = upload_part_copy
    with pytest.raises(ServiceError, match=f"the answer of S3 has no {field}"):
        await rewrap(client)
    assert client.uploads == {}


async def test_what_may_not_be_encrypted_anew_is_refused_before_anything_is_written() -> None:
    client = await stored(SIGNED)
    with pytest.raises(SignaturePolicyError, match="cannot be rewrapped without encrypting it anew"):
        await rewrap(client, SIGNED, reencrypt=False)
    client = await stored(UNSIGNED)
    with pytest.raises(PolicyError, match="accept_iv_reuse=True"):
        await rewrap(client, UNSIGNED, reencrypt=False)
    assert set(client.operations) == {"get"}
    assert client.open_bodies == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_provider": None}, "nobody could open the message"),
        ({"extra": {"Metadata": {}}}, "extra has Metadata"),
        ({"part_length": 0}, "part_length is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"checksum": "CRC"}, "checksum is 'CRC'"),
    ],
)
async def test_wrong_arguments_are_told_before_anything_is_called(
    options: dict[str, Any], message: str
) -> None:
    client = await stored()
    with pytest.raises(ValueError, match=message):
        await rewrap(client, **options)
    assert client.calls == []


@each_way_without_uvloop
@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED], ids=["copied", "written"])
async def test_rewrapping_that_is_cancelled_anywhere_leaves_the_old_object_or_the_new_one(
    way: Way, suite: AlgorithmSuite
) -> None:
    message = await message_of(suite, PLAINTEXT)
    for number in count():
        client = MemoryS3(min_part_length=FIRST)
        old = client.put(message)
        reached, _ = await way.at(number, lambda client=client: rewrap(client, suite, concurrency=2))  # type: ignore[misc]
        assert (client.uploads, client.open_bodies) == ({}, 0)
        assert_idle()
        if client.stored is not old:
            assert await opens(NEW, client.stored.data, suite) == PLAINTEXT
        if not reached:
            break
    assert client.stored is not old
    assert number > 9
