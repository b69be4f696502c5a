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


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later garbage collection, of which tests do many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"debug": True}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run a test marked with `anyio` on each event loop."""
    return request.param
