"""Path operations of the encrypted file system, and the sizes of plaintexts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.asyn import sync
from fsspec.utils import stringify_path

from aioencrypt.errors import MalformedMessageError, MessageError
from aioencrypt.format import MessageDecryptor
from aioencrypt.format.frames import body_layouts
from aioencrypt.integrations.fsspec.provider import Option
from aioencrypt.integrations.fsspec.target import TargetFileSystem, TargetRanges, in_order
from aioencrypt.integrations.fsspec.types import AsyncFileSystem, ChainedFileSystem, FileSystemType
from aioencrypt.policies import Limits
from aioencrypt.streams.driver import read_header_at
from aioencrypt.streams.ranges import Ranges

PROTOCOL = "aioencrypt"

_SIZES_AT_ONCE = 32
# What file systems call the things that change with a file.
_VERSIONS = (
    "ETag etag VersionId generation content_md5 mtime modified ino LastModified last_modified updated created"
)
_CAPACITY = 100_000


class _ByOptions(FileSystemType):
    """fsspec finds an instance again by the text of its options; see `Option`."""

    if not TYPE_CHECKING:  # whoever checks types looks at `__init__`

        def __call__(cls, *args, **options):  # noqa: N805
            for name in ("provider", "client"):
                if options.get(name) is not None:
                    options[name] = Option.of(options[name])
            return super().__call__(*args, **options)


def _strip(below: Any, path: Any) -> Any:
    if isinstance(path, list):
        return [_strip(below, one) for one in path]
    text = stringify_path(path)
    return below(text.removeprefix(f"{PROTOCOL}://").removeprefix(f"{PROTOCOL}::"))


class PlaintextSizes:
    """Reads the header of a file to say how long its plaintext is. None of it is verified.

    A size that was found is kept for as long as what the target says of the file stays the same.
    """

    def __init__(self, target: TargetFileSystem) -> None:
        self._target = target
        self._known: OrderedDict[Hashable, int] = OrderedDict()

    async def of(self, info: Mapping[str, Any]) -> int:
        """Return the length of the plaintext; raises `MessageError` for what is no message."""
        version = tuple((key, str(info[key])) for key in _VERSIONS.split() if info.get(key) is not None)
        key = (info["name"], info["size"], version)
        known = self._known.get(key) if version else None
        if known is None:
            known = await self._read(info["name"])
            self._known[key] = known
            if len(self._known) > _CAPACITY:
                self._known.popitem(last=False)
        return known

    async def _read(self, path: str) -> int:
        ranges = Ranges(TargetRanges(self._target, path), 1)
        await ranges.open()
        machine = MessageDecryptor(max_header_length=Limits().max_header_length)
        signed = (await read_header_at(machine, ranges)).header.algorithm_suite.signed
        for layout in body_layouts(machine.received, ranges.size):
            # Signatures differ in length: where the final frame stands says where the body ends.
            end = await ranges.read(layout.frame_start(layout.regular_count), ranges.size) if signed else b""
            found = layout.confirmed(end) if signed else layout
            if found:
                return found.plaintext_length
        raise MalformedMessageError(f"no message has the {ranges.size} bytes of {path}: it is cut off")


class PathsFileSystem(AsyncFileSystem, ChainedFileSystem, metaclass=_ByOptions):
    """Names, folders and sizes; whoever derives from it adds what files contain.

    The keyword arguments without a name, here and below, are those that fsspec passes through.
    """

    protocol = PROTOCOL
    _strip_tokenize_options = ("fo",)

    def __init__(
        self,
        target_protocol: str | None,
        target_options: Mapping[str, Any] | None,
        *,
        fs: Any,
        sizes: bool,
        asynchronous: bool,
        loop: Any,
        batch_size: int | None,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size)
        if (fs is None) == (target_protocol is None):
            raise ValueError(
                "give either target_protocol or fs, or name a file system in the URL: aioencrypt::file:///path"
            )
        self.fs: Any = self._make_target(target_protocol, target_options) if fs is None else fs
        if self.fs.async_impl and self.fs.asynchronous != asynchronous:
            raise ValueError(f"asynchronous is {asynchronous}; the file system below must have the same")
        self._target = TargetFileSystem(self.fs)
        self._sizes = PlaintextSizes(self._target)
        self._list_sizes = sizes
        # Instances have the paths of their targets, which fsspec allows for.
        self._strip_protocol = partial(_strip, self.fs._strip_protocol)  # noqa: SLF001
        self._parent = self.fs._parent  # noqa: SLF001
        self.root_marker: str = self.fs.root_marker

    def _make_target(self, protocol: Any, options: Mapping[str, Any] | None) -> Any:
        given = dict(options or {})
        if fsspec.get_filesystem_class(protocol).async_impl:
            given.setdefault("asynchronous", self.asynchronous)
            if not self.asynchronous:
                given.setdefault("loop", self.loop)
        return fsspec.filesystem(protocol, **given)

    @property
    def fsid(self) -> str:
        return f"{PROTOCOL}_{self.fs.fsid}"

    def unstrip_protocol(self, name: str) -> str:
        return f"{PROTOCOL}::{self.fs.unstrip_protocol(self._strip_protocol(name))}"

    def invalidate_cache(self, path: str | None = None) -> None:
        self.fs.invalidate_cache(path)

    def created(self, path: str) -> Any:
        return self.fs.created(self._strip_protocol(path))

    def modified(self, path: str) -> Any:
        return self.fs.modified(self._strip_protocol(path))

    def ukey(self, path: str) -> Any:
        return self.fs.ukey(self._strip_protocol(path))

    # What is there

    async def _info(self, path: str, sizes: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return what the target says, with the size of the plaintext; `ciphertext_size` is the other."""
        info = await self._target.call("info", self._strip_protocol(path))
        return await self._with_size(info) if sizes else info

    async def _with_size(self, info: dict[str, Any]) -> dict[str, Any]:
        if info["type"] != "file":
            return info
        return {**info, "size": await self._sizes.of(info), "ciphertext_size": info["size"]}

    async def _with_sizes(self, infos: list[dict[str, Any]], wanted: bool) -> list[dict[str, Any]]:
        """Return listed files with sizes: None where they are not wanted, and for what is no message."""
        calls = [partial(self._with_size, info) for info in infos] if wanted else []
        found = await in_order(calls, _SIZES_AT_ONCE) if wanted else infos
        unknown = (MessageError, FileNotFoundError)  # it may be gone by now
        for failure in found:
            if isinstance(failure, Exception) and not isinstance(failure, unknown):
                raise failure
        return [
            new
            if isinstance(new, dict) and (wanted or old["type"] != "file")
            else {**old, "size": None, "ciphertext_size": old["size"]}
            for old, new in zip(infos, found, strict=True)
        ]

    async def _ls(self, path: str, detail: bool = True, sizes: bool = True, **kwargs: Any) -> Any:
        found = await self._target.call("ls", self._strip_protocol(path), detail=detail, **kwargs)
        return await self._with_sizes(found, sizes and self._list_sizes) if detail else found

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        sizes: bool = True,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        found = await self._target.call(
            "find", path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs
        )
        infos = [info or await self._target.call("info", name) for name, info in found.items()]
        if not detail:
            return [*found]
        return dict(zip(found, await self._with_sizes(infos, sizes and self._list_sizes), strict=True))

    async def _glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        detail = kwargs.pop("detail", False)
        found = await super()._glob(path, maxdepth=maxdepth, detail=True, sizes=False, **kwargs)
        if not detail:
            return [*found]
        infos = [{**info, "size": info.get("ciphertext_size", info["size"])} for info in found.values()]
        return dict(zip(found, await self._with_sizes(infos, self._list_sizes), strict=True))

    async def _walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        async for found in super()._walk(path, maxdepth, topdown, on_error, **kwargs):
            yield found

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[Any]:
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        return super().walk(path, maxdepth, topdown, on_error, **kwargs)

    async def _du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        found = await self._target.call("find", self._strip_protocol(path), maxdepth=maxdepth, detail=True)
        infos = [info or await self._target.call("info", name) for name, info in found.items()]
        sizes = {info["name"]: info["size"] or 0 for info in await self._with_sizes(infos, True)}
        return sum(sizes.values()) if total else sizes

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return bool(await self._target.call("exists", self._strip_protocol(path)))

    async def _isfile(self, path: str) -> bool:
        return bool(await self._target.call("isfile", self._strip_protocol(path)))

    async def _isdir(self, path: str) -> bool:
        return bool(await self._target.call("isdir", self._strip_protocol(path)))

    # What changes no content

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        await self._target.call("mkdir", self._strip_protocol(path), create_parents=create_parents, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await self._target.call("makedirs", self._strip_protocol(path), exist_ok=exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._target.call("rmdir", self._strip_protocol(path))

    def rmdir(self, path: str) -> None:
        sync(self.loop, self._rmdir, path)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._target.call("rm_file", self._strip_protocol(path), **kwargs)

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if maxdepth is not None:
            kwargs["maxdepth"] = maxdepth
        await self._target.call("rm", self._strip_protocol(path), recursive=recursive, **kwargs)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy the message as it is: the same data key, nothing is decrypted."""
        path1, path2 = self._strip_protocol([path1, path2])
        await self._target.call("cp_file", path1, path2, **kwargs)

    async def _mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> None:
        path1, path2 = self._strip_protocol([path1, path2])
        if path1 == path2:
            return
        if self._target.is_async:
            await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise", **kwargs)
            await self._rm(path1, recursive=recursive)
        else:
            await self._target.call("mv", path1, path2, recursive=recursive, maxdepth=maxdepth)

    def mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> None:
        sync(self.loop, self._mv, path1, path2, recursive, maxdepth, **kwargs)
