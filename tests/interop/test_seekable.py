"""Messages of the official SDK are read at random, and inspected."""

from __future__ import annotations

import pytest

from aioencrypt import AlgorithmSuite
from aioencrypt.inspection import inspect_message
from tests.support.official import Kind, aes_key, kinds, write
from tests.support.rows import each_row
from tests.support.streaming import client_for, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

KEY = aes_key(256)
PLAINTEXT = plaintext_of(5 * 4096)


@each_row("suite", AlgorithmSuite)
@kinds
@each_row("length", [0, 1, 4095, 4096, 4097, 3 * 4096, 5 * 4096 - 1, 5 * 4096])
async def test_its_messages_are_read_at_random(suite: AlgorithmSuite, kind: Kind, length: int) -> None:
    plaintext = PLAINTEXT[:length]
    message = write(plaintext, KEY.official(kind), suite, encryption_context={"a": "b"})
    stream = client_for(suite).open_seekable(
        message, KEY.ours, accept_unverified_signature=True, encryption_context={"a": "b"}
    )
    async with stream:
        assert stream.length == length
        assert await stream.read() == plaintext
        for offset in (0, 1, 4000, 4096, length - 1, length):
            assert await stream.read_at(max(0, offset), 5000) == plaintext[max(0, offset) :][:5000]
    inspection = await inspect_message(message)
    assert inspection.plaintext_length == length
    assert [key.name for key in inspection.keys] == [KEY.ours.key_id]
