"""An encrypted file system over any file system of fsspec: ``aioencrypt::s3://bucket/key``."""

from aioencrypt.integrations.fsspec.filesystem import EncryptedFileSystem

__all__ = ["EncryptedFileSystem"]


def __dir__() -> list[str]:
    return __all__
