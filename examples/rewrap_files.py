"""Move a folder of encrypted files to another key, and tell what they say before and after.

    python rewrap_files.py

A few files are made, one of them damaged; what this program makes is gone afterwards, the keys included.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

from aioencrypt import AlgorithmSuite, MessageError, RawAESMasterKey, encrypt
from aioencrypt.inspection import inspect_message
from aioencrypt.materials import MasterKey
from aioencrypt.rewrap import rewrap_file

SUITES = {
    "signed": AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
    "unsigned": AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
}


def messages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.aws"))


async def make(folder: Path, key: MasterKey) -> None:
    for name, suite in SUITES.items():
        message, _ = await encrypt(f"the {name} one".encode(), key, algorithm_suite=suite)
        (folder / f"{name}.aws").write_bytes(message)
    (folder / "damaged.aws").write_bytes(message[:-1] + bytes([message[-1] ^ 1]))


async def tell(folder: Path) -> None:
    for path in messages(folder):
        inspection = await inspect_message(path)
        names = ", ".join(str(key.name) for key in inspection.keys)
        print(f"{path.name:14} {inspection.plaintext_length} bytes under {names}")


async def rewrap(folder: Path, old: MasterKey, new: MasterKey) -> None:
    """Rewrap all files that are not under the new key yet, so that it can be started again."""
    for path in messages(folder):
        keys = (await inspect_message(path)).encrypted_data_keys
        if any(new.owns_data_key(key) for key in keys):
            continue
        try:
            await rewrap_file(path, old, new_provider=new, verify=True)
        except MessageError as error:
            print(f"{path.name} is left as it was: {error}")


async def main() -> None:
    old, new = (
        RawAESMasterKey("my-backups", name, wrapping_key=secrets.token_bytes(32))
        for name in ("key-2026", "key-2027")
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        await make(folder, old)
        await tell(folder)
        await rewrap(folder, old, new)
        await tell(folder)


if __name__ == "__main__":
    asyncio.run(main())
