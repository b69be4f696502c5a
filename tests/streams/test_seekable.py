"""Reading a message at random: what is read, positions, and the life of the stream."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    EncryptionContextMismatchError,
    IncompleteReadError,
    LimitError,
    Limits,
    ProviderError,
    RawAESMasterKey,
    SeekableDecryptStream,
    SignaturePolicyError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    TruncatedMessageError,
    encrypt,
    open_seekable,
)
from aioencrypt.materials import KeyUse
from aioencrypt.streams.ranges import FileRangeSource
from tests.support.messages import build_message, example_data_key, example_signing_key, public_key_pair
from tests.support.ranges import Recorded, is_range_source
from tests.support.rows import each_row
from tests.support.streaming import KEY, SIGNED, UNSIGNED, assert_idle, client_for, plaintext_of, sealed
from tests.support.vectors import StaticDataKey

pytestmark = pytest.mark.anyio

V1 = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
PLAINTEXT = plaintext_of(10_000)


async def message_of(plaintext: bytes = PLAINTEXT, frame_length: int = 1000, **options: Any) -> bytes:
    return await sealed(plaintext, UNSIGNED, frame_length=frame_length, **options)


def counts(stop: int) -> list[int]:
    return [-1, 0, 1, stop // 2, stop, stop + 1]


# What is read


@pytest.mark.parametrize("suite", [UNSIGNED, V1], ids=["v2", "v1"])
@each_row("length", [0, 1, 999, 1000, 1001, 2000, 9999, 10_000])
async def test_every_part_reads_as_the_same_part_of_the_plaintext(suite: AlgorithmSuite, length: int) -> None:
    plaintext = PLAINTEXT[:length]
    message = await sealed(plaintext, suite, frame_length=1000)
    async with client_for(suite).open_seekable(message, KEY) as stream:
        assert stream.length == length
        for offset in {0, 1, 500, 999, 1000, 1001, 5000, length, length + 1, 10 * length + 1}:
            for n in counts(length):
                expected = plaintext[offset:] if n < 0 else plaintext[offset : offset + n]
                assert await stream.read_at(offset, n) == expected
        assert await stream.read() == plaintext
    assert_idle()


@pytest.mark.parametrize("frame_length", [1, 7, 4096, 100_000, 3_000_000])
@pytest.mark.parametrize("cache_length", [0, 100_000, 10_000_000])
async def test_frames_and_caches_of_every_length_give_the_same(frame_length: int, cache_length: int) -> None:
    plaintext = plaintext_of(5_000 if frame_length < 10 else 2_500_000)
    message = await message_of(plaintext, frame_length)
    chosen = random.Random(1)
    async with open_seekable(message, KEY, cache_length=cache_length) as stream:
        for _ in range(30):
            start = chosen.randrange(len(plaintext))
            n = chosen.randrange(len(plaintext) if chosen.random() < 0.2 else 5_000)
            assert await stream.read_at(start, n) == plaintext[start : start + n]
            stream.seek(start)
            assert await stream.read(n) == plaintext[start : start + n]
        stream.seek(0)
        assert b"".join([chunk async for chunk in stream]) == plaintext
        stream.seek(0)
        assert b"".join([await stream.read(9_000) for _ in range(300)]) == plaintext


async def test_header_and_provenance_are_known_on_entry() -> None:
    message, header = await encrypt(PLAINTEXT, KEY, algorithm_suite=UNSIGNED, encryption_context={"a": "b"})
    async with open_seekable(message, KEY) as stream:
        assert stream.header == header
        assert stream.provenance.keys == (KeyUse("decrypt", KEY.provider_id, KEY.key_id),)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_messages_in_memory_are_read(kind: Any) -> None:
    async with open_seekable(kind(await message_of()), KEY) as stream:
        assert await stream.read_at(2500, 100) == PLAINTEXT[2500:2600]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("pread", [True, False])
async def test_files_are_read_also_where_there_is_no_pread(
    kind: Any, pread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pread:
        monkeypatch.delattr(os, "pread", raising=False)
    plaintext = plaintext_of(3_000_000)
    path = tmp_path / "message"
    path.write_bytes(await message_of(plaintext, 4096))
    async with open_seekable(kind(path), KEY) as stream:
        assert await stream.read() == plaintext
        assert await stream.read_at(2_000_000, 100_000) == plaintext[2_000_000:2_100_000]
        path.unlink()
        assert await stream.read_at(1_000_000, 100_000) == plaintext[1_000_000:1_100_000]
    assert_idle()


async def test_a_source_of_a_file_is_used_in_order(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"0123456789")
    source = FileRangeSource(path)
    with pytest.raises(ValueError, match=r"read_range\(\) before size\(\) or after aclose\(\)"):
        await source.read_range(0, 1)
    assert (await source.size(), await source.size()) == (10, 10)
    assert await source.read_range(3, 7) == b"3456"
    assert await source.read_range(8, 20) == b"89"
    await source.aclose()
    await source.aclose()
    with pytest.raises(ValueError, match="after aclose"):
        await source.read_range(0, 1)


async def test_a_missing_file_is_an_error_on_entry(tmp_path: Path) -> None:
    stream = open_seekable(tmp_path / "none", KEY)
    with pytest.raises(FileNotFoundError):
        await stream.__aenter__()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
async def test_a_pipe_is_an_error_on_entry_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        await open_seekable(tmp_path / "pipe", KEY).__aenter__()
    assert_idle()


@pytest.mark.parametrize("length", [0, 1, 5000])
async def test_a_non_framed_message_is_read_whole_on_entry(length: int) -> None:
    message = build_message(UNSIGNED, PLAINTEXT[:length], frame_length=None).data
    source = Recorded(message)
    async with open_seekable(source, StaticDataKey(example_data_key(UNSIGNED))) as stream:
        assert stream.length == length
        reads = len(source.reads)
        assert await stream.read_at(1000, 100) == PLAINTEXT[:length][1000:1100]
        assert await stream.read() == PLAINTEXT[:length]
        assert len(source.reads) == reads


@pytest.mark.parametrize("frames", [0, 1, 3])
async def test_a_full_final_frame_is_read(frames: int) -> None:
    plaintext = PLAINTEXT[: frames * 1000]
    message = build_message(UNSIGNED, plaintext, frame_length=1000, full_final_frame=True).data
    async with open_seekable(message, StaticDataKey(example_data_key(UNSIGNED))) as stream:
        assert stream.length == len(plaintext)
        assert await stream.read() == plaintext
        assert await stream.read_at(frames * 1000 - 1 if frames else 0, 5) == plaintext[-1:]


async def test_frames_with_made_up_ivs_are_read() -> None:
    message = build_message(UNSIGNED, PLAINTEXT, frame_length=1000, random_ivs=True).data
    async with open_seekable(message, StaticDataKey(example_data_key(UNSIGNED))) as stream:
        assert await stream.read_at(2500, 5000) == PLAINTEXT[2500:7500]


# Signed messages


async def test_a_signed_message_is_refused_before_any_key_is_asked() -> None:
    other = RawAESMasterKey("nobody", "asks", wrapping_key=bytes(32))
    stream = open_seekable(await sealed(PLAINTEXT, SIGNED), other)
    with pytest.raises(SignaturePolicyError) as caught:
        await stream.__aenter__()
    assert str(caught.value) == (
        "the message is signed (ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384), and reading parts of it "
        "verifies no signature: read it with decrypt_stream, or give accept_unverified_signature=True "
        "if the tags of its frames are enough"
    )


@pytest.mark.parametrize("length", [0, 999, 1000, 10_000])
async def test_a_signed_message_is_read_where_that_is_accepted(length: int) -> None:
    message = await sealed(PLAINTEXT[:length], SIGNED, frame_length=1000)
    async with open_seekable(message, KEY, accept_unverified_signature=True) as stream:
        assert stream.length == length
        assert await stream.read() == PLAINTEXT[:length]


async def test_a_signed_non_framed_message_is_read_where_that_is_accepted() -> None:
    context = public_key_pair(example_signing_key(SIGNED))
    message = build_message(SIGNED, PLAINTEXT, frame_length=None, encryption_context=context).data
    key = StaticDataKey(example_data_key(SIGNED))
    async with open_seekable(message, key, accept_unverified_signature=True) as stream:
        assert await stream.read_at(100, 10) == PLAINTEXT[100:110]


async def test_the_signature_is_really_not_verified() -> None:
    message = await sealed(PLAINTEXT, SIGNED, frame_length=1000)
    forged = message[:-20] + bytes(20)
    async with open_seekable(forged, KEY, accept_unverified_signature=True) as stream:
        assert await stream.read() == PLAINTEXT


# Policies


async def test_the_context_of_the_caller_is_checked() -> None:
    message = await message_of(encryption_context={"tenant": "42"})
    async with open_seekable(message, KEY, encryption_context={"tenant": "42"}) as stream:
        assert await stream.read(1) == PLAINTEXT[:1]
    with pytest.raises(EncryptionContextMismatchError):
        await open_seekable(message, KEY, encryption_context={"tenant": "43"}).__aenter__()


async def test_a_wrong_key_is_an_error_on_entry() -> None:
    other = RawAESMasterKey("tests", "streams", wrapping_key=bytes(32))
    with pytest.raises(ProviderError):
        await open_seekable(await message_of(), other).__aenter__()


@pytest.mark.parametrize(
    ("limits", "parameter", "actual"),
    [
        (Limits(max_frame_length=999), "max_frame_length", 1000),
        (Limits(max_plaintext_length=9_999), "max_plaintext_length", 10_000),
        (Limits(max_header_length=50), "max_header_length", None),
    ],
)
async def test_limits_hold(limits: Limits, parameter: str, actual: int | None) -> None:
    with pytest.raises(LimitError) as caught:
        await open_seekable(await message_of(), KEY, limits=limits).__aenter__()
    assert caught.value.parameter == parameter
    if actual:
        assert caught.value.actual == actual


async def test_limits_let_through_what_is_as_long_as_they_are() -> None:
    limits = Limits(max_frame_length=1000, max_plaintext_length=10_000)
    async with open_seekable(await message_of(), KEY, limits=limits) as stream:
        assert stream.length == 10_000


async def test_a_non_framed_body_above_the_limit_is_not_fetched() -> None:
    message = build_message(UNSIGNED, plaintext_of(50_000), frame_length=None).data
    source = Recorded(message)
    limits = Limits(max_frame_length=49_999)
    with pytest.raises(LimitError, match=r"the length of the non-framed body is 50000, above max_frame"):
        await open_seekable(source, StaticDataKey(example_data_key(UNSIGNED)), limits=limits).__aenter__()
    assert source.fetched < 10_000
    assert source.closed == 1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"cache_length": -1}, ValueError, "cache_length is -1; it must be 0 or more"),
        ({"concurrency": 0}, ValueError, "concurrency is 0; it must be 1 or more"),
        ({"concurrency": 1.5}, TypeError, "concurrency must be an int, not float"),
        ({"encryption_context": {"a": 1}}, TypeError, "keys and values of an encryption context must be str"),
    ],
)
async def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        open_seekable(b"", KEY, **options)


@pytest.mark.parametrize("source", [5, io.BytesIO(), None, Recorded])
async def test_what_has_no_ranges_is_refused_with_advice(source: Any) -> None:
    with pytest.raises(TypeError, match="is not a source of ranges: give bytes, the path of a file, or an"):
        open_seekable(source, KEY)


# Positions


async def test_the_position_moves_as_that_of_a_file() -> None:
    plain = io.BytesIO(PLAINTEXT)
    chosen = random.Random(2)
    async with open_seekable(await message_of(), KEY) as stream:
        for _ in range(200):
            match chosen.randrange(4):
                case 0:
                    n = chosen.choice([-1, 0, 1, 10, 1500, 20_000])
                    assert await stream.read(n) == plain.read(n)
                case 1:
                    offset = chosen.randrange(12_000)
                    assert stream.seek(offset) == plain.seek(offset)
                case 2:
                    offset = chosen.randrange(-plain.tell(), 2_000)
                    assert stream.seek(offset, io.SEEK_CUR) == plain.seek(offset, io.SEEK_CUR)
                case _:
                    offset = chosen.randrange(-10_000, 100)
                    assert stream.seek(offset, io.SEEK_END) == plain.seek(offset, io.SEEK_END)
            assert stream.tell() == plain.tell()


async def test_read_at_leaves_the_position_alone() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        stream.seek(5)
        await stream.read_at(100, 10)
        assert stream.tell() == 5


async def test_a_position_before_the_start_is_refused() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        stream.seek(7)
        with pytest.raises(ValueError, match="the position would be -1; it must be 0 or more"):
            stream.seek(-1)
        with pytest.raises(ValueError, match="the position would be -1;"):
            stream.seek(-10_001, io.SEEK_END)
        with pytest.raises(ValueError, match="whence is 3; it must be 0 to 2"):
            stream.seek(0, 3)
        with pytest.raises(ValueError, match="offset is -1; it must be 0 or more"):
            await stream.read_at(-1, 5)
        assert stream.tell() == 7


async def test_readexactly_gives_all_or_nothing() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        assert await stream.readexactly(9_990) == PLAINTEXT[:9_990]
        with pytest.raises(
            IncompleteReadError, match="the stream ends 1 bytes before the 11 asked"
        ) as caught:
            await stream.readexactly(11)
        assert (caught.value.partial, caught.value.expected) == (PLAINTEXT[-10:], 11)
        assert stream.tell() == 9_990
        assert await stream.readexactly(10) == PLAINTEXT[-10:]
        assert await stream.readexactly(0) == b""
        with pytest.raises(ValueError, match="n is -1; it must be 0 or more"):
            await stream.readexactly(-1)
        stream.seek(20_000)
        assert await stream.readexactly(0) == b""
        with pytest.raises(IncompleteReadError) as caught:
            await stream.readexactly(1)
        assert (caught.value.partial, stream.tell()) == (b"", 20_000)


async def test_a_stream_is_a_source_of_others() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        again, _ = await encrypt(stream, KEY, algorithm_suite=UNSIGNED)
    async with open_seekable(again, KEY) as stream:
        assert await stream.read() == PLAINTEXT


# Life


async def test_nothing_works_before_async_with() -> None:
    stream = open_seekable(await message_of(), KEY)
    for use in (
        lambda: stream.header,
        lambda: stream.length,
        lambda: stream.provenance,
        stream.tell,
        lambda: stream.seek(0),
    ):
        with pytest.raises(StreamNotEnteredError, match="use it in `async with`"):
            use()
    for read in (stream.read(), stream.read_at(0), stream.readexactly(1), anext(stream)):
        with pytest.raises(StreamNotEnteredError):
            await read


async def test_nothing_is_read_after_it_but_the_header_is_still_there() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        pass
    for read in (stream.read(), stream.read_at(0), stream.readexactly(1), anext(stream)):
        with pytest.raises(StreamClosedError, match="the stream is closed"):
            await read
    with pytest.raises(StreamClosedError):
        stream.seek(0)
    assert stream.header.frame_length == 1000
    assert stream.length == len(PLAINTEXT)


async def test_a_stream_is_entered_once() -> None:
    async with open_seekable(await message_of(), KEY) as stream:
        with pytest.raises(StreamError, match="a stream can be entered only once: create another one"):
            await stream.__aenter__()
        assert await stream.read(1) == PLAINTEXT[:1]


async def test_the_source_is_closed_once() -> None:
    source = Recorded(await message_of())
    async with open_seekable(is_range_source(source), KEY) as stream:
        assert source.closed == 0
        await stream.aclose()
        assert source.closed == 1
    await stream.aclose()
    assert source.closed == 1
    assert source.sizes == 1


async def test_the_source_is_closed_when_entering_fails() -> None:
    source = Recorded((await message_of())[:500])
    with pytest.raises(TruncatedMessageError, match="the source ends after 500 bytes"):
        await open_seekable(source, KEY).__aenter__()
    assert source.closed == 1


async def test_closing_an_unentered_stream_closes_the_source() -> None:
    source = Recorded(b"")
    await open_seekable(source, KEY).aclose()
    assert source.closed == 1


async def test_leaving_early_and_with_an_exception_is_fine() -> None:
    source = Recorded(await message_of())

    async def fail(stream: SeekableDecryptStream) -> None:
        assert await stream.read(10) == PLAINTEXT[:10]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with open_seekable(source, KEY) as stream:
            await fail(stream)
    assert source.closed == 1


async def test_two_tasks_cannot_share_the_position() -> None:
    source = Recorded(await message_of(plaintext_of(99_999)))
    async with open_seekable(source, KEY) as stream, anyio.create_task_group() as group:
        stream.seek(50_000)
        source.gate = anyio.Event()
        group.start_soon(stream.read, 10)
        await anyio.wait_all_tasks_blocked()
        for read in (stream.read(), stream.readexactly(1)):
            with pytest.raises(StreamBusyError, match=r"use read_at\(\) instead"):
                await read
        with pytest.raises(StreamBusyError):
            stream.tell()
        with pytest.raises(StreamBusyError):
            stream.seek(0)
        assert await stream.read_at(99_989, 10) == plaintext_of(99_999)[-10:]
        source.gate.set()
    assert stream.length == 99_999


async def test_many_tasks_read_at_once() -> None:
    plaintext = plaintext_of(1_000_000)
    source = Recorded(await message_of(plaintext))
    wrong: list[int] = []

    async def check(offset: int) -> None:
        if await stream.read_at(offset, 20_000) != plaintext[offset : offset + 20_000]:
            wrong.append(offset)

    options: dict[str, Any] = {"cache_length": 100_000, "concurrency": 3}
    async with open_seekable(source, KEY, **options) as stream, anyio.create_task_group() as group:
        for offset in range(0, 1_000_000, 7_777):
            group.start_soon(check, offset)
    assert wrong == []
    assert source.most == 3


async def test_reads_that_run_when_the_stream_is_left_end_and_then_the_source_is_closed() -> None:
    plaintext = plaintext_of(100_000)
    source = Recorded(await message_of(plaintext))
    results = []

    async def read() -> None:
        results.append(await stream.read_at(50_000, 100))

    async with anyio.create_task_group() as group:
        async with open_seekable(source, KEY) as stream:
            source.gate = anyio.Event()
            group.start_soon(read)
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
        assert source.closed == 0
        with pytest.raises(StreamClosedError):
            await stream.read_at(0)
        source.gate.set()
    assert results == [plaintext[50_000:50_100]] * 2
    assert source.closed == 1
    assert_idle()
