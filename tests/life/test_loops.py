"""Every public operation, from beginning to end, on each event loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from aioencrypt.runtime.event_loops import on_trio
from tests.support.operations import CASES, World
from tests.support.streaming import assert_idle

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

ASYNCIO_ALONE = ("client_suppliers", "aiohttp_upload", "aiohttp_form", "aiohttp_response", "aiohttp_provider")


@pytest.mark.parametrize("name", CASES)
async def test_every_operation_runs_on_each_loop(name: str, tmp_path: Path) -> None:
    if on_trio() and name in ASYNCIO_ALONE:
        pytest.skip("aiohttp and aiobotocore run on asyncio alone")
    world = World(CASES[name], tmp_path)
    await world.prepare()
    await world.run()
    await world.finish()
    assert world.left() == []
    assert_idle()
