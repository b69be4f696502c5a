"""Encrypt a file into another one, and decrypt that into a third, in little memory.

    python encrypt_a_file.py [FILE]

Without FILE, one of 20 MiB is made. What this program makes is gone afterwards, the key included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

import aioencrypt
from aioencrypt import AlgorithmSuite, MasterKeyProvider, RawAESMasterKey, Release

READ_LENGTH = 1024 * 1024


async def encrypt_file(source: Path, target: Path, provider: MasterKeyProvider) -> None:
    """Write `target` encrypted. It appears when it is whole; after an error, nothing is left of it."""
    length = (await anyio.Path(source).stat()).st_size
    writer = aioencrypt.open(
        target,
        "wb",
        provider=provider,
        encryption_context={"name": source.name},
        # One owner writes and reads this file, so that a signature would add nothing, and longer frames
        # are faster.
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=64 * 1024,
        plaintext_length=length,
    )
    async with writer, await anyio.open_file(source, "rb") as file:
        while chunk := await file.read(READ_LENGTH):
            await writer.write(chunk)


async def decrypt_file(source: Path, target: Path, provider: MasterKeyProvider, name: str) -> None:
    """Decrypt `source` into `target`, of which nothing is written before all of it is verified."""
    reader = aioencrypt.open(
        source,
        "rb",
        provider=provider,
        encryption_context={"name": name},
        release=Release.VERIFIED,
    )
    async with reader, await anyio.open_file(target, "wb") as file:
        async for chunk in reader:
            await file.write(chunk)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def main(given: Path | None) -> None:
    provider = RawAESMasterKey("my-backups", "key-2026", wrapping_key=secrets.token_bytes(32))
    with TemporaryDirectory() as name:
        folder = Path(name)
        plain = given or folder / "report.bin"
        if given is None:
            plain.write_bytes(secrets.token_bytes(20 * READ_LENGTH))
        encrypted, decrypted = folder / "report.aws", folder / "report.back"
        await encrypt_file(plain, encrypted, provider)
        await decrypt_file(encrypted, decrypted, provider, plain.name)
        for path in (plain, encrypted, decrypted):
            print(f"{path.name:12} {path.stat().st_size:12,} bytes")
        if digest(decrypted) != digest(plain):
            raise SystemExit("the files differ")
        print("the same again")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Encrypt a file into another one, and back.")
    parser.add_argument("file", type=Path, nargs="?", help="without it, one is made")
    file = parser.parse_args().file
    if file and not file.is_file():
        parser.error(f"{file} is not a file")
    asyncio.run(main(file))
