"""An S3 in memory, on any event loop, that checks what it is given and fails when it is told to.

Every call waits for the loop before and after it has done its work, so that a cancellation may find it
undone, or done and unanswered.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any

import attrs
from anyio.lowlevel import checkpoint

BUCKET, KEY_NAME = "bucket", "folder/name"
Fault = Callable[[int, Mapping[str, Any]], Awaitable[None]]


class S3Error(Exception):
    """An error as botocore shapes it."""

    def __init__(self, code: str, status: int = 400, message: str = "as told") -> None:
        super().__init__(f"{code}: {message}")
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "request-1"},
        }


@attrs.define
class Object:
    data: bytes
    etag: str
    arguments: dict[str, Any]
    version_id: str | None = None


@attrs.define
class Upload:
    arguments: dict[str, Any]
    parts: dict[int, tuple[bytes, dict[str, Any]]] = attrs.field(factory=dict)


class Body:
    """What `get_object` gives: pieces of any length, `cut` after some bytes by an error."""

    def __init__(self, s3: MemoryS3, data: bytes, cut: tuple[int, BaseException | None] | None) -> None:
        self._s3 = s3
        self._data = BytesIO(data if cut is None else data[: cut[0]])
        self._error = cut and cut[1]
        self.closed = False
        s3.open_bodies += 1

    async def read(self, amt: int) -> bytes:
        assert not self.closed
        await checkpoint()
        if data := self._data.read(min(amt, self._s3.piece_length)):
            return data
        if self._error:
            raise self._error
        return b""

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self._s3.open_bodies -= 1


class MemoryS3:
    """One bucket. `faults` are awaited before the work of an operation, with the number of the call."""

    def __init__(self, *, min_part_length: int = 5 * 1024 * 1024) -> None:
        self.objects: dict[str, Object] = {}
        self.versions: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.faults: dict[str, Fault] = {}
        self.cuts: list[tuple[int, BaseException | None]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.min_part_length = min_part_length
        self.piece_length = 50_000
        self.versioned = False
        self.knows_ranges = True
        self.knows_conditions = True
        self.open_bodies = 0
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.calls]

    def called(self, operation: str) -> list[dict[str, Any]]:
        """Return the arguments of all calls of an operation; bodies are what they were then."""
        return [arguments for name, arguments in self.calls if name == operation]

    def put(self, data: bytes, **arguments: Any) -> Object:
        """Put an object there, behind everybody's back."""
        return self._store(data, f'"{hashlib.md5(data).hexdigest()}"', arguments)

    def _store(self, data: bytes, etag: str, arguments: dict[str, Any]) -> Object:
        stored = Object(data, etag, arguments)
        if self.versioned:
            stored.version_id = f"version-{next(self._numbers)}"
            self.versions[stored.version_id] = stored
        self.objects[KEY_NAME] = stored
        return stored

    @property
    def stored(self) -> Object:
        return self.objects[KEY_NAME]

    async def _call(
        self, operation: str, arguments: dict[str, Any], work: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        if isinstance(arguments.get("Body"), BytesIO):
            arguments["Body"] = arguments["Body"].read()
        self.calls.append((operation, arguments))
        number = self.operations.count(operation)
        assert (arguments["Bucket"], arguments["Key"]) == (BUCKET, KEY_NAME)
        self.running[operation] += 1
        self.most_running[operation] = max(self.running[operation], self.most_running[operation])
        try:
            await checkpoint()
            if operation in self.faults:
                await self.faults[operation](number, arguments)
            answer = work()
            await checkpoint()
            return answer
        finally:
            self.running[operation] -= 1

    async def put_object(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            check_digests(arguments)
            self._check_conditions(arguments)
            return answer_for(self.put(arguments.pop("Body"), **arguments))

        return await self._call("put", arguments, work)

    async def create_multipart_upload(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            upload_id = f"upload-{next(self._numbers)}"
            self.uploads[upload_id] = Upload(arguments)
            return {"UploadId": upload_id}

        return await self._call("create", arguments, work)

    async def upload_part(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            check_digests(arguments)
            return {"ETag": self._add_part(arguments, arguments["Body"])}

        return await self._call("part", arguments, work)

    def _add_part(self, arguments: dict[str, Any], data: bytes, checksum: str | None = None) -> str:
        etag = f'"part-{next(self._numbers)}"'
        named = {name: value for name, value in arguments.items() if name.startswith("Checksum")}
        if checksum:
            named["ChecksumCRC32"] = checksum
        upload = self._upload(arguments)
        upload.parts[arguments["PartNumber"]] = (data, {"ETag": etag, **named})
        return etag

    def _upload(self, arguments: Mapping[str, Any]) -> Upload:
        if arguments["UploadId"] not in self.uploads:
            raise S3Error("NoSuchUpload", 404)
        return self.uploads[arguments["UploadId"]]

    async def upload_part_copy(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            source = self._find(arguments["CopySource"])
            if arguments.get("CopySourceIfMatch", source.etag) != source.etag:
                raise S3Error("PreconditionFailed", 412)
            first, last = map(int, arguments["CopySourceRange"].removeprefix("bytes=").split("-"))
            assert 0 <= first <= last < len(source.data)
            data = source.data[first : last + 1]
            algorithm = self._upload(arguments).arguments.get("ChecksumAlgorithm")
            checksum = crc32_of(data) if algorithm == "CRC32" else None
            result = {"ETag": self._add_part(arguments, data, checksum)}
            return {"CopyPartResult": {**result, **({"ChecksumCRC32": checksum} if checksum else {})}}

        return await self._call("copy", arguments, work)

    async def complete_multipart_upload(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            upload = self._upload(arguments)
            self._check_conditions(arguments)
            parts = arguments["MultipartUpload"]["Parts"]
            numbers = [part["PartNumber"] for part in parts]
            assert numbers == list(range(1, len(upload.parts) + 1))
            for part in parts:
                assert upload.parts[part["PartNumber"]][1] == {
                    name: value for name, value in part.items() if name != "PartNumber"
                }
            whole = [upload.parts[number][0] for number in numbers]
            if any(len(data) < self.min_part_length for data in whole[:-1]):
                raise S3Error("EntityTooSmall")
            del self.uploads[arguments["UploadId"]]
            data = b"".join(whole)
            etag = f'"{hashlib.md5(data).hexdigest()}-{len(parts)}"'
            return answer_for(self._store(data, etag, upload.arguments))

        return await self._call("complete", arguments, work)

    async def abort_multipart_upload(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            self._upload(arguments)
            del self.uploads[arguments["UploadId"]]
            return {}

        return await self._call("abort", arguments, work)

    async def get_object(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            found = self._find(arguments)
            if self.knows_conditions and arguments.get("IfMatch", found.etag) != found.etag:
                raise S3Error("PreconditionFailed", 412)
            size = len(found.data)
            start, end = self._range(arguments, size)
            cut = self.cuts.pop(0) if self.cuts else None
            answer = {**found.arguments, **answer_for(found), "ContentLength": end - start}
            if "Range" in arguments and self.knows_ranges:
                answer["ContentRange"] = f"bytes {start}-{end - 1}/{size}"
            return {**answer, "Body": (found.data[start:end], cut)}

        answer = await self._call("get", arguments, work)
        # Nobody else could close it before.
        return {**answer, "Body": Body(self, *answer["Body"])}

    def _find(self, arguments: Mapping[str, Any]) -> Object:
        if "VersionId" in arguments:
            return self.versions[arguments["VersionId"]]
        if arguments["Key"] not in self.objects:
            raise S3Error("NoSuchKey", 404)
        return self.objects[arguments["Key"]]

    def _range(self, arguments: Mapping[str, Any], size: int) -> tuple[int, int]:
        if "Range" not in arguments or not self.knows_ranges:
            return 0, size
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", arguments["Range"])
        assert found
        start = int(found[1])
        if start >= size:
            raise S3Error("InvalidRange", 416)
        return start, min(int(found[2]) + 1, size) if found[2] else size

    def _check_conditions(self, arguments: Mapping[str, Any]) -> None:
        there = self.objects.get(arguments["Key"])
        if arguments.get("IfNoneMatch") == "*" and there:
            raise S3Error("PreconditionFailed", 412)
        if "IfMatch" in arguments and (not there or arguments["IfMatch"] != there.etag):
            raise S3Error("PreconditionFailed", 412)

    async def get_object_tagging(self, **arguments: Any) -> Mapping[str, Any]:
        def work() -> Mapping[str, Any]:
            pairs = self._find(arguments).arguments["TagSet"]
            return {"TagSet": [{"Key": key, "Value": value} for key, value in pairs.items()]}

        return await self._call("tagging", arguments, work)


def answer_for(stored: Object) -> dict[str, Any]:
    version = {"VersionId": stored.version_id} if stored.version_id else {}
    return {"ETag": stored.etag, **version}


def crc32_of(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def check_digests(arguments: Mapping[str, Any]) -> None:
    """Assert that every checksum that is given is that of the body."""
    data = arguments["Body"]
    expected = {
        "ChecksumCRC32": crc32_of(data),
        "ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "ContentMD5": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }
    for name, digest in expected.items():
        assert arguments.get(name, digest) == digest, name
