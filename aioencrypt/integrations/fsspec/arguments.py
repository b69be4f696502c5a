"""Arguments of a caller for the file system below: passed on where a method takes them, refused elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from fsspec.implementations.dirfs import DirFileSystem

from aioencrypt.integrations.fsspec.types import AsyncFileSystem

# Methods of fsspec's own file systems drop arguments that they do not name. These modules pass them on.
_FSSPEC = "fsspec."
_PASSING = {"fsspec.implementations.arrow", "fsspec.implementations.http", "fsspec.implementations.http_sync"}
# fsspec's own versions of these methods pass their arguments on to `_open`.
_OPENING = {"cat_file", "pipe_file", "put_file"}
# s3fs drops arguments that are no parameter of the S3 operation: these take what all operations listed take.
_S3_WRITES = ("PutObject", "CreateMultipartUpload")
_S3_OPERATIONS: dict[str, tuple[str, ...]] = {
    "_open": _S3_WRITES,
    "pipe_file": _S3_WRITES,
    "put_file": _S3_WRITES,
    "cp_file": ("CopyObject",),
    "mkdir": ("CreateBucket",),
}
_S3_OWN = {"Bucket", "Key", "CopySource"}


def is_asynchronous(fs: Any) -> bool:
    """Tell whether a file system has coroutines; a cache over one that has them blocks."""
    # A DirFileSystem says so of itself, whatever is below it.
    if isinstance(fs, DirFileSystem):
        return is_asynchronous(fs.fs)
    return isinstance(fs, AsyncFileSystem)


async def taken(fs: Any, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a method of a file system takes, by its synchronous name or as ``_open``."""
    if not given:
        return {}
    while isinstance(fs, DirFileSystem):
        fs = fs.fs
    method = getattr(fs, f"_{name}", None) if is_asynchronous(fs) else None
    method = method or getattr(fs, name)
    module = getattr(method, "__module__", None) or ""
    if module == "fsspec.spec" and name in _OPENING:
        return await taken(fs, "_open", given)
    parameters = inspect.signature(method).parameters.values()
    named = {one.name for one in parameters if one.kind not in (one.POSITIONAL_ONLY, one.VAR_KEYWORD)}
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        if module == "s3fs.core":
            named |= await _s3_parameters(fs, _S3_OPERATIONS.get(name, ()))
        elif not module.startswith(_FSSPEC) or module in _PASSING:
            return dict(given)
    return {key: value for key, value in given.items() if key in named}


async def _s3_parameters(fs: Any, operations: tuple[str, ...]) -> set[str]:
    if not operations:
        return set()
    await fs.set_session()
    model = (await fs.get_s3()).meta.service_model
    members = [set(model.operation_model(name).input_shape.members) for name in operations]
    return set.intersection(*members) - _S3_OWN


def refuse(fs: Any, names: Collection[str], arguments: Collection[str]) -> None:
    """Raise `TypeError` for arguments, if there are any, that none of these methods takes."""
    if arguments:
        methods = " or ".join(f"{name.removeprefix('_')}()" for name in names)
        raise TypeError(
            f"{methods} of the {type(fs).__name__} below takes no argument {', '.join(sorted(arguments))}: "
            "leave it out, or set it in the options of that file system"
        )


async def checked(fs: Any, given: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Return for each method the arguments that it takes; raises `TypeError` for those that none takes."""
    found = [await taken(fs, name, given) for name in names]
    refuse(fs, names, given.keys() - set[str]().union(*found))
    return found
