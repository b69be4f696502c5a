"""The tables for people who come from the official SDK have every public name of it, and no other."""

from __future__ import annotations

import builtins
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from types import ModuleType

import attr
import aws_encryption_sdk
from aws_cryptographic_material_providers.keystore.client import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.mpl import models, references
from aws_cryptographic_material_providers.mpl.client import AwsCryptographicMaterialProviders
from aws_encryption_sdk import SignaturePolicy
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey  # which raw keys need

import aioencrypt
import aioencrypt.format
from tests.support import public
from tests.support.pages import ROOT, code_words, rows, section
from tests.support.rows import each_row

PAGE = ROOT / "docs/from-aws-encryption-sdk.md"
TABLE = section(PAGE, "## Names in aws-encryption-sdk-python 4")
# What stands in the left column and is no name of the package.
OTHER_WORDS = {"client", "mode", "e", "d", "unsigned", "InvalidTag", "InvalidSignature"}


def public_modules() -> Iterator[ModuleType]:
    yield aws_encryption_sdk
    for module in pkgutil.walk_packages(aws_encryption_sdk.__path__, "aws_encryption_sdk."):
        if ".internal" not in module.name:
            yield importlib.import_module(module.name)


def parameters(function: object) -> set[str]:
    if not callable(function):
        return set()
    # The official SDK takes `**kwargs`; what they may be are the fields of its config classes.
    return set(inspect.signature(function).parameters) - {"self", "cls", "args", "kwargs"}


def members(owner: type) -> Mapping[str, object]:
    """Return the public members of a class that it, or a private base of it, defines."""
    classes = [
        cls
        for cls in owner.__mro__
        if cls is owner or (cls.__module__.startswith("aws_encryption_sdk.") and cls.__name__.startswith("_"))
    ]
    names = {name: value for cls in reversed(classes) for name, value in vars(cls).items()}
    return {name: value for name, value in names.items() if not name.startswith("_")}


def names_of_class(owner: type) -> set[str]:
    names = {field.name for field in attr.fields(owner)} if attr.has(owner) else set()
    for name, member in members(owner).items():
        names |= {name} | parameters(getattr(member, "__func__", member))
    if not issubclass(owner, enum.Enum):
        names |= parameters(vars(owner).get("__init__"))
    return {name for name in names if not name.startswith("_")}


def official_names() -> dict[str, set[str]]:
    """Return every public class and function, each with its parameters and members."""
    found = {
        "SignaturePolicy": names_of_class(SignaturePolicy),
        "WrappingKey": parameters(WrappingKey.__init__),
    }
    for module in public_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                found[name] = found.get(name, set()) | names_of_class(value)
            elif inspect.isfunction(value):
                found[name] = parameters(value)
    return found


OFFICIAL = official_names()
SUITES = {suite.name for suite in aws_encryption_sdk.Algorithm}
LEFT = {word for row in rows(TABLE) for word in code_words(row[0])}


def test_the_walk_sees_the_official_package() -> None:
    assert {"EncryptionSDKClient", "encrypt", "RawMasterKey", "MRKAwareKMSMasterKey"} <= {
        *OFFICIAL,
        *OFFICIAL["EncryptionSDKClient"],
    }
    assert {"max_body_length", "source", "line_length"} <= OFFICIAL["DecryptorConfig"]
    assert {"read", "b", "ciphertext_length", "tell"} <= OFFICIAL["StreamEncryptor"]
    assert {"num_keys", "max_keys"} <= OFFICIAL["MaxEncryptedDataKeysExceeded"]
    assert len(OFFICIAL) > 70


def test_every_name_of_the_top_level_is_known() -> None:
    top = {
        name
        for name, value in vars(aws_encryption_sdk).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert top <= OFFICIAL.keys()


@each_row("name", sorted(OFFICIAL))
def test_the_readme_has_every_public_name_and_parameter(name: str) -> None:
    # The suites have the same ids; the table has one row for them, and message-format.md all.
    words = {name, *OFFICIAL[name]} - (SUITES if "Algorithm" in name or name == "EncryptionSuite" else set())
    if name in ("KDFSuite", "AuthenticationSuite", "ObjectType", "SequenceIdentifier", "ContentAADString"):
        words = {word for word in words if not word.isupper() and not word.startswith(("HKDF_", "SHA"))}
    assert words <= LEFT


def test_the_readme_has_no_other_names() -> None:
    known = {*OFFICIAL, *(word for words in OFFICIAL.values() for word in words)}
    assert LEFT - known <= OTHER_WORDS


def test_the_suites_have_the_names_that_the_readme_says() -> None:
    for suite in aws_encryption_sdk.Algorithm:
        ours = aioencrypt.AlgorithmSuite(suite.algorithm_id)
        assert ours.name in (f"ALG_{suite.name}", f"ALG_{suite.name}_NO_KDF")
        assert (ours.committing, ours.signed) == (suite.is_committing(), suite.is_signing())
        assert ours.data_key_length == suite.kdf_input_len
        assert (ours.kdf_hash is not None) == suite.safe_to_cache()


# The MPL


def inputs(operation: str) -> set[str]:
    """Return the parameters of the input class of an operation."""
    name = "".join(part.capitalize() for part in operation.split("_")).replace("Cmm", "CMM")
    return parameters(getattr(models, f"{name}Input").__init__)


CREATORS = [
    name for name in dir(AwsCryptographicMaterialProviders) if name.startswith(("create_", "validate_"))
]
MPL_ROWS = list(rows(section(PAGE, "## The Material Providers Library")))


@each_row("operation", CREATORS)
def test_the_page_has_every_keyring_with_its_parameters(operation: str) -> None:
    [row] = [row for row in MPL_ROWS if operation in code_words(row[0])]
    assert code_words(row[1]) == inputs(operation)


def test_the_page_has_every_operation_of_the_mpl() -> None:
    operations = {name for name in dir(AwsCryptographicMaterialProviders) if not name.startswith("_")}
    assert operations <= {word for row in MPL_ROWS for word in code_words(row[0])}


@each_row("name", [name for name in dir(references) if re.match("I[A-Z][a-z]", name)])
def test_the_page_has_every_interface_of_the_mpl(name: str) -> None:
    [row] = [row for row in MPL_ROWS if name in code_words(row[0])]
    assert code_words(row[1]) == set(getattr(references, name).__abstractmethods__)


def test_the_page_has_no_names_that_the_mpl_has_not() -> None:
    known = {*dir(AwsCryptographicMaterialProviders), *dir(references), *dir(models)}
    known |= {AwsCryptographicMaterialProviders.__name__, KeyStore.__name__, KeyStoreConfig.__name__}
    known |= {"CollectionOfErrors"}
    assert {word for row in MPL_ROWS for word in code_words(row[0])} <= known


# Our side of all tables


def test_what_we_call_ours_is_ours() -> None:
    ours = {*public.NAMES, *vars(builtins)}
    for row in rows(PAGE.read_text()):
        classes = {word for word in code_words(row[-1]) if re.match("[A-Z][a-z]+[A-Z]|[A-Z]{2,}[a-z]", word)}
        assert classes <= ours, row


def test_the_parameters_that_we_call_ours_are_ours() -> None:
    known = {parameter for value in public.NAMES.values() for parameter in parameters_of_ours(value)}
    for row in rows(PAGE.read_text()):
        assert set(re.findall(r"\b([a-z_]+)=", row[-1])) <= known, row


def parameters_of_ours(value: object) -> set[str]:
    if inspect.isclass(value):
        functions = [
            member for name, member in inspect.getmembers(value, inspect.isfunction) if name[0] != "_"
        ]
        own = {name for function in functions for name in parameters(function)}
        return own | (parameters(value) if not issubclass(value, (Exception,)) else set())
    return parameters(value) if inspect.isroutine(value) else set()
