"""AWS clients: where they come from, and how long they live. The only file that knows aiobotocore."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

import anyio

from aioencrypt.aws.client_checks import answer_of_client, check_client, check_clients, loop_of_clients
from aioencrypt.aws.errors import call_service
from aioencrypt.errors import ProviderClosedError, ServiceError
from aioencrypt.runtime.event_loops import running_loop
from aioencrypt.runtime.offload import in_file_thread

if TYPE_CHECKING:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession

C = TypeVar("C")

# A client takes a megabyte, and strangers' messages may name any regions. AWS has some forty.
_MAX_CLIENTS = 64


def _load_aiobotocore(session: AioSession | None, service: str) -> tuple[AioSession, AioConfig]:
    """Import aiobotocore and read its data files: a tenth of a second, so in a thread."""
    try:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
    except ImportError as error:
        raise ImportError(
            "AWS clients need aiobotocore: pip install 'aioencrypt[aws]', or pass clients="
        ) from error
    session = session or get_session()
    loader = session.get_component("data_loader")
    loader.load_data("endpoints")
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model(service, kind)
    config = AioConfig(
        connect_timeout=5,
        read_timeout=10,
        max_pool_connections=50,
        tcp_keepalive=True,
        retries={"mode": "standard"},
        user_agent_extra="aioencrypt",
    )
    return session, config


class AWSClients(Generic[C]):
    """The clients for one service (``"kms"``, ``"dynamodb"``) of one provider, one for each region.

    Clients and suppliers that were given are used as they are and never closed. Otherwise clients are
    made from an aiobotocore session inside `async with`, whose entries are counted.
    """

    def __init__(
        self,
        service: str,
        *,
        session: AioSession | None,
        client_config: AioConfig | None,
        endpoint_url: str | None,
        clients: Mapping[str, C] | None,
        client_supplier: Callable[[str | None], Awaitable[C]] | None = None,
    ) -> None:
        own = session is not None or client_config is not None or endpoint_url is not None
        if (clients is not None) + (client_supplier is not None) + own > 1:
            raise ValueError(
                "give clients, or client_supplier, or any of session, client_config and endpoint_url"
            )
        self._service = service
        self._session = session
        self._config = client_config
        self._endpoint_url = endpoint_url
        self._clients = check_clients(clients) if clients is not None else None
        self._supplier = client_supplier
        self._entries = 0
        self._open: _OpenClients[C] | None = None

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments that make an equal object; raises `TypeError` where that cannot be pickled."""
        if self._clients is not None or self._supplier is not None or self._session is not None:
            raise TypeError(
                "a provider with a session, clients or a supplier of its caller is not pickled or copied; "
                "build it where it is used"
            )
        return {"client_config": self._config, "endpoint_url": self._endpoint_url}

    @property
    def _makes_clients(self) -> bool:
        return self._clients is None and self._supplier is None

    async def enter(self) -> None:
        if not self._makes_clients:
            return
        if self._open is None:
            session, config = await in_file_thread(partial(_load_aiobotocore, self._session, self._service))
            if self._config:
                # merge() would take a dictionary of retries whole, and lose the mode.
                retries = {**config.retries, **(self._config.retries or {})}
                config = config.merge(self._config).merge(type(config)(retries=retries))
            # Another task may have entered meanwhile.
            self._open = self._open or _OpenClients(
                partial(session.create_client, self._service, endpoint_url=self._endpoint_url, config=config)
            )
        self._check_owner()
        self._entries += 1

    async def exit(self) -> None:
        if not self._makes_clients or not self._entries:
            return
        if self._open and self._open.ours:
            self._open.check_owner()
        self._entries -= 1
        if not self._entries and self._open:
            opened, self._open = self._open, None
            with anyio.CancelScope(shield=True):
                await opened.aclose()

    def _check_owner(self) -> _OpenClients[C]:
        if self._open is None:
            raise ProviderClosedError("the provider is not open: open it with `async with`, or pass clients=")
        self._open.check_owner()
        return self._open

    async def warm_up(self, regions: Sequence[str | None], timeout: float | None) -> None:
        """Make the clients for these regions, each within a time in seconds; raises `ServiceError`."""
        for region in dict.fromkeys(regions):
            await call_service(f"a {self._service} client for {region}", partial(self.get, region), timeout)

    async def get(self, region: str | None) -> C:
        """Return the client for a region, or for the default region; raises `ServiceError`."""
        if self._supplier is not None:
            return check_client(await answer_of_client(self._supplier(region), "client_supplier"))
        if self._clients is None:
            return await self._check_owner().get(region)
        if region is None and len(self._clients) == 1:
            return next(iter(self._clients.values()))
        if region is None:
            raise ServiceError(
                "the key is named without a region, and clients= does not have exactly one; give its ARN"
            )
        if region not in self._clients:
            raise ServiceError(
                f"clients= has no client for the region {region!r}, only for {sorted(self._clients)}"
            )
        return self._clients[region]


_opened: WeakSet[_OpenClients[Any]] = WeakSet()
_of_parents: list[_OpenClients[Any]] = []
# Kept for ever: a connection that is collected after a fork takes itself out of the event loop of the
# parent, which then waits for answers in vain.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _of_parents.extend(_opened))


class _OpenClients(Generic[C]):
    """Clients that we made, open on one event loop in one process."""

    def __init__(self, create: Callable[..., AbstractAsyncContextManager[C]]) -> None:
        self._create = create
        self._stack = AsyncExitStack()
        self._clients: dict[str | None, C] = {}
        self._lock = anyio.Lock()
        self._loop = loop_of_clients()
        self._process = os.getpid()
        self._closed = False
        _opened.add(self)

    @property
    def ours(self) -> bool:
        """Whether this process opened them; otherwise they belong to the parent, which closes them."""
        return os.getpid() == self._process

    def check_owner(self) -> None:
        """Raise `ProviderClosedError` on another loop or after a fork: connections cannot be shared."""
        if not self.ours:
            raise ProviderClosedError("the provider was opened before a fork; open one in this process")
        if running_loop() is not self._loop:
            raise ProviderClosedError("the provider was opened on another event loop; open one on this loop")

    async def get(self, region: str | None) -> C:
        async with self._lock:
            if self._closed:
                raise ProviderClosedError("the provider was left while it made a client")
            if region not in self._clients:
                if len(self._clients) >= _MAX_CLIENTS:
                    here = f"there are clients for {_MAX_CLIENTS} regions, and none is made for {region!r}"
                    raise ServiceError(f"{here}; say which ones are yours with region= or limit_regions()")
                creator = self._create(region_name=region)
                self._clients[region] = await self._stack.enter_async_context(creator)
            return self._clients[region]

    async def aclose(self) -> None:
        if self.ours:
            self._closed = True
            async with self._lock:  # a client that is being made is closed, too
                await self._stack.aclose()
