"""The encrypted file system: reading and writing, what is refused, and what is fetched."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicyError,
    EncryptionClient,
    EncryptionContextMismatchError,
    LimitError,
    Limits,
    MessageError,
    PolicyError,
    ProviderError,
    SignaturePolicyError,
    TagError,
    decrypt,
)
from tests.support.encrypted_fs import (
    OTHER_PROVIDER,
    PROVIDER,
    AsyncMemoryFileSystem,
    CountingFileSystem,
    make_provider,
    memory,
    over,
)
from tests.support.streaming import SIGNED, UNSIGNED, flipped, on_asyncio, plaintext_of

FRAME = 4096
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


# Contents


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize("length", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 300_000])
async def test_what_is_written_is_a_message_and_is_read_again(target: Any, path: str, length: int) -> None:
    fs, plaintext = over(target, encryption_context={"tenant": "42"}), plaintext_of(length)
    fs.pipe_file(path, plaintext)
    message = stored(target, path)
    result = await decrypt(message, make_provider())
    assert result.plaintext == plaintext
    assert result.header.algorithm_suite is UNSIGNED
    assert result.header.frame_length == FRAME
    assert dict(result.header.encryption_context) == {"tenant": "42"}
    assert fs.cat_file(path) == plaintext
    info = fs.info(path)
    assert (info["size"], info["ciphertext_size"], info["type"]) == (length, len(message), "file")
    assert info["name"] == path
    assert fs.size(path) == length
    with fs.open(path) as file:
        assert (file.size, file.read(), file.read()) == (length, plaintext, b"")


def test_files_are_written_piece_by_piece(target: Any, path: str) -> None:
    fs, plaintext = over(target), plaintext_of(5_000_000)
    with fs.open(path, "wb", block_size=100_000) as file:
        for start in range(0, len(plaintext), 70_000):
            file.write(plaintext[start : start + 70_000])
        assert not fs.exists(path)
        assert file.tell() == len(plaintext)
        assert not file.readable()
    assert fs.cat_file(path) == plaintext
    assert [name.rpartition("/")[2] for name in fs.ls(path.rpartition("/")[0], detail=False)] == [
        "report.bin"
    ]


@pytest.mark.parametrize("cache_type", [None, "none", "readahead", "bytes", "all", "first"])
def test_a_file_reads_as_a_file_does(cache_type: str | None) -> None:
    fs, plaintext = over(memory()), plaintext_of(200_000)
    fs.pipe_file(PATH, plaintext)
    plain, dice = io.BytesIO(plaintext), random.Random(7)
    with fs.open(PATH, cache_type=cache_type, block_size=10_000) as file:
        for _ in range(200):
            if dice.random() < 0.4:
                offset = dice.randrange(210_000)
                assert file.seek(offset) == plain.seek(offset)
            length = dice.choice([0, 1, 100, FRAME, 9_999, 10_000, 50_000, -1])
            assert file.read(length) == plain.read(length)
            assert file.tell() == min(plain.tell(), max(file.tell(), 200_000))
        assert file.seek(-5, 2) == 199_995
        buffer = bytearray(10)
        assert file.readinto(buffer) == 5
        assert bytes(buffer[:5]) == plaintext[-5:]
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_text_and_lines() -> None:
    fs = over(memory())
    with fs.open(PATH, "w", encoding="utf-8", newline="") as file:
        file.write("größer\nals\r\ngedacht")
    assert fs.cat_file(PATH) == "größer\nals\r\ngedacht".encode()
    with fs.open(PATH, "r", encoding="utf-8") as file:
        assert [*file] == ["größer\n", "als\n", "gedacht"]
    with fs.open(PATH) as file:
        assert file.readline() == "größer\n".encode()
        assert [*file] == [b"als\r\n", b"gedacht"]


def test_large_reads_are_passed_through_and_not_kept() -> None:
    fs, plaintext = over(memory(), frame_length=65536), plaintext_of(9_000_000)
    fs.pipe_file(PATH, plaintext)
    with fs.open(PATH) as file:
        assert file.read() == plaintext
        assert file.cache._kept == b""
        file.seek(0)
        assert file.read(5_000_000) + file.read(10) + file.read() == plaintext


def test_compression_works_on_plaintext(tmp_path: Path) -> None:
    url = f"aioencrypt::file://{tmp_path}/figures.gz"
    fs = over(LocalFileSystem())
    with fsspec.open(url, "wb", compression="infer", provider=PROVIDER) as file:
        file.write(b"quarterly figures" * 10_000)
    assert fs.size(f"{tmp_path}/figures.gz") < 2000
    with fs.open(f"{tmp_path}/figures.gz", compression="gzip") as file:
        assert file.read() == b"quarterly figures" * 10_000
    with pytest.raises(ValueError, match=r"compress with fsspec\.open"):
        fs.open(f"{tmp_path}/other", "wb", compression="gzip")


@pytest.mark.parametrize("mode", ["ab", "r+b", "a", "w+b"])
def test_a_message_is_not_changed_in_the_middle(mode: str) -> None:
    fs = over(memory())
    with pytest.raises(ValueError, match=r"a message is read \('rb'\) or written anew \('wb', 'xb'\)"):
        fs.open(PATH, mode)


RANGES = [(None, 10), (0, 10), (5, None), (-10, None), (-10, -5), (4090, 4100), (100, 50), (19_990, 30_000)]
RANGES += [(30_000, 40_000), (0, -1), (None, -19_999)]


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_ranges_are_those_of_a_slice(target: Any, path: str, start: int | None, end: int | None) -> None:
    fs, plaintext = over(target), plaintext_of(20_000)
    fs.pipe_file(path, plaintext)
    assert fs.cat_file(path, start=start, end=end) == plaintext[start:end]


def test_ranges_of_several_files_open_each_file_once() -> None:
    target = CountingFileSystem()
    fs, plaintext = over(target), plaintext_of(200_000)
    for name in ("/a", "/b"):
        fs.pipe_file(name, plaintext + name.encode())
    target.reads.clear()
    paths = ["/a", "/b", "/a", "/a", "/missing"]
    starts, ends = [0, 10, 100_000, 199_990, 0], [10, 20, 100_010, 300_000, 1]
    found = fs.cat_ranges(paths, starts, ends)
    assert found[:4] == [
        plaintext[:10],
        plaintext[10:20],
        plaintext[100_000:100_010],
        plaintext[199_990:] + b"/a",
    ]
    assert isinstance(found[4], FileNotFoundError)
    # The header, the final frame, and one frame for a range that is in neither.
    assert len([1 for name, _, _ in target.reads if name == "/a"]) <= 4
    assert len([1 for name, _, _ in target.reads if name == "/b"]) <= 3
    assert fs.cat_ranges(["/a", "/b"], 0, 3) == [plaintext[:3]] * 2
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, starts, ends, on_error="raise")


def test_only_the_frames_that_are_asked_for_are_fetched() -> None:
    target = CountingFileSystem()
    fs, plaintext = over(target), plaintext_of(1_000_000)
    fs.pipe_file(PATH, plaintext)
    with fs.open(PATH) as file:
        target.reads.clear()
        for offset in (10_000, 700_000, 300_000):
            file.seek(offset)
            assert file.read(100) == plaintext[offset : offset + 100]
        assert len(target.reads) == 3
        assert target.fetched <= 3 * 2 * (FRAME + 32)
        target.reads.clear()
        file.seek(50_000)
        for _ in range(1000):
            file.read(100)
        # Reads in a row fetch more each time.
        assert len(target.reads) <= 4


# What is refused


def test_every_changed_byte_of_a_message_is_an_error() -> None:
    target = memory()
    fs, plaintext = over(target, frame_length=20), plaintext_of(50)
    fs.pipe_file(PATH, plaintext)
    message = stored(target, PATH)
    for position in range(len(message)):
        target.pipe_file(PATH, flipped(message, position))
        with pytest.raises((MessageError, PolicyError, ProviderError)):
            fs.cat_file(PATH)
        with pytest.raises((MessageError, PolicyError, ProviderError)), fs.open(PATH) as file:
            file.read()


@pytest.mark.parametrize("length", [0, 1, 30, 400, -1])
def test_a_message_that_is_cut_off_is_an_error(length: int) -> None:
    target = memory()
    fs = over(target)
    fs.pipe_file(PATH, plaintext_of(20_000))
    target.pipe_file(PATH, stored(target, PATH)[:length])
    for read in (fs.cat_file, fs.open, lambda path: fs.cat_file(path, 0, 1)):
        with pytest.raises(MessageError):
            read(PATH)


def test_a_frame_that_was_changed_is_an_error_when_it_is_read() -> None:
    target = memory()
    fs, plaintext = over(target), plaintext_of(100_000)
    fs.pipe_file(PATH, plaintext)
    message = stored(target, PATH)
    target.pipe_file(PATH, flipped(message, len(message) // 2))
    with fs.open(PATH) as file:
        assert file.read(FRAME) == plaintext[:FRAME]
        file.seek(50_000)
        with pytest.raises(TagError):
            file.read(FRAME)
        file.seek(90_000)
        assert file.read() == plaintext[90_000:]


def test_another_key_and_another_context() -> None:
    target = memory()
    over(target, encryption_context={"tenant": "42"}).pipe_file(PATH, b"figures")
    other = over(target, provider=OTHER_PROVIDER)
    for read in (other.cat_file, other.open):
        with pytest.raises(ProviderError, match="belongs to a master key given here"):
            read(PATH)
    with pytest.raises(EncryptionContextMismatchError):
        over(target, encryption_context={"tenant": "41"}).cat_file(PATH)
    with pytest.raises(EncryptionContextMismatchError):
        over(target, encryption_context={"tenant": "41"}).open(PATH)
    assert over(target).cat_file(PATH) == b"figures"


def test_a_signed_message_is_read_whole_and_its_parts_only_on_demand(tmp_path: Path) -> None:
    target = memory()
    fs, plaintext = over(target, algorithm_suite=SIGNED), plaintext_of(100_000)
    fs.pipe_file(PATH, plaintext)
    assert fs.size(PATH) == 100_000
    assert fs.cat_file(PATH) == plaintext
    fs.get_file(PATH, str(tmp_path / "plain"))
    assert (tmp_path / "plain").read_bytes() == plaintext
    for read in (fs.open, lambda path: fs.cat_file(path, 1, 2)):
        with pytest.raises(SignaturePolicyError, match="reading parts of it verifies no signature"):
            read(PATH)
    accepting = over(target, accept_unverified_signature=True)
    with accepting.open(PATH) as file:
        file.seek(50_000)
        assert file.read(10) == plaintext[50_000:50_010]

    target.pipe_file(PATH, flipped(stored(target, PATH), -1))
    with pytest.raises(MessageError):
        fs.cat_file(PATH)
    with pytest.raises(MessageError):
        fs.get_file(PATH, str(tmp_path / "other"))
    assert [path.name for path in tmp_path.iterdir()] == ["plain"], "nothing that is not verified appears"
    assert accepting.cat_file(PATH, 0, 5) == plaintext[:5]


def test_policies_and_limits_are_those_of_the_client() -> None:
    target = memory()
    fs = over(target, encryption_client=EncryptionClient(limits=Limits(max_plaintext_length=10)))
    over(target).pipe_file(PATH, b"twelve bytes")
    with pytest.raises(LimitError):
        fs.open(PATH)
    old = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    with pytest.raises(CommitmentPolicyError):
        over(target, algorithm_suite=old).pipe_file(PATH, b"")
