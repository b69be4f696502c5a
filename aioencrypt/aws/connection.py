"""Connections to AWS: how clients are created, shared and closed.

The only file that imports aiobotocore.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import attrs

from aioencrypt.aws.client_checks import check_client, check_config, check_session
from aioencrypt.aws.errors import call_service
from aioencrypt.aws.protocols import ClientSupplier, DynamoDBClient, KMSClient
from aioencrypt.errors import ProviderClosedError, ProviderError, ServiceError
from aioencrypt.runtime.arguments import check_seconds, check_type, describe_type
from aioencrypt.runtime.cache import AsyncCache
from aioencrypt.runtime.event_loops import BackgroundTask, find_loop, is_being_closed, on_trio, running_loop
from aioencrypt.runtime.observation import ServiceCall
from aioencrypt.runtime.offload import in_file_thread, wait_shielded
from aioencrypt.runtime.plugins import await_answer

if TYPE_CHECKING:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession

C = TypeVar("C")
S = TypeVar("S")
Service = Literal["kms", "dynamodb"]

# A client takes about 1 MB of memory, and untrusted messages may name any region. AWS has some forty.
_MAX_CLIENTS = 64
_SERVICES: dict[str, tuple[Literal["KMS", "DynamoDB"], type]] = {
    "kms": ("KMS", KMSClient),
    "dynamodb": ("DynamoDB", DynamoDBClient),
}


class ClientPool:
    """The clients that one connection has created, one set for each event loop and process."""

    def __init__(self) -> None:
        self._opened: list[_OpenClients] = []

    def here(self) -> _OpenClients | None:
        """Return the open clients of this loop and process, or None."""
        return next((opened for opened in self._opened if opened.is_here), None)

    async def open(self, connection: AWSConnection, service: Service) -> _OpenClients:
        """Return the clients of this loop and process; the caller counts its entry."""
        if on_trio():
            raise ProviderError(
                "aiobotocore creates the AWS clients and does not run on trio: "
                "use asyncio, or give ready clients or a supplier in connection="
            )
        if (opened := self.here()) is None:
            self._opened = [opened for opened in self._opened if not opened.is_stale]
            session, config = await in_file_thread(partial(_load_aiobotocore, connection, service))
            # Another task may have opened them while this one waited.
            if (opened := self.here()) is None:
                opened = _OpenClients(connection, session, config)
                self._opened.append(opened)
        return opened

    def drop(self, opened: _OpenClients) -> None:
        """Forget clients that are about to be closed."""
        self._opened.remove(opened)


def _load_aiobotocore(connection: AWSConnection, service: Service) -> tuple[AioSession, AioConfig]:
    """Import aiobotocore and read its data files: a tenth of a second, so in a thread."""
    try:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import AioSession
    except ImportError as error:
        raise ImportError(
            "AWS clients need aiobotocore: pip install 'aioencrypt[aws]', "
            "or give ready clients or a supplier in connection="
        ) from error
    session = connection.session or AioSession(profile=connection.profile)
    _load_data(session, service)
    config = AioConfig(
        connect_timeout=5,
        read_timeout=10,
        max_pool_connections=50,
        tcp_keepalive=True,
        retries={"mode": "standard"},
        user_agent_extra="aioencrypt",
    )
    if given := connection.client_config:
        # merge() would take a dictionary of retries whole, and lose the mode.
        retries = {**config.retries, **(given.retries or {})}
        config = config.merge(given).merge(AioConfig(retries=retries))
    return session, config


def _load_data(session: AioSession, service: Service) -> None:
    """Read the data files of a service, which its loader keeps."""
    loader = session.get_component("data_loader")
    loader.load_data("endpoints")
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model(service, kind)


_alive: WeakSet[_OpenClients] = WeakSet()
_of_parents: list[_OpenClients] = []
# Kept for the life of the child: collecting an inherited connection would deregister it from the epoll
# instance that the child shares with its parent, and the parent would wait for answers for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _of_parents.extend(_alive))


class _OpenClients:
    """Clients that we created on one event loop of one process; open until the last entry leaves."""

    def __init__(self, connection: AWSConnection, session: AioSession, config: AioConfig) -> None:
        self.entries = 0
        self._connection = connection
        self._session = session
        self._config = config
        self._loop: Any = running_loop()
        self._process = os.getpid()
        self._clients: dict[tuple[Service, str | None], Any] = {}
        # The keys of all clients, including those being created.
        self._keys: set[tuple[Service, str | None]] = set()
        self._stack = AsyncExitStack()
        # Single flight: callers share the creation of a client, and cancelling one does not stop it.
        self._making: AsyncCache[Any] = AsyncCache(capacity=0)
        self._closed = False
        _alive.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this process opened them; after a fork they belong to the parent, which closes them."""
        return os.getpid() == self._process

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the event loop and in the process that opened them."""
        return self.is_ours and find_loop() is self._loop

    @property
    def is_stale(self) -> bool:
        """Whether their event loop is closed, so that nobody can close them any more."""
        return self.is_ours and self._loop.is_closed()

    async def get(self, service: Service, region: str | None) -> Any:
        """Return the client for a region, creating it on first use."""
        key = service, region
        if key not in self._clients:
            if key not in self._keys and len(self._keys) >= _MAX_CLIENTS:
                raise ServiceError(
                    f"no client is created for {region!r}, as there are clients for {_MAX_CLIENTS} regions; "
                    "restrict the regions with region= or limit_regions()"
                )
            self._keys.add(key)
            try:
                await self._making.get(key, partial(self._make, *key), max_age=0.0)
            except ProviderClosedError as error:
                raise ProviderClosedError("the provider was closed while it created a client") from error
        return self._clients[key]

    async def _make(self, service: Service, region: str | None) -> None:
        try:
            await in_file_thread(partial(_load_data, self._session, service))
            client = self._session.create_client(
                service,
                region_name=region,
                endpoint_url=getattr(self._connection, service),
                config=self._config,
            )
            self._clients[service, region] = await self._stack.enter_async_context(client)
        except BaseException:
            self._keys.discard((service, region))
            raise

    async def aclose(self) -> None:
        """Close all clients, including those being created, even if the caller is cancelled."""
        closing = BackgroundTask()
        failures: list[BaseException] = []
        closing.start(partial(self._close, failures))
        try:
            await wait_shielded(closing.ended)
        finally:
            if not self._closed and not is_being_closed():
                # The event loop shut down and cancelled the closing task before its first step.
                await self._close(failures)
        if failures:
            raise failures[0]

    async def _close(self, failures: list[BaseException]) -> None:
        try:
            await self._making.aclose()
            await self._stack.aclose()
        except Exception as error:
            failures.append(error)
        self._closed = True


def check_name(what: str, name: object) -> None:
    """Check the name of a region or profile, or None; raises `ValueError`."""
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"{what} must be the name of a {what.rpartition('_')[2]}, or None")


def check_timeout(timeout: float | None) -> None:
    """Check a time limit in seconds, or None; raises `TypeError` and `ValueError`."""
    if timeout is not None and not check_seconds("timeout", timeout) > 0:
        raise ValueError(f"timeout is {timeout}; it must be more than 0 seconds, or None")


def _check_client(client: C, service: str) -> C:
    name, protocol = _SERVICES[service]
    return check_client(client, name, [method for method in vars(protocol) if not method.startswith("_")])


def _checked_source(name: str, source: S) -> S:
    """Check the `kms` or `dynamodb` argument of a connection; raises `TypeError` and `ValueError`."""
    if isinstance(source, Mapping):
        for region, client in source.items():
            _check_client(client, name)
            if not isinstance(region, str):
                raise TypeError(f"the keys of {name} must be region names (str), not {describe_type(region)}")
        return cast(S, MappingProxyType(dict(source)))
    if isinstance(source, str) and not source.startswith(("http://", "https://")):
        raise ValueError(f"{name} is {source!r}; write the endpoint as a URL, https://...")
    if isinstance(source, type) or not (source is None or isinstance(source, str) or callable(source)):
        raise TypeError(
            f"{name} must be an endpoint URL, a mapping of region to client, or an async function from "
            f"region to client, not {describe_type(source)}: write {{region: client}}"
        )
    return source


def _kms_source(
    source: str | Mapping[str, KMSClient] | ClientSupplier | None,
) -> str | Mapping[str, KMSClient] | ClientSupplier | None:
    return _checked_source("kms", source)


def _dynamodb_source(
    source: str | Mapping[str, DynamoDBClient] | Callable[[str | None], Awaitable[DynamoDBClient]] | None,
) -> str | Mapping[str, DynamoDBClient] | Callable[[str | None], Awaitable[DynamoDBClient]] | None:
    return _checked_source("dynamodb", source)


@attrs.frozen(kw_only=True)
class AWSConnection:
    """How to reach AWS. Providers that get the same connection object share its clients.

    By default, clients use the standard AWS credentials. `profile` names a profile in the AWS configuration
    files; an aiobotocore `session` brings its own credentials. `region` is used for keys and tables that
    name none. `client_config` is merged over our settings. `timeout` is in seconds, for one call with all
    its retries; None means no limit.

    `kms` and `dynamodb` each take an endpoint URL, ready clients by region (``{"us-east-1": client}``), or a
    client supplier: an async function that takes a region (None: the default region) and returns a client.
    We never close clients that you supply. Without them, clients are created and live as long as a provider
    of this connection is inside `async with`.

    A connection pickles as its settings, unless it holds a session, clients or a supplier. Raises `TypeError`
    for a session or client that cannot work, such as boto3's, and `ValueError`.
    """

    region: str | None = None
    profile: str | None = None
    session: AioSession | None = None
    client_config: AioConfig | None = None
    timeout: float | None = 30.0
    kms: str | Mapping[str, KMSClient] | ClientSupplier | None = attrs.field(
        default=None, converter=_kms_source, hash=False
    )
    dynamodb: (
        str | Mapping[str, DynamoDBClient] | Callable[[str | None], Awaitable[DynamoDBClient]] | None
    ) = attrs.field(default=None, converter=_dynamodb_source, hash=False)
    pool: ClientPool = attrs.field(init=False, factory=ClientPool, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_name("region", self.region)
        check_name("profile", self.profile)
        check_timeout(self.timeout)
        if self.session is not None:
            check_session(self.session)
        if self.client_config is not None:
            check_config(self.client_config)
        if self.profile is not None and self.session is not None:
            raise ValueError("give profile or session, not both: a session has its own profile")
        given = self._given
        if len(given) == 2 and (self.profile or self.session is not None or self.client_config is not None):
            raise ValueError(
                "profile, session and client_config have no effect if both services have ready clients"
            )

    @property
    def _given(self) -> list[object]:
        """The arguments that hold ready clients or a supplier."""
        return [source for source in (self.kms, self.dynamodb) if not isinstance(source, str | None)]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.session is not None or self._given:
            raise TypeError(
                "a connection with a session, clients or a supplier cannot be pickled or copied; "
                "create it where it is used"
            )
        # A copy starts with an empty pool.
        return partial(
            AWSConnection, **attrs.asdict(self, filter=lambda field, _: field.init, recurse=False)
        ), ()


class AWSClients(Generic[C]):
    """One provider's use of the clients of one service: it counts its own entries, the clients are shared."""

    def __init__(
        self, connection: AWSConnection | None, service: Service, user: str = "the provider"
    ) -> None:
        if connection is not None:
            check_type("connection", connection, AWSConnection, ": write AWSConnection(...)")
        self.connection: AWSConnection = connection or AWSConnection()
        self._service = service
        self._user = user
        self._source: Any = getattr(self.connection, service)
        self.makes: bool = isinstance(self._source, str | None)
        self._entries: WeakKeyDictionary[_OpenClients, int] = WeakKeyDictionary()

    def recipe(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, ...]:
        """Return the result of `__reduce__` for an object that uses these clients; its copy is not entered.

        Raises `TypeError` if the connection cannot be copied.
        """
        copy(self.connection)
        return partial(make, connection=self.connection, **options), arguments

    async def enter(self) -> None:
        """Open the clients, and keep them open until `leave` is called as often."""
        if self.makes:
            opened = await self.connection.pool.open(self.connection, self._service)
            opened.entries += 1
            self._entries[opened] = self._entries.get(opened, 0) + 1

    async def leave(self) -> None:
        """Close the clients if this was the last entry; does nothing without a matching `enter`."""
        if not any(opened.is_ours for opened in self._entries):
            return
        if is_being_closed() and self.connection.pool.here() is None:
            return  # the event loop is gone, and nobody can close its clients
        opened = self._open()
        opened.entries -= 1
        self._entries[opened] -= 1
        if not self._entries[opened]:
            del self._entries[opened]
        if not opened.entries:
            self.connection.pool.drop(opened)
            await opened.aclose()

    def _open(self) -> _OpenClients:
        opened = self.connection.pool.here()
        if opened is not None and opened in self._entries:
            return opened
        if any(opened.is_ours for opened in self._entries):
            raise ProviderClosedError(f"{self._user} was opened on another event loop; open it on this one")
        if self._entries:
            raise ProviderClosedError(f"{self._user} was opened before a fork; open it in this process")
        raise ProviderClosedError(
            f"{self._user} is not open: open it with `async with`, or give ready clients in connection="
        )

    async def get(self, region: str | None) -> C:
        """Return the client for a region (None: the default region); raises `ServiceError`."""
        region = region or self.connection.region
        if self.makes:
            return cast(C, await self._open().get(self._service, region))
        if not isinstance(self._source, Mapping):
            what = f"the supplier in {self._service}="
            client = await await_answer(what, self._source(region), object)
            return cast(C, _check_client(client, self._service))
        if region is None and len(self._source) == 1:
            return cast(C, next(iter(self._source.values())))
        if region is None:
            raise ServiceError(
                f"no region is given, and {self._service}= of the connection has {len(self._source)} "
                "clients; give an ARN, or region="
            )
        if region not in self._source:
            raise ServiceError(
                f"{self._service}= of the connection has no client for the region {region!r}, "
                f"only for {sorted(self._source)}"
            )
        return cast(C, self._source[region])

    async def warm_up(self, regions: Sequence[str | None]) -> None:
        """Create the clients for these regions; raises `ServiceError`."""
        for region in dict.fromkeys(regions):
            what = f"a {self._service} client for {region}"
            await call_service(what, partial(self.get, region), self.connection.timeout)

    async def call(
        self,
        operation: str,
        resource: str,
        region: str | None,
        call: Callable[[C], Awaitable[Mapping[str, Any]]],
    ) -> Mapping[str, Any]:
        """Call the client for a region; `operation` and `resource` name the call. Raises `ServiceError`."""
        region = region or self.connection.region

        async def with_client() -> Mapping[str, Any]:
            client = await self.get(region)
            what = f"{type(client).__name__}, asked for {operation},"
            return await await_answer(what, call(client), Mapping)  # type: ignore[type-abstract]

        observed = ServiceCall(_SERVICES[self._service][0], operation, resource, region)
        return await call_service(observed, with_client, self.connection.timeout)


class EntersConnection:
    """Base class with `async with` for providers and stores that use AWS clients."""

    def __init__(self, *clients: AWSClients[Any]) -> None:
        self._entered = clients

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for clients in self._entered:
                await clients.enter()
                stack.push_async_callback(clients.leave)
            stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave `async with`."""
        async with AsyncExitStack() as stack:
            for clients in self._entered:
                stack.push_async_callback(clients.leave)
