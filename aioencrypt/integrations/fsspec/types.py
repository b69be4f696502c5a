"""Types of fsspec as this package uses them, because fsspec has no type hints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from io import BytesIO, IOBase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    FileSystemType = type

    class AsyncFileSystem:
        """A file system. `__getattr__` stands for every method that is not named here."""

        asynchronous: bool
        loop: Any
        root_marker: str

        def __init__(self, *, asynchronous: bool, loop: Any, batch_size: int | None) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        @classmethod
        def _strip_protocol(cls, path: Any) -> Any: ...
        @classmethod
        def clear_instance_cache(cls) -> None: ...
        def open(self, path: str, *args: Any, **kwargs: Any) -> Any: ...
        def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]: ...
        def _walk(self, path: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]: ...

    class ChainedFileSystem:
        """The mark of a file system that stands over another one."""

    class BufferedFile(IOBase):
        """An open file."""

        fs: Any
        path: str
        mode: str
        blocksize: int
        size: int
        autocommit: bool
        buffer: BytesIO
        cache: Any
        kwargs: dict[str, Any]
        loc: int
        closed: bool

        def __init__(self, fs: Any, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> None: ...
        def commit(self) -> None: ...
        def discard(self) -> None: ...

    class AsyncFile:
        """An open file of a caller who awaits."""

        path: str
        buffer: BytesIO
        size: int
        closed: bool

        def __init__(self, fs: Any, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> None: ...
        def seek(self, loc: int, whence: int = 0) -> int: ...
        def tell(self) -> int: ...
        async def read(self, length: int = -1) -> bytes: ...
        async def write(self, data: bytes) -> int: ...
        async def close(self) -> None: ...

    class Cache:
        """What an open file keeps in memory."""

        blocksize: int
        fetcher: Any
        size: int

        def __init__(self, blocksize: int, fetcher: Any, size: int) -> None: ...

else:
    from fsspec.asyn import AbstractAsyncStreamedFile as AsyncFile, AsyncFileSystem
    from fsspec.caching import BaseCache as Cache
    from fsspec.implementations.chained import ChainedFileSystem
    from fsspec.spec import AbstractBufferedFile as BufferedFile

    FileSystemType = type(AsyncFileSystem)

__all__ = ["AsyncFile", "AsyncFileSystem", "BufferedFile", "Cache", "ChainedFileSystem", "FileSystemType"]
