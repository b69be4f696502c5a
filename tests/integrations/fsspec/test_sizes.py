"""Sizes are those of plaintexts, and what they cost in reads of the target."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aioencrypt import AlgorithmSuite, encrypt
from tests.support.encrypted_fs import (
    CountingFileSystem,
    make_provider,
    memory,
    over,
)
from tests.support.streaming import SIGNED, UNSIGNED, on_asyncio, plaintext_of

FRAME = 4096
PATH = "/folder/report.bin"


def stored(target: Any, path: str) -> bytes:
    return bytes(getattr(target, "inner", target).cat_file(path))


def in_folder(target: Any, **options: Any) -> Any:
    """Return a file system with messages of some bytes in a folder, one of them signed, and no message."""
    fs = over(target, **options)
    for index in range(5):
        fs.pipe_file(f"/folder/{index}", plaintext_of(index * 100))
    over(target, algorithm_suite=SIGNED).pipe_file("/folder/5", plaintext_of(500))
    target.pipe_file("/folder/_SUCCESS", b"no message")
    target.mkdir("/folder/deeper")
    fs.pipe_file("/folder/deeper/6", plaintext_of(600))
    return fs


SIZES = {f"/folder/{index}": index * 100 for index in range(6)} | {"/folder/_SUCCESS": None}
DEEP = SIZES | {"/folder/deeper/6": 600}


def sizes_of(infos: Any) -> dict[str, int | None]:
    return {info["name"]: info["size"] for info in infos if info["type"] == "file"}


def test_listings_have_the_sizes_of_plaintexts() -> None:
    fs = in_folder(memory())
    assert sizes_of(fs.ls("/folder", detail=True)) == SIZES
    assert sizes_of(fs.find("/folder", detail=True).values()) == DEEP
    assert sizes_of(fs.find("/folder", detail=True, maxdepth=1).values()) == SIZES
    assert sizes_of(fs.glob("/folder/*", detail=True).values()) == SIZES
    assert sizes_of(fs.glob("/folder/**/[5-6]", detail=True).values()) == {
        "/folder/5": 500,
        "/folder/deeper/6": 600,
    }
    walked = {
        info["name"]: info for _, _, files in fs.walk("/folder", detail=True) for info in files.values()
    }
    assert sizes_of(walked.values()) == DEEP
    with pytest.warns(UserWarning, match=r"du counts 1 of 8 files as 0 bytes, .*/folder/_SUCCESS: Malformed"):
        assert fs.du("/folder") == sum(size or 0 for size in DEEP.values())
    with pytest.warns(UserWarning, match="du counts 1 of 7"):
        assert fs.du("/folder", total=False, maxdepth=1) == {name: size or 0 for name, size in SIZES.items()}
    assert fs.sizes(["/folder/1", "/folder/5"]) == [100, 500]
    assert fs.info("/folder/_SUCCESS")["size"] is None
    assert fs.info("/folder/deeper")["type"] == "directory"


def test_names_alone_cost_no_reads() -> None:
    target = CountingFileSystem()
    fs = in_folder(target)
    target.reads.clear()
    assert sorted(fs.ls("/folder", detail=False)) == sorted([*SIZES, "/folder/deeper"])
    assert fs.find("/folder") == sorted(DEEP)
    assert fs.glob("/folder/[0-2]") == ["/folder/0", "/folder/1", "/folder/2"]
    assert [(name, len(files)) for name, _, files in fs.walk("/folder")] == [
        ("/folder", 7),
        ("/folder/deeper", 1),
    ]
    assert fs.exists("/folder/1")
    assert not fs.exists("/folder/none")
    assert fs.isfile("/folder/1")
    assert fs.isdir("/folder")
    assert target.reads == []


def test_a_listing_reads_the_start_of_each_file_once() -> None:
    target = CountingFileSystem()
    fs = over(target)
    for index in range(40):
        fs.pipe_file(f"/folder/{index}", plaintext_of(100_000))
    target.reads.clear()
    first = fs.ls("/folder", detail=True)
    assert len(target.reads) == 40
    assert {end for _, _, end in target.reads} == {8192}
    assert fs.ls("/folder", detail=True) == first
    assert len(target.reads) == 40
    fs.pipe_file("/folder/7", b"shorter")
    assert fs.size("/folder/7") == 7
    assert len(target.reads) == 41


def test_sizes_can_be_left_out_of_listings() -> None:
    target = CountingFileSystem()
    fs = in_folder(target, sizes=False)
    target.reads.clear()
    for infos in (
        fs.ls("/folder", detail=True),
        fs.find("/folder", detail=True).values(),
        fs.glob("/folder/*", detail=True).values(),
    ):
        found = [info for info in infos if info["type"] == "file"]
        assert {info["size"] for info in found} == {None}
        assert all(info["ciphertext_size"] == target.info(info["name"])["size"] for info in found)
    assert target.reads == []
    assert fs.size("/folder/3") == 300
    assert fs.du("/folder/3") == 300


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_sizes_are_exact_for_every_length_around_a_frame(suite: AlgorithmSuite) -> None:
    target = memory()
    fs = over(target)
    for length in [*range(25), 59, 60, 61]:
        message = await encrypt(plaintext_of(length), make_provider(), algorithm_suite=suite, frame_length=10)
        target.pipe_file(f"/folder/{length}", message.ciphertext)
    assert {int(info["name"][8:]): info["size"] for info in fs.ls("/folder", detail=True)} == {
        length: length for length in [*range(25), 59, 60, 61]
    }


def test_the_sizes_that_were_used_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioencrypt.integrations.fsspec.paths._CAPACITY", 2)
    target = CountingFileSystem()
    fs = over(target)
    for name in "abc":
        fs.pipe_file(f"/{name}", b"figures")
        assert fs.size(f"/{name}") == 7
    target.reads.clear()
    assert fs.sizes(["/b", "/c"]) == [7, 7]
    assert target.reads == []
    assert fs.size("/a") == 7
    assert len(target.reads) == 1


def test_a_size_that_no_message_has() -> None:
    target = memory()
    fs = over(target)
    fs.pipe_file(PATH, plaintext_of(FRAME - 1))
    target.pipe_file(PATH, stored(target, PATH) + bytes(10))
    info = fs.info(PATH)
    assert (info["size"], info["ciphertext_size"]) == (None, target.size(PATH))
    assert re.search(r"no message has the \d+ bytes of /folder/report\.bin", info["size_unknown"])
    assert fs.ls("/folder", detail=True)[0]["size"] is None
