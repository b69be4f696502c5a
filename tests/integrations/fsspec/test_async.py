"""The file system on the caller's own loop: nothing of it blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from aioencrypt import MessageError, SignaturePolicyError
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from tests.integrations.fsspec.test_provider import Counting
from tests.support.encrypted_fs import PROVIDER, AsyncMemoryFileSystem, memory, over
from tests.support.streaming import (
    SIGNED,
    assert_idle,
    flipped,
    on_asyncio,
    on_asyncio_and_uvloop,
    plaintext_of,
)

pytestmark = [pytest.mark.anyio]

OLD = b"what was there before"
PLAINTEXT = plaintext_of(3_000_000)


class Oops(Exception):
    pass


@pytest.fixture(params=["memory", "local", "objects"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/report" if request.param == "local" else f"/{request.param}/report"


@pytest.fixture
async def fs(path: str) -> AsyncIterator[Any]:
    target: Any = memory()
    if path.startswith("/objects"):
        target = AsyncMemoryFileSystem(asynchronous=True)
    elif not path.startswith("/memory"):
        target = LocalFileSystem()
    async with over(target, asynchronous=True) as fs:
        yield fs


@on_asyncio_and_uvloop
async def test_whole_files(fs: Any, path: str, tmp_path: Path) -> None:
    await fs._pipe_file(path, PLAINTEXT)
    assert await fs._cat_file(path) == PLAINTEXT
    assert await fs._cat_file(path, 5, 10) == PLAINTEXT[5:10]
    assert await fs._cat_ranges([path, path], [0, -5], [5, None]) == [PLAINTEXT[:5], PLAINTEXT[-5:]]
    assert (await fs._info(path))["size"] == len(PLAINTEXT)
    assert await fs._size(path) == len(PLAINTEXT)
    (tmp_path / "plain").write_bytes(PLAINTEXT * 5)
    await fs._put_file(str(tmp_path / "plain"), path)
    await fs._get_file(path, str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == PLAINTEXT * 5
    assert [await fs._exists(path), await fs._isfile(path), await fs._isdir(path)] == [True, True, False]
    await fs._mv(path, f"{path}.new")
    assert await fs._find(path.rpartition("/")[0], detail=False) == sorted(
        [f"{path}.new", *(str(tmp_path / name) for name in ("back", "plain") if str(tmp_path) in path)]
    )
    walked = [files async for _, _, files in fs._walk(path.rpartition("/")[0])]
    assert "report.new" in walked[0]
    detailed = [files async for _, _, files in fs._walk(path.rpartition("/")[0], detail=True)]
    assert detailed[0]["report.new"]["size"] == 5 * len(PLAINTEXT)
    assert [found["size"] for found in (await fs._glob(f"{path}*", detail=True)).values()] == [
        5 * len(PLAINTEXT)
    ]
    await fs._rm(f"{path}.new")
    assert not await fs._exists(f"{path}.new")
    assert_idle()


@on_asyncio_and_uvloop
async def test_open_files(fs: Any, path: str) -> None:
    async with await fs.open_async(path, "wb", block_size=100_000) as file:
        for start in range(0, len(PLAINTEXT), 70_000):
            await file.write(PLAINTEXT[start : start + 70_000])
        assert not await fs._exists(path)
    async with await fs.open_async(path) as file:
        assert file.size == len(PLAINTEXT)
        assert await file.read(10) == PLAINTEXT[:10]
        file.seek(2_000_000)
        assert await file.read() == PLAINTEXT[2_000_000:]
        assert await file.read(1) == b""
    assert file.closed
    with pytest.raises(FileExistsError):
        await fs.open_async(path, "xb")
    with pytest.raises(ValueError, match="mode is 'ab'"):
        await fs.open_async(path, "ab")
    with pytest.raises(RuntimeError, match=r"await fs\.open_async"):
        fs.open(path)
    assert_idle()


@on_asyncio
async def test_an_error_leaves_what_was_there(fs: Any, path: str) -> None:
    await fs._pipe_file(path, OLD)
    with pytest.raises(Oops):  # noqa: PT012
        async with await fs.open_async(path, "wb", block_size=1000) as file:
            await file.write(PLAINTEXT)
            raise Oops
    file = await fs.open_async(path, "wb")
    await file.write(PLAINTEXT)
    await file.discard()
    await file.close()
    assert await fs._cat_file(path) == OLD
    assert await fs._ls(path.rpartition("/")[0], detail=False) == [path]
    assert_idle()


@on_asyncio
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 40])
async def test_cancelled_at_any_time(fs: Any, path: str, turns: int) -> None:
    await fs._pipe_file(path, OLD)
    for write in (fs._pipe_file(path, PLAINTEXT), write_file(fs, path), fs._rewrap(path, fs, keep=True)):
        task = asyncio.create_task(write)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert await fs._cat_file(path) in (OLD, PLAINTEXT)
        assert await fs._ls(path.rpartition("/")[0], detail=False) == [path]
    task = asyncio.create_task(fs._cat_file(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert_idle()


async def write_file(fs: Any, path: str) -> None:
    async with await fs.open_async(path, "wb", block_size=100_000) as file:
        await file.write(PLAINTEXT)


@on_asyncio
async def test_a_file_that_nobody_closes_warns(fs: Any, path: str) -> None:
    file = await fs.open_async(path, "wb")
    with pytest.warns(ResourceWarning, match="was not closed, and stays unfinished"):
        del file
    await fs._pipe_file(path, OLD)
    reader = await fs.open_async(path)
    del reader
    assert await fs._cat_file(path) == OLD


@on_asyncio
async def test_listings_end_with_their_caller() -> None:
    target: Any = AsyncMemoryFileSystem(asynchronous=True)
    fs = over(target, asynchronous=True)
    for index in range(50):
        await fs._pipe_file(f"/folder/{index}", b"figures")
    waiting = asyncio.Event()

    async def stuck(path: str, **kwargs: Any) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    target._cat_file = stuck
    task = asyncio.create_task(fs._ls("/folder", detail=True))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_idle()


@on_asyncio
async def test_an_error_of_the_target_leaves_a_size_unknown() -> None:
    target: Any = AsyncMemoryFileSystem(asynchronous=True)
    fs = over(target, asynchronous=True)
    await fs._pipe_file("/folder/1", b"figures")

    async def failing(path: str, **kwargs: Any) -> Any:
        raise PermissionError(path)

    target._cat_file = failing
    [info] = await fs._ls("/folder", detail=True)
    assert (info["size"], info["size_unknown"]) == (None, "PermissionError: /folder/1")


@on_asyncio
async def test_the_provider_lives_on_the_loop_of_the_caller() -> None:
    provider = Counting()
    async with over(memory(), provider=provider, asynchronous=True) as fs:
        await fs._pipe_file("/report", OLD)
        assert provider.entered == [asyncio.get_running_loop()]
    assert provider.left == provider.entered


@on_asyncio
async def test_a_target_is_made_for_the_same_loop() -> None:
    fs = EncryptedFileSystem(provider=PROVIDER, target_protocol="memory", asynchronous=True)
    assert not fs.fs.async_impl
    fsspec.register_implementation("asyncmemory", AsyncMemoryFileSystem, clobber=True)
    fs = EncryptedFileSystem(provider=PROVIDER, target_protocol="asyncmemory", asynchronous=True)
    assert fs.fs.asynchronous
    await fs._pipe_file("/report", OLD)
    assert await fs._cat_file("/report") == OLD


@on_asyncio
async def test_signed_messages_and_changed_ones() -> None:
    target = memory()
    fs = over(target, asynchronous=True, algorithm_suite=SIGNED)
    await fs._pipe_file("/report", PLAINTEXT)
    assert await fs._cat_file("/report") == PLAINTEXT
    with pytest.raises(SignaturePolicyError):
        await fs.open_async("/report")
    target.pipe_file("/report", flipped(target.cat_file("/report"), -1))
    with pytest.raises(MessageError):
        await fs._cat_file("/report")
    assert_idle()
