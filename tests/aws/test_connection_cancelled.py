"""Cancelling while clients are opened, made and closed leaves none of them open, and nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import AWSConnection, KMSMasterKeyProvider, ProviderClosedError
from aioencrypt.testing import InMemoryKMS
from tests.support.aws import WatchedSession
from tests.support.cancelling import Way, each_way
from tests.support.kms import EU, US
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]


class SlowSession(WatchedSession):
    """A session whose clients take a few turns of the loop to make and to close; `open` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0
        self.kms = InMemoryKMS()

    def create_client(self, service: str, **options: Any) -> Any:
        return self._client(options["region_name"])

    @asynccontextmanager
    async def _client(self, region: str) -> AsyncIterator[Any]:
        for _ in range(3):
            await checkpoint()
        self.open += 1
        yield self.kms.client(region)
        for _ in range(3):
            await checkpoint()
        self.open -= 1


def user_of(session: Any) -> KMSMasterKeyProvider:
    keys = [session.kms.create_key(region=region) for region in (US, EU)]
    return KMSMasterKeyProvider(keys, connection=AWSConnection(session=session))


def skip_trio(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("aiobotocore runs on asyncio")


@each_way
async def test_cancelled_at_every_suspension_of_leaving(way: Way, anyio_backend_name: str) -> None:
    skip_trio(anyio_backend_name)
    for number in count():
        session = SlowSession()
        user = user_of(session)
        await user.__aenter__()
        await user.warm_up()
        assert session.open == 2
        reached, _ = await way.at(number, user.aclose)
        assert session.open == 0
        with pytest.raises(ProviderClosedError):
            await user.warm_up()
        if not reached:
            break
    assert number > 0
    assert_idle()


@each_way
async def test_cancelled_at_every_suspension_of_making(way: Way, anyio_backend_name: str) -> None:
    skip_trio(anyio_backend_name)
    for number in count():
        session = SlowSession()
        user = user_of(session)
        async with user:
            others = [asyncio.create_task(user.warm_up()) for _ in range(2)]
            reached, _ = await way.at(number, user.warm_up)
            await asyncio.gather(*others)
            await user.warm_up()
            assert session.open == 2
        assert session.open == 0
        if not reached:
            break
    assert number > 0
    assert_idle()


@each_way
async def test_cancelled_at_every_suspension_of_entering(way: Way, anyio_backend_name: str) -> None:
    skip_trio(anyio_backend_name)
    for number in count():
        session = SlowSession()
        user = user_of(session)
        reached, cancelled = await way.at(number, user.__aenter__)
        if not cancelled:
            await user.warm_up()
            await user.aclose()
        with pytest.raises(ProviderClosedError):
            await user.warm_up()
        assert session.open == 0
        if not reached:
            break
    assert_idle()


@on_asyncio
async def test_leaving_while_clients_are_made_waits_for_nobody() -> None:
    session = SlowSession()
    never = asyncio.Event()

    @asynccontextmanager
    async def hang(region: str) -> AsyncIterator[Any]:
        await never.wait()
        yield None

    session._client = hang  # type: ignore[method-assign]
    user = user_of(session)
    await user.__aenter__()
    making = asyncio.create_task(user.warm_up())
    for _ in range(20):
        await asyncio.sleep(0.001)
    await user.aclose()
    with pytest.raises(ProviderClosedError, match="the provider was closed while it created a client"):
        await making
    assert_idle()


def test_all_tasks_of_the_loop_are_cancelled_while_it_is_left() -> None:
    session = SlowSession()

    async def main() -> None:
        user = user_of(session)
        await user.__aenter__()
        await user.warm_up()
        leaving = asyncio.create_task(user.aclose())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([leaving])

    asyncio.run(main())
    assert session.open <= 1, "the one that was being closed heard of it"
