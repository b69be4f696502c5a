"""A file that is written is there whole or not at all, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from aioencrypt import AWSConnection, KMSMasterKeyProvider, ProviderError
from aioencrypt.integrations.fsspec.target import TargetFileSystem
from aioencrypt.testing import InMemoryKMS
from tests.support.encrypted_fs import PROVIDER, AsyncMemoryFileSystem, memory, over
from tests.support.streaming import plaintext_of

OLD = b"what was there before"
NEW = b"figures" * 1_000_000


class Oops(Exception):
    pass


class CommittingFile(AbstractBufferedFile):  # type: ignore[misc]
    """A multipart upload: parts are sent as they come, and the object appears when it is committed."""

    def _initiate_upload(self) -> None:
        self.parts = [b""]
        self.fs.open_uploads += 1

    def _upload_chunk(self, final: bool = False) -> None:
        if self.fs.failing:
            raise OSError("no space left")
        self.parts.append(self.buffer.getvalue())
        self.fs.chunks += 1

    def commit(self) -> None:
        if self.fs.failing == "commit":
            raise OSError("no commit")
        self.fs.inner.pipe_file(self.path, b"".join(self.parts))
        self.fs.open_uploads -= 1

    def discard(self) -> None:
        if self.offset is not None:
            self.fs.open_uploads -= 1


class Uploading(AsyncMemoryFileSystem):
    """An object store with streaming uploads."""

    protocol = "uploading"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open_uploads = 0
        self.chunks = 0
        self.failing: str | bool = False

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **kwargs: Any) -> CommittingFile:
        assert (mode, autocommit) == ("wb", False)
        return CommittingFile(self, path, mode, 100_000, autocommit)


@pytest.fixture(params=["memory", "local", "objects", "uploads"])
def target(request: pytest.FixtureRequest) -> Any:
    match request.param:
        case "memory":
            return memory()
        case "local":
            return LocalFileSystem()
        case "objects":
            return AsyncMemoryFileSystem()
    return Uploading()


@pytest.fixture
def path(target: Any, tmp_path: Path) -> str:
    return f"{tmp_path}/report.bin" if isinstance(target, LocalFileSystem) else "/report.bin"


def names(fs: Any, path: str) -> list[str]:
    return [name.rpartition("/")[2] for name in fs.ls(path.rpartition("/")[0], detail=False)]


def assert_old(fs: Any, path: str) -> None:
    """Assert that the old file is there, and nothing else."""
    assert fs.cat_file(path) == OLD
    assert names(fs, path) == ["report.bin"]
    assert getattr(fs.fs, "open_uploads", 0) == 0


def by_with(fs: Any, path: str) -> None:
    with fs.open(path, "wb", block_size=100_000) as file:
        file.write(NEW)
        raise Oops


def by_text(fs: Any, path: str) -> None:
    with fs.open(path, "w") as file:
        file.write("half of it")
        raise Oops


def by_open_file(fs: Any, path: str) -> None:
    with fsspec.core.OpenFile(fs, path, "wb") as file:
        file.write(NEW)
        raise Oops


def by_finally(fs: Any, path: str) -> None:
    file = fs.open(path, "wb")
    try:
        file.write(NEW)
        raise Oops
    finally:
        file.close()


def by_generator(fs: Any, path: str) -> None:
    def pieces() -> Any:
        with fs.open(path, "wb") as file:
            file.write(NEW)
            yield

    next(pieces())  # which closes it at once
    raise Oops


def by_pandas(fs: Any, path: str) -> None:
    class Broken:
        def __str__(self) -> str:
            raise Oops

    with fsspec.core.OpenFile(fs, path, "w", newline="") as file:
        pd.DataFrame({"a": [1, Broken()]}).to_csv(file)


WAYS = [by_with, by_text, by_open_file, by_finally, by_generator, by_pandas]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_while_writing_leaves_what_was_there(
    target: Any, path: str, way: Callable[[Any, str], None]
) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD)
    with pytest.raises(Oops):
        way(fs, path)
    assert_old(fs, path)


def test_who_closes_a_file_because_of_an_exception_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fs = over(memory())
    with caplog.at_level(logging.WARNING, "aioencrypt"), pytest.raises(Oops):
        by_finally(fs, "/report.bin")
    assert caplog.messages == [
        "<File-like object EncryptedFileSystem, /report.bin> is dropped: it was closed because of a Oops"
    ]
    assert not fs.exists("/report.bin")


def test_a_file_may_be_written_while_an_older_exception_is_handled() -> None:
    fs = over(memory())
    try:
        raise Oops
    except Oops:
        with fs.open("/report.bin", "wb") as file:
            file.write(b"sorry")
    assert fs.cat_file("/report.bin") == b"sorry"


async def ended() -> None:
    """Wait for what was left to the loop to end."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def test_a_file_that_nobody_closes_is_dropped(target: Any, path: str) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD)
    file = fs.open(path, "wb", block_size=1000)
    file.write(NEW)
    with pytest.warns(ResourceWarning, match="was not closed, and is dropped"):  # noqa: PT031
        del file
        gc.collect()
    sync(fs.loop, ended)
    assert_old(fs, path)


def test_discard_drops_what_was_written(target: Any, path: str) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD)
    file = fs.open(path, "wb", block_size=1000)
    file.write(NEW)
    file.discard()
    file.discard()
    file.close()
    assert file.closed
    assert_old(fs, path)
    with fs.open(path, "wb") as file:
        file.write(b"new")
    file.discard()
    assert fs.cat_file(path) == b"new"


def test_an_error_of_the_key_comes_from_open_and_makes_no_file(target: Any, path: str) -> None:
    kms = InMemoryKMS()
    arn = kms.create_key(region="us-east-1")
    fs = over(
        target,
        provider=lambda: KMSMasterKeyProvider(
            [arn], connection=AWSConnection(kms={"us-east-1": kms.client("us-east-1")})
        ),
    )
    fs.pipe_file(path, OLD)
    kms.disable_key(arn)
    with pytest.raises(ProviderError, match="DisabledException"):
        fs.open(path, "wb")
    with pytest.raises(ProviderError, match="DisabledException"):
        fs.pipe_file(path, NEW)
    kms.enable_key(arn)
    assert_old(fs, path)


@pytest.mark.parametrize("operation", ["write", "close", "mv"])
def test_an_error_of_the_target_leaves_what_was_there(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = memory()
    fs, path = over(target), "/report.bin"
    fs.pipe_file(path, OLD)
    open_below = target.open

    def failing(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    def open_failing(name: str, mode: str, **options: object) -> Any:
        file = open_below(name, mode, **options)
        if operation != "mv":
            monkeypatch.setattr(file, operation, failing, raising=False)
        return file

    monkeypatch.setattr(target, "open", open_failing)
    if operation == "mv":
        monkeypatch.setattr(target, "mv", failing)
    with pytest.raises(OSError, match="no space left"), fs.open(path, "wb") as file:
        file.write(NEW)
    with pytest.raises(OSError, match="no space left"):
        fs.pipe_file(path, NEW)
    monkeypatch.undo()
    target.open = open_below
    assert_old(fs, path)


@pytest.mark.parametrize("failing", [True, "commit"])
def test_an_upload_that_fails_is_given_up(failing: bool | str) -> None:
    target, path = Uploading(), "/report.bin"
    fs = over(target)
    fs.pipe_file(path, OLD)
    target.failing = failing
    with pytest.raises(OSError, match="no "), fs.open(path, "wb") as file:
        file.write(NEW)
    assert_old(fs, path)


def test_uploads_are_streamed_where_the_target_can() -> None:
    target, path = Uploading(), "/report.bin"
    fs = over(target)
    with fs.open(path, "wb", block_size=100_000) as file:
        file.write(NEW[:2_000_000])
        assert target.chunks > 3
        assert not fs.exists(path)
        file.write(NEW[2_000_000:])
    assert fs.cat_file(path) == NEW
    assert (target.open_uploads, target.uploads) == (0, [])
    fs.pipe_file(path, OLD)
    assert target.uploads == ["pipe"]


def test_a_target_whose_files_are_of_another_kind() -> None:
    target: Any = AsyncMemoryFileSystem()
    target._open = lambda path, mode, autocommit: io.BytesIO()
    fs = over(target)
    with fs.open("/report.bin", "wb") as file:
        file.write(OLD)
    assert target.uploads == ["pipe"]
    assert fs.cat_file("/report.bin") == OLD


def test_a_large_message_waits_in_a_temporary_file_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target, plaintext = AsyncMemoryFileSystem(), plaintext_of(20_000_000)
    fs = over(target)
    with fs.open("/report.bin", "wb") as file:
        file.write(plaintext[:15_000_000])
        assert len(os.listdir(tmp_path)) == 1
        [held] = tmp_path.iterdir()
        assert held.stat().st_mode & 0o077 == 0
        file.write(plaintext[15_000_000:])
    assert target.uploads == ["put"]
    assert os.listdir(tmp_path) == []
    assert fs.cat_file("/report.bin") == plaintext
    with pytest.raises(Oops):
        by_with(fs, "/report.bin")
    assert os.listdir(tmp_path) == []


def test_a_loop_that_is_closed_removes_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = TargetFileSystem(AsyncMemoryFileSystem(asynchronous=True))

    async def begin() -> Any:
        sink: Any = await target.sink("/report.bin", streaming=False, given={})
        sink.write(bytes(9_000_000))
        return sink

    loop = asyncio.new_event_loop()
    sink = loop.run_until_complete(begin())
    assert len(os.listdir(tmp_path)) == 1
    loop.close()
    assert os.listdir(tmp_path) == []
    del sink


def test_a_file_is_not_put_over_a_folder(tmp_path: Path) -> None:
    fs = over(LocalFileSystem())
    with pytest.raises(IsADirectoryError):
        fs.open(str(tmp_path), "wb")
    with pytest.raises(IsADirectoryError):
        fs.pipe_file(str(tmp_path), b"")
    assert os.listdir(tmp_path) == []


def test_exclusive(target: Any, path: str) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD, mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file(path, NEW, mode="create")
    with pytest.raises(FileExistsError):
        fs.open(path, "xb")
    assert_old(fs, path)


# Transactions


def test_the_files_of_a_transaction_appear_at_its_end(target: Any, path: str) -> None:
    fs, other = over(target), f"{path}.other"
    fs.pipe_file(path, OLD)
    with fs.transaction:
        for name in (path, other):
            with fs.open(name, "wb") as file:
                file.write(NEW)
        assert fs.cat_file(path) == OLD
        assert not fs.exists(other)
    assert fs.cat_file(path) == fs.cat_file(other) == NEW
    assert sorted(names(fs, path)) == ["report.bin", "report.bin.other"]


def test_a_transaction_that_fails_leaves_nothing(target: Any, path: str) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD)
    with pytest.raises(Oops), fs.transaction:  # noqa: PT012
        fs.open(f"{path}.other", "wb").close()
        by_with(fs, path)
    assert_old(fs, path)


def test_a_file_that_was_dropped_is_not_committed(target: Any, path: str) -> None:
    fs = over(target)
    fs.pipe_file(path, OLD)
    with fs.transaction, pytest.raises(Oops):
        by_with(fs, path)
    assert_old(fs, path)


def test_threads_write_at_once() -> None:
    fs = over(memory())

    def write(index: int) -> None:
        with fs.open(f"/{index}", "wb", block_size=1000) as file:
            for _ in range(10):
                file.write(plaintext_of(1000 + index))

    threads = [threading.Thread(target=write, args=[index]) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        assert fs.cat_file(f"/{index}") == plaintext_of(1000 + index) * 10


def test_the_temporary_file_stands_beside_its_place(tmp_path: Path) -> None:
    with fsspec.open(f"aioencrypt::file://{tmp_path}/report.bin", "wb", provider=PROVIDER):
        [name] = os.listdir(tmp_path)
        assert name.startswith(".aioencrypt-")
        assert name.endswith(".partial")
    assert os.listdir(tmp_path) == ["report.bin"]
