"""A loop in a thread that outlives the main thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OUTLIVING = """
import concurrent.futures.thread, sys, threading, time
import anyio
import aioencrypt
from aioencrypt import RawAESMasterKey, decrypt, encrypt
from aioencrypt.runtime.digests import DigestQueue

key = RawAESMasterKey("tests", "life", wrapping_key=bytes(32))
started = threading.Event()
done = []

def first():
    started.set()
    while not concurrent.futures.thread._shutdown:
        time.sleep(0.001)
    done.append(1)

async def main():
    digests = DigestQueue()
    await digests.add(first, 100_000)
    await digests.add(lambda: done.append(2), 100_000)
    await digests.join()
    assert done == [1, 2]
    message, _ = await encrypt(bytes(5_000_000), key, frame_length=4_000_000)
    assert (await decrypt(message, key)).plaintext == bytes(5_000_000)
    async with aioencrypt.open(sys.argv[1], "wb", provider=key) as file:
        await file.write(b"more")
    print("fine")

threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": sys.argv[2]}).start()
started.wait()
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_outlives_the_main_thread(backend: str, tmp_path: Path) -> None:
    """Pools of the standard library end with the main thread, other threads do not."""
    result = subprocess.run(
        [sys.executable, "-c", OUTLIVING, str(tmp_path / "file"), backend],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr
