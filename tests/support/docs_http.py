"""Uses the handlers that the pages on HTTP define."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import httpx
from aiohttp.test_utils import TestClient, TestServer

from aioencrypt import TagError, decrypt
from tests.support.streaming import flipped

FIGURES = b"quarterly figures" * 1000


async def serve_aiohttp(names: dict[str, Any]) -> None:
    """Send, get and break a file as docs/aiohttp.md does it."""
    app = names["app"]
    for path, put, get in (
        ("/files/{name}", "upload", "download"),
        ("/relay", "relay", "video"),
        ("/form", "form", "video"),
    ):
        app.router.add_put(path, names[put])
        app.router.add_get(path, names[get])
    async with TestClient(TestServer(app)) as client:
        assert (await client.put("/files/report", data=FIGURES)).status == 201
        received = await client.get("/files/report")
        assert (received.content_type, await received.read()) == ("text/csv", FIGURES)
        assert (await client.head("/files/report")).headers["Content-Length"] == str(len(FIGURES))
        for name in ("other", "x" * 300, "..%2Freport", "a%00b"):
            assert (await client.get(f"/files/{name}")).status == 404
        for answer in (
            await client.put("/relay", data=FIGURES),
            await client.put("/form", data=_form("file")),
        ):
            assert (await decrypt(await answer.read(), names["provider"])).plaintext == FIGURES
        for body in (_form("other"), b"no form"):
            assert (await client.put("/form", data=body)).status == 400
        part = await client.get("/relay", headers={"Range": "bytes=10-19"})
        assert (part.status, await part.read()) == (206, bytes(10))
        url = str(client.make_url("/files/sent"))
        assert await names["send"](client.session, url, FIGURES) == 201
        (names["FOLDER"] / "report").write_bytes(b"nonsense")
        assert (await client.get("/files/report")).status == 422
        await _assert_logged(client, names)


async def _assert_logged(client: TestClient[Any, Any], names: dict[str, Any]) -> None:
    """Send a message that turns out bad: the connection breaks, and aiohttp logs the error, not a status."""
    assert (await client.put("/files/report", data=bytes(1_000_000))).status == 201
    path = names["FOLDER"] / "report"
    path.write_bytes(flipped(path.read_bytes(), 700_000))
    logged: list[type[BaseException]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[0]:
                logged.append(record.exc_info[0])

    handler = Handler()
    logger = logging.getLogger("aiohttp.server")
    logger.addHandler(handler)
    try:
        answer = await client.get("/files/report")
        assert answer.status == 200
        try:
            await answer.read()
        except aiohttp.ClientPayloadError:
            pass
        else:
            raise AssertionError("a bad message came as a whole")
        async with asyncio.timeout(20):
            while not logged:
                await asyncio.sleep(0.01)
        assert logged == [TagError]
    finally:
        logger.removeHandler(handler)


def _form(name: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field(name, FIGURES, filename="report")
    return form


async def serve_asgi(names: dict[str, Any]) -> None:
    """Send, get and break a file as docs/asgi.md does it."""
    app = names["app"]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://page") as client,
    ):
        assert (await client.put("/files/report", content=FIGURES)).status_code == 201
        received = await client.get("/files/report")
        assert (received.headers["content-type"], received.content) == ("text/csv; charset=utf-8", FIGURES)
        head = await client.head("/files/report")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(FIGURES)))
        for name in ("other", "x" * 300, "a%00b"):
            assert (await client.get(f"/files/{name}")).status_code == 404
        message = (await client.post("/encrypt", content=FIGURES)).content
        assert (await decrypt(message, app.state.aioencrypt_provider)).plaintext == FIGURES
        (names["FOLDER"] / "report").write_bytes(b"nonsense")
        assert (await client.get("/files/report")).status_code == 422
