"""Writes docs/api.md from the package: every public name, its signature, and the first line of its docstring.

python -m tools.api_page > docs/api.md
"""

from __future__ import annotations

import ast
import enum
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType

import attr

import aioencrypt
import aioencrypt.aws
import aioencrypt.branch_keys
import aioencrypt.errors
import aioencrypt.format
import aioencrypt.inspection
import aioencrypt.integrations.aiohttp
import aioencrypt.integrations.asgi
import aioencrypt.integrations.fsspec
import aioencrypt.integrations.opentelemetry
import aioencrypt.integrations.s3
import aioencrypt.materials
import aioencrypt.rewrap
import aioencrypt.streams
import aioencrypt.testing
import aioencrypt.testing.kms

WIDTH = 100

INTEGRATIONS = (
    aioencrypt.integrations.s3,
    aioencrypt.integrations.aiohttp,
    aioencrypt.integrations.asgi,
    aioencrypt.integrations.fsspec,
    aioencrypt.integrations.opentelemetry,
)

MODULES = (
    aioencrypt.streams,
    aioencrypt.inspection,
    aioencrypt.rewrap,
    aioencrypt.branch_keys,
    aioencrypt.materials,
    aioencrypt.aws,
    aioencrypt.format,
)


def _own_names(module: ModuleType) -> Iterator[str]:
    """Yield the public names of a module that are not public in the package or in an earlier module."""
    earlier = MODULES[: MODULES.index(module)]
    shown = {name for other in (aioencrypt, *earlier) for name in other.__all__}
    yield from (name for name in module.__all__ if name not in shown)


# The order of the page. A public name that is missing here, or stands here twice, is an error.
SECTIONS: dict[str, tuple[ModuleType, list[str]]] = {
    "Encrypting and decrypting": (
        aioencrypt,
        [
            "encrypt",
            "encrypt_stream",
            "decrypt",
            "decrypt_stream",
            "open",
            "EncryptionClient",
            "EncryptResult",
            "DecryptResult",
            "EncryptStream",
            "DecryptStream",
            "DecryptWriter",
            "EncryptWriter",
            "open_seekable",
            "SeekableDecryptStream",
            "ciphertext_length",
            "plaintext_length",
            "Provider",
        ],
    ),
    "Policies": (aioencrypt, ["CommitmentPolicy", "SignaturePolicy", "Release", "Limits", "Offload"]),
    "AWS KMS": (
        aioencrypt,
        [
            "AWSConnection",
            "KMSMasterKeyProvider",
            "KMSDiscoveryMasterKeyProvider",
            "MultiRegion",
            "DiscoveryFilter",
            "KMSMasterKey",
            "KMSRSAMasterKey",
            "KMSECDHMasterKey",
            "KMSEncryptionAlgorithm",
        ],
    ),
    "Local keys": (
        aioencrypt,
        ["RawAESMasterKey", "RawRSAMasterKey", "RSAPadding", "RawECDHMasterKey", "MultiMasterKeyProvider"],
    ),
    "Managers": (
        aioencrypt,
        ["DefaultCMM", "RequiredEncryptionContextCMM", "CachingCMM", "AsyncCache", "CacheStatistics"],
    ),
    "What a message says": (
        aioencrypt,
        [
            "MasterKeyProvider",
            "Provenance",
            "MessageHeader",
            "AlgorithmSuite",
            "__version__",
        ],
    ),
    "Errors": (
        aioencrypt,
        [name for name in vars(aioencrypt.errors) if name in aioencrypt.__all__],
    ),
    **{module.__name__: (module, [*_own_names(module)]) for module in MODULES},
    **{module.__name__: (module, list(module.__all__)) for module in INTEGRATIONS},
    "aioencrypt.testing": (aioencrypt.testing, list(aioencrypt.testing.__all__)),
    "aioencrypt.testing.kms": (aioencrypt.testing.kms, ["KMSServer", "run_in_thread", "main"]),
}

INTRODUCTION = """\
# API

Every public name, with its signature as a stub and a line on what it is; `help()` says more. What is not here
is not public, and may change at any time. Inherited members stand with the class that they come from. This
page is made by `python -m tools.api_page`, and a test compares it with the package.
"""

NOTES = {
    "Encrypting and decrypting": "`aioencrypt` exports the names of this section and of the next ones, up to "
    "*Errors*. The functions are the methods of an `EncryptionClient` with default settings.",
    "aioencrypt.streams": "For type annotations: [streams.md](streams.md), [seekable.md](seekable.md).",
    "aioencrypt.inspection": "[inspection.md](inspection.md).",
    "aioencrypt.rewrap": "Other keys for messages that exist: [rewrap.md](rewrap.md).",
    "aioencrypt.branch_keys": "[branch-keys.md](branch-keys.md),"
    " [hierarchical-keys.md](hierarchical-keys.md).",
    "aioencrypt.materials": "For keys ([own-keys.md](own-keys.md)) and managers "
    "([own-managers.md](own-managers.md)) of your own. "
    "`MasterKeyProvider` and `Provenance` can be imported from here, too.",
    "aioencrypt.format": "The message format without I/O. "
    "[message-format.md](message-format.md#the-machines) has a whole program. "
    "`AlgorithmSuite`, `CommitmentPolicy`, `EncryptedDataKey`, `MessageHeader`, `ciphertext_length` and "
    "`plaintext_length` can be imported from here, too.",
    "aioencrypt.aws": "Client suppliers by region, and what clients of your own look like.",
    "aioencrypt.integrations.s3": "Objects in S3: [s3.md](s3.md). Needs the extra `aws`, or another client.",
    "aioencrypt.integrations.aiohttp": "[aiohttp.md](aiohttp.md). Needs the extra `aiohttp`.",
    "aioencrypt.integrations.asgi": "Starlette and FastAPI: [asgi.md](asgi.md). Needs the extra `asgi`.",
    "aioencrypt.integrations.fsspec": "[fsspec.md](fsspec.md). Needs the extra `fsspec`. "
    "Methods that stand in fsspec's own documentation are not repeated.",
    "aioencrypt.integrations.opentelemetry": "[opentelemetry.md](opentelemetry.md). "
    "Needs the extra `opentelemetry`.",
    "aioencrypt.testing": "A KMS in memory: [testing-your-code.md](testing-your-code.md); "
    "and a DynamoDB: [branch-keys.md](branch-keys.md#in-tests).",
    "aioencrypt.testing.kms": "The same over HTTP; it needs the extra `testing`.",
}

# What functions and methods return. Its constructors are nobody's business.
MADE_BY_US = {
    "DecryptResult",
    "DecryptStream",
    "EncryptResult",
    "EncryptStream",
    "EncryptWriter",
    "InMemoryDynamoDBClient",
    "InMemoryDynamoDBError",
    "InMemoryKMSClient",
    "InMemoryKMSError",
    "KMSECDHMasterKey",
    "KMSMasterKey",
    "RewrapStream",
    "SeekableDecryptStream",
}
# Base classes that are not public.
HELPERS = {
    "object",
    "ABC",
    "ByteStream",
    "Protocol",
    "Generic",
    "EntersConnection",
    "ObjectRanges",
    "PathsFileSystem",
}
# What has no docstring in the code, because its parts have.
UNIONS = {
    "Event": "What `MessageDecryptor.next_event` returns.",
    "Work": "Heavy work as a value: it may be done in any thread.",
}


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for title, (module, names) in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        if note := NOTES.get(title):
            parts.append(
                "\n" + textwrap.fill(note, 118, break_long_words=False, break_on_hyphens=False) + "\n"
            )
        body = "\n\n".join("\n".join(entry(module, name)) for name in names)
        parts.append(f"\n```pyi\n{body}\n```\n")
    return "".join(parts)


def entry(module: ModuleType, name: str) -> list[str]:
    """Return the lines of one public name."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return class_lines(value)
    if inspect.isroutine(value):
        made = inspect.unwrap(value)
        generates = inspect.isgeneratorfunction(made) or inspect.isasyncgenfunction(made)
        decorator = ["@contextmanager"] if generates else []
        return decorator + list(function_of_client(name, value) or function_lines(name, value))
    if isinstance(value, str):
        return [f"{name}: str", '"""The version of this library."""']
    return [*alias_lines(name, alias(module, name)), *doc_lines(alias_docstring(module, name))]


def function_of_client(name: str, value: typing.Any) -> list[str]:
    """Return the stub of a function that is a method of the default client, where it has overloads."""
    method = getattr(value, "__func__", None)
    overloads = typing.get_overloads(method) if method else []
    bound = [types.MethodType(overload, value.__self__) for overload in overloads]
    doc = value.__doc__
    return [line for overload in bound for line in ("@overload", *function_lines(name, overload, doc))]


def alias_lines(name: str, parts: list[str]) -> list[str]:
    line = f"{name} = {' | '.join(parts)}"
    if len(line) <= WIDTH and "..." not in parts:
        return [line]
    first, *rest = parts
    shown = [
        f"    | {part}" if part != "..." else "    # and readers known by a method: streams.md"
        for part in rest
    ]
    return [f"{name} = (", f"    {first}", *shown, ")"]


def doc_lines(text: str) -> list[str]:
    return [f'r"""{text}"""' if "\\" in text else f'"""{text}"""'] if text else []


def first_line(text: str | None) -> str:
    """Return the first paragraph of a docstring up to the end of its first sentence, on one line."""
    paragraph = inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ")
    sentence = paragraph.partition(". ")[0]
    return sentence if sentence == paragraph else f"{sentence}."


def defining_module(module: ModuleType, name: str) -> ast.Module:
    """Return the syntax tree of the module in which an alias is assigned."""
    for candidate in [module, *(m for n, m in sys.modules.items() if n.startswith("aioencrypt."))]:
        tree = ast.parse(inspect.getsource(candidate))
        if any(name in targets(node) for node in tree.body):
            return tree
    raise LookupError(name)


def targets(node: ast.stmt) -> list[str]:
    return [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]


def alias(module: ModuleType, name: str) -> list[str]:
    """Return what an alias stands for, with dots for the private protocols in it."""
    tree = defining_module(module, name)
    [node] = [node for node in tree.body if name in targets(node)]
    assert isinstance(node, ast.Assign)
    if not isinstance(node.value, ast.BinOp):
        return [ast.unparse(node.value)]
    parts = ast.unparse(node.value).split(" | ")
    return [part for part in parts if part[0] != "_"] + ["..."] * any(part[0] == "_" for part in parts)


def alias_docstring(module: ModuleType, name: str) -> str:
    body = defining_module(module, name).body
    [index] = [index for index, node in enumerate(body) if name in targets(node)]
    match body[index + 1 : index + 2]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return first_line(text)
        case _:
            return UNIONS[name]


def class_lines(cls: type) -> list[str]:
    """Return the stub of a class."""
    names = ["TypedDict" if typing.is_typeddict(cls) else base.__name__ for base in cls.__bases__]
    names = [name for name in names if not name.startswith("_") and name not in HELPERS]
    shown = ["tuple[bytes, MessageHeader]" if name == "tuple" else name for name in names]
    head = f"class {cls.__name__}({', '.join(shown)}):" if shown else f"class {cls.__name__}:"
    body = [*doc_lines(first_line(cls.__doc__)), *member_lines(cls)]
    return [head, *(f"    {line}" for line in body)]


def member_lines(cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield from (f"{member.name} = {enum_value(member)}" for member in cls)
    elif attr.has(cls):
        for field in (field for field in attr.fields(cls) if field.init):
            default = "" if field.default is attr.NOTHING else f" = {default_text(field.default)}"
            yield f"{field.name}: {annotation(field.type)}{default}"
    else:
        yield from constructor_lines(cls)
    yield from (f"{name}: {kind}" for name, kind in instance_attributes(cls))
    for name, member in members(cls):
        yield from method_lines(name, member)


def enum_value(member: enum.Enum) -> str:
    if isinstance(member.value, tuple):
        return "..."
    return f"{member.value:#06x}" if type(member).__name__ == "AlgorithmSuite" else repr(member.value)


def constructor_lines(cls: type) -> Iterator[str]:
    """Yield the constructor, unless the library calls it: streams and results are made by functions."""
    init = vars(cls).get("__init__")
    if init and cls.__name__ not in MADE_BY_US and not getattr(cls, "_is_protocol", False):
        yield from function_lines("__init__", init)


def instance_attributes(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the public attributes that a class annotates, in its body or in its constructor."""
    if not attr.has(cls):
        yield from ((name, kind) for name, kind in inspect.get_annotations(cls).items() if name[0] != "_")
    init = vars(cls).get("__init__")
    if init is None or attr.has(cls):
        return
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
        match node:
            case ast.AnnAssign(target=ast.Attribute(attr=name)) if not name.startswith("_"):
                yield name, ast.unparse(node.annotation)


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield public methods and properties that no public base class has with the same signature."""
    public = {name for module in (aioencrypt, *MODULES) for name in module.__all__}
    private_bases = [
        base
        for base in cls.__mro__[1:]
        if base.__module__.startswith("aioencrypt.") and base.__name__ not in public
    ]
    own: dict[str, object] = {}
    for source in [cls, *private_bases]:
        for name, member in vars(source).items():
            shown = not name.startswith("_") or name in ("__aenter__", "__aiter__", "__call__")
            if shown and (
                inspect.isfunction(member) or isinstance(member, property | cached_property | classmethod)
            ):
                own.setdefault(name, member)
    public_bases = [base for base in cls.__mro__[1:] if base.__name__ in public]
    for name, member in own.items():
        if not any(name in vars(base) for base in public_bases):
            yield name, member


def function_lines(name: str, function: typing.Any, docstring: str | None = None) -> list[str]:
    """Return the stub of a function, its signature wrapped where it is long."""
    start = f"{'async ' if inspect.iscoroutinefunction(function) else ''}def {name}("
    signature = inspect.signature(function)
    end = f") -> {annotation(signature.return_annotation)}:"
    parts = parameter_texts(signature)
    lines = [start + ", ".join(parts) + end]
    if len(lines[0]) > WIDTH:
        lines = [start, *(f"    {part}," for part in parts), end]
    doc = doc_lines(first_line(docstring or function.__doc__))
    if name == "__init__" or not doc:
        return [*lines[:-1], f"{lines[-1]} ..."]
    return [*lines, f"    {doc[0]}"]


def method_lines(name: str, member: typing.Any) -> Iterator[str]:
    """Yield the stub of a method or property, with its overloads or its setter."""
    if isinstance(member, classmethod):
        yield "@classmethod"
        yield from function_lines(name, member.__func__)
        return
    if isinstance(member, cached_property):
        member = property(member.func)
    if isinstance(member, property):
        yield "@property"
        yield from function_lines(name, member.fget)
        if member.fset:
            yield f"@{name}.setter"
            yield from function_lines(name, member.fset)
        return
    for overload in typing.get_overloads(member):
        yield "@overload"
        yield from function_lines(name, overload, member.__doc__)
    if not typing.get_overloads(member):
        yield from function_lines(name, member)


def parameter_texts(signature: inspect.Signature) -> list[str]:
    texts: list[str] = []
    keyword_only = positional_only = False
    for parameter in signature.parameters.values():
        if positional_only and parameter.kind is not parameter.POSITIONAL_ONLY:
            texts.append("/")
        positional_only = parameter.kind is parameter.POSITIONAL_ONLY
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            texts.append("*")
        keyword_only = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        texts.append(parameter_text(parameter))
    return texts


def parameter_text(parameter: inspect.Parameter) -> str:
    text = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "") + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        separator = " = " if ":" in text else "="
        text += f"{separator}{default_text(parameter.default)}"
    return text


def annotation(value: object) -> str:
    if isinstance(value, typing.ForwardRef):
        return value.__forward_arg__
    return value if isinstance(value, str) else getattr(value, "__name__", repr(value))


def default_text(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, attr.Factory):  # type: ignore[arg-type]
        return f"{value.factory.__name__}()"  # type: ignore[attr-defined]
    if attr.has(type(value)):
        return f"{type(value).__name__}()"
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__name__', value)}"
    return repr(value)


if __name__ == "__main__":
    sys.stdout.write(page())
