"""A manager of your own: each tenant has a key of his own, and every use of a key is written down.

    python own_manager.py

A cryptographic materials manager (CMM) stands between the client and the keys. It is any object with
two coroutines: one gives what is needed to write a message, one what is needed to read it. This one
picks a provider by the tenant, leaves the rest to `DefaultCMM`, and keeps a list of what happened.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aioencrypt import (
    DefaultCMM,
    EncryptionError,
    MasterKeyProvider,
    PolicyError,
    Provenance,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)


class TenantCMM:
    """Keys by tenant, and an audit. Whoever reads a message must say whose it is."""

    def __init__(self, providers: Mapping[str, MasterKeyProvider], audit: list[str]) -> None:
        self._managers = {tenant: DefaultCMM(provider) for tenant, provider in providers.items()}
        self._audit = audit
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"TenantCMM({len(self._managers)} tenants)"

    async def __aenter__(self) -> Self:
        """Enter every provider; one that fails leaves those before it again."""
        async with AsyncExitStack() as stack:
            for manager in self._managers.values():
                await stack.enter_async_context(manager)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(exc_type, exc, traceback)

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        tenant = self._tenant(request.encryption_context)
        materials = await self._managers[tenant].get_encryption_materials(request)
        self._write(tenant, "encrypt", materials.provenance)
        return materials

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        # The header is not verified yet, so it is the caller who says whose message this is. That the
        # header says the same is what DefaultCMM checks.
        tenant = self._tenant(request.reproduced_encryption_context)
        try:
            materials = await self._managers[tenant].decrypt_materials(request)
        except EncryptionError as error:
            self._audit.append(f"{tenant}: decrypt refused: {type(error).__name__}")
            raise
        self._write(tenant, "decrypt", materials.provenance)
        return materials

    def _tenant(self, context: Mapping[str, str]) -> str:
        tenant = context.get("tenant", "")
        if tenant not in self._managers:
            # The value stays out of the message: it may come from anywhere.
            raise PolicyError("no key for that tenant; give encryption_context={'tenant': ...}")
        return tenant

    def _write(self, tenant: str, what: str, provenance: Provenance) -> None:
        keys = ", ".join(f"{use.provider_id} {use.key_id}" for use in provenance.keys)
        self._audit.append(f"{tenant}: {what} under {keys}")


async def main() -> None:
    audit: list[str] = []
    keys = {
        tenant: RawAESMasterKey("tenants", f"key-of-{tenant}", wrapping_key=secrets.token_bytes(32))
        for tenant in ("41", "42")
    }
    async with TenantCMM(keys, audit) as cmm:
        message, _ = await encrypt(b"attack at dawn", cmm, encryption_context={"tenant": "42"})
        for context in ({"tenant": "42"}, {"tenant": "41"}, {"tenant": "43"}, {}):
            try:
                plaintext, _ = await decrypt(message, cmm, encryption_context=context)
                print(plaintext)
            except PolicyError as error:
                print(f"refused: {error}")
    print(*audit, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
