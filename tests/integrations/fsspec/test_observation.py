"""What files cost in calls, and what observers are told: also of those that nobody closes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import pyarrow.parquet as pq
import pytest
from anyio.lowlevel import checkpoint
from fsspec.asyn import get_loop, sync

from aioencrypt import CachingCMM
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from aioencrypt.runtime.observation import Message
from aioencrypt.testing import InMemoryKMS
from tests.support.encrypted_fs import PROVIDER, memory, over
from tests.support.kms import US, provider_for
from tests.support.observing import Notes, observed
from tests.support.streaming import on_asyncio, plaintext_of

OPTIONS: dict[str, Any] = {"provider": PROVIDER}
FRAME = pd.DataFrame({"a": range(1000)})


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"aioencrypt::file://{tmp_path}/figures"
    FRAME.to_parquet(url, storage_options=OPTIONS)
    FRAME.to_csv(f"{url}.csv", index=False, storage_options=OPTIONS)
    return url


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def file_system() -> Any:
    return EncryptedFileSystem(target_protocol="file", **OPTIONS)


def path_of(url: str) -> str:
    return url.removeprefix("aioencrypt::file://")


def read_pandas(url: str) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(url, storage_options=OPTIONS), FRAME)


def read_pyarrow(url: str) -> None:
    assert pq.read_table(path_of(url), filesystem=file_system()).num_rows == 1000


def read_parquet_file(url: str) -> None:
    assert pq.ParquetFile(path_of(url), filesystem=file_system()).read().num_rows == 1000


def read_csv(url: str) -> None:
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}.csv", storage_options=OPTIONS), FRAME)


def read_and_close(url: str) -> None:
    with file_system().open(path_of(url)) as file:
        assert file.read(4) == b"PAR1"


def read_and_drop(url: str) -> None:
    assert file_system().open(path_of(url)).read(4) == b"PAR1"


def all_done() -> None:
    """Wait until the loop of all file systems has done what was left to it."""

    async def nothing() -> None: ...

    sync(get_loop(), nothing)


def wait_for_ends(notes: Notes) -> None:
    """Wait until what began has ended; pyarrow's threads may let a file go after its reader returned."""
    deadline = time.monotonic() + 30
    while not all(note.ends for note in notes.began) and time.monotonic() < deadline:
        all_done()
        time.sleep(0.001)


def assert_ended(notes: Notes, times: int) -> None:
    wait_for_ends(notes)
    assert notes.activities == [Message("decrypt", "seekable")] * times
    for note in notes.began:
        assert note.message.outcome == "complete"
        assert note.message.tally.plaintext_length > 0
        assert note.message.tally.frames > 0


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("read", "times"),
    [
        (read_pandas, 2),
        (read_pyarrow, 2),
        (read_parquet_file, 1),
        (read_csv, 1),
        (read_and_close, 1),
        (read_and_drop, 1),
    ],
)
def test_a_file_that_is_read_ends_when_its_reader_lets_it_go(
    url: str, read: Callable[[str], None], times: int
) -> None:
    with observed() as notes:
        read(url)
        assert_ended(notes, times)


def test_a_file_with_a_cache_of_fsspec_ends_when_it_is_collected(url: str) -> None:
    with observed() as notes:
        assert file_system().open(path_of(url), cache_type="readahead").read(4) == b"PAR1"
        gc.collect()
        assert_ended(notes, 1)


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize("close", [False, True])
async def test_a_file_of_a_caller_who_awaits_ends_when_it_is_let_go(close: bool) -> None:
    async with over(memory(), asynchronous=True) as fs:
        await fs._pipe_file("/figures", b"figures")
        with observed() as notes:
            file = await fs.open_async("/figures")
            assert await file.read(4) == b"figu"
            if close:
                await file.close()
            assert len(notes.only.ends) == close
            del file
            gc.collect()
            with anyio.fail_after(10):
                while not notes.only.ends:
                    await checkpoint()
            assert notes.only.message.outcome == "complete"
            assert notes.only.message.tally.plaintext_length == 4


@pytest.mark.parametrize(("length", "calls"), [(0, 1), (10, 1), (2**20, 1), (2**20 + 1, 3)])
def test_small_local_files_share_a_data_key(tmp_path: Path, length: int, calls: int) -> None:
    kms = InMemoryKMS()
    key = kms.create_key(region=US)
    fs = over(memory(), provider=lambda: CachingCMM(provider_for(kms, key), max_age=60))
    local = tmp_path / "plain"
    local.write_bytes(plaintext_of(length))
    for number in range(3):
        fs.put_file(str(local), f"/{number}")
        assert fs.cat_file(f"/{number}") == plaintext_of(length)
    assert kms.call_count("GenerateDataKey") == calls
    fs.close()


def test_files_that_are_written_share_a_data_key_where_a_bound_is_known() -> None:
    kms = InMemoryKMS()
    key = kms.create_key(region=US)
    for bound, calls in ((None, 3), (1000, 1)):
        kms.reset_calls()
        fs = over(
            memory(),
            provider=lambda: CachingCMM(provider_for(kms, key), max_age=60),
            plaintext_length_bound=bound,
        )
        for number in range(3):
            with fs.open(f"/{number}", "wb") as file:
                file.write(b"figures")
        assert kms.call_count("GenerateDataKey") == calls
        fs.close()
