"""Look records up in an encrypted file without decrypting the rest, and count what is fetched.

    python read_at_random.py

A file of 100,000 records is made; what this program makes is gone afterwards, the key included.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

import aioencrypt
from aioencrypt import AlgorithmSuite, RawAESMasterKey, open_seekable

RECORDS = 100_000
RECORD_LENGTH = 64


def record(number: int) -> bytes:
    return f"record {number} of {RECORDS}".encode().ljust(RECORD_LENGTH)


class CountingFile:
    """A source of ranges: a file, and how many bytes were read of it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.path = path
        self.fetched = 0

    async def size(self) -> int:
        return self.path.stat().st_size

    async def read_range(self, start: int, end: int, /) -> bytes:
        # A few kilobytes from a local disk. Whatever takes longer belongs in a thread, or is awaited.
        self.file.seek(start)
        self.fetched += end - start
        return self.file.read(end - start)

    async def aclose(self) -> None:
        self.file.close()


async def write(path: Path, provider: RawAESMasterKey) -> None:
    writer = aioencrypt.open(
        path,
        "wb",
        provider=provider,
        # Nobody can verify a signature who reads a part, so there is none.
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        # A frame is the least that is fetched.
        frame_length=64 * RECORD_LENGTH,
    )
    async with writer:
        for number in range(RECORDS):
            await writer.write(record(number))


async def main() -> None:
    provider = RawAESMasterKey("my-records", "key-2026", wrapping_key=secrets.token_bytes(32))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "records.aws"
        await write(path, provider)
        source = CountingFile(path)
        async with open_seekable(source, provider) as stream:
            for number in (7, 77_777, RECORDS - 1):
                found = await stream.read_at(number * RECORD_LENGTH, RECORD_LENGTH)
                print(found.decode().rstrip())
            print(f"{stream.length // RECORD_LENGTH:,} records, {path.stat().st_size:,} bytes")
        print(f"{source.fetched:,} bytes fetched")


if __name__ == "__main__":
    asyncio.run(main())
