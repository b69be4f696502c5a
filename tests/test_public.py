"""The public names: what they need can be imported, and their arguments come in one order."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import aioencrypt
from tests.support import public
from tools import api_page

EVERYWHERE = (*public.MODULES, *api_page.INTEGRATIONS, aioencrypt.testing, aioencrypt.testing.kms)
# The machines hand these out.
WORK = {"OpenWork", "SealWork", "VerifyWork"}
EXPORTED = [getattr(module, name) for module in EVERYWHERE for name in module.__all__]


def callables() -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield public functions, constructors that callers call, and methods of these classes."""
    for module in EVERYWHERE:
        for name in {*module.__all__, *(["open"] if module is aioencrypt else [])}:
            value = getattr(module, name)
            where = f"{module.__name__}.{name}"
            if inspect.isroutine(value):
                yield where, (value, inspect.unwrap(value))
            elif inspect.isclass(value) and value.__module__.startswith("aioencrypt"):
                if name not in api_page.MADE_BY_US and not getattr(value, "_is_protocol", False):
                    yield where, (value, inspect.unwrap(value.__init__))
                for method, function in inspect.getmembers(value, inspect.isfunction):
                    if method[0] != "_" and function.__module__.startswith("aioencrypt"):
                        yield f"{where}.{method}", (function, inspect.unwrap(function))


CALLABLES = dict(callables())


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield the classes of this library in an evaluated annotation; protocols are met without a class."""
    ours = inspect.isclass(annotation) and annotation.__module__.startswith("aioencrypt")
    if ours and not getattr(annotation, "_is_protocol", False):
        yield annotation
    for inner in typing.get_args(annotation):
        for item in inner if isinstance(inner, list) else [inner]:
            yield from classes_in(item)


CONSTRUCTED = {
    name: call
    for name, call in CALLABLES.items()
    if not inspect.isfunction(call[0]) and name.rpartition(".")[2] not in WORK
}


@pytest.mark.parametrize("name", sorted(CONSTRUCTED))
def test_a_constructor_needs_no_class_that_cannot_be_imported(
    name: str,
) -> None:
    owner, function = CALLABLES[name]
    names = vars(sys.modules[owner.__module__])
    annotations = inspect.get_annotations(function) | {"return": None}
    for annotation in map(str, annotations.values()):
        for word in re.findall(r"\b[A-Z_]\w+", annotation):
            # Types of optional libraries are known to type checkers only.
            assert [cls for cls in classes_in(names.get(word)) if cls not in EXPORTED] == [], annotation


@pytest.mark.parametrize("name", [name for name in sorted(CALLABLES) if not name.endswith("open")])
def test_nothing_positional_comes_behind_the_provider(name: str) -> None:
    parameters = inspect.signature(CALLABLES[name][1]).parameters.values()
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    if "provider" in kinds:
        positional = [key for key, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        if "provider" in positional:
            rest = positional[positional.index("provider") + 1 :]
            assert not [key for key in rest if key != "required_keys"]
        else:
            assert "source" not in positional
