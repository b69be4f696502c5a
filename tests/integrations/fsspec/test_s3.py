"""s3fs below, an asynchronous file system of others, against moto's S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from aioencrypt import MessageError
from aioencrypt.integrations.fsspec import EncryptedFileSystem, FileReplacedError
from tests.support.encrypted_fs import OTHER_PROVIDER, PROVIDER
from tests.support.moto import moto_server
from tests.support.streaming import flipped, plaintext_of

BUCKET = "figures"
PATH = f"{BUCKET}/report.bin"
PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(url: str) -> Iterator[Any]:
    """A client of boto3, which sees what is really there."""
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture
def options(url: str, s3: Any) -> Iterator[dict[str, Any]]:
    """Storage options for a chained URL."""
    for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=found["Key"])
    yield {"provider": PROVIDER, "s3": {"endpoint_url": url, "use_listings_cache": False}}
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET), "an upload was not given up"
    for cls in (EncryptedFileSystem, s3fs.S3FileSystem):
        cls.clear_instance_cache()


@pytest.fixture
def fs(options: dict[str, Any]) -> Any:
    return fsspec.url_to_fs(f"aioencrypt::s3://{PATH}", **options)[0]


def keys(s3: Any) -> list[str]:
    return [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_pandas_reads_and_writes_by_url(options: dict[str, Any], s3: Any) -> None:
    frame = pd.DataFrame({f"c{index}": range(index, index + 10_000) for index in range(20)})
    for name, write, read in (
        ("figures.csv", lambda url, **given: frame.to_csv(url, index=False, **given), pd.read_csv),
        ("figures.parquet", frame.to_parquet, pd.read_parquet),
    ):
        url = f"aioencrypt::s3://{BUCKET}/{name}"
        write(url, storage_options=options)
        pd.testing.assert_frame_equal(read(url, storage_options=options), frame)
        assert s3.get_object(Bucket=BUCKET, Key=name)["Body"].read(1) == b"\x02"
    two = pd.read_parquet(url, columns=["c3", "c7"], storage_options=options)
    pd.testing.assert_frame_equal(two, frame[["c3", "c7"]])
    assert keys(s3) == ["figures.csv", "figures.parquet"]


@pytest.mark.parametrize("length", [0, 100, PART, 3 * PART + 1])
def test_a_file_is_written_in_parts_and_appears_when_it_is_closed(fs: Any, s3: Any, length: int) -> None:
    plaintext = plaintext_of(length)
    with fs.open(PATH, "wb") as file:
        for start in range(0, length, 1_000_000):
            file.write(plaintext[start : start + 1_000_000])
        assert keys(s3) == []
    assert keys(s3) == ["report.bin"]
    assert fs.cat_file(PATH) == plaintext
    assert fs.info(PATH)["size"] == length
    assert fs.ls(BUCKET, detail=True)[0]["size"] == length
    if length > 10:
        with fs.open(PATH) as file:
            file.seek(-10, 2)
            assert file.read() == plaintext[-10:]


def test_an_error_gives_the_upload_up(fs: Any, s3: Any) -> None:
    fs.pipe_file(PATH, b"what was there before")
    for length in (100, 3 * PART):
        with pytest.raises(ZeroDivisionError), fs.open(PATH, "wb") as file:
            assert file.write(bytes(length)) / 0
    assert fs.cat_file(PATH) == b"what was there before"
    assert keys(s3) == ["report.bin"]


def test_a_transaction(fs: Any, s3: Any) -> None:
    with fs.transaction:
        for name, length in (("a", 10), ("b", 2 * PART)):
            with fs.open(f"{BUCKET}/{name}", "wb") as file:
                file.write(bytes(length))
        assert keys(s3) == []
    assert keys(s3) == ["a", "b"]
    assert fs.sizes([f"{BUCKET}/a", f"{BUCKET}/b"]) == [10, 2 * PART]


def test_names_and_copies(fs: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(plaintext_of(3 * PART))
    fs.put_file(str(tmp_path / "plain"), f"{BUCKET}/a/1")
    fs.copy(f"{BUCKET}/a/1", f"{BUCKET}/a/2")
    fs.mv(f"{BUCKET}/a/2", f"{BUCKET}/b/2")
    assert fs.find(BUCKET) == fs.glob(f"{BUCKET}/*/*") == [f"{BUCKET}/a/1", f"{BUCKET}/b/2"]
    fs.get(f"{BUCKET}/", str(tmp_path / "back"), recursive=True)
    assert (tmp_path / "back" / "b" / "2").read_bytes() == plaintext_of(3 * PART)
    assert fs.du(BUCKET) == 6 * PART
    fs.rm(f"{BUCKET}/a", recursive=True)
    assert [name for name, _, files in fs.walk(BUCKET) if files] == [f"{BUCKET}/b"]


def test_rewrapped(options: dict[str, Any], fs: Any) -> None:
    fs.pipe_file(PATH, b"figures")
    other = fsspec.url_to_fs(f"aioencrypt::s3://{PATH}", **{**options, "provider": OTHER_PROVIDER})[0]
    fs.rewrap(PATH, other)
    assert other.cat_file(PATH) == b"figures"


def test_a_changed_object_is_an_error(fs: Any, s3: Any) -> None:
    fs.pipe_file(PATH, plaintext_of(PART))
    with fs.open(PATH) as file:
        message = s3.get_object(Bucket=BUCKET, Key="report.bin")["Body"].read()
        s3.put_object(Bucket=BUCKET, Key="report.bin", Body=flipped(message, PART // 2))
        file.seek(PART // 2 - 50_000)
        with pytest.raises(FileReplacedError, match="open it again"):
            file.read(100_000)
    with fs.open(PATH) as file, pytest.raises(MessageError):
        file.read()


def test_pyarrow_writes_a_data_set(fs: Any, s3: Any) -> None:
    frame = pd.DataFrame({"part": [0, 1] * 100, "amount": range(200)})
    pq.write_to_dataset(pa.Table.from_pandas(frame), f"{BUCKET}/set", partition_cols=["part"], filesystem=fs)
    read = pq.read_table(f"{BUCKET}/set", filesystem=fs, columns=["amount"])
    assert sorted(read["amount"].to_pylist()) == list(range(200))
