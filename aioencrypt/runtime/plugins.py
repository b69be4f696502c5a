"""Calls of code that users wrote: keys, providers, managers, key stores, suppliers, signers.

Objects of our own classes are called without checks: `is_ours` tells.

What such code raises or answers wrongly becomes a `ProviderError` that names class and method. Errors of this
library pass through, and so does what is no `Exception`: cancellation, `KeyboardInterrupt`, `SystemExit`. The
text of a foreign error may hold secrets, so it stays in `__cause__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar

from aioencrypt.errors import EncryptionError, ProviderError
from aioencrypt.runtime.arguments import describe_type

T = TypeVar("T")


def is_ours(owner: object) -> bool:
    """Tell whether this library defines the class of an object. A class of a user derived from it is not."""
    return type(owner).__module__.startswith("aioencrypt.")


def method_name(owner: object, method: str) -> str:
    """Return how errors name a method."""
    return f"{type(owner).__name__}.{method}"


def check_answer(name: str, answer: object, kind: type[T]) -> T:
    """Return what a function answered if it is of a type; raises `ProviderError` that names the function."""
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, Coroutine):
        answer.close()
        raise ProviderError(f"{name} returned a coroutine, not {kind.__name__}: it must not be async")
    given = describe_type(answer)
    del answer  # it may be a bare data key
    raise ProviderError(f"{name} returned {given}, not {kind.__name__}")


async def await_answer(name: str, answer: object, kind: type[T]) -> T:
    """Await what an async function returned, and check it. Its exceptions pass as they are."""
    if type(answer) is not CoroutineType and not inspect.isawaitable(answer):
        given = describe_type(answer)
        raise ProviderError(f"{name} returned {given}, which is not awaited: is it an async function?")
    return check_answer(name, await answer, kind)


async def call_async(name: str, function: Callable[..., object], *arguments: object, kind: type[T]) -> T:
    """Call an async function of a user."""
    try:
        return await await_answer(name, function(*arguments), kind)
    except EncryptionError:
        raise
    except Exception as error:
        raise _raised(name, error) from error


def call_method(owner: object, method: str, *arguments: object, kind: type[T]) -> Coroutine[Any, Any, T]:
    """Call an async method of an object that users may have written."""
    if is_ours(owner):
        answer: Coroutine[Any, Any, T] = getattr(owner, method)(*arguments)
        return answer
    # The method may be a property that raises.
    return call_async(method_name(owner, method), lambda: getattr(owner, method)(*arguments), kind=kind)


def call_sync(name: str, function: Callable[..., object], *arguments: object, kind: type[T]) -> T:
    """Call a function of a user that is not async."""
    try:
        return check_answer(name, function(*arguments), kind)
    except EncryptionError:
        raise
    except Exception as error:
        raise _raised(name, error) from error


def read_attribute(owner: object, name: str, kind: type[T]) -> T:
    """Read a property of a user's object."""
    try:
        value = getattr(owner, name)
    except EncryptionError:
        raise
    except Exception as error:
        raise _raised(method_name(owner, name), error) from error
    return value if type(value) is kind else check_answer(method_name(owner, name), value, kind)


def _raised(name: str, error: Exception) -> ProviderError:
    return ProviderError(f"{name} raised {type(error).__name__}")
