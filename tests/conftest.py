"""Fixtures for all tests: event loops, and an environment without an AWS account."""

from __future__ import annotations

import gc
import os
from typing import Any

import hypothesis  # noqa: F401 (before anything is frozen, because it looks for who refers to what it is given)
import pytest

os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_SESSION_TOKEN="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)
os.environ.pop("AWS_PROFILE", None)

DEBUG = ("asyncio", {"debug": True})
EVERY_LOOP = [
    pytest.param(DEBUG, id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later garbage collection, of which tests do many."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked with `every_loop` on each event loop, unless they choose for themselves."""
    marked = metafunc.definition.get_closest_marker("every_loop")
    chosen = any("anyio_backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if marked and not chosen and "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", EVERY_LOOP, indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run a test marked with `anyio` on asyncio, whose debug mode notices what is never awaited."""
    return getattr(request, "param", DEBUG)
