"""Encrypted objects in Amazon S3."""

from aioencrypt.integrations.s3.objects import (
    Checksum,
    GetArguments,
    PutArguments,
    PutResult,
    RewrapObjectResult,
    S3Call,
    S3Client,
    S3RangeSource,
    open_encrypted,
    open_seekable_encrypted,
    put_encrypted,
    rewrap_encrypted,
)

__all__ = [
    "Checksum",
    "GetArguments",
    "PutArguments",
    "PutResult",
    "RewrapObjectResult",
    "S3Call",
    "S3Client",
    "S3RangeSource",
    "open_encrypted",
    "open_seekable_encrypted",
    "put_encrypted",
    "rewrap_encrypted",
]


def __dir__() -> list[str]:
    return __all__
