"""Files: a writer leaves the whole message in its place, or nothing."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioencrypt
from aioencrypt import AlgorithmSuite, EncryptWriter, ProviderError, RawAESMasterKey, decrypt
from aioencrypt.providers.values import DataKeyRequest
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    assert_idle,
    on_asyncio,
    on_asyncio_and_uvloop,
    plaintext_of,
)
from tests.support.watching import cancelled_at, file_size_limit, resource

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(200_000)
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
with_file_size_limit = pytest.mark.skipif(resource is None, reason="Windows has no limit on a file's size")


@pytest.fixture(params=[b"old", None], ids=["replaced", "new"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A path in a folder of its own, with or without a file that was there before."""
    path = tmp_path / "report.aws"
    if request.param:
        path.write_bytes(request.param)
    return path


def writer_of(path: str | os.PathLike[str], **options: Any) -> EncryptWriter:
    return aioencrypt.open(path, "wb", provider=KEY, **options)


def seen(folder: Path) -> dict[str, bytes]:
    """Return the names and the contents of the files in a folder."""
    return {entry.name: Path(entry).read_bytes() for entry in os.scandir(folder)}


async def write(path: Path, *pieces: bytes, error: Exception | None = None, **options: Any) -> None:
    async with writer_of(path, **options) as writer:
        for piece in pieces:
            await writer.write(piece)
        if error:
            raise error


# In its place


async def test_the_old_file_stays_until_the_new_one_is_whole(path: Path) -> None:
    before = seen(path.parent)
    async with writer_of(path) as writer:
        await writer.write(PLAINTEXT)
        during = seen(path.parent)
        (temporary,) = during.keys() - before.keys()
        assert temporary.startswith(".aioencrypt-")
        assert temporary.endswith(".partial")
        assert {name: during[name] for name in before} == before
    after = seen(path.parent)
    assert list(after) == [path.name]
    assert (await decrypt(after[path.name], KEY)).plaintext == PLAINTEXT


@not_on_windows
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
async def test_the_permissions_of_the_replaced_file_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "report.aws"
    path.write_bytes(b"old")
    path.chmod(mode)
    await write(path, b"abc")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@not_on_windows
@pytest.mark.parametrize("allowed", [True, False])
async def test_the_owner_of_the_replaced_file_is_kept_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """Root may give files away: without that, a file of mode 600 would be lost to its owner."""
    path = tmp_path / "report.aws"
    path.write_bytes(b"old")
    path.chmod(0o600)
    given = []

    def fchown(descriptor: int, owner: int, group: int) -> None:
        given.append((os.fstat(descriptor).st_size, owner, group))
        if not allowed:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", fchown)
    owner, group = path.stat().st_uid, path.stat().st_gid
    await write(path, b"abc")
    assert given == [(0, owner, group), (0, -1, group)][: 1 if allowed else 2]
    assert (await decrypt(path.read_bytes(), KEY)).plaintext == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@not_on_windows
async def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    await write(tmp_path / "report.aws", b"abc")
    assert (tmp_path / "report.aws").stat().st_mode == (tmp_path / "other").stat().st_mode


@not_on_windows
@pytest.mark.parametrize("exists", [True, False], ids=["to-a-file", "dangling"])
async def test_a_symbolic_link_stays_one(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target, link = folder / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("folder/target")
    await write(link, b"abc")
    assert os.readlink(link) == "folder/target"
    assert not target.is_symlink()
    assert (await decrypt(target.read_bytes(), KEY)).plaintext == b"abc"
    assert os.listdir(folder) == ["target"]
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


async def test_a_relative_path_is_that_of_entering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    async with writer_of("report.aws") as writer:
        monkeypatch.chdir(tmp_path / "second")
        await writer.write(b"abc")
    assert os.listdir(tmp_path / "first") == ["report.aws"]
    assert os.listdir(tmp_path / "second") == []


# Refused on entry


async def test_a_missing_folder_is_an_error_on_entry(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "missing" / "report.aws")
    with pytest.raises(FileNotFoundError):
        await writer.__aenter__()
    await writer.aclose()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        await writer_of(tmp_path / "file" / "report.aws").__aenter__()
    assert os.listdir(tmp_path) == ["file"]


async def test_a_provider_that_fails_leaves_nothing(path: Path) -> None:
    class Broken(RawAESMasterKey):
        async def generate_data_key(self, request: DataKeyRequest) -> Any:
            raise OSError("no network")

    before = seen(path.parent)
    with pytest.raises(ProviderError, match=r"Broken\.generate_data_key raised OSError"):
        await aioencrypt.open(
            path, "wb", provider=Broken("tests", "broken", wrapping_key=bytes(32))
        ).__aenter__()
    assert seen(path.parent) == before


# Failing on the way


@suites
@pytest.mark.parametrize("pieces", [[], [b"abc"], [PLAINTEXT] * 3], ids=["nothing", "little", "much"])
async def test_an_exception_leaves_what_was_there(
    path: Path, suite: AlgorithmSuite, pieces: list[bytes]
) -> None:
    before = seen(path.parent)
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        await write(path, *pieces, error=error, algorithm_suite=suite)
    assert caught.value is error
    assert error.__context__ is None
    assert seen(path.parent) == before
    assert_idle()


async def test_abort_leaves_what_was_there(path: Path) -> None:
    before = seen(path.parent)
    async with writer_of(path) as writer:
        await writer.write(PLAINTEXT)
        await writer.abort()
        assert seen(path.parent) == before
    assert seen(path.parent) == before
    assert_idle()


async def test_a_target_that_becomes_a_folder_is_an_error_on_leaving(tmp_path: Path) -> None:
    path = tmp_path / "report.aws"
    writer = writer_of(path)
    await writer.__aenter__()
    await writer.write(b"abc")
    path.mkdir()
    with pytest.raises(OSError, match=r"report\.aws"):
        await writer.__aexit__(None, None, None)
    assert os.listdir(tmp_path) == ["report.aws"]
    assert path.is_dir()
    await writer.aclose()
    assert_idle()


@with_file_size_limit
@pytest.mark.parametrize("piece", [b"x" * 10, PLAINTEXT], ids=["buffered", "at-once"])
@pytest.mark.parametrize("limit", [0, 5, 20_000], ids=["nothing", "in-the-header", "in-the-body"])
@on_asyncio
async def test_a_full_disk_leaves_what_was_there(path: Path, piece: bytes, limit: int) -> None:
    before = seen(path.parent)
    with file_size_limit(limit):
        with pytest.raises(OSError, match="too large") as caught:
            await write(path, *[piece] * 100, frame_length=100 if piece == PLAINTEXT else 1)
        assert caught.value.errno == errno.EFBIG
        assert seen(path.parent) == before
        with pytest.raises(ZeroDivisionError if limit == 20_000 else OSError) as other:
            await write(path, b"little", error=ZeroDivisionError())
    assert other.value.__context__ is None
    assert seen(path.parent) == before
    assert_idle()


# Cancelled


async def check_cancelled_everywhere(path: Path, *, by_task: bool) -> None:
    """Cancel at every await of entering, writing and leaving."""
    before = seen(path.parent)
    number, kept = 0, 0
    while True:
        writer = writer_of(path, frame_length=1000)

        async def use(writer: EncryptWriter = writer) -> None:
            async with writer:
                for _ in range(3):
                    await writer.write(PLAINTEXT)

        cancelled = await cancelled_at(number, use(), by_task=by_task)
        if seen(path.parent) == before:
            kept += 1
        else:
            assert os.listdir(path.parent) == [path.name]
            assert (await decrypt(path.read_bytes(), KEY)).plaintext == PLAINTEXT * 3
            path.unlink()
            for name, content in before.items():
                (path.parent / name).write_bytes(content)
        digests = writer._sealer._digests if writer._sealer else None
        assert digests is None or digests.pending == 0
        assert_idle()
        if not cancelled:
            break
        number += 1
    # Threads that end sooner or later make an await more or less from run to run.
    assert kept >= number - 5 > 3, "only the last awaits may leave the new file"


@pytest.mark.every_loop
async def test_cancelled_at_any_await_the_file_is_the_old_or_the_new_one(path: Path) -> None:
    await check_cancelled_everywhere(path, by_task=False)


@on_asyncio_and_uvloop
async def test_cancelled_by_its_task_at_any_await_the_file_is_the_old_or_the_new_one(path: Path) -> None:
    await check_cancelled_everywhere(path, by_task=True)


@pytest.mark.every_loop
async def test_digests_do_not_go_on_when_a_cancelled_writer_is_left(path: Path) -> None:
    writer, runs, go_on = writer_of(path), threading.Event(), threading.Event()
    await writer.__aenter__()
    sealer: Any = writer._sealer
    done: list[str] = []

    def first() -> None:
        runs.set()
        assert go_on.wait(30)
        done.append("first")

    await sealer._digests.add(first, 100_000)
    await sealer._digests.add(lambda: done.append("second"), 100_000)
    assert await anyio.to_thread.run_sync(runs.wait, 30)
    with anyio.CancelScope() as scope:
        scope.cancel()
        # Later than leaving would be if it did not wait; the outcome does not depend on how much.
        threading.Timer(0.05, go_on.set).start()
        await writer.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert done == ["first"], "what runs is waited for, what waits is dropped"
    assert sealer._digests._pending == 0
    assert_idle()
