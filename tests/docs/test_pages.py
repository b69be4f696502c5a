"""The pages of the documentation are true: their snippets run, their commands and links exist."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.docs_names import after, names_left_to_readers
from tests.support.moto import moto_server
from tests.support.pages import PAGES, ROOT, Snippet, anchors, links, name_of, prose, snippets
from tests.support.rows import each_row

US = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
EU = "arn:aws:kms:eu-west-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
WITH_PYTHON = [page for page in PAGES if snippets(page, "python")]


@pytest.fixture
def kms() -> InMemoryKMS:
    """Return a KMS with the keys that the pages name."""
    kms = InMemoryKMS()
    kms.create_key(region="us-east-1", key_id=US.rpartition("/")[2])
    kms.create_key(region="eu-west-1", key_id=EU.rpartition("/")[2])
    kms.replicate_key(kms.create_key(region="us-east-1", key_id=MRK, multi_region=True), "eu-west-1")
    kms.create_alias("alias/reports", US)
    return kms


@pytest.fixture(scope="module")
def dynamodb_url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def kms_over_http(
    kms: InMemoryKMS, dynamodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InMemoryKMS]:
    """Serve it from a thread, beside DynamoDB and S3, for clients of every kind that are told nothing."""
    with run_in_thread(kms) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb_url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", dynamodb_url)
        yield kms


def execute(page: Path, snippet: Snippet, names: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run a snippet as `python -m asyncio` would; tracebacks show the lines of the page."""
    source = "\n" * (snippet.line - 1) + snippet.text
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, names))
    else:
        exec(code, names)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_snippets_of_a_page_run_from_top_to_bottom(
    page: Path,
    kms_over_http: InMemoryKMS,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner(debug=True) as runner:
        names = runner.run(names_left_to_readers(name_of(page), kms_over_http))
        for snippet in snippets(page, "python"):
            execute(page, snippet, names, runner)
            printed = capsys.readouterr().out
            for comment in re.findall(r"print\(.*\)  # \.\.\. (.*)", snippet.text):
                assert comment in printed
        runner.run(after(name_of(page), names, kms_over_http))
        assert not runner.run(tasks_left()), "the page leaves something running"
    gc.collect()


async def tasks_left() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_the_program_of_the_readme_runs_as_pasted(tmp_path: Path) -> None:
    program = snippets(ROOT / "README.md", "python")[0].text
    output = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=program, capture_output=True, text=True, cwd=tmp_path
    )
    assert (output.stdout, output.stderr) == ("quarterly figures\n", "")
    assert b"quarterly" not in (tmp_path / "report.aws").read_bytes()


def test_the_kms_program_of_the_readme_replaces_a_few_lines() -> None:
    local, under_kms = (snippet.text for snippet in snippets(ROOT / "README.md", "python"))
    lines = [line.strip() for line in local.splitlines()]
    new = [line for line in under_kms.splitlines() if line and line.strip() not in lines]
    assert len([line for line in new if "arn:" not in line and line != "]"]) <= 5, new


# Shell


def commands(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        for command in line.partition("#")[0].split("&&"):
            if command.strip():
                yield shlex.split(command)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def nox_sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    sessions = [(f.name, ast.unparse(d)) for f in functions for d in f.decorator_list]
    named = [(name, re.search(r"name='([^']+)'", text)) for name, text in sessions if "session" in text]
    return {other[1] if other else name for name, other in named}


# What the pages may tell people to install with pip. Of others, extras are not compared.
INSTALLED = ("aioencrypt", "nox", "types-aiobotocore")


def check_requirement(text: str) -> None:
    name, _, extra = text.removesuffix("]").partition("[")
    assert name in INSTALLED, text
    extras = pyproject()["project"]["optional-dependencies"]
    assert name != "aioencrypt" or not extra or extra in extras, text


def check_module(module: str, *arguments: str) -> None:
    """Check that a command of a module knows the options, from what its help says."""
    output = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    for argument in arguments:
        assert not argument.startswith("-") or argument in output.stdout, argument


def check_command(words: list[str]) -> None:
    match words:
        case ["python3", "-m", "pip", "install", *requirements]:
            for requirement in requirements:
                check_requirement(requirement)
        case ["python3", "-m", "nox", "-s", *sessions]:
            ours = sessions[: sessions.index("--")] if "--" in sessions else sessions
            assert set(ours) <= nox_sessions(), sessions
        case ["python3", "-m", "nox"]:
            pass
        case ["python3", "-m", module, *arguments] if module.startswith("aioencrypt"):
            check_module(module, *arguments)
        case ["python3", script, *_]:
            assert (ROOT / script).is_file(), script
        case [script] if script.startswith(".ci/"):
            assert os.access(ROOT / script, os.X_OK), script
        case ["git", "clone" | "commit" | "switch", *_]:
            pass
        case _:
            raise AssertionError(f"nobody knows whether this is right: {shlex.join(words)}")


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "sh")], ids=name_of)
def test_commands_exist(page: Path) -> None:
    for snippet in snippets(page, "sh"):
        for command in commands(snippet.text):
            check_command(command)


@each_row("page", PAGES)
def test_commands_in_the_text_exist(page: Path) -> None:
    text = prose(page)
    assert set(re.findall(r"nox -s ([\w.-]*\w)", text)) <= nox_sessions()
    for requirement in re.findall(r'pip install "?([^"`\s]+)', text):
        check_requirement(requirement)
    for path in re.findall(r"`((?:docs|examples|tests|aioencrypt)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_options_of_the_kms_server_stand_in_its_page() -> None:
    words = re.findall(r"`(--\w+)", prose(ROOT / "docs/testing-your-code.md"))
    check_module("aioencrypt.testing.kms", *words)


# Links


@each_row("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_row("page", sorted((ROOT / "docs").glob("*.md")))
def test_the_index_has_every_page(page: Path) -> None:
    if page.name != "index.md":
        assert page.name in links(ROOT / "docs/index.md")


@each_row("program", sorted((ROOT / "examples").glob("*.py")))
def test_the_index_has_every_example(program: Path) -> None:
    assert f"../examples/{program.name}" in links(ROOT / "docs/index.md")


def test_only_known_languages_stand_in_fences() -> None:
    fences = {
        language for page in PAGES for language in re.findall(r"^```(\S+)", page.read_text(), re.MULTILINE)
    }
    assert fences <= {"python", "pyi", "sh", "hexdump"}


@each_row("page", PAGES)
def test_pages_are_plain_text_of_our_width(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        free = line.startswith("|") or "https://" in line or page.name == "api.md"
        assert free or len(line) <= 125, f"line {number}"
        assert line == line.rstrip(), f"line {number}"
