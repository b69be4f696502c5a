"""What the tests of providers and managers share: requests, and a key and a provider as users write them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import anyio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import AlgorithmSuite, MasterKeyProvider, ProviderError
from aioencrypt.materials import DataKey, DataKeyRequest, DecryptedDataKey, EncryptedDataKey, MasterKey
from tests.support.messages import sorted_context

SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
CONTEXT = {"tenant": "42"}


def asking(
    *encrypted_data_keys: EncryptedDataKey,
    suite: AlgorithmSuite = SUITE,
    context: Mapping[str, str] | None = None,
) -> DataKeyRequest:
    """Return a request; with no encrypted data keys it is one to encrypt."""
    return DataKeyRequest(
        algorithm_suite=suite,
        encryption_context=CONTEXT if context is None else context,
        encrypted_data_keys=encrypted_data_keys,
    )


def raised(error: BaseException) -> BaseException | None:
    """Return what a method raised: the error itself if it is one of the library, otherwise its cause."""
    return error.__cause__ if type(error) is ProviderError else error


class OwnKey(MasterKey):
    """A master key of a user: it really wraps, and logs what it is asked for.

    `error` is what every operation raises; `length` makes data keys of another length.
    """

    def __init__(
        self,
        name: str,
        log: list[str] | None = None,
        *,
        error: BaseException | None = None,
        length: int | None = None,
    ) -> None:
        self.name = name
        self.log = [] if log is None else log
        self.error = error
        self.length = length
        self._aead = AESGCM(hashlib.sha256(name.encode()).digest())

    def __repr__(self) -> str:
        return f"OwnKey({self.name!r})"

    @property
    def provider_id(self) -> str:
        return "own"

    @property
    def key_id(self) -> str:
        return self.name

    async def act(self, operation: str) -> None:
        """What happens in each operation before its work."""
        self.log.append(f"{operation} {self.name}")
        if self.error:
            raise self.error

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        return (
            encrypted_data_key.provider_id == "own" and encrypted_data_key.provider_info == self.name.encode()
        )

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        await self.act("generate")
        length = request.algorithm_suite.data_key_length if self.length is None else self.length
        data_key = DataKey(os.urandom(length))
        return data_key, self.wrap(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        await self.act("encrypt")
        return self.wrap(data_key, request)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        await self.act("decrypt")
        iv, sealed = encrypted_data_key.ciphertext[:12], encrypted_data_key.ciphertext[12:]
        try:
            return DataKey(self._aead.decrypt(iv, sealed, sorted_context(request.encryption_context)))
        except InvalidTag as error:
            raise ProviderError("does not open") from error

    def wrap(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        """Encrypt a data key without a line in the log."""
        iv = os.urandom(12)
        sealed = self._aead.encrypt(iv, data_key.plaintext, sorted_context(request.encryption_context))
        return EncryptedDataKey("own", self.name.encode(), iv + sealed)


class OwnProvider(MasterKeyProvider):
    """A provider of a user, to be entered and left, with a log of that.

    It encrypts under `keys`, and decrypts under the first of them that can, or raises `error`.
    """

    def __init__(
        self,
        name: str,
        *keys: MasterKey,
        log: list[str] | None = None,
        error: Exception | None = None,
        on_enter: BaseException | None = None,
        on_leave: BaseException | None = None,
    ) -> None:
        self.name = name
        self.keys = keys
        self.log = [] if log is None else log
        self.error = error
        self.on_enter = on_enter
        self.on_leave = on_leave
        self.entries = 0

    def __repr__(self) -> str:
        return f"OwnProvider({self.name!r})"

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return self.keys

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        if self.error:
            raise self.error
        return await self.keys[0].decrypt_data_key(request)

    async def __aenter__(self) -> Self:
        self.log.append(f"enter {self.name}")
        if self.on_enter:
            raise self.on_enter
        self.entries += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.append(f"leave {self.name}" + (f" with {exc}" if exc else ""))
        self.entries -= 1
        if self.on_leave:
            raise self.on_leave

    async def warm_up(self) -> None:
        self.log.append(f"warm up {self.name}")


class Interruption(BaseException):
    """What is no `Exception`, as `SystemExit` is none."""


class Waiting(OwnKey):
    """Waits for ever in every operation; what it raises when it is cancelled can be given."""

    def __init__(self, name: str, log: list[str], on_cancel: type[Exception] | None = None) -> None:
        super().__init__(name, log)
        self.on_cancel = on_cancel

    async def act(self, operation: str) -> None:
        await super().act(operation)
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.log.append(f"cancelled {self.name}")
            if self.on_cancel:
                raise self.on_cancel("in the way") from None
            raise
