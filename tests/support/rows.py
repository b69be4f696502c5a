"""Rows of a table that are tested in one case: for rules, and for matrices whose rows rarely fail alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def each_row(argument: str, rows: Iterable[object]) -> Callable[[F], F]:
    """Call a test with each row as an argument, in one case; an error names its row."""
    table = [*rows]
    assert table, f"no rows for {argument}"

    def decorate(test: F) -> F:
        if inspect.iscoroutinefunction(test):

            @wraps(test)
            async def all_rows_async(**fixtures: Any) -> None:
                for row in table:
                    with _named(argument, row):
                        await test(**fixtures, **{argument: row})

            return _without(argument, test, all_rows_async)

        @wraps(test)
        def all_rows(**fixtures: Any) -> None:
            for row in table:
                with _named(argument, row):
                    test(**fixtures, **{argument: row})

        return _without(argument, test, all_rows)

    return decorate


@contextmanager
def _named(argument: str, row: object) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"{argument}: {row!r}"[:500])
        raise


def _without(argument: str, test: F, wrapper: Any) -> F:
    """Give the wrapper the signature of the test without the argument, as pytest looks for fixtures there."""
    signature = inspect.signature(test)
    kept = [parameter for name, parameter in signature.parameters.items() if name != argument]
    wrapper.__signature__ = signature.replace(parameters=kept)
    result: F = wrapper
    return result
