"""Keep secrets out of the local variables of frames, which error reporters send elsewhere.

Values that live in coroutines have a type with a redacted repr. Functions that handle raw secrets, and never
wait, are marked with `hides_locals`; functions that callers give contexts and messages to, with
`hides_arguments`.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class SecretBytes(bytes):
    """Bytes with a redacted repr: keys, or a serialized encryption context."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"

    __str__ = __repr__


class SecretFields(dict[str, Any]):
    """The answer of a service. Its repr shows the names of its fields."""

    def __repr__(self) -> str:
        return f"<fields {', '.join(map(repr, self))}>"


def secret_bytes(value: bytes) -> bytes:
    """Return bytes as `SecretBytes`, and what is given wrongly as it is, for somebody else to refuse."""
    return SecretBytes(value) if type(value) is bytes else value


def hides_locals(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function whose arguments or locals are secrets: when it raises, no frame keeps them.

    It must not be async, nor call code of users.
    """

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        handled = sys.exception()
        try:
            return function(*arguments, **options)
        except BaseException as error:
            arguments, options = (), {}  # type: ignore[assignment]
            forget_locals(error, handled)
            raise

    return call


def hides_arguments(function: F) -> F:
    """Decorate a public function that gets secrets, async or not: its errors carry no locals of ours.

    The functions of the package that it calls need no decorator. Frames of users keep their locals.
    """
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def wait(*arguments: Any, **options: Any) -> Any:
            try:
                return await function(*arguments, **options)
            except BaseException as error:
                arguments, options = (), {}
                _clear_called(error)
                raise

        return wait  # type: ignore[return-value]

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except BaseException as error:
            arguments, options = (), {}
            _clear_called(error)
            raise

    return call  # type: ignore[return-value]


def _clear_called(error: BaseException) -> None:
    """Clear the frames of ours below the function that catches an error."""
    called = error.__traceback__ and error.__traceback__.tb_next
    while called:  # None for wrong arguments: the function did not start
        if str(called.tb_frame.f_globals.get("__name__")).startswith("aioencrypt."):
            with suppress(RuntimeError):  # it still runs
                called.tb_frame.clear()
        called = called.tb_next


def forget_locals(error: BaseException, handled: BaseException | None) -> None:
    """Clear the ended frames of an error and of what led to it.

    `handled` is what `sys.exception()` said before the failed call: an error that the caller has, and keeps.
    """
    waiting: list[BaseException | None] = [error]
    seen = {id(None), id(handled)}
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions
