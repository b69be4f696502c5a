"""Files: `open` for reading and for writing, and what a writer allows."""

from __future__ import annotations

import array
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    DecryptStream,
    EncryptWriter,
    LimitError,
    PlaintextLengthError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    decrypt,
)
from aioencrypt.streams import MessageSink
from aioencrypt.streams.replaced_file import ReplacedFile
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    assert_idle,
    client_for,
    on_asyncio,
    plaintext_of,
)

pytestmark = pytest.mark.anyio

suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.aws"


def writer_of(path: str | os.PathLike[str] | MessageSink, **options: Any) -> EncryptWriter:
    return aioencrypt.open(path, "wb", provider=KEY, **options)


def reader_of(path: str | os.PathLike[str], **options: Any) -> DecryptStream:
    return aioencrypt.open(path, "rb", provider=KEY, **options)


async def read_back(path: Path) -> bytes:
    """Return the plaintext of a file that stands alone in its folder."""
    assert os.listdir(path.parent) == [path.name]
    plaintext = (await decrypt(path.read_bytes(), KEY)).plaintext
    async with reader_of(path) as reader:
        assert await reader.read() == plaintext
        assert reader.verified
    assert_idle()
    return plaintext


class SlowFile(ReplacedFile):
    """A file whose writes can be held up."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()
        self.go_on.set()

    def write(self, data: bytes) -> None:
        assert self.go_on.wait(30)
        super().write(data)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        self.go_on.clear()
        try:
            yield
        finally:
            self.go_on.set()


# Round trips


@pytest.mark.parametrize("kind", [str, Path, os.DirEntry], ids=["str", "path", "direntry"])
async def test_a_round_trip(path: Path, kind: type) -> None:
    path.touch()
    (entry,) = os.scandir(path.parent)
    name: Any = entry if kind is os.DirEntry else kind(path)
    async with writer_of(name, encryption_context={"tenant": "42"}, frame_length=10) as writer:
        assert await writer.write(b"quarterly ") == 10
        assert await writer.write(b"figures") == 7
        assert await writer.write(b"") == 0
        assert writer.header.encryption_context["tenant"] == "42"
    async with reader_of(name, encryption_context={"tenant": "42"}) as reader:
        assert reader.header == writer.header
        assert await reader.readexactly(10) == b"quarterly "
        assert [chunk async for chunk in reader] == [b"figures"]
        assert reader.verified
    assert await read_back(path) == b"quarterly figures"


@suites
@pytest.mark.parametrize("frame_length", [1, 64, 4096, 1_000_000])
@on_asyncio
async def test_pieces_of_every_size(path: Path, suite: AlgorithmSuite, frame_length: int) -> None:
    length = 5000 if frame_length < 4096 else 3_300_000
    plaintext = plaintext_of(length)
    for size in (length, 999 if length == 5000 else 99_999, frame_length):
        writer = writer_of(path, algorithm_suite=suite, frame_length=frame_length)
        async with writer:
            for start in range(0, length, max(size, length // 300)):
                piece = plaintext[start : start + max(size, length // 300)]
                assert await writer.write(piece) == len(piece)
        assert await read_back(path) == plaintext
        assert writer.header.frame_length == frame_length


@suites
async def test_a_file_without_a_write_is_an_empty_message(path: Path, suite: AlgorithmSuite) -> None:
    async with writer_of(path, algorithm_suite=suite):
        pass
    assert await read_back(path) == b""


@suites
async def test_single_bytes(path: Path, suite: AlgorithmSuite) -> None:
    async with writer_of(path, algorithm_suite=suite, frame_length=7) as writer:
        for byte in plaintext_of(50):
            await writer.write(bytes([byte]))
    assert await read_back(path) == plaintext_of(50)


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"abc"),
        memoryview(b"abcdef")[::2],
        memoryview(array.array("I", range(3000))),
        array.array("H", [1, 2]),
    ],
    ids=["bytearray", "strided", "numbers", "array"],
)
async def test_bytes_like_data_is_its_bytes(path: Path, data: Any) -> None:
    expected = memoryview(data).tobytes()
    async with writer_of(path) as writer:
        assert await writer.write(data) == len(expected)
    assert await read_back(path) == expected


async def test_a_buffer_may_be_used_again_after_a_write(path: Path) -> None:
    buffer = bytearray(b"first ")
    async with writer_of(path) as writer:
        await writer.write(buffer)
        buffer[:] = b"second, which is longer"
        await writer.write(buffer)
        buffer.clear()
    assert await read_back(path) == b"first second, which is longer"


@pytest.mark.parametrize("data", ["text", 5, None, [1]], ids=["str", "int", "none", "list"])
async def test_what_is_not_bytes_like_is_refused_and_does_no_harm(path: Path, data: Any) -> None:
    async with writer_of(path) as writer:
        with pytest.raises(TypeError, match="str" if isinstance(data, str) else "not bytes-like"):
            await writer.write(data)
        await writer.write(b"bytes")
    assert await read_back(path) == b"bytes"


# Arguments


@pytest.mark.parametrize("mode", ["r", "w", "ab", "xb", "rt", "br", "", "r+b", None])
def test_other_modes_are_refused(path: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="it must be 'rb' or 'wb'"):
        aioencrypt.open(path, mode, provider=KEY)
    assert not path.exists()


def test_wrong_arguments_are_errors_before_any_file_is_touched(path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"frame_length": 0}, ValueError),
        ({"plaintext_length": -1}, ValueError),
        ({"encryption_context": {"aws-crypto-x": ""}}, ValueError),
        ({"algorithm_suite": AlgorithmSuite(0x0178)}, aioencrypt.CommitmentPolicyError),
    ]
    for options, error in cases:
        with pytest.raises(error):
            writer_of(path, **options)
    with pytest.raises(TypeError, match="neither a master key, nor a provider, nor a CMM"):
        aioencrypt.open(path, "wb", provider=b"key")  # type: ignore[call-overload]
    assert os.listdir(path.parent) == []


async def test_a_client_opens_with_its_own_settings(path: Path) -> None:
    suite = AlgorithmSuite(0x0378)
    client = client_for(suite)
    async with client.open(path, "wb", provider=KEY) as writer:
        await writer.write(b"abc")
    assert writer.header.algorithm_suite is suite
    async with client.open(path, "rb", provider=KEY) as reader:
        assert await reader.read() == b"abc"
    with pytest.raises(aioencrypt.CommitmentPolicyError):
        await reader_of(path).__aenter__()


# Lengths


@suites
@pytest.mark.parametrize("length", [0, 1, 1000])
async def test_plaintext_length_is_enforced(path: Path, suite: AlgorithmSuite, length: int) -> None:
    async def write(count: int) -> None:
        async with writer_of(path, plaintext_length=length, frame_length=10, algorithm_suite=suite) as writer:
            for _ in range(count):
                await writer.write(b"x")

    await write(length)
    written = path.read_bytes()
    assert await read_back(path) == b"x" * length
    for count in {max(0, length - 1), length + 1} - {length}:
        with pytest.raises(PlaintextLengthError) as caught:
            await write(count)
        assert (caught.value.expected, caught.value.actual) == (length, count)
        assert path.read_bytes() == written
    assert os.listdir(path.parent) == [path.name]


async def test_plaintext_length_bound_is_enforced(path: Path) -> None:
    async with writer_of(path, plaintext_length_bound=3) as writer:
        await writer.write(b"abc")
        with pytest.raises(LimitError, match="above plaintext_length_bound=3") as caught:
            await writer.write(b"d")
        with pytest.raises(StreamError, match="failed before; what it wrote is dropped") as again:
            await writer.write(b"d")
        assert again.value.__cause__ is caught.value
        await writer.abort()
    assert os.listdir(path.parent) == []


async def test_an_error_that_was_caught_is_raised_again_on_leaving(path: Path) -> None:
    writer = writer_of(path, plaintext_length=3)
    await writer.__aenter__()
    with pytest.raises(PlaintextLengthError) as caught:
        await writer.write(b"four")
    with pytest.raises(StreamError, match="the writer failed before") as left:
        await writer.__aexit__(None, None, None)
    assert left.value.__cause__ is caught.value
    assert os.listdir(path.parent) == []
    assert_idle()


# Life of a writer


async def test_use_before_entering(path: Path) -> None:
    writer = writer_of(path)
    with pytest.raises(StreamNotEnteredError, match="use it in `async with`"):
        await writer.write(b"abc")
    with pytest.raises(StreamNotEnteredError):
        _ = writer.header
    await writer.aclose()
    await writer.abort()
    assert os.listdir(path.parent) == []


async def test_use_after_leaving(path: Path) -> None:
    async with writer_of(path) as writer:
        await writer.write(b"abc")
    with pytest.raises(StreamClosedError, match="the writer is closed"):
        await writer.write(b"abc")
    with pytest.raises(StreamError, match="entered only once"):
        await writer.__aenter__()
    for _ in range(2):
        await writer.aclose()
        await writer.abort()
    assert writer.header.version == 2
    assert await read_back(path) == b"abc"


async def test_aclose_puts_the_file_in_its_place(path: Path) -> None:
    async with writer_of(path) as writer:
        await writer.write(b"abc")
        assert not path.exists()
        for _ in range(2):
            await writer.aclose()
            assert await read_back(path) == b"abc"
        with pytest.raises(StreamClosedError):
            await writer.write(b"more")
    assert await read_back(path) == b"abc"


async def test_after_abort_nothing_is_left_and_nothing_is_raised(path: Path) -> None:
    path.write_bytes(b"old")
    async with writer_of(path) as writer:
        await writer.write(b"abc")
        assert len(os.listdir(path.parent)) == 2
        for _ in range(2):
            await writer.abort()
        assert os.listdir(path.parent) == [path.name]
        with pytest.raises(StreamError):
            await writer.write(b"more")
        await writer.aclose()
    assert path.read_bytes() == b"old"
    assert_idle()


# Two tasks


USES: dict[str, Callable[[EncryptWriter], Awaitable[object]]] = {
    "write": lambda writer: writer.write(b"second"),
    "aclose": lambda writer: writer.aclose(),
    "abort": lambda writer: writer.abort(),
}


@pytest.mark.parametrize("name", USES)
async def test_the_error_of_a_second_task_does_not_hurt_the_first(path: Path, name: str) -> None:
    file = SlowFile(path)
    async with writer_of(file) as writer, anyio.create_task_group() as group:
        with file.stalled():
            group.start_soon(writer.write, plaintext_of(10_000))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StreamBusyError, match="another task is using this writer"):
                await USES[name](writer)
    assert await read_back(path) == plaintext_of(10_000)


async def test_leaving_with_an_error_while_another_task_writes(path: Path) -> None:
    path.write_bytes(b"old")
    async with anyio.create_task_group() as group:

        async def use() -> None:
            file = SlowFile(path)
            async with writer_of(file) as writer:
                with file.stalled():
                    group.start_soon(writer.write, plaintext_of(10_000))
                    await anyio.wait_all_tasks_blocked()
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError) as caught:
            await use()
        assert caught.value.__context__ is None
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]
    assert_idle()
