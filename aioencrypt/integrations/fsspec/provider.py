"""The provider of a file system: how it is named in storage options, and its life on event loops."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from operator import attrgetter
from typing import Any

import anyio

from aioencrypt.client import Provider
from aioencrypt.managers.default import as_manager
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.runtime.event_loops import find_loop, running_loop
from aioencrypt.runtime.offload import in_file_thread

_log = logging.getLogger(__name__)

_OTHER_PROCESSES = (
    "For Dask and for other processes give provider='package.module:name', or a function that makes it"
)

GivenProvider = Provider | Callable[[], Provider] | str
"""A provider, a function that makes one, or where to import either: ``"package.module:name"``."""


class Option:
    """An object among storage options, which fsspec tells apart by what they look like.

    The text of a provider does not tell all of it, and two keys of one name look alike. So this looks
    like a digest of how the object is pickled; what is not pickled is told by its identity.
    """

    def __init__(self, given: object) -> None:
        self.given = given

    @classmethod
    def of(cls, given: object) -> Option:
        """Wrap an object, unless it is wrapped already."""
        return given if isinstance(given, Option) else cls(given)

    def __repr__(self) -> str:
        if isinstance(self.given, str):
            return f"Option({self.given!r})"
        try:
            identity = hashlib.sha256(pickle.dumps(self.given)).hexdigest()
        except Exception:  # pickling raises whatever an object likes
            identity = f"{id(self.given):#x}"
        return f"Option(<{type(self.given).__name__} {identity}>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Option) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        if not callable(self.given):
            try:
                pickle.dumps(self.given)
            except TypeError as error:
                # Dask swallows the error, and says only that a file cannot be hashed.
                _log.warning("%s. %s", error, _OTHER_PROCESSES)
                raise TypeError(f"{error}. {_OTHER_PROCESSES}") from error
        return Option, (self.given,)


def check_provider(given: object) -> None:
    """Check what is given as a provider, without calling or importing it; raises `TypeError`."""
    if isinstance(given, str):
        module, _, name = given.partition(":")
        if not module or not name:
            raise ValueError(f"provider is {given!r}; as a text it is 'package.module:name'")
    elif isinstance(given, MasterKeyProvider) or not callable(given):
        as_manager(given)  # type: ignore[arg-type]


def provider_name(given: Any) -> str:
    """Return the name that leads to what is given; raises `TypeError` where none does."""
    if isinstance(given, str):
        return given
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module != "__main__":
        try:
            if _import(f"{module}:{name}") is given:
                return f"{module}:{name}"
        except AttributeError:
            pass  # a function within another one
    raise TypeError(
        f"a {type(given).__name__} cannot be named in JSON: give provider='package.module:name', "
        "the place of a provider or of a function that makes one"
    )


def _import(text: str) -> Any:
    module, _, name = text.partition(":")
    return attrgetter(name)(import_module(module))


def make_provider(given: Any) -> Provider:
    """Return the provider that is given, imported, or made."""
    if isinstance(given, str):
        given = _import(given)
    if callable(given) and not isinstance(given, MasterKeyProvider):
        given = given()
    as_manager(given)
    provider: Provider = given
    return provider


class OpenProviders:
    """A provider on every event loop that uses it: made and entered at the first use, left by `aclose`."""

    def __init__(self, given: object) -> None:
        check_provider(given)
        self._given = given
        self._open: dict[Hashable, tuple[anyio.Semaphore, AsyncExitStack, list[Provider]]] = {}

    async def get(self) -> Provider:
        """Return the provider of the running loop; raises what making and entering it raises."""
        loop = running_loop()
        if loop not in self._open:
            # Nobody can leave a provider on a loop that is closed.
            self._open = {one: state for one, state in self._open.items() if not one.is_closed()}  # type: ignore[attr-defined]
            # Its own task only may release an anyio.Lock, which a coroutine that is closed does not run in.
            self._open[loop] = anyio.Semaphore(1, fast_acquire=True), AsyncExitStack(), []
        lock, stack, made = self._open[loop]
        async with lock:
            if not made:
                # It may read its keys from a file.
                provider = await in_file_thread(lambda: make_provider(self._given))
                if isinstance(provider, AbstractAsyncContextManager):
                    await stack.enter_async_context(provider)
                made.append(provider)
        return made[0]

    async def aclose(self) -> None:
        """Leave the provider of the running loop; it is made anew when it is needed again."""
        state = self._open.pop(find_loop(), None)
        if state:
            await state[1].aclose()
