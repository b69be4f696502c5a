"""The one way to replace a file, for each function that writes one."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import stat
import struct
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

import aioencrypt
from aioencrypt import RawAESMasterKey, decrypt, encrypt
from aioencrypt.rewrap import rewrap_file
from tests.support.encrypted_fs import over
from tests.support.streaming import on_asyncio, plaintext_of
from tests.support.watching import file_size_limit, watched

pytestmark = [
    pytest.mark.anyio,
    on_asyncio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files"),
]

KEY = RawAESMasterKey("tests", "files", wrapping_key=bytes(32))
PLAINTEXT = plaintext_of(500_000)
Write = Callable[[Path, bytes], Coroutine[Any, Any, None]]


async def by_open(path: Path, plaintext: bytes) -> None:
    async with aioencrypt.open(path, "wb", provider=KEY) as writer:
        await writer.write(plaintext[:10])
        await writer.write(plaintext[10:])


async def by_rewrap_file(path: Path, plaintext: bytes) -> None:
    source = path.parent.parent / "source.aws"
    if not source.exists():
        source.write_bytes((await encrypt(plaintext, KEY)).ciphertext)
    await rewrap_file(source, KEY, new_provider=KEY, destination=path)


async def _write(fs: Any, path: str, plaintext: bytes) -> None:
    async with await fs.open_async(path, "wb") as file:
        await file.write(plaintext)


async def by_fsspec(path: Path, plaintext: bytes) -> None:
    await _write(over(LocalFileSystem(), provider=KEY, asynchronous=True), str(path), plaintext)


WRITERS: dict[str, Write] = {
    "open": by_open,
    "rewrap_file": by_rewrap_file,
    "fsspec": by_fsspec,
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in a folder of its own, where nothing is yet."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "report.aws"


async def read(path: Path) -> bytes:
    return (await decrypt(path.read_bytes(), KEY)).plaintext


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


# Links


@each_writer
@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "dangling"])
@pytest.mark.parametrize("length", [1, 2, 5])
async def test_a_chain_of_links_is_followed(path: Path, write: Write, length: int, exists: bool) -> None:
    target = path.parent.parent / "other" / "target"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
        target.chmod(0o600)
    path.symlink_to("link1" if length > 1 else "../other/target")
    for number in range(1, length):
        last = number == length - 1
        (path.parent / f"link{number}").symlink_to("../other/target" if last else f"link{number + 1}")
    links = {name: os.readlink(path.parent / name) for name in names(path)}
    await write(path, PLAINTEXT)
    assert {name: os.readlink(path.parent / name) for name in names(path)} == links
    assert names(target) == ["target"]
    assert not target.is_symlink()
    assert await read(target) == PLAINTEXT
    if exists:
        assert stat.S_IMODE(target.stat().st_mode) == 0o600


@each_writer
async def test_a_loop_of_links_is_an_error(path: Path, write: Write) -> None:
    path.symlink_to("other")
    (path.parent / "other").symlink_to("report.aws")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)) as caught:
        await write(path, PLAINTEXT)
    assert caught.value.errno == errno.ELOOP
    assert caught.value.filename == str(path)
    assert names(path) == ["other", "report.aws"]


async def test_rewrapping_a_link_rewraps_its_target(path: Path) -> None:
    new = RawAESMasterKey("tests", "new", wrapping_key=bytes(range(32)))
    fs: Any = over(LocalFileSystem(), provider=KEY, asynchronous=True)
    others: dict[str, Callable[[], Awaitable[object]]] = {
        "rewrap_file": lambda: rewrap_file(path, KEY, new_provider=new),
        "fsspec": lambda: fs._rewrap(str(path), over(LocalFileSystem(), provider=new, asynchronous=True)),
    }
    target = path.parent / "target"
    path.symlink_to("target")
    for rewrap in others.values():
        await by_open(target, PLAINTEXT)
        await rewrap()
        assert os.readlink(path) == "target"
        assert (await decrypt(target.read_bytes(), new)).plaintext == PLAINTEXT


async def test_a_folder_of_a_local_file_system_is_local(path: Path) -> None:
    (path.parent / "target").write_bytes(b"old")
    (path.parent / "target").chmod(0o600)
    path.symlink_to("target")
    fs = over(DirFileSystem(str(path.parent), LocalFileSystem()), provider=KEY)
    await anyio.to_thread.run_sync(fs.pipe_file, path.name, PLAINTEXT)
    assert os.readlink(path) == "target"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await read(path) == PLAINTEXT


# Mode, owner and group


@each_writer
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o606, 0o755, 0o6755])
async def test_the_mode_stays(path: Path, write: Write, mode: int) -> None:
    path.write_bytes(b"old")
    path.chmod(mode)
    before = path.stat()
    await write(path, PLAINTEXT)
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == mode
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


@each_writer
async def test_nobody_else_reads_the_file_before_it_has_its_mode(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"old")
    path.chmod(0o644)
    seen: list[int] = []
    fchmod = os.fchmod

    def watched_fchmod(descriptor: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", watched_fchmod)
    await write(path, PLAINTEXT)
    assert seen == [0o600]


@each_writer
async def test_a_new_file_has_the_mode_of_any_new_file(path: Path, write: Write) -> None:
    await write(path, PLAINTEXT)
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def set_acl(path: Path, name: str) -> None:
    """Let a user who is nobody else read a file; skips the test where file systems have no ACLs."""
    entries = [(0x01, 6, -1), (0x02, 4, 1234), (0x04, 4, -1), (0x10, 4, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    if not hasattr(os, "setxattr"):
        pytest.skip("os.setxattr is missing")
    try:
        os.setxattr(path, f"system.posix_acl_{name}", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")


@each_writer
async def test_the_access_list_stays(path: Path, write: Write) -> None:
    path.write_bytes(b"old")
    set_acl(path, "access")
    before = os.getxattr(path, "system.posix_acl_access")
    await write(path, PLAINTEXT)
    assert os.getxattr(path, "system.posix_acl_access") == before


@each_writer
async def test_a_file_gets_no_access_list_that_the_old_one_lacks(path: Path, write: Write) -> None:
    path.write_bytes(b"old")
    path.chmod(0o640)
    set_acl(path.parent, "default")
    await write(path, PLAINTEXT)
    assert os.listxattr(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def as_user(code: str, **values: object) -> Callable[[], Awaitable[list[str]]]:
    """Return a function that runs code as an ordinary user, with `write` and `path`."""
    setup = f"""
        import os, sys, stat, anyio
        from pathlib import Path
        from tests.streams.test_replaced_files import WRITERS, by_rewrap_file
        values = {values!r}
        path, write = Path(values["path"]), WRITERS[values["writer"]]
        os.setgroups([2000]); os.setgid(1000); os.setuid(1000)
    """
    program = textwrap.dedent(setup) + textwrap.dedent(code)

    async def run() -> list[str]:
        result = await anyio.run_process([sys.executable, "-c", program], check=False)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout.decode().split()

    return run


only_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user"
)


@pytest.fixture
def shared() -> Any:
    """A folder in which everybody may write."""
    folder = Path(f"/tmp/aioencrypt-{os.getpid()}-{threading.get_ident()}")
    (folder / "folder").mkdir(parents=True)
    for part in (folder, folder / "folder"):
        part.chmod(0o777)
    yield folder / "folder" / "report.aws"
    for file in [*(folder / "folder").iterdir(), *folder.glob("*.aws")]:
        file.unlink()
    (folder / "folder").rmdir()
    folder.rmdir()


OWNERS = [
    # of whom, with which mode; what becomes of it
    (1000, 2000, 0o660, 1000, 2000, 0o660),
    (1000, 2000, 0o2770, 1000, 2000, 0o2770),
    (1000, 1000, 0o4750, 1000, 1000, 0o4750),
    (1000, 3000, 0o664, 1000, 1000, 0o604),
    (1000, 3000, 0o2775, 1000, 1000, 0o705),
    (0, 2000, 0o4666, 1000, 2000, 0o666),
    (0, 3000, 0o6666, 1000, 1000, 0o606),
]


@only_root
@pytest.mark.parametrize("name", WRITERS)
async def test_what_another_owner_or_group_could_do_goes_where_they_cannot_stay(
    name: str, shared: Path
) -> None:
    for uid, gid, mode, *expected in OWNERS:
        shared.write_bytes(b"old")
        os.chown(shared, uid, gid)
        shared.chmod(mode)
        await as_user("anyio.run(write, path, b'new')", path=str(shared), writer=name)()
        after = shared.stat()
        assert [after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)] == expected
        assert names(shared) == ["report.aws"]


@only_root
@pytest.mark.parametrize("name", WRITERS)
async def test_a_file_that_may_not_be_written_is_not_replaced(name: str, shared: Path) -> None:
    code = """
        try:
            anyio.run(write, path, b"new")
        except PermissionError as error:
            print(error.filename)
    """
    shared.write_bytes(b"old")
    shared.chmod(0o444)
    os.chown(shared, 1000, 1000)
    assert await as_user(code, path=str(shared), writer=name)() == [str(shared)]
    assert names(shared) == ["report.aws"]
    assert shared.read_bytes() == b"old"


# What is no regular file


@each_writer
async def test_a_directory_is_refused(path: Path, write: Write) -> None:
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        await write(path, PLAINTEXT)
    assert caught.value.filename == str(path)
    assert names(path) == ["report.aws"]


@each_writer
async def test_a_fifo_is_written_and_not_replaced(path: Path, write: Write) -> None:
    os.mkfifo(path)
    received = []

    async def receive() -> None:
        received.append(await anyio.to_thread.run_sync(path.read_bytes))

    async with anyio.create_task_group() as group:
        group.start_soon(write, path, PLAINTEXT)
        group.start_soon(receive)
    assert (await decrypt(received[0], KEY)).plaintext == PLAINTEXT
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert names(path) == ["report.aws"]


@each_writer
async def test_waiting_for_the_reader_of_a_fifo_can_be_cancelled(path: Path, write: Write) -> None:
    os.mkfifo(path)
    with anyio.move_on_after(0.1) as scope:
        await write(path, PLAINTEXT)
    assert scope.cancelled_caught
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:  # one that opens it, and reads nothing
        with anyio.move_on_after(0.1) as scope:
            await write(path, PLAINTEXT)
        assert scope.cancelled_caught
    finally:
        os.close(reader)
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    assert names(path) == ["report.aws"]


@each_writer
@pytest.mark.parametrize(("device", "error"), [("/dev/null", None), ("/dev/full", errno.ENOSPC)])
async def test_a_device_is_written_and_not_replaced(
    path: Path, write: Write, device: str, error: int | None
) -> None:
    path.symlink_to(device)
    before = os.stat(device)
    raises = pytest.raises(OSError, match=r"report\.aws") if error else nullcontext()
    with raises as caught:
        await write(path, PLAINTEXT)
    if caught:
        assert (caught.value.errno, caught.value.filename) == (error, str(path))
    assert os.stat(device).st_rdev == before.st_rdev
    assert names(path) == ["report.aws"]


# Failing on the way


def at_sync(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[str]:
    """Do something when the file is synced, before it is renamed; returns what is synced."""
    fsync, synced = os.fsync, []

    def watched_fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        if synced == ["file"]:
            action()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    return synced


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rename_folder_and_fail(path: Path) -> None:
    path.parent.rename(path.parent.parent / "renamed")
    fail()


FAILURES: dict[str, Callable[[Path], None]] = {
    "sync": lambda path: fail(),
    "target becomes a folder": become_folder,
    "folder is renamed": rename_folder_and_fail,
}


@each_writer
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_names_the_path_of_the_caller_and_leaves_nothing(
    path: Path, write: Write, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"old")
    folder = path.parent.parent / "renamed" if failure == "folder is renamed" else path.parent
    at_sync(monkeypatch, lambda: FAILURES[failure](path))
    with pytest.raises(OSError, match=r"report\.aws") as caught:
        await write(path, PLAINTEXT)
    assert caught.value.filename == str(path)
    assert caught.value.filename2 is None
    assert ".partial" not in str(caught.value)
    assert os.listdir(folder) == ["report.aws"]


@each_writer
@pytest.mark.parametrize("limit", [5, 20_000])
async def test_a_full_disk_names_the_path_of_the_caller(path: Path, write: Write, limit: int) -> None:
    path.write_bytes(b"old")
    await by_rewrap_file(path.parent / "other", PLAINTEXT)  # its source
    (path.parent / "other").unlink()
    with file_size_limit(limit), pytest.raises(OSError, match="too large") as caught:
        await write(path, PLAINTEXT)
    assert caught.value.filename == str(path)
    assert names(path) == ["report.aws"]
    assert path.read_bytes() == b"old"


@each_writer
async def test_a_missing_folder_is_named(path: Path, write: Write) -> None:
    missing = path.parent / "missing" / "report.aws"
    await by_rewrap_file(path, PLAINTEXT)
    if write is by_rewrap_file:
        (path.parent / "source.aws").write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError) as caught:
        await write(missing, PLAINTEXT)
    assert caught.value.filename == str(missing)


@each_writer
async def test_a_renamed_folder_gets_the_file(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = path.parent.parent / "renamed"
    at_sync(monkeypatch, lambda: path.parent.rename(renamed))
    await write(path, PLAINTEXT)
    assert os.listdir(renamed) == ["report.aws"]
    assert await read(renamed / "report.aws") == PLAINTEXT


@each_writer
async def test_the_file_is_synced_before_it_is_renamed_and_its_folder_after_that(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    synced = at_sync(monkeypatch, lambda: seen.append(path.exists()))
    replace = os.replace

    def watched_replace(*args: Any, **kwargs: Any) -> None:
        seen.append([*synced])
        replace(*args, **kwargs)

    monkeypatch.setattr(os, "replace", watched_replace)
    await write(path, PLAINTEXT)
    assert seen == [False, ["file"]]
    assert synced == ["file", "folder"]


# Left behind


class Stopped(Exception):
    pass


def descriptors(path: Path) -> list[str]:
    """Name the files of a test that are open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return [name for name in found if name.startswith(str(path.parent.parent))]


def assert_nothing_left(path: Path) -> None:
    """Assert that no partial file and no descriptor is left, once the threads have ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        gc.collect()
        if not descriptors(path) and set(names(path)) <= {path.name}:
            return
        time.sleep(0.01)
    raise AssertionError(f"left: {names(path)} {descriptors(path)}")


def at_suspension(number: int, function: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls another one the n-th time that it is called."""
    numbers = count()

    def on_suspend() -> None:
        if next(numbers) == number:
            function()

    return on_suspend


def stop() -> None:
    raise Stopped


async def close_coroutine(writing: Coroutine[Any, Any, None], number: int) -> object:
    """Close a coroutine at a suspension; returns None if it ended before that."""
    try:
        await watched(writing, at_suspension(number, stop))
    except Stopped:
        writing.close()
        return writing
    return None


async def close_loop(writing: Coroutine[Any, Any, None], number: int) -> object:
    """Close the loop that runs a coroutine; returns the task, which still waits."""

    async def run() -> None:
        await watched(writing, at_suspension(number, loop.stop))

    def run_loop() -> object:
        task = loop.create_task(run())
        task.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        loop.close()
        if not task.done():
            return task
        task.result()
        return None

    loop = asyncio.new_event_loop()
    return await anyio.to_thread.run_sync(run_loop)


@each_writer
@pytest.mark.parametrize("end", [close_coroutine, close_loop])
async def test_what_ends_at_any_suspension_leaves_nothing(path: Path, write: Write, end: Any) -> None:
    await by_rewrap_file(path, PLAINTEXT)  # its source
    for number in count():
        path.write_bytes(b"old")
        kept = await end(write(path, PLAINTEXT), number)
        assert_nothing_left(path)
        assert path.read_bytes() == b"old" or await read(path) == PLAINTEXT
        if kept is None:
            break
        del kept
    assert number > 9
    assert await read(path) == PLAINTEXT


@pytest.mark.parametrize("name", WRITERS)
async def test_a_program_that_closes_its_loop_without_cancelling_leaves_nothing(
    path: Path, name: str
) -> None:
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from tests.streams.test_replaced_files import PLAINTEXT, WRITERS

        async def start():
            task = asyncio.create_task(WRITERS[sys.argv[2]](path, PLAINTEXT))
            while not task.done() and not any("partial" in name for name in os.listdir(path.parent)):
                await asyncio.sleep(0)
            print(task.done())

        path = Path(sys.argv[1])
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start())
        loop.close()
    """
    await by_rewrap_file(path, PLAINTEXT)  # its source
    program = textwrap.dedent(code)
    result = await anyio.run_process([sys.executable, "-c", program, str(path), name], check=False)
    assert result.stdout.split() == [b"False"]
    assert names(path) == ["report.aws"]


async def test_a_writer_that_nobody_leaves_leaves_nothing(path: Path) -> None:
    writer = aioencrypt.open(path, "wb", provider=KEY)
    await writer.__aenter__()
    await writer.write(PLAINTEXT)
    assert len(names(path)) == 1
    del writer
    assert_nothing_left(path)
    assert names(path) == []


async def test_a_forked_child_does_not_remove_the_file_of_its_parent(path: Path) -> None:
    code = """
        import os, sys
        from aioencrypt.streams.replaced_file import ReplacedFile
        file = ReplacedFile(sys.argv[1])
        file.create()
        file.write(b"half and ")
        if os.fork() == 0:
            sys.exit()
        os.wait()
        file.write(b"half")
        file.commit()
    """
    await anyio.run_process([sys.executable, "-c", textwrap.dedent(code), str(path)])
    assert path.read_bytes() == b"half and half"
