"""S3 over HTTP: moto's server behind a proxy that loses connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import attrs
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

BUCKET = "bucket"
HEAD_END = b"\r\n\r\n"


@attrs.define
class Proxy:
    """Passes bytes on, one request for each connection, as moto has it.

    `cuts` say for the next requests of a method after how many bytes of the answer the connection is
    lost: those of its head count. `heads` are the heads of all requests.
    """

    upstream: tuple[str, int]
    cuts: dict[bytes, list[int]] = attrs.field(factory=dict)
    heads: list[bytes] = attrs.field(factory=list)
    serving: set[asyncio.Task[Any]] = attrs.field(factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())  # type: ignore[arg-type]
        server_reader, server_writer = await asyncio.open_connection(*self.upstream)
        pumps: list[asyncio.Task[None]] = []
        try:
            head = await reader.readuntil(HEAD_END)
            self.heads.append(head)
            cuts = self.cuts.get(head.split(b" ")[0])
            server_writer.write(head)
            pumps.append(asyncio.create_task(pump(reader, server_writer)))
            pumps.append(asyncio.create_task(pump(server_reader, writer, cuts.pop(0) if cuts else None)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except EOFError:  # a connection without a request
            pass
        finally:
            for task in pumps:
                task.cancel()
            if pumps:
                await asyncio.wait(pumps)
            writer.close()
            server_writer.close()

    async def idle(self) -> None:
        """Wait until no connection is open."""
        while running := [task for task in self.serving if not task.done()]:
            await asyncio.wait(running)

    def fields(self, method: bytes) -> list[dict[bytes, bytes]]:
        """Return the header fields of all requests of a method."""
        found = []
        for head in self.heads:
            first, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
            if first.startswith(method):
                found.append(
                    {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
                )
        return found


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None = None) -> None:
    """Pass bytes on, up to a length, until either side closes."""
    with contextlib.suppress(OSError):
        while length != 0 and (data := await reader.read(65536)):
            if length is not None:
                data = data[:length]
                length -= len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """Run a proxy in this loop; yields its URL."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy((parts.hostname, parts.port))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", proxy
    finally:
        server.close()
        await server.wait_closed()
        await proxy.idle()


@cache
def _session() -> Any:
    """Return one for all, because each reads its data files anew."""
    return get_session()


@asynccontextmanager
async def s3_client(url: str, **config: Any) -> AsyncIterator[Any]:
    """Make a client of aiobotocore."""
    settings = AioConfig(**{"retries": {"mode": "standard", "total_max_attempts": 1}, **config})
    session = get_session()
    async with session.create_client(
        "s3", region_name="us-east-1", endpoint_url=url, config=settings
    ) as client:
        yield client


async def uploads(client: Any) -> list[Any]:
    """List the multipart uploads that are open."""
    answer = await client.list_multipart_uploads(Bucket=BUCKET)
    found: list[Any] = answer.get("Uploads", [])
    return found
