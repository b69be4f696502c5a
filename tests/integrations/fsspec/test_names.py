"""Names, copies and moves, other keys; URLs and options."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from aioencrypt import ProviderError, RawAESMasterKey, TruncatedMessageError
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from tests.support.encrypted_fs import (
    OTHER_PROVIDER,
    PROVIDER,
    AsyncMemoryFileSystem,
    memory,
    over,
)
from tests.support.streaming import SIGNED, plaintext_of

PATH = "/folder/report.bin"


@pytest.fixture(params=["memory", "local", "objects", "dir"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a file system that blocks, or one that is asynchronous, or one that only says so."""
    match request.param:
        case "memory":
            return memory()
        case "local":
            return LocalFileSystem(auto_mkdir=True)
        case "objects":
            return AsyncMemoryFileSystem()
    return DirFileSystem(path=str(tmp_path), fs=LocalFileSystem(auto_mkdir=True))


@pytest.fixture
def path(target: Any, tmp_path: Path) -> str:
    return f"{tmp_path}/folder/report.bin" if isinstance(target, LocalFileSystem) else PATH


def stored(target: Any, path: str) -> bytes:
    return bytes(getattr(target, "inner", target).cat_file(path))


# Names


def test_what_moves_copies_and_removes_is_the_message(target: Any, path: str) -> None:
    fs, folder = over(target), path.rpartition("/")[0]
    fs.pipe_file(path, b"figures")
    message = stored(target, path)
    fs.cp_file(path, f"{folder}/copy")
    assert stored(target, f"{folder}/copy") == message
    fs.mv(f"{folder}/copy", f"{folder}/moved")
    assert stored(target, f"{folder}/moved") == message
    assert not fs.exists(f"{folder}/copy")
    fs.mv(path, path)
    assert fs.cat(path) == b"figures"
    assert fs.cat([path, f"{folder}/moved"]) == {path: b"figures", f"{folder}/moved": b"figures"}
    fs.rm_file(f"{folder}/moved")
    fs.rm(path)
    assert not fs.exists(path)
    with pytest.raises(FileNotFoundError):
        fs.open(path)
    with pytest.raises(FileNotFoundError):
        fs.info(path)


def test_folders(tmp_path: Path) -> None:
    fs = over(LocalFileSystem())
    (tmp_path / "a").mkdir()
    fs.put_file(str(tmp_path / "a"), f"{tmp_path}/z")
    fs.get_file(f"{tmp_path}/z", str(tmp_path / "y"))
    for name in "yz":
        fs.rmdir(f"{tmp_path}/{name}")
    fs.makedirs(f"{tmp_path}/a/b", exist_ok=True)
    fs.mkdir(f"{tmp_path}/c")
    fs.rmdir(f"{tmp_path}/c")
    fs.pipe_file(f"{tmp_path}/a/b/file", b"figures")
    fs.mv(f"{tmp_path}/a", f"{tmp_path}/d", recursive=True)
    assert fs.find(str(tmp_path)) == [f"{tmp_path}/d/b/file"]
    fs.rm(f"{tmp_path}/d", recursive=True)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(IsADirectoryError):
        fs.open(str(tmp_path))
    assert fs.modified(str(tmp_path)) == LocalFileSystem().modified(str(tmp_path))
    assert fs.created(str(tmp_path)) == LocalFileSystem().created(str(tmp_path))
    assert fs.ukey(str(tmp_path)) == LocalFileSystem().ukey(str(tmp_path))


@pytest.mark.parametrize("length", [0, 5_000, 5_000_000])
def test_files_go_up_and_down(target: Any, path: str, tmp_path: Path, length: int) -> None:
    fs, plaintext = over(target), plaintext_of(length)
    local = tmp_path / "plain"
    local.write_bytes(plaintext)
    fs.put_file(str(local), path)
    assert fs.cat_file(path) == plaintext
    assert plaintext == b"" or plaintext[:100] not in stored(target, path)
    progress = fsspec.Callback()
    fs.get_file(path, str(tmp_path / "new" / "back"), callback=progress)
    assert (tmp_path / "new" / "back").read_bytes() == plaintext
    assert progress.value == length
    buffer = io.BytesIO()
    fs.get_file(path, buffer)
    assert buffer.getvalue() == plaintext
    with pytest.raises(FileExistsError):
        fs.put_file(str(local), path, mode="create")


def test_a_message_is_put_under_other_keys_and_inspected(target: Any, path: str) -> None:
    old, new = over(target), over(target, provider=OTHER_PROVIDER)
    old.pipe_file(path, b"figures")
    assert [key.name for key in old.inspect(path).keys] == ["fsspec"]
    result = old.rewrap(path, new)
    assert result.reencrypted
    assert [key.name for key in new.inspect(path).keys] == ["other"]
    assert new.cat_file(path) == b"figures"
    with pytest.raises(ProviderError):
        old.cat_file(path)
    assert not new.rewrap(path, old, keep=True, accept_iv_reuse=True).reencrypted
    assert [key.name for key in new.inspect(path).keys] == ["other", "fsspec"]
    assert old.cat_file(path) == new.cat_file(path) == b"figures"
    with pytest.raises(ProviderError):
        over(target, provider=make_stranger).rewrap(path, new)
    assert old.cat_file(path) == b"figures", "a message that is not rewrapped stays as it is"


def make_stranger() -> RawAESMasterKey:
    return RawAESMasterKey("tests", "stranger", wrapping_key=bytes(32))


# URLs and options


def test_a_url_names_the_file_system_below(tmp_path: Path) -> None:
    assert fsspec.get_filesystem_class("aioencrypt") is EncryptedFileSystem
    url = f"aioencrypt::file://{tmp_path}/report.bin"
    with fsspec.open(url, "wb", provider=PROVIDER, frame_length=100) as file:
        file.write(b"figures")
    with fsspec.open(url, aioencrypt={"provider": PROVIDER}) as file:
        assert file.read() == b"figures"
        assert file.full_name == f"aioencrypt://file://{tmp_path}/report.bin"
    fs, path = fsspec.url_to_fs(url, provider=PROVIDER)
    assert path == f"{tmp_path}/report.bin"
    assert fs.unstrip_protocol(path) == f"aioencrypt://file://{path}"
    assert fsspec.url_to_fs(fs.unstrip_protocol(path), provider=PROVIDER) == (fs, path)
    assert fs.fsid == "aioencrypt_local"
    for given in (path, f"file://{path}", f"aioencrypt://{path}", f"aioencrypt::file://{path}", Path(path)):
        assert fs.cat_file(given) == b"figures"
    assert fs.glob(f"aioencrypt::file://{tmp_path}/*") == [path]
    assert fs.info("/")["name"] == "/"
    chained, _ = fsspec.url_to_fs(
        "aioencrypt::dir::file://" + str(tmp_path), provider=PROVIDER, dir={"path": str(tmp_path)}
    )
    assert chained.cat_file("report.bin") == b"figures"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"provider": PROVIDER}, ValueError, "give either target_protocol or fs"),
        ({"provider": PROVIDER, "fs": memory(), "target_protocol": "file"}, ValueError, "give either"),
        ({"fs": memory()}, ValueError, "no provider is given: give the storage option provider"),
        ({"fs": memory(), "provider": "keys"}, ValueError, "'package.module:name'"),
        ({"fs": memory(), "provider": 5}, TypeError, "neither a master key, nor a provider, nor a CMM"),
        ({"fs": memory(), "provider": PROVIDER, "algorithm_suite": 1}, ValueError, "1 is not a valid"),
        ({"fs": memory(), "provider": PROVIDER, "frame": 1}, TypeError, "frame"),
        (
            {"fs": AsyncMemoryFileSystem(), "provider": PROVIDER, "asynchronous": True},
            ValueError,
            "asynchronous is True; the file system below must have the same",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        EncryptedFileSystem(**options)


def test_a_suite_may_be_given_as_its_number() -> None:
    fs = over(memory(), algorithm_suite=0x0578)
    fs.pipe_file(PATH, b"")
    assert fs.inspect(PATH).algorithm_suite is SIGNED


def test_a_target_that_does_not_know_sizes() -> None:
    target = memory()
    fs = over(target)
    fs.pipe_file(PATH, b"figures")
    target.info = lambda path: {"name": path, "type": "file", "size": None}
    with pytest.raises(OSError, match="the size of the file is not known") as caught:
        fs.open(PATH)
    assert caught.value.filename == PATH


def test_a_target_that_gives_less_than_it_has() -> None:
    target = memory()
    fs = over(target)
    fs.pipe_file(PATH, b"figures" * 5000)
    read = target.cat_file
    target.cat_file = lambda path, start=None, end=None: read(path, start, end)[:-1]
    with pytest.raises(TruncatedMessageError):
        fs.open(PATH)
