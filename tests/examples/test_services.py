"""The services in examples/ keep uploads encrypted, and never pass a part for the whole."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import httpx
import pytest
from starlette.requests import ClientDisconnect

from aioencrypt import EncryptionContextMismatchError, MessageError, decrypt
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.examples import EXAMPLES, FIGURES, KEY, load, names, run, served
from tests.support.streaming import flipped, on_asyncio

pytestmark = pytest.mark.anyio

upload_service = load("upload_service")
starlette_service = load("starlette_service")
LONGEST = "x" * 200


@on_asyncio
async def test_upload_service(tmp_path: Path) -> None:
    async with served(upload_service.make_app(KEY, tmp_path)) as url, aiohttp.ClientSession() as session:
        async with session.put(f"{url}/report", data=FIGURES) as sent:
            assert sent.status == 201
            assert (await sent.json())["name"] == "report"
        async with session.get(f"{url}/report") as received:
            assert (received.status, await received.read()) == (200, FIGURES)
            assert received.headers["Content-Disposition"] == 'attachment; filename="report"'
        for bad in ("nothing", ".hidden", "a%2Fb", "a%00b", "%C3%9C", "x" * 201, "x" * 300):
            async with session.get(f"{url}/{bad}") as missing:
                assert missing.status == 404
            if bad != "nothing":
                async with session.put(f"{url}/{bad}", data=b"abc") as refused:
                    assert refused.status == 404
        async with session.put(f"{url}/{LONGEST}", data=b"abc") as sent:
            assert sent.status == 201
        (tmp_path / LONGEST).unlink()
    message = (tmp_path / "report").read_bytes()
    assert (await decrypt(message, KEY, encryption_context={"name": "report"})).plaintext == FIGURES
    assert names(tmp_path) == ["report"]


@on_asyncio
async def test_upload_service_never_passes_a_part_for_the_whole(tmp_path: Path) -> None:
    stored = tmp_path / "report"
    async with served(upload_service.make_app(KEY, tmp_path)) as url, aiohttp.ClientSession() as session:
        await session.put(f"{url}/report", data=FIGURES)
        message = stored.read_bytes()
        stored.write_bytes(flipped(message, len(message) // 2))
        async with session.get(f"{url}/report") as received:
            assert received.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await received.read()
        # The header and the end are looked at before the status line.
        for broken in (flipped(message, 50), flipped(message, -1), message[:-1], message + b"x"):
            stored.write_bytes(broken)
            async with session.get(f"{url}/report") as received:
                assert received.status == 500


@on_asyncio
async def test_upload_service_keeps_nothing_of_a_client_that_went_away(tmp_path: Path) -> None:
    async with served(upload_service.make_app(KEY, tmp_path)) as url, asyncio.timeout(20):
        port = int(url.split(":")[2].split("/")[0])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"PUT /files/report HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000)
        )
        await writer.drain()
        while not names(tmp_path):  # until the upload is under way
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        while names(tmp_path):
            await asyncio.sleep(0)
    assert names(tmp_path) == []


@pytest.fixture
def kms_url() -> Iterator[tuple[str, InMemoryKMS]]:
    kms = InMemoryKMS()
    with run_in_thread(kms) as url:
        yield url, kms


def test_upload_service_as_a_program(kms_url: tuple[str, InMemoryKMS], tmp_path: Path) -> None:
    url, kms = kms_url
    keys = [kms.create_key(region="us-east-1"), kms.create_key(region="eu-west-1")]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, str(EXAMPLES / "upload_service.py"), str(folder), *keys]
    command += ["--endpoint-url", url, "--port", str(port)]
    # aiohttp prints its line into the buffer of a pipe, where nobody would see it.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            assert "Running on" in process.stdout.readline()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                assert client.put("/files/report", content=FIGURES).status_code == 201
                assert client.get("/files/report").content == FIGURES
        finally:
            process.terminate()
    assert [call.operation for call in kms.calls] == ["GenerateDataKey", "Encrypt", "Decrypt"]


def test_upload_service_with_wrong_arguments(tmp_path: Path) -> None:
    assert "the following arguments are required: folder, key_arn" in run("upload_service.py", code=2)
    assert "is not the ARN of a KMS key" in run("upload_service.py", str(tmp_path), "arn:aws:s3:::x", code=2)


@asynccontextmanager
async def starlette(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = starlette_service.make_app(KEY, folder)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


async def test_starlette_service(tmp_path: Path) -> None:
    async with starlette(tmp_path) as client:
        sent = await client.put("/files/report", content=FIGURES)
        assert (sent.status_code, sent.json()["name"]) == (201, "report")
        received = await client.get("/files/report")
        assert (received.status_code, received.content) == (200, FIGURES)
        for bad in ("nothing", ".hidden", "a%2Fb", "a%00b", "%C3%9C", "x" * 201, "x" * 300):
            assert (await client.get(f"/files/{bad}")).status_code == 404
            if bad != "nothing":
                assert (await client.put(f"/files/{bad}", content=b"abc")).status_code == 404
        assert (await client.put(f"/files/{LONGEST}", content=b"abc")).status_code == 201
        (tmp_path / LONGEST).unlink()
        assert names(tmp_path) == ["report"]
        os.rename(tmp_path / "report", tmp_path / "another")
        with pytest.raises(EncryptionContextMismatchError):
            await client.get("/files/another")


async def test_starlette_service_never_passes_a_part_for_the_whole(tmp_path: Path) -> None:
    async with starlette(tmp_path) as client:
        await client.put("/files/report", content=FIGURES)
        message = (tmp_path / "report").read_bytes()
        for broken in (flipped(message, len(message) // 2), flipped(message, -1), message[:-1]):
            (tmp_path / "report").write_bytes(broken)
            with pytest.raises(MessageError):
                await client.get("/files/report")


def scope(method: str, spec_version: str) -> dict[str, object]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": method,
        "path": "/files/report",
        "query_string": b"",
        "headers": [],
    }


async def test_starlette_service_keeps_nothing_of_a_client_that_went_away(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": FIGURES, "more_body": True},
        {"type": "http.disconnect"},
    ]
    answers: list[object] = []

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: dict[str, object]) -> None:
        answers.append(message)

    app = starlette_service.make_app(KEY, tmp_path)
    async with app.router.lifespan_context(app):
        with pytest.raises(ClientDisconnect):
            await app(scope("PUT", "2.3"), receive, send)
    assert names(tmp_path) == []


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_starlette_service_says_nothing_when_the_reader_hangs_up(
    spec_version: str, tmp_path: Path
) -> None:
    gone = anyio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            gone.set()
            if spec_version == "2.4":
                raise OSError("the client has hung up")
            await anyio.sleep_forever()

    app = starlette_service.make_app(KEY, tmp_path)
    async with starlette(tmp_path) as client:
        await client.put("/files/report", content=FIGURES)
    async with app.router.lifespan_context(app):
        await app(scope("GET", spec_version), receive, send)
    assert gone.is_set()
