"""An encrypted file system over any file system of fsspec: ``aioencrypt::s3://bucket/key``."""

from aioencrypt.integrations.fsspec.filesystem import EncryptedFileSystem
from aioencrypt.integrations.fsspec.provider import GivenProvider
from aioencrypt.integrations.fsspec.target import FileReplacedError

__all__ = ["EncryptedFileSystem", "FileReplacedError", "GivenProvider"]


def __dir__() -> list[str]:
    return __all__
