"""One odd entry never spoils a listing, and a replaced file is a changed file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pandas as pd
import pyarrow.dataset as ds
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from aioencrypt import MessageError
from aioencrypt.integrations.fsspec import EncryptedFileSystem, FileReplacedError
from tests.support.encrypted_fs import PROVIDER, CountingFileSystem, memory, over
from tests.support.moto import moto_server
from tests.support.streaming import plaintext_of

BUCKET = "odd"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    yield client
    client.close()


@pytest.fixture
def options(url: str, s3: Any) -> Iterator[dict[str, Any]]:
    yield {"provider": PROVIDER, "s3": {"endpoint_url": url}}
    for cls in (EncryptedFileSystem, s3fs.S3FileSystem):
        cls.clear_instance_cache()


@pytest.fixture
def fs(options: dict[str, Any]) -> Any:
    return fsspec.url_to_fs(f"aioencrypt::s3://{BUCKET}/x", **options)[0]


LISTINGS: dict[str, Callable[[Any, str], Any]] = {
    "ls": lambda fs, path: fs.ls(path, detail=True),
    "find": lambda fs, path: fs.find(path, detail=True).values(),
    "glob": lambda fs, path: fs.glob(f"{path}/*", detail=True).values(),
    "walk": lambda fs, path: [info for _, _, files in fs.walk(path, detail=True) for info in files.values()],
}


def assert_listed(fs: Any, path: str, known: dict[str, int], unknown: dict[str, str]) -> None:
    """Assert that all listings have sizes for some names, and reasons for others."""
    for name, listing in LISTINGS.items():
        found = {info["name"].removeprefix(f"{path}/"): info for info in listing(fs, path)}
        assert {key: found[key]["size"] for key in known} == known, name
        for key, reason in unknown.items():
            assert found[key]["size"] is None, (name, key)
            assert reason in found[key]["size_unknown"], (name, key)
    with pytest.warns(UserWarning, match=r"du counts \d+ of \d+ files as 0 bytes"):
        assert fs.du(path) == sum(known.values())


def test_folders_of_the_console_and_archived_objects(fs: Any, s3: Any, options: dict[str, Any]) -> None:
    frame = pd.DataFrame({"amount": range(100)})
    place = f"aioencrypt::s3://{BUCKET}/set"
    frame.to_parquet(f"{place}/a.parquet", storage_options=options)
    s3.put_object(Bucket=BUCKET, Key="set/", Body=b"")
    assert pd.read_parquet(place, storage_options=options)["amount"].sum() == frame["amount"].sum()
    assert ds.dataset(f"{BUCKET}/set", filesystem=fs).count_rows() == 100
    with pytest.warns(UserWarning, match="du counts 1 of 2"):
        assert fs.du(f"{BUCKET}/set", refresh=True) == fs.size(f"{BUCKET}/set/a.parquet")
    message = s3.get_object(Bucket=BUCKET, Key="set/a.parquet")["Body"].read()
    s3.put_object(Bucket=BUCKET, Key="set/old.parquet", Body=message, StorageClass="GLACIER")
    s3.put_object(Bucket=BUCKET, Key="set/_SUCCESS", Body=b"no message")
    fs.invalidate_cache()
    size = fs.size(f"{BUCKET}/set/a.parquet")
    reasons = {"old.parquet": "Error: ", "_SUCCESS": "this is not a message"}
    assert_listed(fs, f"{BUCKET}/set", {"a.parquet": size}, reasons)
    archived = fs.info(f"{BUCKET}/set/old.parquet")
    assert (archived["size"], archived["StorageClass"]) == (None, "GLACIER")


def test_links_pipes_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    fs, folder = over(LocalFileSystem()), str(tmp_path / "set")
    os.makedirs(f"{folder}/deeper")
    fs.pipe_file(f"{folder}/a", plaintext_of(700))
    fs.pipe_file(f"{tmp_path}/elsewhere", plaintext_of(5000))
    os.symlink(f"{tmp_path}/elsewhere", f"{folder}/link")
    os.symlink(f"{tmp_path}/nowhere", f"{folder}/broken")
    os.symlink(f"{folder}/deeper", f"{folder}/folder")
    os.mkfifo(f"{folder}/pipe")
    Path(f"{folder}/empty").touch()
    Path(f"{folder}/text").write_text("no message")
    unknown = {
        "broken": "FileNotFoundError",
        "pipe": "no regular file",
        "empty": "is empty",
        "text": "not a message",
    }
    found = {info["name"].removeprefix(f"{folder}/"): info for info in fs.ls(folder, detail=True)}
    assert {name: found[name]["size"] for name in ("a", "link")} == {"a": 700, "link": 5000}
    assert {name: found[name]["size"] for name in unknown} == dict.fromkeys(unknown)
    for name, reason in unknown.items():
        assert reason in found[name]["size_unknown"]
    assert fs.info(f"{folder}/link")["size"] == 5000
    with pytest.raises(FileNotFoundError):  # as over plain files
        fs.info(f"{folder}/broken")
    for name, reason in [*unknown.items()][1:]:
        info = fs.info(f"{folder}/{name}")
        assert (info["size"], reason in info["size_unknown"]) == (None, True), name
        assert fs.sizes([f"{folder}/{name}", f"{folder}/a"]) == [None, 700]
    os.unlink(f"{folder}/folder")
    assert_listed(fs, folder, {"a": 700, "link": 5000}, unknown)
    shown = fs.tree(folder, display_size=True)
    assert {name for name in found if f" {name} (unknown B)" in shown} == {"empty", "text"}
    assert " a (700B)" in shown


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, TimeoutError, RuntimeError])
def test_whatever_reading_one_file_raises(error: type[Exception]) -> None:
    target = CountingFileSystem()
    fs, read = over(target), target.cat_file
    fs.pipe({"/set/a": b"figures", "/set/b": b"more figures"})

    def failing(path: str, start: int | None = None, end: int | None = None) -> bytes:
        if path == "/set/b":
            raise error("the reason")
        return bytes(read(path, start, end))

    target.cat_file = failing  # type: ignore[assignment]
    assert_listed(fs, "/set", {"a": 7}, {"b": f"{error.__name__}: the reason"})


def test_sizes_that_are_not_wanted_say_so() -> None:
    fs = over(memory(), sizes=False)
    fs.pipe_file("/set/a", b"figures")
    [info] = fs.ls("/set", detail=True)
    assert (info["size"], info["size_unknown"]) == (None, "sizes=False")


# Replaced files


@pytest.mark.parametrize("lengths", [(10, 50_000), (50_000, 10), (50_000, 50_001), (50_000, 50_000)])
def test_a_file_that_was_replaced_since_it_was_listed_is_read_anew(
    fs: Any, options: dict[str, Any], tmp_path: Path, lengths: tuple[int, int]
) -> None:
    path = f"{BUCKET}/report.bin"
    before, after = map(plaintext_of, lengths)
    reads: list[Callable[[], bytes]] = [
        lambda: bytes(fs.open(path).read()),
        lambda: bytes(fs.cat_file(path)),
        lambda: bytes(fs.cat_file(path, start=0, end=len(after))),
        lambda: bytes(fs.cat_ranges([path], 0, len(after))[0]),
        lambda: fs.get_file(path, str(tmp_path / "back")) or (tmp_path / "back").read_bytes(),
    ]
    writer = over(s3fs.S3FileSystem(endpoint_url=options["s3"]["endpoint_url"], skip_instance_cache=True))
    for read in reads:
        fs.pipe_file(path, before)
        assert fs.ls(BUCKET, detail=True, refresh=True)[0]["size"] == len(before)
        writer.pipe_file(path, after)
        assert fs.ls(BUCKET, detail=True)[0]["name"] == path, "the listing is a cached one"
        assert read() == after
    assert fs.info(path, refresh=True)["size"] == len(after)


@pytest.mark.parametrize("length", [20_000, 300_000])
def test_a_file_that_is_replaced_while_it_is_open_says_so(
    fs: Any, options: dict[str, Any], length: int
) -> None:
    path = f"{BUCKET}/report.bin"
    fs.pipe_file(path, plaintext_of(300_000))
    with fs.open(path) as file:
        fs.pipe_file(path, plaintext_of(length)[::-1])
        file.seek(100_000)
        with pytest.raises(
            FileReplacedError, match=r"replaced, changed or removed .* open it again"
        ) as caught:
            file.read(1000)
    assert not isinstance(caught.value, MessageError)
    with fs.open(path) as file:
        fs.rm(path)
        file.seek(10_000)
        with pytest.raises(FileReplacedError):
            file.read(1000)


def test_a_damaged_file_is_no_replaced_one() -> None:
    target = memory()
    fs = over(target)
    fs.pipe_file("/report.bin", plaintext_of(100))
    target.pipe_file("/report.bin", target.cat_file("/report.bin")[:-1])
    for read in (fs.cat_file, fs.open, lambda path: fs.cat_file(path, 1, 2)):
        with pytest.raises(MessageError):
            read("/report.bin")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    fs, pipe, link = over(LocalFileSystem()), str(tmp_path / "pipe"), str(tmp_path / "link")
    os.mkfifo(pipe)
    os.symlink(pipe, link)
    reads: list[Callable[[str], object]] = [
        fs.cat_file,
        fs.open,
        lambda path: fs.cat_file(path, start=0, end=1),
        lambda path: fs.get_file(path, str(tmp_path / "copy")),
    ]
    for path in (pipe, link, "/dev/null"):
        for read in reads:
            with pytest.raises(OSError, match="not a regular file") as caught:
                read(path)
            assert caught.value.filename == path
