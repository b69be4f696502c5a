"""S3 as a type checker sees it: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from aioencrypt import (
    AlgorithmSuite,
    DecryptStream,
    EncryptionClient,
    Limits,
    MessageHeader,
    Provenance,
    RawAESMasterKey,
    Release,
    SeekableDecryptStream,
    SignaturePolicy,
)
from aioencrypt.integrations.s3 import (
    Checksum,
    GetArguments,
    PutArguments,
    PutResult,
    RewrapObjectResult,
    S3Client,
    open_encrypted,
    open_seekable_encrypted,
    put_encrypted,
    rewrap_encrypted,
)
from aioencrypt.materials import EncryptedDataKey

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client as AiobotocoreS3Client

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))


async def put(client: S3Client, generated: AiobotocoreS3Client, source: Any) -> None:
    as_protocol: S3Client = generated
    extra: PutArguments = {"StorageClass": "GLACIER_IR", "IfNoneMatch": "*"}
    checksum: Checksum = "SHA256"
    result = await put_encrypted(
        as_protocol,
        "bucket",
        "key",
        source,
        key,
        encryption_context={"tenant": "42"},
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=64 * 1024,
        plaintext_length=1,
        plaintext_length_bound=2,
        metadata={"origin": "here"},
        tagging={"a": "b"},
        content_type="text/csv",
        extra=extra,
        checksum=checksum,
        part_length=16 * 1024 * 1024,
        concurrency=8,
        timeout=None,
        encryption_client=EncryptionClient(),
    )
    assert_type(result, PutResult)
    assert_type(result.header, MessageHeader)
    assert_type(result.provenance, Provenance)
    assert_type((result.etag, result.version_id), tuple[str, str | None])
    assert_type((result.parts, result.ciphertext_length), tuple[int, int])
    result.parts = 2  # type: ignore[misc]
    await put_encrypted(client, "bucket", "key", b"", key, checksum=None)
    await put_encrypted(client, "bucket", "key", b"", key, checksum="MD5")  # type: ignore[arg-type]
    await put_encrypted(client, "bucket", "key", b"", key, extra={"Body": b""})  # type: ignore[arg-type]
    await put_encrypted(client, "bucket", "key", b"", key, {"a": "b"})  # type: ignore[call-arg]
    await put_encrypted(object(), "bucket", "key", b"", key)  # type: ignore[arg-type]


async def read(client: S3Client) -> None:
    extra: GetArguments = {"ExpectedBucketOwner": "111122223333"}
    stream = open_encrypted(
        client,
        "bucket",
        "key",
        key,
        version_id="1",
        encryption_context={"tenant": "42"},
        signature_policy=SignaturePolicy.REQUIRE,
        limits=Limits(),
        release=Release.VERIFIED,
        extra=extra,
        timeout=10,
        encryption_client=EncryptionClient(),
    )
    assert_type(stream, DecryptStream)
    async with stream as opened:
        assert_type(opened, DecryptStream)
    seekable = open_seekable_encrypted(
        client,
        "bucket",
        "key",
        key,
        version_id=None,
        encryption_context=None,
        accept_unverified_signature=True,
        limits=None,
        cache_length=0,
        concurrency=1,
        extra=extra,
        timeout=None,
        encryption_client=None,
    )
    assert_type(seekable, SeekableDecryptStream)
    open_encrypted(client, "bucket", "key", key, extra={"Range": ""})  # type: ignore[arg-type]


def keep(encrypted: EncryptedDataKey) -> bool:
    return encrypted.provider_id == "tests"


async def rewrap(client: S3Client, generated: AiobotocoreS3Client) -> None:
    result = await rewrap_encrypted(
        generated,
        "bucket",
        "key",
        key,
        new_provider=key,
        keep=keep,
        version_id="1",
        encryption_context={"tenant": "42"},
        reencrypt=False,
        accept_iv_reuse=True,
        verify=True,
        extra={"CacheControl": "no-store"},
        checksum="CRC32",
        part_length=5 * 1024 * 1024,
        concurrency=1,
        timeout=1.5,
        encryption_client=None,
    )
    assert_type(result, RewrapObjectResult)
    assert_type((result.reencrypted, result.copied_length), tuple[bool, int])
    assert_type((result.etag, result.version_id), tuple[str, str | None])
    await rewrap_encrypted(client, "bucket", "key", key, new_provider="key")  # type: ignore[arg-type]
