"""pandas and pyarrow read and write encrypted data by URL, and fetch what they need of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.parquet import open_parquet_file
from fsspec.spec import AbstractBufferedFile
from pyarrow.fs import FSSpecHandler, PyFileSystem

from aioencrypt import MessageError
from tests.support.encrypted_fs import PROVIDER, CountingFileSystem, over
from tests.support.streaming import flipped

OPTIONS = {"provider": PROVIDER}
ROWS, COLUMNS = 20_000, 50


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    dice = np.random.default_rng(7)
    return pd.DataFrame({f"c{index}": dice.integers(0, 2**40, ROWS) for index in range(COLUMNS)})


def test_csv(tmp_path: Path, frame: pd.DataFrame) -> None:
    url = f"aioencrypt::file://{tmp_path}/figures.csv"
    frame.to_csv(url, index=False, storage_options=OPTIONS)
    assert b"c0,c1" not in (tmp_path / "figures.csv").read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(url, storage_options=OPTIONS), frame)
    chunks = pd.read_csv(url, storage_options=OPTIONS, usecols=["c1"], chunksize=3000)
    pd.testing.assert_frame_equal(pd.concat(chunks), frame[["c1"]])


@pytest.mark.parametrize("name", ["figures.csv.gz", "figures.csv.zip", "figures.json", "figures.pkl"])
def test_other_formats(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    url, small = f"aioencrypt::file://{tmp_path}/{name}", frame.head(100)
    match name.split(".")[1]:
        case "csv":
            small.to_csv(url, index=False, storage_options=OPTIONS)
            read = pd.read_csv(url, storage_options=OPTIONS)
        case "json":
            small.to_json(url, storage_options=OPTIONS)
            read = pd.read_json(url, storage_options=OPTIONS)
        case _:
            small.to_pickle(url, storage_options=OPTIONS)
            read = pd.read_pickle(url, storage_options=OPTIONS)
    pd.testing.assert_frame_equal(read, small)


def test_parquet(tmp_path: Path, frame: pd.DataFrame) -> None:
    url = f"aioencrypt::file://{tmp_path}/figures.parquet"
    frame.to_parquet(url, storage_options=OPTIONS)
    assert not (tmp_path / "figures.parquet").read_bytes().startswith(b"PAR1")
    pd.testing.assert_frame_equal(pd.read_parquet(url, storage_options=OPTIONS), frame)
    two = pd.read_parquet(url, columns=["c3", "c30"], storage_options=OPTIONS)
    pd.testing.assert_frame_equal(two, frame[["c3", "c30"]])


def test_a_partitioned_data_set(tmp_path: Path, frame: pd.DataFrame) -> None:
    url = f"aioencrypt::file://{tmp_path}/figures"
    small = frame[["c0", "c1"]].assign(part=[index % 3 for index in range(ROWS)])
    small.to_parquet(url, partition_cols=["part"], storage_options=OPTIONS)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["part=0", "part=1", "part=2"]
    one = pd.read_parquet(url, filters=[("part", "==", 1)], storage_options=OPTIONS)
    assert sorted(one["c0"]) == sorted(small[small["part"] == 1]["c0"])


# How much is fetched


class Plain(CountingFileSystem):
    """The same files without encryption: every read of an open file is counted, and none is longer."""

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **kwargs)
        return AbstractBufferedFile(self, path, cache_type="none", size=self.size(path))


@pytest.fixture(scope="module")
def stored(frame: pd.DataFrame) -> tuple[Plain, CountingFileSystem, Any]:
    """The same Parquet file, plain and encrypted, in file systems that count."""
    plain, target = Plain(), CountingFileSystem()
    fs = over(target)
    table = pa.Table.from_pandas(frame)
    for one in (plain, fs):
        pq.write_table(table, "/figures.parquet", filesystem=one, compression=None, row_group_size=5000)
    assert fs.size("/figures.parquet") == plain.size("/figures.parquet")
    return plain, target, fs


TWO = ["c7", "c33"]


def read_by_path(fs: Any) -> pa.Table:
    return pq.read_table("/figures.parquet", columns=TWO, filesystem=fs)


def read_by_file(fs: Any) -> pa.Table:
    with fs.open("/figures.parquet") as file:
        return pq.read_table(file, columns=TWO)


def read_by_data_set(fs: Any) -> pa.Table:
    data = ds.dataset("/figures.parquet", filesystem=PyFileSystem(FSSpecHandler(fs)), format="parquet")
    return data.to_table(columns=TWO)


def read_by_pandas(fs: Any) -> pa.Table:
    return pa.Table.from_pandas(pd.read_parquet("/figures.parquet", columns=TWO, filesystem=fs))


@pytest.mark.parametrize("read", [read_by_path, read_by_file, read_by_data_set, read_by_pandas])
def test_two_columns_of_fifty_fetch_little_more_than_without_encryption(
    stored: tuple[Plain, CountingFileSystem, Any], frame: pd.DataFrame, read: Any
) -> None:
    plain, target, fs = stored
    plain.reads.clear()
    target.reads.clear()
    expected = read(plain)
    found = read(fs)
    assert found.equals(expected)
    pd.testing.assert_frame_equal(found.to_pandas(), frame[TWO])
    assert 2 * ROWS * 8 < plain.fetched < target.fetched < 1.3 * plain.fetched
    assert target.fetched < 0.1 * target.size("/figures.parquet")


def test_only_the_frames_of_two_columns_are_fetched(
    stored: tuple[Plain, CountingFileSystem, Any], frame: pd.DataFrame
) -> None:
    _, target, fs = stored
    with fs.open("/figures.parquet") as file:
        metadata = pq.read_metadata(file)
    header = fs.inspect("/figures.parquet").header_length
    wanted: set[int] = set()
    for group in range(metadata.num_row_groups):
        for name in TWO:
            column = metadata.row_group(group).column(frame.columns.get_loc(name))
            start = column.dictionary_page_offset or column.data_page_offset
            wanted |= {*range(start // 4096, (start + column.total_compressed_size - 1) // 4096 + 1)}
    with fs.open("/figures.parquet") as file:
        footer = target.reads[-1]  # the final frame, read to open the message
        target.reads.clear()
        pq.ParquetFile(file, metadata=metadata).read(columns=TWO)
    fetched: set[int] = set()
    for _, start, end in target.reads:
        assert (start - header) % (4096 + 32) == (end - header) % (4096 + 32) == 0
        fetched |= {*range((start - header) // (4096 + 32), (end - header) // (4096 + 32))}
    assert fetched <= wanted
    assert footer[2] == target.size("/figures.parquet")
    assert len(wanted - fetched) <= 1, "all but the final frame, which is there already"


def test_the_parquet_reader_of_fsspec(
    stored: tuple[Plain, CountingFileSystem, Any], frame: pd.DataFrame
) -> None:
    plain, target, fs = stored
    plain.reads.clear()
    target.reads.clear()
    for one in (plain, fs):
        with open_parquet_file("/figures.parquet", fs=one, columns=TWO, engine="pyarrow") as file:
            pd.testing.assert_frame_equal(pd.read_parquet(file, columns=TWO), frame[TWO])
    assert target.fetched < 1.3 * plain.fetched


def test_a_changed_column_is_an_error_and_the_others_are_read(frame: pd.DataFrame) -> None:
    target = CountingFileSystem()
    fs = over(target)
    pq.write_table(pa.Table.from_pandas(frame), "/figures.parquet", filesystem=fs, compression=None)
    with fs.open("/figures.parquet") as file:
        metadata = pq.read_metadata(file)
    damaged = metadata.row_group(0).column(20).data_page_offset + 10_000
    place = fs.inspect("/figures.parquet").header_length + damaged // 4096 * (4096 + 32) + 16
    target.pipe_file("/figures.parquet", flipped(target.cat_file("/figures.parquet"), place))
    with fs.open("/figures.parquet") as file:
        assert pq.read_table(file, columns=["c5"]).to_pandas().equals(frame[["c5"]])
    with fs.open("/figures.parquet") as file, pytest.raises(MessageError):
        pq.read_table(file, columns=["c20"])
