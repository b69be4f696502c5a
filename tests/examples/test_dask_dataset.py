"""examples/dask_dataset.py encrypts and rewraps a data set, is killed, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from aioencrypt.inspection import inspect_message
from tests.support.examples import EXAMPLES, run
from tests.support.streaming import on_asyncio

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="a group of processes is killed by a signal"),
]

# Many more than are done before a kill arrives.
OBJECTS = 120


def run_until(done: Callable[[list[str]], bool], *arguments: str) -> list[str]:
    """Run the program until its output will do, and kill it with its workers; return the output."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "dask_dataset.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as program:
        workers: list[psutil.Process] = []
        try:
            assert program.stdout
            for line in program.stdout:
                lines.append(line.rstrip())
                if done(lines):
                    os.killpg(program.pid, signal.SIGSTOP)
                    workers = psutil.Process(program.pid).children(recursive=True)
                    break
        finally:
            os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == -signal.SIGKILL
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=30)[1], "a worker outlives the program"
    return lines


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a file is written anew, of each encrypted object."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}


@on_asyncio
async def test_what_was_done_before_the_program_was_killed_is_not_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "encrypted"
    program = (str(tmp_path), "--objects", str(OBJECTS), "--steps")

    run_until(lambda lines: len(lines) == 5, *program, "encrypt")
    before = states(folder)
    assert 5 <= len(before) < OBJECTS

    lines = run_until(lambda lines: f"5 of {OBJECTS}: rewrapped" in lines, *program, "encrypt", "rewrap")
    summary = next(line for line in lines if " of " not in line)
    assert summary == f"{len(before)} done before, {OBJECTS - len(before)} encrypted"
    under_new = {path.name for path in folder.glob("*.parquet") if await key_of(path) == "2027"}
    assert 5 <= len(under_new) < OBJECTS
    half = states(folder)
    assert len(half) == OBJECTS
    assert {name for name in before if half[name] != before[name]} <= under_new

    lines = run("dask_dataset.py", *program, "encrypt", "sum", "rewrap").splitlines()
    total = sum(sum(range(index, index + 1000)) for index in range(OBJECTS))
    assert [line for line in lines if " of " not in line] == [
        f"{OBJECTS} done before",
        f"plain data: {total}",
        f"encrypted data: {total}",
        f"{len(under_new)} done before, {OBJECTS - len(under_new)} rewrapped",
        "under the new keys: 2027",
    ]
    full = states(folder)
    assert {name for name in half if full[name] == half[name]} == under_new
    assert {await key_of(path) for path in folder.glob("*.parquet")} == {"2027"}
    assert not [path for path in folder.glob("*.parquet") if b"PAR1" in path.read_bytes()]


async def key_of(path: Path) -> str | None:
    return (await inspect_message(path)).keys[0].name
