"""Tools for the tests of the programs in examples/: to run them, and to serve what they serve."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from aiohttp import web

from aioencrypt import RawAESMasterKey
from tests.support.pages import ROOT

EXAMPLES = ROOT / "examples"
KEY = RawAESMasterKey("tests", "examples", wrapping_key=bytes(32))
FIGURES = b"quarterly figures" * 50_000


def run(name: str, *arguments: str, code: int = 0, **environment: str) -> str:
    """Run a program in an empty folder of another place; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=60,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def load(name: str) -> ModuleType:
    """Import a program from its folder, as Python does it for a program."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/files"
    finally:
        await runner.cleanup()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
