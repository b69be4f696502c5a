"""Dask data frames of encrypted data: in threads, and in the processes of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.bag
import dask.dataframe as dd
import pandas as pd
import psutil
import pytest
from dask.distributed import Client, LocalCluster

from aioencrypt import CachingCMM, ProviderError, RawAESMasterKey
from tests.support.encrypted_fs import OTHER_PROVIDER, PROVIDER, WRAPPING_KEY, make_provider

# dask calls pandas so
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")

OPTIONS = {"provider": PROVIDER}
ROWS = 20_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"customer": [index % 7 for index in range(ROWS)], "amount": range(ROWS), "unused": 1.5}
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """Two worker processes, which end with the tests."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        yield client
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "a worker is left"


@pytest.fixture(params=["threads", "cluster"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute in the threads of this process, or on the cluster."""
    if request.param == "threads":
        with dask.config.set(scheduler="threads"):
            yield
    else:
        with request.getfixturevalue("cluster").as_current():
            yield


def answer(data: Any) -> pd.DataFrame:
    """Compute something that needs all rows and two of three columns."""
    found: pd.DataFrame = data.groupby("customer")["amount"].sum().compute().sort_index().to_frame()
    return found


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_encrypted_data_give_the_answers_of_plain_data(
    tmp_path: Path, frame: pd.DataFrame, kind: str
) -> None:
    data = dd.from_pandas(frame, npartitions=5)
    url, plain = f"aioencrypt::file://{tmp_path}/encrypted", f"{tmp_path}/plain"
    if kind == "parquet":
        data.to_parquet(url, storage_options=OPTIONS)
        data.to_parquet(plain)
        encrypted, other = dd.read_parquet(url, storage_options=OPTIONS), dd.read_parquet(plain)
    else:
        data.to_csv(f"{url}/*.csv", index=False, storage_options=OPTIONS)
        data.to_csv(f"{plain}/*.csv", index=False)
        encrypted = dd.read_csv(f"{url}/*.csv", blocksize=50_000, storage_options=OPTIONS)
        other = dd.read_csv(f"{plain}/*.csv", blocksize=50_000)
    assert len([*Path(plain).glob("*.*")]) == len([*(tmp_path / "encrypted").glob("*.*")]) == 5
    for path in (tmp_path / "encrypted").glob("*.*"):
        assert path.read_bytes()[:1] == b"\x02"
    assert encrypted.npartitions == other.npartitions
    pd.testing.assert_frame_equal(answer(encrypted), answer(other))
    pd.testing.assert_frame_equal(answer(encrypted), frame.groupby("customer")[["amount"]].sum())


@pytest.mark.usefixtures("anywhere")
def test_bags_of_lines(tmp_path: Path) -> None:
    lines = [f"line {index}" for index in range(1000)]
    url = f"aioencrypt::file://{tmp_path}/*.txt"
    dask.bag.from_sequence(lines, npartitions=3).to_textfiles(url, storage_options=OPTIONS)
    read = dask.bag.read_text(url, storage_options=OPTIONS, blocksize=1000)
    assert [line.strip() for line in read.compute()] == lines


@pytest.mark.usefixtures("anywhere")
def test_the_error_of_a_wrong_key_comes_back(tmp_path: Path, frame: pd.DataFrame) -> None:
    url = f"aioencrypt::file://{tmp_path}/*.csv"
    dd.from_pandas(frame.head(10), npartitions=2).to_csv(url, storage_options=OPTIONS)
    data = dd.read_csv(url, storage_options=OPTIONS)
    assert len(data) == 10
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        dd.read_csv(url, storage_options={"provider": OTHER_PROVIDER}).compute()


def test_a_key_is_not_sent_to_workers(cluster: Client, tmp_path: Path, frame: pd.DataFrame) -> None:
    key = RawAESMasterKey("tests", "fsspec", wrapping_key=bytes(32))
    data = dd.from_pandas(frame.head(10), npartitions=1)
    with cluster.as_current(), pytest.raises(TypeError, match="Could not serialize") as raised:
        data.to_parquet(f"aioencrypt::file://{tmp_path}/x", storage_options={"provider": key})
    reason = raised.value.__cause__
    assert isinstance(reason, TypeError)
    assert str(reason).startswith("RawAESMasterKey holds key bytes and cannot be pickled or copied")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("provider", [make_provider(), CachingCMM(make_provider(), max_age=10)])
def test_a_provider_with_key_bytes_is_refused_with_advice(
    tmp_path: Path, frame: pd.DataFrame, kind: str, provider: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url, options = f"aioencrypt::file://{tmp_path}/encrypted.{kind}", {"provider": provider}
    write, read = {"parquet": (frame.to_parquet, dd.read_parquet), "csv": (frame.to_csv, dd.read_csv)}[kind]
    write(url, storage_options=options)
    with pytest.raises(
        Exception, match=r"cannot be pickled or copied|cannot be deterministically hashed"
    ) as caught:
        read(url, storage_options=options)
    advice = f"{caught.value} {' '.join(caplog.messages)}"
    assert "'package.module:name'" in advice
    assert WRAPPING_KEY.hex() not in advice
