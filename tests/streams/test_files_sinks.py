"""A `MessageSink` in the place of a path: what is called when, and what becomes of an error."""

from __future__ import annotations

from typing import Any, cast

import pytest

import aioencrypt
from aioencrypt import StreamClosedError, decrypt
from aioencrypt.streams import MessageSink
from tests.support.streaming import KEY, SIGNED, UNSIGNED, assert_idle, plaintext_of

pytestmark = pytest.mark.anyio


class Sink:
    """Keeps what is written, notes the calls, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[str] = []
        self.written = b""
        self.message: bytes | None = None

    def _called(self, name: str) -> None:
        if self.calls[-1:] != [name]:
            self.calls.append(name)
        if name == self.failing:
            raise OSError(f"{name} failed")

    def create(self) -> None:
        self._called("create")

    def write(self, data: bytes, /) -> None:
        self._called("write")
        self.written += data

    def commit(self) -> None:
        self._called("commit")
        self.message = self.written

    def drop(self) -> None:
        self._called("drop")


@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_a_sink_gets_the_message_and_is_told_when_it_is_whole(suite: Any) -> None:
    sink, plaintext = Sink(), plaintext_of(100_000)
    assert isinstance(sink, MessageSink)
    async with aioencrypt.open(sink, "wb", provider=KEY, algorithm_suite=suite) as writer:
        await writer.write(plaintext)
        assert sink.message is None
    assert sink.calls == ["create", "write", "commit", "drop"]
    assert sink.message is not None
    assert (await decrypt(sink.message, KEY)).plaintext == plaintext
    with pytest.raises(StreamClosedError):
        await writer.write(b"more")
    assert_idle()


@pytest.mark.parametrize("failing", ["create", "write", "commit"])
async def test_an_error_of_a_sink_passes_and_the_message_is_dropped(failing: str) -> None:
    sink = Sink(failing)
    with pytest.raises(OSError, match=f"{failing} failed"):
        async with aioencrypt.open(sink, "wb", provider=KEY) as writer:
            await writer.write(plaintext_of(10_000))
    assert sink.calls[-2:] == [failing, "drop"]
    assert sink.message is None
    assert_idle()


async def test_an_error_of_the_caller_drops_the_message() -> None:
    sink = Sink()
    with pytest.raises(ZeroDivisionError):
        async with aioencrypt.open(sink, "wb", provider=KEY):
            assert 1 / 0
    assert sink.calls == ["create", "write", "drop"]
    assert_idle()


def test_a_sink_is_not_read() -> None:
    with pytest.raises(TypeError, match="mode 'rb' takes a path, not Sink"):
        aioencrypt.open(cast(Any, Sink()), "rb", provider=KEY)
