"""docs/api.md has every public name with every parameter, and nothing that does not exist."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attr
import pytest

import aioencrypt
import aioencrypt.testing
import aioencrypt.testing.kms
from tests.support.pages import ROOT, snippets
from tests.support.rows import each_row
from tools import api_page

PAGE = ROOT / "docs/api.md"
MODULES = (aioencrypt, *api_page.MODULES, aioencrypt.testing)
HOMES = {aioencrypt.testing.kms: ["KMSServer", "main", "run_in_thread"]}
Stub = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


def stubs(body: list[ast.stmt]) -> Iterator[tuple[str, Stub]]:
    for node in body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node


def stubs_by_section() -> dict[str, list[tuple[str, Stub]]]:
    texts = [snippet.text for snippet in snippets(PAGE, "pyi")]
    return {
        title: [*stubs(ast.parse(text).body)] for title, text in zip(api_page.SECTIONS, texts, strict=True)
    }


SECTIONS = stubs_by_section()
# Two integrations may have the same name for the same thing.
INTEGRATIONS = {module.__name__: module for module in api_page.INTEGRATIONS}


def documented() -> dict[str, Stub]:
    return {
        name: node for title, found in SECTIONS.items() if title not in INTEGRATIONS for name, node in found
    }


DOCUMENTED = documented()


def public() -> Iterator[tuple[str, object]]:
    for module in MODULES:
        yield from ((name, getattr(module, name)) for name in module.__all__)
    yield "open", aioencrypt.open
    for module, names in HOMES.items():
        yield from ((name, getattr(module, name)) for name in names)


PUBLIC = dict(public())
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isroutine(value)}


def test_the_page_is_that_of_the_package() -> None:
    assert PAGE.read_text() == api_page.page(), "run: python -m tools.api_page > docs/api.md"


def test_every_public_name_stands_there_and_no_other() -> None:
    assert DOCUMENTED.keys() == PUBLIC.keys()


@each_row("title", INTEGRATIONS)
def test_an_integration_has_all_its_public_names_and_no_other(title: str) -> None:
    module = INTEGRATIONS[title]
    assert {name for name, _ in SECTIONS[title]} == set(module.__all__) == set(dir(module))
    for name in module.__all__:
        value = getattr(module, name)
        assert not inspect.isclass(value) or value.__doc__, name


@pytest.mark.parametrize("module", [*MODULES, *HOMES, *api_page.INTEGRATIONS], ids=lambda m: m.__name__)
def test_completion_shows_public_names_only(module: ModuleType) -> None:
    modules = {public.__name__.rpartition(".")[2] for public in api_page.MODULES}
    assert set(dir(module)) - set(module.__all__) == ({"open", *modules} if module is aioencrypt else set())


def test_no_name_stands_there_twice() -> None:
    sections = [names for title, (_, names) in api_page.SECTIONS.items() if title not in INTEGRATIONS]
    names = [name for names in sections for name in names]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", HOMES, ids=lambda module: module.__name__)
def test_a_module_without_a_section_of_its_own_has_these_names(module: ModuleType) -> None:
    assert sorted(module.__all__) == HOMES[module]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = node.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return {argument.arg for argument in every if argument} - {"self"}


def check_function(node: Stub, function: object, overloads: list[Stub]) -> None:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert isinstance(node, ast.AsyncFunctionDef) == inspect.iscoroutinefunction(function)
    assert callable(function)
    shown = set().union(*(parameters(n) for n in overloads if isinstance(n, ast.FunctionDef))) or parameters(
        node
    )
    assert shown == set(inspect.signature(function).parameters) - {"self"}


@each_row("name", FUNCTIONS)
def test_a_function_has_every_parameter(name: str) -> None:
    same = [
        node
        for snippet in snippets(PAGE, "pyi")
        for found, node in stubs(ast.parse(snippet.text).body)
        if found == name
    ]
    check_function(DOCUMENTED[name], FUNCTIONS[name], same)
    assert all(ast.get_docstring(node) for node in same if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(
    "stub", sorted((ROOT / "aioencrypt").rglob("*.pyi")), ids=lambda path: path.parent.name
)
def test_editors_show_the_docstring_of_a_package(stub: Path) -> None:
    """They show that of the stub if it has one, which says nothing to users."""
    assert ast.get_docstring(ast.parse(stub.read_text())) is None
    assert ast.get_docstring(ast.parse(stub.with_suffix(".py").read_text()))


def body_of(cls: type) -> dict[str, list[Stub]]:
    """Return the stubs of the members of a class, those of its documented bases included."""
    found: dict[str, list[Stub]] = {}
    for base in reversed(cls.__mro__):
        stub = DOCUMENTED.get(base.__name__)
        if isinstance(stub, ast.ClassDef):
            own: dict[str, list[Stub]] = {}
            for name, node in stubs(stub.body):
                own.setdefault(name, []).append(node)
            found |= own
    return found


def members(cls: type) -> dict[str, object]:
    """Return the public members that come from this library."""
    internal = {field.name for field in attr.fields(cls) if not field.init} if attr.has(cls) else set()
    return {
        name: inspect.getattr_static(cls, name)
        for base in cls.__mro__
        if base.__module__.startswith("aioencrypt")
        for name in vars(base)
        if name[0] != "_" and name not in internal
    }


@each_row("name", CLASSES)
def test_a_class_has_every_member_with_every_parameter(name: str) -> None:
    cls = CLASSES[name]
    shown = body_of(cls)
    for member, value in members(cls).items():
        assert member in shown, member
        if inspect.isfunction(value):
            check_function(shown[member][0], value, shown[member])
    if attr.has(cls):
        assert {field.name for field in attr.fields(cls) if field.init} <= shown.keys()
    if "__init__" in shown:
        check_function(shown["__init__"][0], cls.__init__, shown["__init__"])


@each_row("name", CLASSES)
def test_a_class_has_no_member_that_does_not_exist(name: str) -> None:
    cls = CLASSES[name]
    source = inspect.getsource(cls)
    fields = {field.name for field in attr.fields(cls) if field.init} if attr.has(cls) else set()
    stub = DOCUMENTED[name]
    assert isinstance(stub, ast.ClassDef)
    assert ast.get_docstring(stub)
    for member, _ in stubs(stub.body):
        assert (
            hasattr(cls, member)
            or member in fields
            or f"self.{member}:" in source
            or f"    {member}:" in source
        )
