"""Uses the handlers that the pages on HTTP define."""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aioencrypt import decrypt

FIGURES = b"quarterly figures" * 1000


async def serve_aiohttp(names: dict[str, Any]) -> None:
    """Send, get and break a file as docs/aiohttp.md does it."""
    app = web.Application()
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
        assert (await client.get("/files/other")).status == 404
        for answer in (
            await client.put("/relay", data=FIGURES),
            await client.put("/form", data=_form("file")),
        ):
            assert (await decrypt(await answer.read(), names["provider"])).plaintext == FIGURES
        assert (await client.put("/form", data=_form("other"))).status == 400
        part = await client.get("/relay", headers={"Range": "bytes=10-19"})
        assert (part.status, await part.read()) == (206, bytes(10))
        url = str(client.make_url("/files/sent"))
        assert await names["send"](client.session, url, FIGURES) == 201
        (names["FOLDER"] / "report").write_bytes(b"nonsense")
        assert (await client.get("/files/report")).status == 422


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
        assert (await client.get("/files/other")).status_code == 404
        message = (await client.post("/encrypt", content=FIGURES)).content
        assert (await decrypt(message, app.state.aioencrypt_provider)).plaintext == FIGURES
        (names["FOLDER"] / "report").write_bytes(b"nonsense")
        assert (await client.get("/files/report")).status_code == 422
