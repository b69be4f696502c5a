"""The programs in benchmarks/ run. What they measure in a few seconds means nothing, and is not looked at."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

PROGRAMS = ("versus_peers", "loop_delay", "small_messages", "concurrency", "scaling", "imports", "data")
MARKS = {"reached", "short", "machine contended", "not measured"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy, so that the results of a real run stay what they are."""
    copy = tmp_path_factory.mktemp("programs") / "benchmarks"
    shutil.copytree(ROOT / "benchmarks", copy, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return copy


def run(program: Path, *arguments: str) -> str:
    result = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def marks(output: str) -> list[str]:
    """Return the last column of the table."""
    return [line.strip("| ").rpartition("|")[2].strip() for line in output.splitlines() if "|" in line][2:]


def test_the_session_runs_every_program() -> None:
    listed = re.search(r"BENCHMARKS = (\[.*?\])", (ROOT / "noxfile.py").read_text(), re.DOTALL)
    assert listed
    assert tuple(json.loads(listed[1])) == PROGRAMS


def test_without_results_nothing_was_measured(programs: Path) -> None:
    assert set(marks(run(programs / "reach.py"))) == {"not measured"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_a_table_and_writes_its_figures(programs: Path, name: str) -> None:
    output = run(programs / f"{name}.py", "--quick")
    assert f"# {name} (quick: the figures mean nothing)" in output
    assert "sha384 on two threads / one" in output
    content = json.loads((programs / "results" / f"{name}.json").read_text())
    assert content["quick"] is True
    for cell in content["cells"]:
        assert cell["samples"]
        assert all(sample >= 0 for samples in cell["samples"].values() for sample in samples)
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (programs / "results" / f"{name}.png").is_file() == drawn


@pytest.mark.slow
def test_the_table_has_a_mark_for_every_row(programs: Path) -> None:
    for name in PROGRAMS:
        if not (programs / "results" / f"{name}.json").is_file():
            run(programs / f"{name}.py", "--quick")
    output = run(programs / "reach.py")
    found = marks(output)
    assert len(found) > 80
    assert set(found) <= MARKS
    # Idle streams are counted by the thousand, and pyrage and tink need not be there.
    unmeasured = [line for line in output.splitlines() if "| not measured" in line]
    assert all(re.search("1,000 idle|pyrage|tink", line) for line in unmeasured), unmeasured
