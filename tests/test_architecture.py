"""The floors of docs/architecture.md, proved from the syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.rows import each_row

PACKAGE = Path(__file__).parents[1] / "aioencrypt"

PAGE = PACKAGE.parent / "docs/architecture.md"


def _module(path: str) -> str:
    """Return the name of a file of the package, without the package."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _floors() -> list[str]:
    """Return the modules in the order of the table in docs/architecture.md, which is the only list."""
    table = PAGE.read_text().partition("| floor | file |")[2].partition("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    return [_module(path) for cell in cells for path in re.findall(r"`([^`]+)`", cell)]


ORDER = _floors()
OPTIONAL = ("aiobotocore", "botocore", "aiohttp", "fsspec", "rich", "opentelemetry", "starlette", "trio")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text())


TREES = dict(trees())


def type_checking_blocks(tree: ast.Module) -> set[ast.AST]:
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield from ((node, imported(node.module, alias.name)) for alias in node.names)


def imported(module: str, name: str) -> str:
    """Return the module that ``from module import name`` reads."""
    full = f"{module}.{name}"
    return full if full.removeprefix("aioencrypt.") in TREES else module


def inside_functions(tree: ast.Module) -> set[ast.AST]:
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {inner for function in functions for inner in ast.walk(function) if inner is not function}


def test_every_module_has_its_place() -> None:
    empty = {name for name in TREES if _is_empty(name)}
    assert sorted(name for name in ORDER if name not in empty) == sorted(set(TREES) - empty)


def _is_empty(name: str) -> bool:
    """Tell whether a package imports nothing of ours."""
    is_package = (PACKAGE / name.replace(".", "/")).is_dir()
    ours = [module for _, module in imports(TREES[name]) if module.startswith("aioencrypt")]
    return is_package and name != "" and not ours


@each_row("name", [name for name in TREES if name in ORDER])
def test_imports_come_from_below(name: str) -> None:
    allowed = set(ORDER[: ORDER.index(name)])
    for node, module in imports(TREES[name]):
        if module.startswith("aioencrypt"):
            assert module.removeprefix("aioencrypt").removeprefix(".") in allowed, (
                f"line {node.lineno}: {module}"
            )


@each_row("name", sorted(TREES))
def test_no_import_inside_a_function_but_of_an_optional_library(name: str) -> None:
    inner = inside_functions(TREES[name])
    for node, module in imports(TREES[name]):
        if node in inner:
            assert module.split(".")[0] in OPTIONAL, module


@each_row("name", [name for name in TREES if name.startswith("format")])
def test_the_format_does_no_input_or_output(name: str) -> None:
    tree = TREES[name]
    asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(tree) if isinstance(node, asynchronous)]
    forbidden = {
        "anyio",
        "asyncio",
        "trio",
        "time",
        "datetime",
        "random",
        "secrets",
        "logging",
        "os",
        "threading",
    }
    assert not {module.split(".")[0] for _, module in imports(tree)} & forbidden


def test_only_aws_knows_aiobotocore() -> None:
    for name, tree in TREES.items():
        type_only = type_checking_blocks(tree)
        for node, module in imports(tree):
            if module.split(".")[0] in ("aiobotocore", "botocore") and node not in type_only:
                assert name == "aws.connection"


def test_only_offload_goes_to_threads() -> None:
    for name, tree in TREES.items():
        if name != "runtime.offload" and not name.startswith("testing"):
            assert "to_thread" not in ast.unparse(tree), name


def test_only_threads_makes_locks_between_threads() -> None:
    """A forked child must not inherit a lock that nobody releases."""
    for name, tree in TREES.items():
        if name != "runtime.threads":
            names = {module for _, module in imports(tree)}
            assert not names & {"threading.Lock", "threading.RLock", "_thread"}, name
            assert not re.search(r"threading\.R?Lock\b", ast.unparse(tree)), name


# Being removed.
LEFT: set[str] = set()

# Hooks that fsspec documents for file systems over others.
HOOKS = {"_cat_file", "_get_kwargs_from_urls", "_open", "_parent", "_strip_protocol"}


@each_row("name", sorted(TREES))
def test_no_private_attribute_of_another_object(name: str) -> None:
    """A private attribute belongs to `self`, to `cls`, or to a class of the same file."""
    tree = TREES[name]
    own = {"self", "cls", *(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))}
    # A class method may set up what it returns.
    own |= {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).removesuffix(".__new__") == "cls"
    }
    private = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and node.attr not in HOOKS
    )
    foreign = {ast.unparse(node) for node in private if _owner(node) not in own}
    assert not foreign - LEFT


def _owner(node: ast.Attribute) -> str:
    """Return the name before a private attribute; `super()` counts as `self`."""
    return "self" if ast.unparse(node.value) == "super()" else ast.unparse(node.value)


@each_row("name", [name for name in TREES if not name.startswith(("runtime", "aws"))])
def test_no_mutable_state_in_a_module(name: str) -> None:
    """Tables are fine, as long as no function of the file changes them."""
    tree = TREES[name]
    targets = {
        target.id: node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    changed = {
        ast.unparse(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES
    } | {
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
    }
    inside = {name for name in changed if name in targets}
    made = {name for name, node in targets.items() if node.value is not None and _is_stateful(node.value)}
    assert not (inside | made) - LEFT


CHANGES = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}
STATEFUL = {
    "ContextVar",
    "LoopLocal",
    "ThreadLock",
    "WeakKeyDictionary",
    "WeakSet",
    "WeakValueDictionary",
    "count",
    "deque",
}
STATEFUL |= {"defaultdict", "local"}


def _is_stateful(value: ast.expr) -> bool:
    """Tell whether a value is made to be changed: an empty container, a lock, a counter."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split("[")[0].split(".")[-1] in STATEFUL
    return isinstance(value, ast.List | ast.Set | ast.Dict) and not ast.unparse(value).strip("[]{}")


def test_the_top_level_has_few_files() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 8


def test_only_event_loops_names_an_event_loop_library() -> None:
    for name, tree in TREES.items():
        if name != "runtime.event_loops" and not name.startswith("testing"):
            assert not {module.split(".")[0] for _, module in imports(tree)} & {"asyncio", "trio"}, name


def test_importing_the_package_loads_nothing_optional() -> None:
    everything = "from aioencrypt import *; from aioencrypt.testing import *"
    code = f"import sys; {everything}; print(sorted(set({OPTIONAL!r}) & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@each_row("path", sorted(PACKAGE.rglob("*.py")))
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) <= 40, node.name


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function below its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_classes_are_at_most_two_levels_under_an_abstract_base() -> None:
    bases = {
        node.name: [ast.unparse(base).split("[")[0] for base in node.bases]
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name] if base in bases), default=0)

    deep = {name for name in bases if depth(name) > 3 and not name.endswith("Error")}
    assert not deep
