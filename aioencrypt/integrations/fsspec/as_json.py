"""Storage options as JSON, from which another process makes the file system again."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.cached import CachingFileSystem

from aioencrypt.integrations.fsspec.provider import Option, provider_name

# Options of an instance below that belong to the process, or to the file system above.
_OF_PROCESS = ("asynchronous", "loop", "skip_instance_cache")


def plain_options(options: Mapping[str, Any], include_password: bool) -> dict[str, Any]:
    """Return storage options with names for objects; raises `TypeError` for what has none."""
    found = {key: value for key, value in options.items() if include_password or key != "password"}
    target = found.get("fs")
    if target is not None and _is_registered(target):
        # The protocol is made anew as the file system above it: blocking or asynchronous.
        del found["fs"]
        found["target_protocol"] = _protocol(target)
        found["target_options"] = {
            key: value for key, value in target.storage_options.items() if key not in _OF_PROCESS
        }
    return {key: _plain(key, value, include_password) for key, value in sorted(found.items())}


def _protocol(fs: Any) -> str:
    """Return the name of a type of file systems."""
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def _is_registered(fs: Any) -> bool:
    """Tell whether a protocol and options are enough to make a file system again."""
    if fs.storage_args or isinstance(fs, CachingFileSystem):
        return False
    try:
        return fsspec.get_filesystem_class(_protocol(fs)) is type(fs)
    except (ValueError, ImportError):
        return False


def _plain(name: str, value: Any, include_password: bool) -> Any:
    """Return the value of an option as JSON has it; raises `TypeError` where there is no such value."""
    if isinstance(value, Option) and name == "provider":
        return provider_name(value.given)
    if isinstance(value, AbstractFileSystem):
        return value.to_dict(include_password=include_password)
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if include_password or key != "password"}
        return {key: _plain(f"{name}[{key!r}]", one, include_password) for key, one in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, one, include_password) for one in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{name} of the file system is no value that JSON has: make the file system without it")
