"""How one provider calls AWS KMS: its clients, grant tokens and time limit.

Specification: framework/aws-kms/aws-kms-keyring.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aioencrypt.aws.client_checks import answer_of_client
from aioencrypt.aws.connection import AWSClients
from aioencrypt.aws.errors import call_service
from aioencrypt.aws.protocols import ClientSupplier, KMSClient
from aioencrypt.errors import ProviderError
from aioencrypt.runtime.observation import ServiceCall

if TYPE_CHECKING:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession


class KMSService:
    """What the keys of one provider call KMS with.

    `timeout` is in seconds, for one call with all its retries. Raises `TypeError` and `ValueError` for
    arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        session: AioSession | None,
        client_config: AioConfig | None,
        endpoint_url: str | None,
        clients: Mapping[str, KMSClient] | None,
        client_supplier: ClientSupplier | None,
        grant_tokens: Sequence[str],
        timeout: float | None,
    ) -> None:
        if isinstance(grant_tokens, str):
            raise TypeError("grant_tokens is a sequence of tokens, not one str")
        check_timeout(timeout)
        self._clients: AWSClients[KMSClient] = AWSClients(
            "kms",
            session=session,
            client_config=client_config,
            endpoint_url=endpoint_url,
            clients=clients,
            client_supplier=client_supplier,
        )
        self.grant_tokens: list[str] = list(grant_tokens)
        self.timeout: float | None = timeout

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments that make an equal object; raises `TypeError` where that cannot be pickled."""
        own = {"grant_tokens": tuple(self.grant_tokens), "timeout": self.timeout}
        return {**self._clients.configuration, **own}

    async def enter(self) -> None:
        """Open what makes clients; counted."""
        await self._clients.enter()

    async def exit(self) -> None:
        """Close it after as many calls."""
        await self._clients.exit()

    async def warm_up(self, regions: Sequence[str | None]) -> None:
        """Make the clients for these regions; raises `ServiceError`."""
        await self._clients.warm_up(regions, self.timeout)

    async def call(
        self,
        operation: str,
        key_id: str,
        region: str | None,
        call: Callable[[KMSClient], Awaitable[Mapping[str, Any]]],
    ) -> Mapping[str, Any]:
        """Call the client for a region; `operation` and `key_id` name the call. Raises `ServiceError`."""

        async def with_client() -> Mapping[str, Any]:
            client = await self._clients.get(region)
            return await answer_of_client(call(client), f"{type(client).__name__}, asked for {operation},")

        return await call_service(ServiceCall("KMS", operation, key_id, region), with_client, self.timeout)


def check_timeout(timeout: float | None) -> None:
    """Check a time limit in seconds; raises `TypeError` and `ValueError`."""
    if not isinstance(timeout, int | float | None):
        raise TypeError(f"timeout is a number of seconds, or None, not {type(timeout).__name__}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout}; it must be above 0 seconds, or None")


def bytes_of(answer: Mapping[str, Any], field: str) -> bytes:
    """Return a field of an answer that holds bytes; raises `ProviderError` where there are none."""
    value = answer.get(field) if isinstance(answer, Mapping) else None
    if not isinstance(value, bytes) or not value:
        raise ProviderError(f"the answer of KMS has no {field}")
    return value


def text_of(answer: Mapping[str, Any], field: str) -> str:
    """Return a field of an answer that holds text; raises `ProviderError` where there is none."""
    value = answer.get(field) if isinstance(answer, Mapping) else None
    if not isinstance(value, str):
        raise ProviderError(f"the answer of KMS has no {field}")
    return value
