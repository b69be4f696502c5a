"""Encrypted file systems for tests: keys that are found by name, and targets that count or fail."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from aioencrypt import RawAESMasterKey
from aioencrypt.integrations.fsspec import EncryptedFileSystem

WRAPPING_KEY = bytes(range(32))
PROVIDER = "tests.support.encrypted_fs:make_provider"
OTHER_PROVIDER = "tests.support.encrypted_fs:make_other_provider"


def make_provider() -> RawAESMasterKey:
    """Return the provider that `PROVIDER` names."""
    return RawAESMasterKey("tests", "fsspec", wrapping_key=WRAPPING_KEY)


def make_other_provider() -> RawAESMasterKey:
    """Return another key."""
    return RawAESMasterKey("tests", "other", wrapping_key=bytes(32))


def over(target: Any, **options: Any) -> Any:
    """Return an encrypted file system over an instance of another, new each time."""
    return EncryptedFileSystem(**{"provider": PROVIDER, "fs": target, "skip_instance_cache": True, **options})


def memory() -> Any:
    """Return an empty file system in memory, apart from the one that all others share."""
    return _own(MemoryFileSystem(skip_instance_cache=True))


def _own(fs: Any) -> Any:
    fs.store, fs.pseudo_dirs = {}, [""]
    return fs


class CountingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory, with a record of what is read of them: path, start and end."""

    protocol = "counting"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        _own(self)
        self.reads: list[tuple[str, int, int]] = []
        self.calls: list[str] = []

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        data: bytes = super().cat_file(path, start, end)
        first = start or 0
        self.reads.append((path, first, first + len(data)))
        return data

    def info(self, path: str, **kwargs: Any) -> Any:
        self.calls.append("info")
        return super().info(path, **kwargs)

    @property
    def fetched(self) -> int:
        """The number of bytes that were read."""
        return sum(end - start for _, start, end in self.reads)


class AsyncMemoryFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """An object store: asynchronous, without folders; an object appears when it is uploaded."""

    protocol = "asyncmemory"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = memory()
        self.uploads: list[str] = []

    async def _info(self, path: str, **kwargs: Any) -> Any:
        return self.inner.info(path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return self.inner.ls(path, detail=detail)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        data: bytes = self.inner.cat_file(path, start, end)
        return data

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.uploads.append("pipe")
        self.inner.pipe_file(path, value)

    async def _put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **kwargs: Any) -> None:
        self.uploads.append("put")
        self.inner.put_file(lpath, rpath)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        self.inner.cp_file(path1, path2)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        self.inner.rm_file(path)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        self.inner.rm(path, recursive=recursive)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: there are no folders."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(path)


fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
