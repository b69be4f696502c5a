"""The raw AES master key: wrap data keys with AES-GCM.

Specification: framework/raw-aes-keyring.md.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt.errors import ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.providers.base import MasterKey
from aioencrypt.providers.raw.names import (
    check_names,
    namespaces_in_messages,
    not_copied,
    not_identified,
    random_data_key,
)
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.secrets import hides_locals

# A key that was not decoded, perhaps with the end of its line.
_TEXT = re.compile(rb"[\w+/-]{22,64}=*\s*")


class RawAESMasterKey(MasterKey):
    """Wrap data keys under an AES key of 16, 24 or 32 bytes.

    Messages store `key_namespace` and `key_name` in the clear to identify the key: pass the same values to
    decrypt. The namespace must not start with ``aws-kms``. Each data key is wrapped with a random IV, so
    rotate the key well before 2**32 messages.
    """

    @hides_locals
    def __init__(
        self, key_namespace: str, key_name: str, *, wrapping_key: bytes | bytearray | memoryview
    ) -> None:
        check_names(key_namespace, key_name)
        if not isinstance(wrapping_key, bytes | bytearray | memoryview):
            # bytes(32) would be a key of 32 zero bytes.
            what = describe_type(wrapping_key)
            raise TypeError(f"wrapping_key must be bytes, not {what}: decode base64 or hexadecimal first")
        key = bytes(wrapping_key)
        if len(key) not in (16, 24, 32):
            advice = ": decode base64 or hexadecimal first" if _TEXT.fullmatch(key) else ""
            raise ValueError(f"wrapping_key has {len(key)} bytes; an AES key must have 16, 24 or 32{advice}")
        self._namespace = key_namespace
        self._provider_ids = namespaces_in_messages(key_namespace)
        self._name = key_name
        self._aead = AESGCM(key)
        self._info_start = (
            key_name.encode() + (TAG_LENGTH * 8).to_bytes(4, "big") + IV_LENGTH.to_bytes(4, "big")
        )

    def __repr__(self) -> str:
        return f"RawAESMasterKey({self._namespace!r}, {self._name!r})"

    def __reduce__(self) -> NoReturn:
        raise not_copied(self)

    def __dask_tokenize__(self) -> NoReturn:
        raise not_identified(self)

    @property
    def provider_id(self) -> str:
        return self._namespace

    @property
    def key_id(self) -> str:
        return self._name

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        info = encrypted_data_key.provider_info
        return (
            encrypted_data_key.provider_id in self._provider_ids
            and len(info) == len(self._info_start) + IV_LENGTH
            and info.startswith(self._info_start)
        )

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        iv = os.urandom(IV_LENGTH)
        ciphertext = self._aead.encrypt(iv, data_key.plaintext, request.serialized_context)
        return EncryptedDataKey(self._namespace, self._info_start + iv, ciphertext)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        iv, sealed = encrypted_data_key.provider_info[-IV_LENGTH:], encrypted_data_key.ciphertext
        try:
            return DataKey(self._aead.decrypt(iv, sealed, request.serialized_context))
        except InvalidTag as error:
            failure = error
        for aad in request.odd_serialized_contexts:
            with suppress(InvalidTag):
                return DataKey(self._aead.decrypt(iv, sealed, aad))
        raise ProviderError(
            "the encrypted data key fails authentication: another wrapping key or encryption context"
        ) from failure
