"""Everything that a contributor does: ``nox -l`` lists it."""

from __future__ import annotations

import os
import pathlib
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.error_on_missing_interpreters = True
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "types"]

BENCHMARKS = ["versus_peers", "loop_delay", "small_messages", "concurrency", "scaling", "imports", "data"]
PYPROJECT = nox.project.load_toml("pyproject.toml")
# Each process collects all tests first, so that more of them gain little.
PROCESSES = ["--numprocesses=logical", "--maxprocesses=4", "--dist=worksteal"]


def install(session: nox.Session, *groups: str, extras: str = "aws,testing") -> None:
    """Install the package and groups of dependencies."""
    # Tests start hundreds of processes, which would compile everything that they import.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    needed = [
        requirement for group in groups for requirement in nox.project.dependency_groups(PYPROJECT, group)
    ]
    session.install("-e", f".[{extras}]" if extras else ".", *needed)


@nox.session
def demo(session: nox.Session) -> None:
    """Encrypt an upload and decrypt a download, end to end: nox -s demo -- [FILE] [--size MIB]."""
    install(session, "demo")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed, delay and memory, against limits and peers: nox -s bench -- [--quick] [PROGRAM ...]."""
    install(session, "bench")
    options = [argument for argument in session.posargs if argument.startswith("-")]
    programs = [argument for argument in session.posargs if not argument.startswith("-")]
    for program in programs or BENCHMARKS:
        session.run("python", f"benchmarks/{program}.py", *options)
    session.run("python", "benchmarks/reach.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests: nox -s tests -- [FOLDER ...]."""
    install(session, "tests", "demo")
    session.run("pytest", *PROCESSES, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests with branch coverage, which takes half as long again."""
    install(session, "tests", "demo")
    session.run("pytest", *PROCESSES, "--cov", *session.posargs)


def interpreter(version: str) -> str:
    """Return the path of a Python that pyenv has installed, or its version for nox to find it elsewhere."""
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    path = pyenv / "versions" / version / "bin" / "python"
    return str(path) if path.exists() else version


def tests_on(session: nox.Session, version: str) -> None:
    """Run the tests on another Python; fails where that exact version is missing."""
    found = session.run("python", "-c", "import platform; print(platform.python_version())", silent=True)
    if str(found).strip() != version:
        session.error(f"this is Python {found}: install {version}, e.g. pyenv install {version}")
    install(session, "tests", "demo")
    session.run("pytest", *PROCESSES, *session.posargs)


@nox.session(name="tests-3.12", python=interpreter("3.12.1"))
def tests_3_12(session: nox.Session) -> None:
    """Run the tests on Python 3.12.1, which crashes on views that outlive their buffer."""
    tests_on(session, "3.12.1")


@nox.session(name="tests-3.13", python=interpreter("3.13.0"))
def tests_3_13(session: nox.Session) -> None:
    """Run the tests on Python 3.13.0."""
    tests_on(session, "3.13.0")


@nox.session(name="interop-old")
def interop_old(session: nox.Session) -> None:
    """Exchange messages with the last aws-encryption-sdk that refuses full final frames."""
    install(session, extras="")
    session.install("aws-encryption-sdk==3.3.1", "hypothesis", "pytest", "pytest-asyncio")
    session.run("pytest", "tests/interop_old", *session.posargs)


@nox.session
def cancel(session: nox.Session) -> None:
    """Interrupt every public operation at every suspension, in every way: nox -s cancel -- [-k NAME]."""
    install(session, "tests", "demo")
    session.env["AIOENCRYPT_CANCEL_EVERYWHERE"] = "1"
    session.run("pytest", "--numprocesses=logical", "tests/life/test_interruption.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Try the pages of the examples in Debian's Chromium, which root gets installed: nox -s browser."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")) and os.geteuid() == 0:
        session.run("apt-get", "update", external=True)
        packages = ["chromium", "chromium-driver"]
        session.run("apt-get", "install", "-y", "--no-install-recommends", *packages, external=True)
    install(session, "tests", "browser")
    session.run("pytest", "tests/examples/test_browser.py", *session.posargs)


@nox.session
def spec(session: nox.Session) -> None:
    """Show which requirements of the specification have tests: nox -s spec."""
    install(session, extras="")
    session.run("python", "-m", "tools.requirements", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Break one promise at a time and see whether a test notices: nox -s mutants -- [--again] [NAME ...]."""
    install(session, "tests", "demo")
    session.run("python", "-m", "tools.mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, "lint", extras="")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and that the public API is completely typed."""
    install(session, "types", "tests", "demo", "browser")
    session.run("mypy")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "aioencrypt")


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of every requirement that pyproject.toml allows."""
    session.install("uv")
    pins = str(Path(session.create_tmp()) / "lowest.txt")
    groups = ["--group", "tests", "--group", "demo"]
    resolution = ["--all-extras", *groups, "--resolution", "lowest-direct", "--python-version", "3.11"]
    session.run("uv", "pip", "compile", "--quiet", *resolution, "--output-file", pins, "pyproject.toml")
    session.install("-r", pins)
    session.install("--no-deps", "-e", ".")
    # Dask pins its own parts to one release, so there is no lowest version to try.
    dask = ["--ignore=tests/integrations/fsspec/test_dask.py", "--ignore=tests/examples/test_dask_dataset.py"]
    session.run("pytest", *PROCESSES, *dask, *session.posargs)
