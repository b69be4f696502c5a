"""Replace an object by its rewrapped message: keep its metadata, and let S3 copy its body."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import attrs

from aioencrypt.integrations.s3.client import READING, S3Client, UploadTarget, call_s3, required
from aioencrypt.integrations.s3.ranges import StoredObject
from aioencrypt.integrations.s3.upload import (
    MIN_PART_LENGTH,
    Job,
    MultipartUpload,
    PartCutter,
    Written,
    part_lengths,
    upload,
)
from aioencrypt.rewrap import RewrappedHeader, RewrapStream

_COPY_LENGTH = 256 * 1024 * 1024
_KEPT = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "Metadata",
    "StorageClass",
    "WebsiteRedirectLocation",
)
_KEPT_OF_ENCRYPTION = ("BucketKeyEnabled", "SSEKMSKeyId", "ServerSideEncryption")


@attrs.frozen(kw_only=True)
class Original:
    """The object that is replaced."""

    client: S3Client
    bucket: str
    key: str
    version_id: str | None
    stored: StoredObject
    extra: Mapping[str, Any] = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        client: S3Client,
        bucket: str,
        key: str,
        *,
        version_id: str | None,
        extra: Mapping[str, Any],
        timeout: float | None,
    ) -> Original:
        """Name an object that is read with those of the further arguments that reading takes."""
        reading = {name: value for name, value in extra.items() if name in READING}
        stored = StoredObject(client, bucket, key, version_id=version_id, arguments=reading, timeout=timeout)
        return cls(client=client, bucket=bucket, key=key, version_id=version_id, stored=stored, extra=extra)

    async def arguments(self) -> dict[str, Any]:
        """Return the arguments that write its like, unless the caller says otherwise."""
        names: tuple[str, ...] = _KEPT
        extra = self.extra
        if not any(name.startswith(("SSE", "ServerSide", "BucketKey")) for name in extra):
            names += _KEPT_OF_ENCRYPTION
        answer = self.stored.answer
        arguments = {name: answer[name] for name in names if name in answer}
        if answer.get("TagCount"):
            arguments["Tagging"] = await self._tagging()
        if self.version_id is None and self.stored.etag and "IfNoneMatch" not in extra:
            arguments["IfMatch"] = self.stored.etag
        return {**arguments, **extra}

    async def _tagging(self) -> str:
        call = partial(self.client.get_object_tagging, Bucket=self.bucket, Key=self.key)
        if self.version_id is not None:
            call = partial(call, VersionId=self.version_id)
        for name in ("ExpectedBucketOwner", "RequestPayer"):
            if name in self.extra:
                call = partial(call, **{name: self.extra[name]})
        answer = await call_s3("GetObjectTagging", self.bucket, call, self.stored.timeout)
        tags = required(answer, "TagSet", list)
        return urlencode([(required(tag, "Key", str), required(tag, "Value", str)) for tag in tags])

    def copy_arguments(self) -> dict[str, Any]:
        """Return the arguments that name it as the source of a copy."""
        source = {"Bucket": self.bucket, "Key": self.key}
        if self.version_id is not None:
            source["VersionId"] = self.version_id
        arguments: dict[str, Any] = {"CopySource": source}
        if self.stored.etag:
            arguments["CopySourceIfMatch"] = self.stored.etag
        for name in READING:
            if name.startswith("SSE") and name in self.extra:
                arguments[f"CopySource{name}"] = self.extra[name]
        return arguments


@attrs.frozen(kw_only=True)
class CopyPlan:
    """A new header by copying: upload `first_length` bytes, copy the old ones from `start` on."""

    first_length: int
    copy_length: int
    start: int
    size: int


def plan_copy(
    rewrapped: RewrappedHeader, size: int, part_length: int, *, equal_parts: bool
) -> CopyPlan | None:
    """Return the plan for an object of this size; None where it is as well written as a whole."""
    new_length = len(rewrapped.serialized)
    if equal_parts:
        first_length = copy_length = next(part_lengths(max(part_length, new_length), size))
    else:
        first_length = max(MIN_PART_LENGTH, new_length)
        copy_length = next(part_lengths(_COPY_LENGTH, size))
    start = rewrapped.old_length + first_length - new_length
    if size <= part_length or start >= size:
        return None
    return CopyPlan(first_length=first_length, copy_length=copy_length, start=start, size=size)


async def write_rewrapped(
    target: UploadTarget,
    stream: RewrapStream,
    original: Original,
    *,
    copy: bool,
    part_length: int,
    equal_parts: bool,
    concurrency: int,
) -> tuple[Written, int]:
    """Write an object under its new header; returns, too, how many bytes of it S3 copied itself.

    Raises what the stream raises, and `ServiceError`.
    """
    new, size = stream.rewrapped, original.stored.size
    plan = plan_copy(new, size, part_length, equal_parts=equal_parts) if new and copy else None
    if plan is None:
        total = size - new.old_length + len(new.serialized) if new else None
        lengths = part_lengths(part_length, total, equal=equal_parts)
        return await upload(target, stream, lengths=lengths, concurrency=concurrency), 0
    first = await PartCutter(stream).cut(plan.first_length, BytesIO())
    stream.abandon()
    await stream.aclose()  # nobody reads the rest of the object
    parts = MultipartUpload(target, concurrency)
    answer = await parts.write(_jobs(target, first, plan, original.copy_arguments()))
    copied = size - plan.start
    return parts.written(answer, plan.first_length + copied), copied


async def _jobs(
    target: UploadTarget, first: BytesIO, plan: CopyPlan, source: Mapping[str, Any]
) -> AsyncGenerator[Job, None]:
    yield partial(target.upload_part, first)
    for start in range(plan.start, plan.size, plan.copy_length):
        end = min(start + plan.copy_length, plan.size)
        yield partial(target.copy_part, {**source, "CopySourceRange": f"bytes={start}-{end - 1}"})
