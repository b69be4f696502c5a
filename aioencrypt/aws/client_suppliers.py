"""Client suppliers: which KMS client a region gets, and which regions get none.

They stand in `kms` of an `AWSConnection`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from aioencrypt.aws.connection import AWSClients, AWSConnection, EntersConnection
from aioencrypt.aws.protocols import ClientSupplier, KMSClient
from aioencrypt.errors import ServiceError
from aioencrypt.runtime.plugins import await_answer


class KMSClientFactory(EntersConnection):
    """Makes one KMS client for each region, when it is first asked for: a client supplier.

    It is what `limit_regions` and `exclude_regions` restrict. `async with` makes room for the clients, is
    counted, and closes them at its last exit.
    """

    def __init__(self, *, connection: AWSConnection | None = None) -> None:
        self._clients: AWSClients[KMSClient] = AWSClients(connection, "kms", "the KMSClientFactory")
        super().__init__(self._clients)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._clients.recipe(KMSClientFactory)

    async def __call__(self, region: str | None) -> KMSClient:
        """Return the client for a region, or for the default region; raises `ProviderClosedError`."""
        return await self._clients.get(region)


def limit_regions(supplier: ClientSupplier, regions: Iterable[str]) -> ClientSupplier:
    """Return a supplier for these regions alone; a key of another one fails with a `ServiceError`."""
    allowed = _region_set(supplier, regions)
    if not allowed:
        raise ValueError("regions is empty, so that no key could be called; name at least one")

    async def supply(region: str | None) -> KMSClient:
        if _known(region) not in allowed:
            raise ServiceError(
                f"the region {region!r} is not one of those that are allowed here, {sorted(allowed)}; "
                "allow it in limit_regions, or use a key of one of these"
            )
        return cast("KMSClient", await await_answer("the client supplier", supplier(region), object))

    return supply


def exclude_regions(supplier: ClientSupplier, regions: Iterable[str]) -> ClientSupplier:
    """Return a supplier for all but these regions; a key of one of them fails with a `ServiceError`."""
    excluded = _region_set(supplier, regions)

    async def supply(region: str | None) -> KMSClient:
        if _known(region) in excluded:
            raise ServiceError(
                f"the region {region!r} is excluded here; "
                "take it out of exclude_regions, or use a key of another region"
            )
        return cast("KMSClient", await await_answer("the client supplier", supplier(region), object))

    return supply


def _region_set(supplier: ClientSupplier, regions: Iterable[str]) -> frozenset[str]:
    if not callable(supplier):
        raise TypeError(f"a client supplier is an async function of a region, not {type(supplier).__name__}")
    if isinstance(regions, str):
        raise TypeError("regions is a collection of names of regions: write [region]")
    names = frozenset(regions)
    for name in names:
        if not isinstance(name, str) or not name:
            shown = repr(name) if name == "" else type(name).__name__
            raise TypeError(f"a region is a str that is not empty, not {shown}")
    return names


def _known(region: str | None) -> str:
    # The client's default may be any region, so that nobody knows whether it is allowed.
    if region is None:
        raise ServiceError(
            "the key is named without a region, so it may be one that is not allowed; give its ARN"
        )
    return region
