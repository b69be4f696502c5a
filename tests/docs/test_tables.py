"""The figures and names in the tables of the pages are those of the code."""

from __future__ import annotations

import re
import tomllib

import attr

import aioencrypt
from aioencrypt import CommitmentPolicy, EncryptionError, Limits, errors
from aioencrypt.streams.spool import SPOOL_LENGTH
from tests.support import public
from tests.support.pages import ROOT, code_words, prose, rows, section

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MIB = 1024 * 1024


def table(page: str, heading: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(section(ROOT / page, heading)) if len(row) > 1}


def versions(requirements: list[str]) -> dict[str, str]:
    return {re.split(r"[><=]", text)[0]: re.findall(r">=([\d.]+)", text)[0] for text in requirements}


def test_the_vital_statistics_are_those_of_the_project() -> None:
    facts = table("README.md", "## Vital statistics")
    assert facts["Python"].startswith(PROJECT["requires-python"].removeprefix(">="))
    for name, version in versions(PROJECT["dependencies"]).items():
        assert f"{name} {version}" in facts["needs"]
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for name in versions(requirements):
            assert name in facts[f"extra `{extra}`"]
    assert (
        f"aiobotocore {versions(PROJECT['optional-dependencies']['aws'])['aiobotocore']} "
        in facts["extra `aws`"]
    )
    assert f"all {len(aioencrypt.AlgorithmSuite)} algorithm suites" in facts["message format"]
    assert facts["licence"] == PROJECT["license"]


def tree() -> dict[str, type[EncryptionError]]:
    found: dict[str, type[EncryptionError]] = {}
    pending = [EncryptionError]
    while pending:
        error = pending.pop()
        if error.__module__ == errors.__name__:
            found[error.__name__] = error
            pending += error.__subclasses__()
    return found


def test_the_table_of_errors_has_every_error() -> None:
    shown = table("docs/errors.md", "# Errors")
    names = {word for cell in shown for word in code_words(cell.replace("*", "")) if word.endswith("Error")}
    assert names == tree().keys() - {"EncryptionError"}
    for cell, meaning in shown.items():
        for name in code_words(cell) & tree().keys():
            for attribute in re.findall(r"`\.(\w+)`", meaning):
                assert attribute in errors_attributes(name), (name, attribute)


def errors_attributes(name: str) -> set[str]:
    made: EncryptionError
    match name:
        case "LimitError":
            made = errors.LimitError("x", limit=1, actual=2, what="y")
        case "PlaintextLengthError":
            made = errors.PlaintextLengthError(expected=1, actual=2)
        case "EncryptionContextMismatchError":
            made = errors.EncryptionContextMismatchError(["x"])
        case "IncompleteReadError":
            made = errors.IncompleteReadError(b"x", 2)
        case "ServiceError":
            made = errors.ServiceError("x")
        case _:
            made = tree()[name]("x")
    return set(vars(made))


def test_the_limits_are_those_of_the_code() -> None:
    shown = table("docs/policies-and-limits.md", "## Limits")
    for field in attr.fields(Limits):
        default = "none" if field.default is None else f"{field.default // MIB} MiB"
        assert shown[f"`Limits({field.name}=)`"] == default
    assert "1 MiB for a header and 64 MiB for a frame" in section(
        DOCS / "architecture.md", "## Decisions, and where they depart"
    )
    assert f"{SPOOL_LENGTH // MIB} MiB of it in memory" in prose(DOCS / "streams.md")


def test_the_commitment_policies_are_those_of_the_code() -> None:
    shown = {
        row[0].partition(",")[0].strip("`"): row[1:]
        for row in rows(section(DOCS / "policies-and-limits.md", "## Commitment policy"))
        if row[0].startswith("`")
    }
    assert shown.keys() == {policy.name for policy in CommitmentPolicy}
    for policy in CommitmentPolicy:
        said = {
            (True, True): "all suites",
            (True, False): "suites with commitment",
            (False, True): "suites without commitment",
        }
        suites = aioencrypt.AlgorithmSuite
        for allowed, words in (
            (policy.allows_encrypt, shown[policy.name][0]),
            (policy.allows_decrypt, shown[policy.name][1]),
        ):
            committing = {allowed(suite) for suite in suites if suite.committing}
            others = {allowed(suite) for suite in suites if not suite.committing}
            assert words == said[(committing.pop(), others.pop())]


def test_the_typing_tests_use_every_public_name() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests/typing").glob("*.py"))
    words = set(re.findall(r"\w+", text))
    simple = {name for name, error in tree().items() if "__init__" not in vars(error)}
    assert set(public.NAMES) - words - simple <= {"__version__", "Keep"} | set(aioencrypt.format.__all__)


def test_the_version_has_its_place_in_the_changelog() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == aioencrypt.__version__
