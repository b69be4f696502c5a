"""The floors of the house, proved from the syntax trees. The order below is the order of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aioencrypt"

FLOORS = [
    ["errors"],
    [
        "format.suites",
        "format.wire",
        "format.context",
        "format.derivation",
        "format.signing",
        "format.header",
        "format.body",
        "format.work",
        "format.events",
        "format.encryptor",
        "format.decryptor",
        "format.ranges",
        "format",
    ],
    ["policies", "materials", "observation"],
    ["background", "offload", "cache", "given_clients", "aws", "suppliers"],
    [
        "providers.base",
        "providers.multi",
        "providers.wrapping",
        "providers.raw_aes",
        "providers.raw_rsa",
        "providers.key_agreement",
        "providers.raw_ecdh",
        "providers.arn",
        "providers.kms_service",
        "providers.kms",
        "providers.kms_rsa",
        "providers.kms_ecdh",
        "providers.kms_configuration",
        "providers.branch_key_items",
        "providers.branch_key_table",
        "providers.branch_keys",
        "providers.hierarchical",
        "providers",
    ],
    ["managers.base", "managers.default", "managers.required_context", "managers.caching", "managers"],
    [
        "streams.sources",
        "streams.base",
        "streams.spool",
        "streams.encrypt",
        "streams.decrypt",
        "streams.files",
        "streams.ranges",
        "streams.headers",
        "streams.frames",
        "streams.seekable",
        "streams",
    ],
    ["client"],
    ["inspection", "rewrap_keys", "rewrap"],
    [
        "integrations._http",
        "integrations._download",
        "integrations.aiohttp",
        "integrations.asgi",
        "integrations._s3_client",
        "integrations._s3_ranges",
        "integrations._s3_upload",
        "integrations._s3_rewrap",
        "integrations.s3",
        "integrations.opentelemetry",
        "integrations._fsspec_types",
        "integrations._fsspec_provider",
        "integrations._fsspec_target",
        "integrations._fsspec_sizes",
        "integrations._fsspec_file",
        "integrations._fsspec_paths",
        "integrations.fsspec",
        "integrations",
    ],
    [
        "testing._kms_errors",
        "testing._kms_requests",
        "testing._kms_blobs",
        "testing._kms_asymmetric",
        "testing._kms_keys",
        "testing._kms_cryptography",
        "testing._kms_operations",
        "testing._kms_faults",
        "testing._kms_client",
        "testing.memory_kms",
        "testing._dynamodb_expressions",
        "testing._dynamodb_tables",
        "testing._dynamodb_client",
        "testing.memory_dynamodb",
        "testing.kms",
        "testing",
    ],
    # The package itself, which loads whatever is used of it, and what uses it as its users do.
    ["", "testing.plugin"],
]
ORDER = [module for floor in FLOORS for module in floor]
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
    assert set(TREES) == set(ORDER)


@pytest.mark.parametrize("name", [name for name in TREES if name in ORDER])
def test_imports_come_from_below(name: str) -> None:
    allowed = set(ORDER[: ORDER.index(name)])
    for node, module in imports(TREES[name]):
        if module.startswith("aioencrypt"):
            assert module.removeprefix("aioencrypt").removeprefix(".") in allowed, (
                f"line {node.lineno}: {module}"
            )


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_import_inside_a_function_but_of_an_optional_library(name: str) -> None:
    inner = inside_functions(TREES[name])
    for node, module in imports(TREES[name]):
        if node in inner:
            assert module.split(".")[0] in OPTIONAL, module


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("format")])
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
                assert name == "aws"


def test_only_offload_goes_to_threads() -> None:
    for name, tree in TREES.items():
        if name != "offload" and not name.startswith("testing"):
            assert "to_thread" not in ast.unparse(tree), name


def test_only_background_names_an_event_loop_library() -> None:
    for name, tree in TREES.items():
        if name != "background" and not name.startswith("testing"):
            assert not {module.split(".")[0] for _, module in imports(tree)} & {"asyncio", "trio"}, name


def test_importing_the_package_loads_nothing_optional() -> None:
    everything = "from aioencrypt import *; from aioencrypt.testing import *"
    code = f"import sys; {everything}; print(sorted(set({OPTIONAL!r}) & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
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
