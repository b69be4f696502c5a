"""Clients that a caller gives: refused before the first call where they cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from aioencrypt.errors import ProviderError
from aioencrypt.runtime.event_loops import on_trio, running_loop

T = TypeVar("T")
C = TypeVar("C")


def check_client(client: C) -> C:
    """Return a client as it is; raises `TypeError` for one of boto3."""
    homes = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(client).__mro__}
    # Of no other client it can be told before it is called: the methods of aiobotocore are plain functions.
    if "botocore.client.BaseClient" in homes and "aiobotocore.client.AioBaseClient" not in homes:
        raise TypeError(
            "this is a client of boto3, which blocks the event loop: give one of aiobotocore, or leave the "
            "client out, and it is made"
        )
    return client


def check_clients(clients: Mapping[str, C]) -> dict[str, C]:
    """Return a copy of clients by region; raises `TypeError`."""
    if not isinstance(clients, Mapping):
        kind = type(clients).__name__
        raise TypeError(f"clients is a mapping of region to client, not {kind}: write {{region: client}}")
    return {region: check_client(client) for region, client in clients.items()}


async def answer_of_client(answer: Awaitable[T], what: str) -> T:
    """Await what a client or supplier of the caller returned; raises `ProviderError` where that cannot be."""
    if not inspect.isawaitable(answer):
        raise ProviderError(
            f"{what} returned {type(answer).__name__}, which is not awaited: "
            "clients have to be asynchronous, like those of aiobotocore"
        )
    return await answer


def loop_of_clients() -> object:
    """Return the running event loop; raises `ProviderError` where aiobotocore does not run on it."""
    if on_trio():
        raise ProviderError(
            "AWS clients are made with aiobotocore, which runs on asyncio and not on trio: "
            "run there, or pass clients= or client_supplier="
        )
    return running_loop()
