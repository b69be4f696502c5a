"""A key type of your own: a master key kept by a key service that aioencrypt does not know.

    python own_master_key.py

A master key is one class: two names, one question and three coroutines. What it returns is written
into the message and comes back on decrypt; everything else is the library's business.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import ProviderError, ServiceError, decrypt, encrypt
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey, MasterKey


class KeyService:
    """Stands for the service: wraps and unwraps 16 to 32 bytes over the network."""

    def __init__(self, *, delay: float = 0.005) -> None:
        self._keys = {"orders": AESGCM(secrets.token_bytes(32))}
        self._delay = delay

    async def wrap(self, key_name: str, data: bytes, context: bytes) -> bytes:
        await asyncio.sleep(self._delay)
        nonce = secrets.token_bytes(12)
        return nonce + self._keys[key_name].encrypt(nonce, data, context)

    async def unwrap(self, key_name: str, wrapped: bytes, context: bytes) -> bytes:
        await asyncio.sleep(self._delay)
        return self._keys[key_name].decrypt(wrapped[:12], wrapped[12:], context)


class ServiceMasterKey(MasterKey):
    """A key of the service. `timeout` is in seconds, for one call."""

    def __init__(self, service: KeyService, key_name: str, *, timeout: float = 10.0) -> None:
        self._service = service
        self._key_name = key_name
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"ServiceMasterKey({self._key_name!r})"

    @property
    def provider_id(self) -> str:
        return "my-key-service"

    @property
    def key_id(self) -> str:
        return self._key_name

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        """Look at the names only. A wrong yes costs a call, a wrong no the message."""
        return (
            encrypted_data_key.provider_id == self.provider_id
            and encrypted_data_key.provider_info == self._key_name.encode()
        )

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = DataKey(secrets.token_bytes(request.algorithm_suite.data_key_length))
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        wrapped = await self._in_time(self._service.wrap(self._key_name, data_key.plaintext, bound(request)))
        return EncryptedDataKey(self.provider_id, self._key_name.encode(), wrapped)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        """One attempt. Whatever is raised becomes a line of `ProviderError.attempts`."""
        wrapped = encrypted_data_key.ciphertext
        try:
            return DataKey(await self._in_time(self._service.unwrap(self._key_name, wrapped, bound(request))))
        except InvalidTag as error:
            raise ProviderError("the key service says that key or context is another one") from error

    async def _in_time(self, call: Awaitable[bytes]) -> bytes:
        """Wait for the service. A cancellation of our caller is not caught: it passes through."""
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except TimeoutError as error:
            text = f"the key service gave no answer within {self._timeout} seconds"
            raise ServiceError(text, retryable=True) from error


def bound(request: DataKeyRequest) -> bytes:
    """Return the encryption context as bytes, always the same ones: what the data key is bound to."""
    return json.dumps(dict(request.encryption_context), sort_keys=True).encode()


async def main() -> None:
    service = KeyService()
    key = ServiceMasterKey(service, "orders")
    message, header = await encrypt(b"attack at dawn", key, encryption_context={"tenant": "42"})
    print(f"encrypted under {header.encrypted_data_keys[0].provider_id}")
    plaintext, _ = await decrypt(message, key)
    print(plaintext)
    for refused in (
        ServiceMasterKey(KeyService(), "orders"),
        ServiceMasterKey(service, "orders", timeout=0.0001),
    ):
        try:
            await decrypt(message, refused)
        except ProviderError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    asyncio.run(main())
