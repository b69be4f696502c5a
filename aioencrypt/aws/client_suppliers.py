"""Client suppliers, which map a region to a KMS client: pass one as `kms=` of an `AWSConnection`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from aioencrypt.aws.connection import AWSClients, AWSConnection, EntersConnection
from aioencrypt.aws.protocols import ClientSupplier, KMSClient
from aioencrypt.errors import ServiceError
from aioencrypt.runtime.arguments import check_texts, describe_type
from aioencrypt.runtime.plugins import await_answer


class KMSClientFactory(EntersConnection):
    """A client supplier that creates one KMS client for each region, on first use.

    Restrict it with `limit_regions` or `exclude_regions`. Use it inside `async with`; the last exit closes
    the clients.
    """

    def __init__(self, *, connection: AWSConnection | None = None) -> None:
        self._clients: AWSClients[KMSClient] = AWSClients(connection, "kms", "the KMSClientFactory")
        super().__init__(self._clients)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._clients.recipe(KMSClientFactory)

    async def __call__(self, region: str | None) -> KMSClient:
        """Return the client for a region (None: the default region); raises `ProviderClosedError`."""
        return await self._clients.get(region)


class _RestrictedSupplier:
    """A client supplier behind checks of the region. Restricting it again adds a check, not a level."""

    def __init__(self, supplier: ClientSupplier, check: Callable[[str], None]) -> None:
        self.supplier = supplier
        self.checks: tuple[Callable[[str], None], ...] = (check,)
        if isinstance(supplier, _RestrictedSupplier):
            self.supplier, self.checks = supplier.supplier, (check, *supplier.checks)

    async def __call__(self, region: str | None) -> KMSClient:
        # Without a region the client picks one from its configuration, so it cannot be checked here.
        if region is None:
            raise ServiceError(
                "the key id has no region, so it cannot be checked against the allowed regions; "
                "give the key ARN"
            )
        for check in self.checks:
            check(region)
        return cast("KMSClient", await await_answer("the client supplier", self.supplier(region), object))


def limit_regions(supplier: ClientSupplier, regions: Iterable[str]) -> ClientSupplier:
    """Return a supplier that serves only these regions; other regions raise `ServiceError`."""
    allowed = _region_set(supplier, regions)
    if not allowed:
        raise ValueError("regions is empty: name at least one")

    def check(region: str) -> None:
        if region not in allowed:
            raise ServiceError(
                f"the region {region!r} is not one of the allowed regions, {sorted(allowed)}; "
                "add it to limit_regions, or use a key in one of them"
            )

    return _RestrictedSupplier(supplier, check)


def exclude_regions(supplier: ClientSupplier, regions: Iterable[str]) -> ClientSupplier:
    """Return a supplier that serves all but these regions, which raise `ServiceError`."""
    excluded = _region_set(supplier, regions)

    def check(region: str) -> None:
        if region in excluded:
            raise ServiceError(
                f"the region {region!r} is excluded; "
                "remove it from exclude_regions, or use a key in another region"
            )

    return _RestrictedSupplier(supplier, check)


def _region_set(supplier: ClientSupplier, regions: Iterable[str]) -> frozenset[str]:
    if not callable(supplier):
        raise TypeError(
            f"a client supplier must be an async function of a region, not {describe_type(supplier)}"
        )
    names = frozenset(check_texts("regions", regions, "region"))
    if "" in names:
        raise ValueError("regions has an empty name: name AWS regions")
    return names
