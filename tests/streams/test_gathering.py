"""Pieces of a source that is ahead are gathered, up to what one turn of the loop may take."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioencrypt import decrypt_stream, encrypt_stream
from aioencrypt.runtime.offload import loop_states
from aioencrypt.streams import reading
from tests.support.rows import each_row
from tests.support.streaming import KEY, UNSIGNED, plaintext_of

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]
PLAINTEXT = plaintext_of(6 * 1024 * 1024 + 1)


async def ready(data: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def all_of(stream: Any) -> list[bytes]:
    async with stream:
        return [chunk async for chunk in stream]


@each_row("length", [16_384, 65_536, 262_144, 350_000, 500_000, 700_000, 2**20])
@each_row("frame_length", [1024, 4096, 65_536])
async def test_batches_stay_in_the_loop(frame_length: int, length: int) -> None:
    before = loop_states.get().hops_begun
    source = ready(PLAINTEXT, length)
    sealed = await all_of(encrypt_stream(source, KEY, algorithm_suite=UNSIGNED, frame_length=frame_length))
    message = b"".join(sealed)
    opened = await all_of(decrypt_stream(ready(message, length), KEY))
    assert b"".join(opened) == PLAINTEXT
    assert loop_states.get().hops_begun == before


async def test_pieces_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "perf_counter", lambda: 0.0)
    sealed = await all_of(encrypt_stream(ready(PLAINTEXT, 16_384), KEY, algorithm_suite=UNSIGNED))
    assert max(map(len, sealed)) > 4 * 16_384
    opened = await all_of(decrypt_stream(ready(b"".join(sealed), 16_384), KEY))
    assert max(map(len, opened)) > 4 * 16_384


async def test_pieces_of_a_source_that_waits_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(reading, "perf_counter", lambda: float(next(seconds)))
    sealed = await all_of(encrypt_stream(ready(PLAINTEXT, 16_384), KEY, algorithm_suite=UNSIGNED))
    assert max(map(len, sealed)) < 2 * 16_384
