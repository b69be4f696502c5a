"""Path operations of the encrypted file system, and the sizes of plaintexts."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.asyn import sync_wrapper
from fsspec.utils import stringify_path

from aioencrypt.errors import MalformedMessageError
from aioencrypt.format import MessageDecryptor
from aioencrypt.format.frames import body_layouts
from aioencrypt.integrations.fsspec.arguments import taken
from aioencrypt.integrations.fsspec.as_json import plain_options
from aioencrypt.integrations.fsspec.provider import Option
from aioencrypt.integrations.fsspec.target import (
    TargetFileSystem,
    TargetRanges,
    in_order,
    uncached,
    version_of,
)
from aioencrypt.integrations.fsspec.types import AsyncFileSystem, ChainedFileSystem, FileSystemType
from aioencrypt.policies import Limits
from aioencrypt.streams.driver import read_header_at
from aioencrypt.streams.ranges import Ranges

PROTOCOL = "aioencrypt"

_SIZES_AT_ONCE = 32
Listing = Sequence[tuple[str, dict[str, Any]]]
_CAPACITY = 100_000


class _ByOptions(FileSystemType):
    """fsspec finds an instance again by the text of its options; see `Option`."""

    if not TYPE_CHECKING:  # whoever checks types looks at `__init__`

        def __call__(cls, *args, **options):  # noqa: N805
            for name in ("provider", "encryption_client"):
                if options.get(name) is not None:
                    options[name] = Option.of(options[name])
            # In the URL aioencrypt://s3://bucket/key, options of the target come under its name, too.
            if options.get("target_protocol") in options:
                options["target_options"] = options.pop(options["target_protocol"])
            if not options.get("target_options"):
                options.pop("target_options", None)
            return super().__call__(*args, **dict(sorted(options.items())))


def _strip(below: Any, path: Any) -> Any:
    if isinstance(path, list):
        return [_strip(below, one) for one in path]
    return below(_below(path)[0])


def _below(path: Any) -> tuple[str, str]:
    """Return a path or URL without our protocol, and the protocol below, or an empty text."""
    text = stringify_path(path).removeprefix(f"{PROTOCOL}://").removeprefix(f"{PROTOCOL}::")
    protocol, separator, _ = text.partition("://")
    return text, protocol if separator else ""


class PlaintextSizes:
    """Reads the header of a file to say how long its plaintext is. None of it is verified.

    A size that was found is kept for as long as what the target says of the file stays the same.
    """

    def __init__(self, target: TargetFileSystem) -> None:
        self._target = target
        self._known: OrderedDict[Hashable, int] = OrderedDict()

    async def of(self, info: dict[str, Any], path: str, given: Mapping[str, Any]) -> int:
        """Return the length of the plaintext of a file; raises `MessageError` for what is no message."""
        if info["size"] == 0:
            raise MalformedMessageError(f"{path} is empty, and no message is")
        version = version_of(info)
        key = (info["name"], info["size"], version)
        known = self._known.get(key) if version else None
        if known is None:
            known = await self._read(TargetRanges(self._target, path, given, info=info), path)
            self._known[key] = known
            if len(self._known) > _CAPACITY:
                self._known.popitem(last=False)
        return known

    async def _read(self, source: TargetRanges, path: str) -> int:
        ranges = Ranges(source, 1)
        await ranges.open()
        machine = MessageDecryptor(max_header_length=Limits().max_header_length)
        await read_header_at(machine, ranges)
        signed = machine.received.header.algorithm_suite.signed
        for layout in body_layouts(machine.received, ranges.size):
            # Signatures differ in length: where the final frame stands says where the body ends.
            end = await ranges.read(layout.frame_start(layout.regular_count), ranges.size) if signed else b""
            found = layout.confirmed(end) if signed else layout
            if found:
                return found.plaintext_length
        raise MalformedMessageError(f"no message has the {ranges.size} bytes of {path}: it is cut off")


def _not_known(info: dict[str, Any], reason: str) -> dict[str, Any]:
    return {**info, "size": None, "ciphertext_size": info["size"], "size_unknown": reason}


class _UnknownSize(float):
    """A size that `tree` shows as unknown."""

    def __format__(self, spec: str) -> str:
        return "unknown "


class _ShownListing:
    """What `tree` of fsspec asks a file system for; it compares sizes and formats them."""

    def __init__(self, fs: PathsFileSystem) -> None:
        self._fs = fs

    tree = AbstractFileSystem.tree

    def ls(self, path: str, detail: bool = True) -> Any:
        shown = _UnknownSize("nan")
        return [
            {**info, "size": shown} if info.get("size") is None else info
            for info in self._fs.ls(path, detail=detail)
        ]


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
        self._below_caches = TargetFileSystem(uncached(self.fs))
        self._sizes = PlaintextSizes(self._below_caches)
        self._list_sizes = sizes
        # Instances have the paths of their targets, which fsspec allows for.
        self._strip_protocol = partial(_strip, self.fs._strip_protocol)  # type: ignore[method-assign]  # noqa: SLF001
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
        """Return a path as a URL that begins as others do: DuckDB and `fsspec.generic` ask for that."""
        return f"{PROTOCOL}://{self.fs.unstrip_protocol(self._strip_protocol(name))}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the path of a URL while there is no instance: instances have one of their own."""
        below, protocol = _below(path)
        if not protocol:
            return super()._strip_protocol(path)
        return fsspec.get_filesystem_class(protocol)._strip_protocol(below)  # noqa: SLF001

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        """Return the options that a URL of `unstrip_protocol` says."""
        below, protocol = _below(path)
        if not protocol:
            return {}
        options = fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(below)  # noqa: SLF001 (fsspec asks types for this)
        return {"target_protocol": protocol, **({"target_options": options} if options else {})}

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return what `from_dict` and `from_json` need to make this file system again; zarr asks for it.

        Raises `TypeError` for a provider that no name leads to.
        """
        options = plain_options(self.storage_options, include_password)
        name = f"{type(self).__module__}:{type(self).__qualname__}"
        return {"cls": name, "protocol": PROTOCOL, "args": [], **options}

    def invalidate_cache(self, path: str | None = None) -> None:
        self.fs.invalidate_cache(path)

    def created(self, path: str) -> Any:
        return self.fs.created(self._strip_protocol(path))

    def modified(self, path: str) -> Any:
        return self.fs.modified(self._strip_protocol(path))

    def ukey(self, path: str) -> Any:
        return self.fs.ukey(self._strip_protocol(path))

    # What is there

    def _given(self, path: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the path below, and which arguments are for the target; `refresh` is for its cache."""
        path = self._strip_protocol(path)
        if arguments.get("refresh"):
            self.fs.invalidate_cache(path)
        return path, {key: value for key, value in arguments.items() if key != "refresh"}

    async def _info(self, path: str, sizes: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return what the target says, with the size of the plaintext; `ciphertext_size` is the other.

        The size is None, and `size_unknown` says why, for what is no message or cannot be read.
        """
        path, given = self._given(path, kwargs)
        info: dict[str, Any] = await self._below_caches.call("info", path, given=given)
        if not sizes:
            return info
        found = await self._sized(info, path, given)
        if "size_unknown" in found:
            ranges = TargetRanges(self._below_caches, path, given, info=info)
            if await ranges.is_replaced() and ranges.info:
                return await self._sized(ranges.info, path, given)
        return found

    async def _sized(self, info: dict[str, Any], path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry with the size of its plaintext, or with None and why."""
        found = info
        try:
            if info["type"] == "link" or info.get("islink"):
                found = await self._target.call("info", path)  # of what the link leads to
            if found["type"] == "directory":
                return info
            if found["type"] != "file":
                raise OSError(f"{path} is no regular file")
            return {
                **info,
                "size": await self._sizes.of(found, path, given),
                "ciphertext_size": found["size"],
            }
        except Exception as error:  # a file system raises whatever it likes
            return _not_known(info, f"{type(error).__name__}: {error}")

    async def _with_sizes(self, listed: Listing, wanted: bool) -> list[dict[str, Any]]:
        """Return listed files with sizes: None, and why, for those that are not known or not wanted."""
        if not wanted:
            return [
                info if info["type"] == "directory" else _not_known(info, "sizes=False") for _, info in listed
            ]
        calls = [partial(self._sized, info, path, {}) for path, info in listed]
        return cast(list[dict[str, Any]], await in_order(calls, _SIZES_AT_ONCE))

    async def _found(
        self, name: str, path: str, given: Mapping[str, Any], detail: bool, sizes: bool, **kwargs: Any
    ) -> Any:
        """Return what `find` or `glob` of the target says, with sizes of plaintexts."""
        found = await self._target.call(name, path, detail=True, given=given, **kwargs)
        if not detail:
            return [*found]
        listed = [(path, info or await self._target.call("info", path)) for path, info in found.items()]
        return dict(zip(found, await self._with_sizes(listed, sizes), strict=True))

    async def _ls(self, path: str, detail: bool = True, sizes: bool = True, **kwargs: Any) -> Any:
        path, given = self._given(path, kwargs)
        found = await self._target.call("ls", path, detail=detail, given=given)
        if not detail:
            return found
        # Of S3, a file and a folder may have one name.
        return await self._with_sizes([(info["name"], info) for info in found], sizes and self._list_sizes)

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        sizes: bool = True,
        **kwargs: Any,
    ) -> Any:
        path, given = self._given(path, kwargs)
        sizes = sizes and self._list_sizes
        return await self._found("find", path, given, detail, sizes, maxdepth=maxdepth, withdirs=withdirs)

    async def _glob(
        self, path: str, maxdepth: int | None = None, detail: bool = False, sizes: bool = True, **kwargs: Any
    ) -> Any:
        # A slash at the end says that folders are wanted, so that the target gets to see it.
        slash = "/" if path.endswith("/") else ""
        path, given = self._given(path, kwargs)
        options = {name: given.pop(name) for name in ("withdirs",) if name in given}
        path, sizes = path.rstrip("/") + slash, sizes and self._list_sizes
        return await self._found("glob", path, given, detail, sizes, maxdepth=maxdepth, **options)

    async def _walk(self, path: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        async for found in super()._walk(path, *args, **kwargs):
            yield found

    def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        return super().walk(path, *args, **kwargs)

    async def _du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Add the sizes of plaintexts up. Warns of files whose size is not known: they count as 0."""
        path, given = self._given(path, kwargs)
        infos = await self._found("find", path, given, True, True, maxdepth=maxdepth, withdirs=withdirs)
        unknown = [path for path, info in infos.items() if info["size"] is None]
        if unknown:
            warnings.warn(
                f"du counts {len(unknown)} of {len(infos)} files as 0 bytes, because their plaintext size is "
                f"not known; {unknown[0]}: {infos[unknown[0]]['size_unknown']}",
                stacklevel=2,
            )
        sizes = {path: info["size"] or 0 for path, info in infos.items()}
        return sum(sizes.values()) if total else sizes

    def tree(self, path: str = "/", *args: Any, **kwargs: Any) -> str:
        """Return a tree of names as text, and of sizes of plaintexts with `display_size`."""
        return str(_ShownListing(self).tree(path, *args, **kwargs))

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        path, given = self._given(path, kwargs)
        if not given:
            return bool(await self._target.call("exists", path))
        try:
            await self._target.call("info", path, given=given)
        except FileNotFoundError:
            return False
        return True

    async def _isfile(self, path: str) -> bool:
        return bool(await self._target.call("isfile", self._strip_protocol(path)))

    async def _isdir(self, path: str) -> bool:
        return bool(await self._target.call("isdir", self._strip_protocol(path)))

    # What changes no content

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        await self._target.call(
            "mkdir", self._strip_protocol(path), create_parents=create_parents, given=kwargs
        )

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await self._target.call("makedirs", self._strip_protocol(path), exist_ok=exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._target.call("rmdir", self._strip_protocol(path))

    rmdir: Any = sync_wrapper(_rmdir)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._target.call("rm_file", self._strip_protocol(path), given=kwargs)

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
        if batch_size is not None:  # how, not what
            kwargs.update(await taken(self.fs, "rm", {"batch_size": batch_size}))
        await self._target.call("rm", self._strip_protocol(path), recursive=recursive, given=kwargs)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy the message as it is: the same data key, nothing is decrypted."""
        path1, path2 = self._strip_protocol([path1, path2])
        await self._target.call("cp_file", path1, path2, given=kwargs)

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
            await self._target.call("mv", path1, path2, given=kwargs, recursive=recursive, maxdepth=maxdepth)

    mv: Any = sync_wrapper(_mv)
