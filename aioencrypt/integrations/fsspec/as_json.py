"""Storage options as JSON, from which another process makes the file system again."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from inspect import signature
from typing import Any

import attrs
import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.cached import CachingFileSystem

from aioencrypt.client import EncryptionClient
from aioencrypt.format import CommitmentPolicy
from aioencrypt.integrations.fsspec.provider import Option, provider_name
from aioencrypt.policies import Limits, Offload
from aioencrypt.runtime.arguments import check_type

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
    if isinstance(value, Option):
        return (
            provider_name(value.given) if name == "provider" else _plain(name, value.given, include_password)
        )
    if isinstance(value, EncryptionClient):
        settings = {setting: getattr(value, setting) for setting in signature(EncryptionClient).parameters}
        return _plain(name, settings, include_password)
    if isinstance(value, Limits):
        return attrs.asdict(value)
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


def client_of(given: Any) -> EncryptionClient:
    """Return the client of an option: a default one, one that is given, or one of its settings in JSON."""
    if given is None:
        return EncryptionClient()
    if not isinstance(given, Mapping):
        return check_type("encryption_client", given, EncryptionClient)
    settings = dict(given)
    for name, kind in (("commitment_policy", CommitmentPolicy), ("offload", Offload)):
        if name in given:
            settings[name] = kind(given[name])
    if "limits" in given:
        settings["limits"] = Limits(**given["limits"])
    return EncryptionClient(**settings)
