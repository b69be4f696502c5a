"""What stands above and below the file system: text, caches, transactions, HTTP, other libraries."""

from __future__ import annotations

import array
import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pandas as pd
import pytest
import s3fs
from fsspec.callbacks import Callback
from fsspec.generic import GenericFileSystem, rsync, set_generic_fs
from fsspec.implementations.cached import WholeFileCacheFileSystem
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from aioencrypt.integrations.fsspec import EncryptedFileSystem
from tests.support.encrypted_fs import PROVIDER, AsyncMemoryFileSystem, memory, over
from tests.support.moto import moto_server
from tests.support.streaming import plaintext_of

OPTIONS = {"provider": PROVIDER}


# Text and lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1"])
def test_text_has_the_bytes_that_a_plain_file_has(encoding: str, tmp_path: Path) -> None:
    url, plain = f"aioencrypt::file://{tmp_path}/text", tmp_path / "plain"
    text = "größer\nals\nnötig\n" * 1000
    fs = fsspec.url_to_fs(url, **OPTIONS)[0]
    ways: list[Callable[[str], Any]] = [
        lambda mode: fs.open(f"{tmp_path}/text", mode, encoding=encoding),
        lambda mode: fsspec.open(url, mode, encoding=encoding, **OPTIONS).open(),
    ]
    for open_text in ways:
        with open_text("w") as file:
            file.write(text[:5])
            file.write(text[5:])
        plain.write_text(text, encoding=encoding)
        assert fs.cat_file(f"{tmp_path}/text") == plain.read_bytes()
        with open_text("r") as file:
            assert file.read() == text
    frame = pd.DataFrame({"größe": [1, 2]})
    frame.to_csv(url, encoding=encoding, index=False, storage_options=OPTIONS)
    frame.to_csv(plain, encoding=encoding, index=False)
    assert fs.cat_file(f"{tmp_path}/text") == plain.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(url, encoding=encoding, storage_options=OPTIONS), frame)


def test_a_file_that_is_written_cannot_be_moved_in() -> None:
    with over(memory()).open("/report.bin", "wb") as file:
        assert file.seekable()
        with pytest.raises(OSError, match="read mode"):
            file.seek(0)
        file.write(b"figures")
        assert not file.seekable()


@pytest.mark.parametrize("form", ["url", "compression"])
def test_pandas_compresses_where_it_is_told_to(form: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"amount": range(1000)})
    if form == "url":
        url, options = f"aioencrypt://file://{tmp_path}/figures.csv.gz", {}
    else:
        url, options = f"aioencrypt::file://{tmp_path}/figures.csv.gz", {"compression": "gzip"}
    frame.to_csv(url, index=False, storage_options=OPTIONS, **options)
    with fsspec.open(url, **OPTIONS) as file:
        assert file.read(2) == b"\x1f\x8b"
    pd.testing.assert_frame_equal(pd.read_csv(url, storage_options=OPTIONS, **options), frame)


LINES = b"".join(b"line %d\n" % number for number in range(5000)) + b"\n\nlast"

WAYS: dict[str, Callable[[Any], list[bytes]]] = {
    "for": lambda file: [*file],
    "readline": lambda file: [*iter(file.readline, b"")],
    "readlines": lambda file: file.readlines(),
    "readline of some bytes": lambda file: [*iter(lambda: file.readline(5), b"")],
    "text": lambda file: [line.encode() for line in __import__("io").TextIOWrapper(file, newline="")],
}


@pytest.mark.parametrize("cache_type", [None, "none", "readahead"])
@pytest.mark.parametrize("way", WAYS)
def test_lines_come_from_blocks(way: str, cache_type: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = over(memory())
    fs.pipe_file("/lines", LINES)
    hops = []
    run = asyncio.run_coroutine_threadsafe

    def counting(*given: Any) -> Any:
        hops.append(given)
        return run(*given)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", counting)
    with fs.open("/lines", cache_type=cache_type) as file:
        found = WAYS[way](file)
    expected = LINES.splitlines(keepends=True)
    if way == "readline of some bytes":
        expected = [line[at : at + 5] for line in expected for at in range(0, len(line), 5)]
    assert found == expected
    assert len(hops) <= 20


def test_lines_and_reads_share_the_position() -> None:
    fs = over(memory())
    fs.pipe_file("/lines", LINES)
    with fs.open("/lines", block_size=100) as file:
        assert file.readline() == b"line 0\n"
        assert (file.tell(), file.read(6), file.readline()) == (7, b"line 1", b"\n")
        file.seek(len(LINES) - 6)
        assert file.readlines() == [b"\n", b"\n", b"last"]
        assert (file.readline(), file.readlines()) == (b"", [])
        file.seek(7)
        assert next(file) == b"line 1\n"
        assert file.readline(3) == b"lin"
    with pytest.raises(ValueError, match="closed"):
        file.readline()


# Caches


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="caches")
        client.close()
        yield url


@pytest.fixture
def chain(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    name = request.param
    caches = {"cache_storage": str(tmp_path / "cache")}
    yield (
        f"aioencrypt::{name}::s3://caches/{name}.bin",
        {**OPTIONS, name: caches, "s3": {"endpoint_url": url}},
    )
    for cls in (EncryptedFileSystem, s3fs.S3FileSystem):
        cls.clear_instance_cache()


@pytest.mark.parametrize("chain", ["simplecache", "filecache", "blockcache"], indirect=True)
def test_files_are_written_and_read_through_a_cache(chain: tuple[str, dict[str, Any]]) -> None:
    place, options = chain
    fs, path = fsspec.url_to_fs(place, **options)
    direct = over(s3fs.S3FileSystem(**options["s3"], skip_instance_cache=True))
    for plaintext in (b"first", plaintext_of(9_000_000)):
        with fsspec.open(place, "wb", **options) as file:
            file.write(plaintext)
        assert direct.cat_file(path, refresh=True) == plaintext
        if "simplecache" in place:
            with fsspec.open(place, **options) as file:
                assert file.read() == plaintext
    fs.pipe_file(path, b"third")
    assert direct.cat_file(path, refresh=True) == b"third"
    with pytest.raises(ZeroDivisionError), fsspec.open(place, "wb", **options) as file:
        file.write(bytes(1 // 0))
    assert direct.cat_file(path, refresh=True) == b"third"
    assert fs.ls("caches", detail=True, refresh=True)[0]["size"] is not None


# Pieces of memory, and transactions


@pytest.mark.parametrize(
    "data",
    [
        array.array("I", [1, 2, 3]),
        memoryview(array.array("d", [1.5])),
        memoryview(bytes(12)).cast("I", [3, 1]),
    ],
    ids=["array", "doubles", "dimensions"],
)
def test_wide_pieces_of_memory_are_written_as_bytes(data: Any) -> None:
    fs = over(memory())
    fs.pipe_file("/report.bin", data)
    assert fs.cat_file("/report.bin") == bytes(memoryview(data).tobytes())


def by_put(fs: Any, path: str, local: Path) -> None:
    local.write_bytes(b"new")
    fs.put_file(str(local), path)


WRITES: dict[str, Callable[[Any, str, Path], Any]] = {
    "pipe_file": lambda fs, path, local: fs.pipe_file(path, b"new"),
    "pipe": lambda fs, path, local: fs.pipe({path: b"new"}),
    "write_bytes": lambda fs, path, local: fs.write_bytes(path, b"new"),
    "write_text": lambda fs, path, local: fs.write_text(path, "new"),
    "put_file": by_put,
}


@pytest.mark.parametrize("target", ["memory", "local", "objects"])
@pytest.mark.parametrize("write", WRITES)
def test_every_write_of_a_transaction_waits_for_its_end(write: str, target: str, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    below = {"memory": memory(), "local": LocalFileSystem(), "objects": AsyncMemoryFileSystem()}[target]
    fs, path = over(below), f"{folder}/report.bin" if target == "local" else "/report.bin"
    fs.pipe_file(path, b"old")
    with pytest.raises(ZeroDivisionError), fs.transaction:  # noqa: PT012
        WRITES[write](fs, path, tmp_path / "plain")
        assert fs.cat_file(path) == b"old"
        raise ZeroDivisionError
    assert fs.cat_file(path) == b"old"
    with fs.transaction:
        WRITES[write](fs, path, tmp_path / "plain")
        assert fs.cat_file(path) == b"old"
    assert fs.cat_file(path) == b"new"
    if target == "local":
        assert [one.name for one in folder.iterdir()] == ["report.bin"]


# HTTP


class WholeFiles(BaseHTTPRequestHandler):
    """Sends whole files, whatever range is asked for."""

    content: bytes = b""
    tells_length: bool = True

    def do_HEAD(self) -> None:
        self.send_response(200)
        if self.tells_length:
            self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@pytest.mark.parametrize("length", [100_000, 5_000_000])
@pytest.mark.parametrize("tells_length", [True, False])
def test_files_of_a_server_without_ranges_are_read_whole(
    tells_length: bool, length: int, tmp_path: Path
) -> None:
    target = memory()
    over(target).pipe_file("/report.bin", plaintext_of(length))
    WholeFiles.content, WholeFiles.tells_length = target.cat_file("/report.bin"), tells_length
    reason = "HTTPFileSystem below, or its server, ignores ranges" if tells_length else "size .* is not known"
    server = ThreadingHTTPServer(("127.0.0.1", 0), WholeFiles)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        place = f"http://127.0.0.1:{server.server_port}/report.bin"
        fs = over(HTTPFileSystem(skip_instance_cache=True))
        for read in (fs.open, lambda path: fs.cat_file(path, start=5, end=10)):
            with pytest.raises(OSError, match=reason):
                read(place)
        assert fs.cat_file(place) == plaintext_of(length)
        fs.get_file(place, str(tmp_path / "back"), callback=(callback := Callback()))
        assert (tmp_path / "back").read_bytes() == plaintext_of(length)
        assert (callback.size, callback.value) == (None, length)
        assert fs.info(place)["size"] is None
        cached = WholeFileCacheFileSystem(target_protocol="http", cache_storage=str(tmp_path / "cache"))
        with over(cached).open(place) as file:
            assert file.read() == plaintext_of(length)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# Archives


@pytest.mark.parametrize("length", [100, 9_000_000])
def test_an_archive_takes_whole_messages(length: int, tmp_path: Path) -> None:
    place = str(tmp_path / "archive.zip")
    archive = ZipFileSystem(place, mode="w", skip_instance_cache=True)
    fs = over(archive)
    fs.pipe_file("piped", plaintext_of(length))
    with fs.open("opened", "wb") as file:
        file.write(plaintext_of(length))
    with pytest.raises(ZeroDivisionError), fs.open("dropped", "wb") as file:
        file.write(bytes(1 // 0))
    archive.close()
    fs = over(ZipFileSystem(place, skip_instance_cache=True))
    assert sorted(fs.find("")) == ["opened", "piped"]
    assert fs.cat(["opened", "piped"]) == dict.fromkeys(["opened", "piped"], plaintext_of(length))


# Other libraries


def test_generic_rsync_goes_in_and_out(tmp_path: Path) -> None:
    (tmp_path / "plain" / "deeper").mkdir(parents=True)
    (tmp_path / "plain" / "a").write_bytes(b"figures")
    (tmp_path / "plain" / "deeper" / "b").write_bytes(b"more figures")
    set_generic_fs("aioencrypt", provider=PROVIDER, target_protocol="file")
    set_generic_fs("file")
    generic = GenericFileSystem(default_method="generic")
    rsync(f"file://{tmp_path}/plain", f"aioencrypt://file://{tmp_path}/sealed", fs=generic)
    assert (tmp_path / "sealed" / "a").read_bytes()[:1] == b"\x02"
    rsync(f"aioencrypt://{tmp_path}/sealed", f"file://{tmp_path}/back", fs=generic)
    assert (tmp_path / "back" / "a").read_bytes() == b"figures"
    assert (tmp_path / "back" / "deeper" / "b").read_bytes() == b"more figures"
