"""The S3 client protocol, the arguments of its calls, and the target of an upload."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from io import BytesIO
from typing import Any, Literal, Protocol, TypedDict, TypeVar

import attrs

from aioencrypt.aws.client_checks import check_client
from aioencrypt.aws.errors import call_service
from aioencrypt.errors import ServiceError
from aioencrypt.runtime.offload import run_work
from aioencrypt.runtime.plugins import await_answer

T = TypeVar("T")
S3Call = Callable[..., Awaitable[Mapping[str, Any]]]
"""A method of an asynchronous S3 client."""
Checksum = Literal["CRC32", "SHA256"]
"""A checksum that S3 verifies with each request."""

# Bytes of a checksum in one hop: a part may have gigabytes, and the worker has others to serve.
_DIGEST_STEP = 1024 * 1024
# A processor without instructions for any of the three: MD5 does 600 bytes in a microsecond.
_DIGESTED_PER_MICROSECOND = 400


class S3Client(Protocol):
    """The methods that we call of an asynchronous S3 client.

    Reading uses `get_object`, writing the next five. Rewrapping uses all, `get_object_tagging` only for
    objects with tags.
    """

    @property
    def get_object(self) -> S3Call: ...

    @property
    def put_object(self) -> S3Call: ...

    @property
    def create_multipart_upload(self) -> S3Call: ...

    @property
    def upload_part(self) -> S3Call: ...

    @property
    def complete_multipart_upload(self) -> S3Call: ...

    @property
    def abort_multipart_upload(self) -> S3Call: ...

    @property
    def upload_part_copy(self) -> S3Call: ...

    @property
    def get_object_tagging(self) -> S3Call: ...


class GetArguments(TypedDict, total=False):
    """Additional arguments for reading, by their S3 names."""

    ExpectedBucketOwner: str
    RequestPayer: Literal["requester"]
    SSECustomerAlgorithm: str
    SSECustomerKey: str | bytes
    SSECustomerKeyMD5: str


class PutArguments(TypedDict, total=False):
    """Additional arguments for writing, by their S3 names.

    ``IfNoneMatch="*"`` only creates a new object; `IfMatch` only replaces the object with that ETag.
    """

    ACL: str
    BucketKeyEnabled: bool
    CacheControl: str
    ContentDisposition: str
    ContentEncoding: str
    ContentLanguage: str
    ExpectedBucketOwner: str
    Expires: datetime | str
    GrantFullControl: str
    GrantRead: str
    GrantReadACP: str
    GrantWriteACP: str
    IfMatch: str
    IfNoneMatch: Literal["*"]
    ObjectLockLegalHoldStatus: Literal["ON", "OFF"]
    ObjectLockMode: Literal["GOVERNANCE", "COMPLIANCE"]
    ObjectLockRetainUntilDate: datetime | str
    RequestPayer: Literal["requester"]
    SSECustomerAlgorithm: str
    SSECustomerKey: str | bytes
    SSECustomerKeyMD5: str
    SSEKMSEncryptionContext: str
    SSEKMSKeyId: str
    ServerSideEncryption: str
    StorageClass: str
    WebsiteRedirectLocation: str


READING = frozenset(GetArguments.__annotations__)
_OF_ALL_CALLS = frozenset({"ExpectedBucketOwner", "RequestPayer"})
_CONDITIONS = frozenset({"IfMatch", "IfNoneMatch"})


def check_extra(name: str, extra: Mapping[str, Any] | None, kind: type) -> dict[str, Any]:
    """Return additional arguments; raises `ValueError` for names that are not supported here."""
    unknown = sorted(set(extra or {}) - set(kind.__annotations__))
    if unknown:
        raise ValueError(
            f"{name} has {', '.join(unknown)}, which {kind.__name__} does not support; "
            "pass it as its own argument, such as metadata=, tagging= or content_type=, or leave it out"
        )
    return dict(extra or {})


def _check_writer(target: object, field: object, client: S3Client) -> None:
    check_client(client, "S3", ["put_object", "create_multipart_upload"])


async def call_s3(
    operation: str, bucket: str, call: Callable[[], Awaitable[Mapping[str, Any]]], timeout: float | None
) -> Mapping[str, Any]:
    """Await a call within a time in seconds, retries of the client included; raises `ServiceError`."""

    async def answer() -> Mapping[str, Any]:
        what = f"the S3 client, asked for {operation},"
        return await await_answer(what, call(), Mapping)  # type: ignore[type-abstract]

    # Keys of objects may name people, so that they do not go into logs.
    return await call_service(f"S3 {operation} in {bucket}", answer, timeout)


def required(answer: object, field: str, kind: type[T]) -> T:
    """Return a field of an answer; raises `ServiceError` if it is missing."""
    value = answer.get(field) if isinstance(answer, Mapping) else None
    if not isinstance(value, kind):
        raise ServiceError(f"the answer of S3 has no {field}")
    return value


def _md5_spares_signing(client: object, bucket: str) -> bool:
    """Tell whether an MD5 keeps botocore from hashing bodies, in the event loop, to sign requests.

    Over TLS it leaves them unsigned where the request has that checksum, and no other. S3 Express does
    not take it.
    """
    meta = getattr(client, "meta", None)
    url = getattr(meta, "endpoint_url", None)
    settings = getattr(getattr(meta, "config", None), "s3", None) or {}
    told = settings.get("payload_signing_enabled") is not None
    express = bucket.endswith(("--x-s3", "--xa-s3"))
    return isinstance(url, str) and url.startswith("https") and not told and not express


class _CRC32:
    """A CRC as `hashlib` would have it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _update(hashes: Mapping[str, Any], data: memoryview) -> None:
    for running in hashes.values():
        running.update(data)


@attrs.frozen(kw_only=True)
class UploadTarget:
    """The object to write. `arguments` are those of `put_object`."""

    client: S3Client = attrs.field(validator=_check_writer)
    bucket: str
    key: str
    arguments: Mapping[str, Any] = attrs.field(repr=False)
    checksum: Checksum | None
    timeout: float | None

    async def put(self, body: BytesIO) -> Mapping[str, Any]:
        """Write all of it."""
        digests = await self._digests(body)
        return await self._call("PutObject", self.client.put_object, Body=body, **self.arguments, **digests)

    async def create(self) -> str:
        """Begin a multipart upload and return its id."""
        arguments = {name: value for name, value in self.arguments.items() if name not in _CONDITIONS}
        if self.checksum:
            arguments["ChecksumAlgorithm"] = self.checksum
        answer = await self._call("CreateMultipartUpload", self.client.create_multipart_upload, **arguments)
        return required(answer, "UploadId", str)

    async def upload_part(self, body: BytesIO, upload_id: str, number: int) -> dict[str, Any]:
        """Upload a part and return how the end of the upload names it."""
        digests = await self._digests(body)
        answer = await self._call(
            "UploadPart",
            self.client.upload_part,
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            **digests,
            **self._only(READING),
        )
        digests.pop("ContentMD5", None)
        return {"PartNumber": number, "ETag": required(answer, "ETag", str), **digests}

    async def copy_part(self, source: Mapping[str, Any], upload_id: str, number: int) -> dict[str, Any]:
        """Let S3 copy a part and return how the end of the upload names it."""
        answer = await self._call(
            "UploadPartCopy",
            self.client.upload_part_copy,
            UploadId=upload_id,
            PartNumber=number,
            **source,
            **self._only(READING),
        )
        result = required(answer, "CopyPartResult", dict)
        checksums = {name: value for name, value in result.items() if name == f"Checksum{self.checksum}"}
        return {"PartNumber": number, "ETag": required(result, "ETag", str), **checksums}

    async def complete(self, upload_id: str, parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Complete the upload, so that the object appears."""
        return await self._call(
            "CompleteMultipartUpload",
            self.client.complete_multipart_upload,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            **self._only(READING | _CONDITIONS),
        )

    async def abort(self, upload_id: str) -> None:
        """Drop all parts."""
        await self._call(
            "AbortMultipartUpload",
            self.client.abort_multipart_upload,
            UploadId=upload_id,
            **self._only(_OF_ALL_CALLS),
        )

    def _only(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in self.arguments.items() if name in names}

    async def _call(self, operation: str, method: S3Call, **arguments: Any) -> Mapping[str, Any]:
        call = partial(method, Bucket=self.bucket, Key=self.key, **arguments)
        return await call_s3(operation, self.bucket, call, self.timeout)

    async def _digests(self, body: BytesIO) -> dict[str, str]:
        """Return the checksums that go with a body; without them botocore makes its own, in the loop."""
        if not self.checksum:
            return {}
        hashes: dict[str, Any] = {
            f"Checksum{self.checksum}": _CRC32() if self.checksum == "CRC32" else hashlib.sha256()
        }
        if _md5_spares_signing(self.client, self.bucket):
            hashes["ContentMD5"] = hashlib.md5(usedforsecurity=False)
        with body.getbuffer() as view:
            for start in range(0, len(view), _DIGEST_STEP):
                with view[start : start + _DIGEST_STEP] as piece:
                    await run_work(partial(_update, hashes, piece), len(piece) / _DIGESTED_PER_MICROSECOND)
        return {name: base64.b64encode(running.digest()).decode() for name, running in hashes.items()}


def checked_checksum(checksum: object) -> Checksum | None:
    """Return the name of a checksum; raises `ValueError` for one that is not known."""
    if checksum not in (None, "CRC32", "SHA256"):
        raise ValueError(f"checksum is {checksum!r}; it must be 'CRC32', 'SHA256', or None for none of ours")
    return checksum
