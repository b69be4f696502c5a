"""A service that keeps uploads, encrypted or plain, and watches its own loop; `data.py` starts and loads it.

    PUT /files/NAME, GET /files/NAME    as the examples do
    POST /begin, GET /figures           measure what lies between

Plain, it is what one writes without this library: files are written in threads, downloads are the
framework's own `FileResponse`. Its port is the first line that it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import attrs
import ours
from common import KIB, MIB, TICK, peak_memory, start_peak_again

AIOHTTP, STARLETTE = "aiohttp", "Starlette"
FRAME = 64 * KIB


@attrs.define
class Watch:
    """How late a timer of a millisecond fires, and how much memory there is."""

    delays: list[float] = attrs.field(factory=list)
    idle: int = 0

    async def tick(self) -> None:
        """Collect delays in milliseconds, until cancelled."""
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.delays.append((time.perf_counter() - due) * 1000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tick meanwhile."""
        ticker = asyncio.create_task(self.tick())
        yield
        ticker.cancel()

    def begin(self) -> dict[str, object]:
        """Forget what was."""
        gc.collect()
        start_peak_again()
        self.idle = peak_memory()
        self.delays.clear()
        return {}

    def figures(self) -> dict[str, object]:
        """Return what was since `begin`."""
        # The kernel counts pages in batches: a peak may come out below what was there before.
        return {"delays": list(self.delays), "memory": max(0, peak_memory() - self.idle) / MIB}


async def store_encrypted(path: Path, length: int | None, body: AsyncGenerator[bytes, None]) -> None:
    """Write a message into a file, which appears when it is whole."""
    writer = ours.CLIENT.open(
        path,
        "wb",
        provider=ours.KEY,
        algorithm_suite=ours.SUITES["unsigned"],
        frame_length=FRAME,
        plaintext_length=length,
    )
    async with writer, aclosing(body):
        async for chunk in body:
            await writer.write(chunk)


async def store_plain(path: Path, body: AsyncIterator[bytes]) -> None:
    """Write what arrives into a file, which appears when it is whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        async for chunk in body:
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(os.fsync, file.fileno())
    partial.rename(path)


def on_aiohttp(folder: Path, plain: bool, listener: socket.socket) -> None:
    """Serve with aiohttp."""
    from aiohttp import web

    from aioencrypt.integrations.aiohttp import UploadReader, decrypted_response

    watch = Watch()

    async def put(request: web.Request) -> web.Response:
        path = folder / request.match_info["name"]
        if plain:
            await store_plain(path, request.content.iter_any())
        else:
            reader = UploadReader(request, max_length=None)
            await store_encrypted(path, reader.length, reader.stream())
        return web.Response(status=201)

    async def get(request: web.Request) -> web.StreamResponse:
        path = folder / request.match_info["name"]
        return web.FileResponse(path) if plain else await decrypted_response(request, path, ours.KEY)

    async def begin(request: web.Request) -> web.Response:
        return web.json_response(watch.begin())

    async def figures(request: web.Request) -> web.Response:
        return web.json_response(watch.figures())

    async def watched(app: web.Application) -> AsyncIterator[None]:
        async with watch.running():
            yield

    app = web.Application()
    app.cleanup_ctx.append(watched)
    app.router.add_put("/files/{name}", put)
    app.router.add_get("/files/{name}", get)
    app.router.add_post("/begin", begin)
    app.router.add_get("/figures", figures)
    web.run_app(app, sock=listener, print=None, access_log=None)


def on_starlette(folder: Path, plain: bool, listener: socket.socket) -> None:
    """Serve with Starlette and uvicorn."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route

    from aioencrypt.integrations.asgi import DecryptedResponse, UploadReader

    watch = Watch()

    async def put(request: Request) -> Response:
        path = folder / request.path_params["name"]
        if plain:
            await store_plain(path, request.stream())
        else:
            reader = UploadReader(request, max_length=None)
            await store_encrypted(path, reader.length, reader.stream())
        return Response(status_code=201)

    async def get(request: Request) -> Response:
        path = folder / request.path_params["name"]
        return FileResponse(path) if plain else DecryptedResponse(path, ours.KEY)

    async def begin(request: Request) -> Response:
        return JSONResponse(watch.begin())

    async def figures(request: Request) -> Response:
        return JSONResponse(watch.figures())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with watch.running():
            yield

    routes = [
        Route("/files/{name}", put, methods=["PUT"]),
        Route("/files/{name}", get),
        Route("/begin", begin, methods=["POST"]),
        Route("/figures", figures),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    # The same loop and parser wherever it runs, and the loop that aiohttp has.
    config = uvicorn.Config(app, loop="asyncio", http="h11", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


SERVICES = {AIOHTTP: on_aiohttp, STARLETTE: on_starlette}


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=list(SERVICES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        with suppress(KeyboardInterrupt):
            SERVICES[arguments.framework](arguments.folder, arguments.plain, listener)


if __name__ == "__main__":
    main()
