"""Files that may block for ever: they can be cancelled, and hinder nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioencrypt
from aioencrypt import encrypt, open_seekable
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import rewrap_file
from tests.support.streaming import KEY, assert_idle, plaintext_of, sealed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.every_loop,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files"),
]


async def read_path(path: Path) -> bytes:
    async with aioencrypt.open(path, "rb", provider=KEY) as reader:
        return await reader.read()


async def read_object(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDWR)  # a writer, so that opening it does not block
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return (await encrypt(file, KEY)).ciphertext


async def read_buffered(path: Path) -> bytes:
    writer = os.open(path, os.O_RDWR)
    try:
        with open(path, "rb") as file:
            return (await encrypt(file, KEY)).ciphertext
    finally:
        os.close(writer)


KERNEL_LOG = "/proc/kmsg"  # it calls itself a regular file, and is read like a FIFO


async def read_kernel_log(path: Path) -> bytes:
    with open(KERNEL_LOG, "rb") as file:
        return (await encrypt(file, KEY)).ciphertext


def can_be_opened(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


READS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "open": read_path,
    "rewrap_file": lambda path: rewrap_file(path, KEY, new_provider=KEY, destination=f"{path}.new"),
    "file": read_object,
    "buffered": read_buffered,
}
if can_be_opened(KERNEL_LOG):
    READS["kernel log"] = read_kernel_log


@pytest.mark.parametrize("name", READS)
async def test_many_blocked_reads_hinder_no_ordinary_file_and_can_be_cancelled(
    tmp_path: Path, name: str
) -> None:
    message = tmp_path / "message"
    message.write_bytes(await sealed(plaintext_of(1000)))
    async with anyio.create_task_group() as group:
        for number in range(40):
            path = tmp_path / f"fifo{number}"
            os.mkfifo(path)
            group.start_soon(READS[name], path)  # type: ignore[arg-type]
        await anyio.wait_all_tasks_blocked()
        assert await read_path(message) == plaintext_of(1000)
        group.cancel_scope.cancel()
    assert_idle()


async def test_a_fifo_without_a_writer_is_waited_for(tmp_path: Path) -> None:
    path, message = tmp_path / "fifo", await sealed(plaintext_of(300_000))
    os.mkfifo(path)
    got: list[bytes] = []

    async def read() -> None:
        got.append(await read_path(path))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(path.write_bytes, message)
    assert got == [plaintext_of(300_000)]


@pytest.mark.parametrize("device", ["fifo", "/dev/null", "/dev/zero"])
async def test_what_has_no_ranges_is_refused(tmp_path: Path, device: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / device
    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: inspect_message(path),
        lambda: open_seekable(path, KEY).__aenter__(),
        lambda: rewrap_file(path, KEY, new_provider=KEY),
        lambda: rewrap_file(path, KEY, new_provider=KEY, in_place=True),
    ]
    for use in uses:
        with pytest.raises(OSError, match="not a regular file") as caught:
            await use()
        assert caught.value.filename == str(path)
    assert_idle()


@pytest.mark.parametrize("source", ["sys.stdin.buffer", "'/dev/stdin'"])
async def test_a_program_exits_while_its_standard_input_blocks(source: str) -> None:
    code = f"""
        import asyncio, os, sys, aioencrypt
        key = aioencrypt.RawAESMasterKey("tests", "files", wrapping_key=bytes(32))
        async def main():
            source = {source}
            try:
                async with asyncio.timeout(0.1):
                    if isinstance(source, str):
                        await aioencrypt.open(source, "rb", provider=key).__aenter__()
                    else:
                        await aioencrypt.encrypt(source, key)
            except TimeoutError:
                print("timeout", os.get_blocking(0))
        asyncio.run(main())
    """

    def run() -> tuple[str, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            status = process.wait(60)
            assert process.stdout
            return process.stdout.read().decode(), status

    assert await anyio.to_thread.run_sync(run) == ("timeout True\n", 0)
