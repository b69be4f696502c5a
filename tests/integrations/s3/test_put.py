"""Writing into S3: what is called, with what, how many at once; and what is refused."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    CommitmentPolicyError,
    EncryptionClient,
    LimitError,
    ServiceError,
    StreamError,
    decrypt,
)
from aioencrypt.integrations.s3 import PutArguments, PutResult, objects, put_encrypted, upload as s3_upload
from aioencrypt.integrations.s3.upload import part_lengths
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3, crc32_of
from tests.support.streaming import KEY, SIGNED, UNSIGNED, in_chunks, plaintext_of

pytestmark = pytest.mark.anyio

PART = 1000
PLAINTEXT = plaintext_of(4 * PART + 100)
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts be as small as tests want them, as if S3 did."""
    monkeypatch.setattr(objects, "MIN_PART_LENGTH", 1)


async def put(client: MemoryS3, source: Any = PLAINTEXT, **options: Any) -> PutResult:
    changed: dict[str, Any] = {"algorithm_suite": UNSIGNED, "frame_length": 100, "part_length": PART}
    return await put_encrypted(client, BUCKET, KEY_NAME, source, KEY, **changed | options)


def memory_s3() -> MemoryS3:
    return MemoryS3(min_part_length=1)


# One request, or parts


async def test_what_fits_into_a_part_is_one_request() -> None:
    client = memory_s3()
    result = await put(client, b"attack at dawn", encryption_context={"tenant": "42"})
    assert client.operations == ["put"]
    message = client.stored.data
    assert result.ciphertext_length == len(message)
    assert (result.parts, result.etag, result.version_id) == (1, client.stored.etag, None)
    plaintext, header = await decrypt(message, KEY, encryption_context={"tenant": "42"})
    assert (plaintext, header) == (b"attack at dawn", result.header)
    assert [use.key_id for use in result.provenance.keys] == [KEY.key_id]


@pytest.mark.parametrize("source", [lambda: b"", lambda: in_chunks(b"", 1)], ids=["bytes", "stream"])
async def test_a_source_of_nothing_is_a_message_too(source: Any) -> None:
    client = memory_s3()
    assert (await put(client, source())).parts == 1
    assert (await decrypt(client.stored.data, KEY)).plaintext == b""


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize(
    ("part_of", "parts"),
    [
        (lambda length: length + 1, 1),
        (lambda length: length, 1),
        (lambda length: length - 1, 2),
        (lambda length: math.ceil(length / 2), 2),
        (lambda length: math.ceil(length / 2) - 1, 3),
    ],
)
async def test_parts_are_cut_exactly(known: bool, part_of: Callable[[int], int], parts: int) -> None:
    whole = (await put(memory_s3(), part_length=MIB)).ciphertext_length
    client = memory_s3()
    part_length = part_of(whole)
    source = PLAINTEXT if known else in_chunks(PLAINTEXT, 77)
    result = await put(client, source, part_length=part_length)
    assert (result.parts, result.ciphertext_length, len(client.stored.data)) == (parts, whole, whole)
    if parts > 1:
        lengths = [len(call["Body"]) for call in sorted(client.called("part"), key=part_number)]
        assert lengths == [part_length] * (parts - 1) + [whole - part_length * (parts - 1)]
        assert result.etag.endswith(f'-{parts}"')
    assert (await decrypt(client.stored.data, KEY)).plaintext == PLAINTEXT


def part_number(call: Mapping[str, Any]) -> int:
    return int(call["PartNumber"])


@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_parts_stand_in_their_order_whichever_ends_first(
    suite: AlgorithmSuite, concurrency: int
) -> None:
    client = memory_s3()
    ended: list[int] = []

    async def later_parts_first(number: int, arguments: Mapping[str, Any]) -> None:
        for _ in range(30 // arguments["PartNumber"]):
            await anyio.lowlevel.checkpoint()
        ended.append(arguments["PartNumber"])

    client.faults["part"] = later_parts_first
    result = await put(client, algorithm_suite=suite, concurrency=concurrency)
    assert (ended == sorted(ended)) is (concurrency == 1)
    assert sorted(ended) == list(range(1, result.parts + 1))
    assert (await decrypt(client.stored.data, KEY)).plaintext == PLAINTEXT
    assert client.uploads == {}


async def test_no_more_parts_are_made_than_may_be_sent_at_once() -> None:
    client = memory_s3()
    read = 0

    async def source() -> Any:
        nonlocal read
        for _ in range(0, 20 * PART, 100):
            read += 100
            yield PLAINTEXT[:100]

    async def slow(number: int, arguments: Mapping[str, Any]) -> None:
        for _ in range(200):
            await anyio.lowlevel.checkpoint()
        # The part that is being filled waits for room, and a batch of the stream is ahead.
        assert read <= (arguments["PartNumber"] + 3) * PART + 500

    client.faults["part"] = slow
    result = await put(client, source(), concurrency=3)
    assert client.most_running["part"] == 3
    assert result.parts > 20
    assert (await decrypt(client.stored.data, KEY)).plaintext == PLAINTEXT[:100] * 200


async def test_a_long_object_has_parts_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    client = memory_s3()
    result = await put(client, in_chunks(PLAINTEXT * 4, 500), part_length=10)
    lengths = [len(call["Body"]) for call in sorted(client.called("part"), key=part_number)]
    assert lengths[:1000] == [10] * 1000
    assert set(lengths[1000:-1]) == {20}
    assert result.parts == len(lengths) > 1200
    assert (await decrypt(client.stored.data, KEY)).plaintext == PLAINTEXT * 4


def test_10_000_parts_are_enough_for_5_tib() -> None:
    lengths = list(islice(part_lengths(8 * MIB, None), 10_000))
    assert lengths == [8 * MIB << thousand for thousand in range(10) for _ in range(1000)]
    assert sum(lengths) > 5 * MIB**2
    assert max(lengths) < 5 * 1024 * MIB
    assert next(islice(part_lengths(8 * MIB, None), 20_000, None)) == 5 * 1024 * MIB


@pytest.mark.parametrize(
    ("total", "length"),
    [
        (0, 8 * MIB),
        (8 * MIB * 9_999, 8 * MIB),
        (8 * MIB * 9_999 + 1, 8 * MIB + 1),
        (5 * MIB**2, 549_810_795),
    ],
)
def test_a_known_length_has_equal_parts_which_are_no_longer_than_they_must(total: int, length: int) -> None:
    assert set(islice(part_lengths(8 * MIB, total), 10_000)) == {length}
    assert length * 10_000 >= total


async def test_equal_parts_do_not_grow_and_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "_PARTS_OF_A_LENGTH", 2)
    monkeypatch.setattr(s3_upload, "_MAX_PARTS", 5)
    client = memory_s3()
    await put(client, in_chunks(PLAINTEXT[: 3 * PART], 100), equal_parts=True)
    lengths = [len(call["Body"]) for call in client.called("part")]
    assert set(lengths[:-1]) == {PART}
    with pytest.raises(StreamError, match="needs more than 5 equal parts") as caught:
        await put(client, in_chunks(PLAINTEXT * 2, 100), equal_parts=True)
    assert "pass a longer part_length=" in str(caught.value)
    assert client.uploads == {}
    result = await put(client, PLAINTEXT * 2, equal_parts=True)  # of a known length
    assert result.parts <= 5


# What is said to S3


EXTRA: PutArguments = {
    "StorageClass": "STANDARD_IA",
    "CacheControl": "no-store",
    "ExpectedBucketOwner": "111122223333",
    "SSECustomerAlgorithm": "AES256",
    "SSECustomerKey": "k" * 32,
    "IfNoneMatch": "*",
}
DESCRIBED: dict[str, Any] = {
    "metadata": {"origin": "tests"},
    "tagging": {"größe": "a&b", "empty": ""},
    "content_type": "text/csv",
    "extra": EXTRA,
}
AS_SAID = {
    "Metadata": {"origin": "tests"},
    "Tagging": "gr%C3%B6%C3%9Fe=a%26b&empty=",
    "ContentType": "text/csv",
    **EXTRA,
}
NAMES = {"Bucket", "Key", "Body", "UploadId", "PartNumber", "MultipartUpload"}


def said(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in NAMES and "Checksum" not in name}


async def test_everything_said_of_the_object_goes_with_the_one_request() -> None:
    client = memory_s3()
    await put(client, b"", **DESCRIBED)
    assert said(client.called("put")[0]) == AS_SAID
    await put(memory_s3(), b"")
    client = memory_s3()
    await put(client, b"")
    assert said(client.called("put")[0]) == {}


async def test_everything_said_of_the_object_goes_with_the_calls_that_take_it() -> None:
    client = memory_s3()
    await put(client, **DESCRIBED)
    assert said(client.called("create")[0]) == {k: v for k, v in AS_SAID.items() if k != "IfNoneMatch"}
    of_parts = {k: v for k, v in EXTRA.items() if k.startswith(("SSEC", "Expected"))}
    assert [said(call) for call in client.called("part")] == [of_parts] * len(client.called("part"))
    assert said(client.called("complete")[0]) == {**of_parts, "IfNoneMatch": "*"}


async def test_an_upload_that_is_dropped_is_said_to_whom_it_belongs() -> None:
    client = memory_s3()
    client.put(b"there")
    with pytest.raises(ServiceError, match="PreconditionFailed"):
        await put(client, **DESCRIBED)
    assert said(client.called("abort")[0]) == {"ExpectedBucketOwner": "111122223333"}
    assert client.stored.data == b"there"


def https_client(**settings: Any) -> MemoryS3:
    """Return a client that says of itself what one of botocore says."""
    client = memory_s3()
    config = SimpleNamespace(s3=settings or None)
    client.meta = SimpleNamespace(endpoint_url="https://s3.amazonaws.com", config=config)  # type: ignore[attr-defined]
    return client


@pytest.mark.parametrize("source", [b"", PLAINTEXT], ids=["one request", "parts"])
@pytest.mark.parametrize(
    ("checksum", "expected"),
    [("CRC32", {"ChecksumCRC32"}), ("SHA256", {"ChecksumSHA256"}), (None, set())],
)
async def test_each_body_goes_with_its_checksum(source: bytes, checksum: Any, expected: set[str]) -> None:
    client = memory_s3()  # which compares them
    await put(client, source, checksum=checksum)
    bodies = client.called("put") + client.called("part")
    for call in bodies:
        assert {name for name in call if "Checksum" in name or "MD5" in name} == expected
    for call in client.called("create"):
        assert call.get("ChecksumAlgorithm") == checksum
    for call in client.called("complete"):
        for part in call["MultipartUpload"]["Parts"]:
            assert set(part) == {"PartNumber", "ETag", *expected}


async def test_a_checksum_of_many_megabytes_is_right() -> None:
    client = memory_s3()
    await put(client, plaintext_of(3 * MIB + 1), part_length=8 * MIB, frame_length=MIB, checksum="SHA256")
    [call] = client.called("put")
    message = client.stored.data
    assert call["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(message).digest()).decode()
    await put(client, plaintext_of(3 * MIB + 1), part_length=8 * MIB, frame_length=MIB)
    assert client.called("put")[1]["ChecksumCRC32"] == crc32_of(client.stored.data)


@pytest.mark.parametrize("source", [b"", PLAINTEXT], ids=["one request", "parts"])
async def test_over_tls_an_md5_spares_botocore_hashing_the_body(source: bytes) -> None:
    client = https_client()
    await put(client, source)
    for call in client.called("put") + client.called("part"):
        assert {"ContentMD5", "ChecksumCRC32"} <= set(call)
    for call in client.called("complete"):
        assert all("ContentMD5" not in part for part in call["MultipartUpload"]["Parts"])


@pytest.mark.parametrize("enabled", [True, False])
async def test_no_md5_is_made_where_the_client_says_whether_bodies_are_signed(enabled: bool) -> None:
    client = https_client(payload_signing_enabled=enabled)
    await put(client, b"")
    assert "ContentMD5" not in client.called("put")[0]


@pytest.mark.parametrize(
    ("url", "checksum"), [("https://localhost", None), ("http://localhost", "CRC32"), (None, "CRC32")]
)
async def test_no_md5_is_made_for_nothing(url: str | None, checksum: Any) -> None:
    client: Any = https_client()
    client.meta.endpoint_url = url
    await put(client, b"", checksum=checksum)
    assert "ContentMD5" not in client.called("put")[0]


@pytest.mark.parametrize("bucket", ["logs--use1-az4--x-s3", "point--use1-az4--xa-s3"])
async def test_s3_express_gets_no_md5(bucket: str) -> None:
    sent: list[Mapping[str, Any]] = []

    async def put_object(**arguments: Any) -> Mapping[str, Any]:
        sent.append(arguments)
        return {"ETag": '"e"', "VersionId": "v"}

    client: Any = https_client()
    client.put_object = put_object
    result = await put_encrypted(client, bucket, "key", b"", KEY)
    assert "ChecksumCRC32" in sent[0]
    assert "ContentMD5" not in sent[0]
    assert (result.etag, result.version_id) == ('"e"', "v")


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"part_length": 5 * MIB - 1},
            "part_length is 5242879; S3 takes parts of 5242880 to 5368709120 bytes",
        ),
        ({"part_length": 5 * 1024 * MIB + 1}, "part_length is 5368709121; S3 takes parts of"),
        ({"concurrency": 0}, "concurrency is 0; it must be 1 or more"),
        ({"checksum": "MD5"}, "checksum is 'MD5'; it must be 'CRC32', 'SHA256', or None"),
        (
            {"extra": {"Body": b"", "Metadata": {}}},
            "extra has Body, Metadata, which PutArguments does not support",
        ),
        ({"frame_length": 0}, "frame_length is 0; it must be 1 to 4294967295"),
    ],
)
async def test_wrong_arguments_are_told_before_anything_is_called(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.undo()
    client = memory_s3()
    with pytest.raises(ValueError, match=message):
        await put(client, **{"part_length": 8 * MIB} | options)
    assert client.calls == []


async def test_the_policies_are_those_of_the_encryption_client() -> None:
    old = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    client = memory_s3()
    with pytest.raises(CommitmentPolicyError):
        await put(client, algorithm_suite=old)
    assert client.calls == []
    writer = EncryptionClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    result = await put(client, algorithm_suite=old, encryption_client=writer)
    assert result.header.algorithm_suite is old


async def test_a_bound_of_the_length_holds() -> None:
    client = memory_s3()
    with pytest.raises(LimitError, match="above plaintext_length_bound=100"):
        await put(client, in_chunks(PLAINTEXT, 50), plaintext_length_bound=100)
    assert client.objects == {}
