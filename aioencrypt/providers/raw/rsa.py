"""The raw RSA master key: wrap data keys with an RSA key pair.

Specification: framework/raw-rsa-keyring.md.
"""

from __future__ import annotations

import enum
from functools import partial
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from aioencrypt.errors import ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.providers.base import MasterKey
from aioencrypt.providers.raw.loading import load_private, load_public
from aioencrypt.providers.raw.names import (
    check_names,
    namespaces_in_messages,
    not_copied,
    not_identified,
    random_data_key,
)
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.arguments import check_choice
from aioencrypt.runtime.offload import run_work
from aioencrypt.runtime.secrets import SecretBytes, hides_locals

# Microseconds for a 4096-bit key: the private operation runs in a thread, the public one does not.
_DECRYPT_COST = 1500
ENCRYPT_COST = 60


class RSAPadding(enum.Enum):
    """The padding of a data key. OAEP uses MGF1 with the same hash."""

    PKCS1 = "pkcs1"
    OAEP_SHA1 = "oaep-sha1"
    OAEP_SHA256 = "oaep-sha256"
    OAEP_SHA384 = "oaep-sha384"
    OAEP_SHA512 = "oaep-sha512"


# SHA-1 is safe in OAEP, and existing messages use it.
_OAEP_HASHES: dict[RSAPadding, type[hashes.HashAlgorithm]] = {
    RSAPadding.OAEP_SHA1: hashes.SHA1,
    RSAPadding.OAEP_SHA256: hashes.SHA256,
    RSAPadding.OAEP_SHA384: hashes.SHA384,
    RSAPadding.OAEP_SHA512: hashes.SHA512,
}


def padding_scheme(padding: RSAPadding) -> rsa_padding.AsymmetricPadding:
    """Return the `cryptography` object for a padding."""
    if padding is RSAPadding.PKCS1:
        return rsa_padding.PKCS1v15()
    algorithm = _OAEP_HASHES[padding]()
    return rsa_padding.OAEP(mgf=rsa_padding.MGF1(algorithm=algorithm), algorithm=algorithm, label=None)


def load_public_key(key: RSAPublicKey | bytes) -> RSAPublicKey:
    """Load an RSA public key from PEM, DER or a key object; raises `ValueError` and `TypeError`."""
    return load_public("public_key", key, RSAPublicKey, "an RSA")  # type: ignore[type-abstract]


def _load_private(key: RSAPrivateKey | bytes) -> RSAPrivateKey:
    return load_private("private_key", key, RSAPrivateKey, "an RSA")  # type: ignore[type-abstract]


def _belongs(public_key: RSAPublicKey, private_key: RSAPrivateKey) -> bool:
    return public_key.public_numbers() == private_key.public_key().public_numbers()


class RawRSAMasterKey(MasterKey):
    """Wrap data keys with an RSA public key, and unwrap them with the private key.

    To only encrypt, pass `public_key`; to only decrypt, pass `private_key`. The public key is never derived
    from the private key. Keys are unencrypted PEM bytes or `cryptography` key objects; a public key may be
    DER. RSA does not authenticate the encryption context, but the header tag does. Use PKCS1 only for old
    messages, and OAEP for new ones. Raises `ValueError` for bytes that cannot be loaded, and `TypeError` for
    other kinds of keys.
    """

    @hides_locals
    def __init__(
        self,
        key_namespace: str,
        key_name: str,
        *,
        padding: RSAPadding,
        public_key: RSAPublicKey | bytes | None = None,
        private_key: RSAPrivateKey | bytes | None = None,
    ) -> None:
        check_names(key_namespace, key_name)
        if public_key is None and private_key is None:
            raise ValueError("give public_key to encrypt, private_key to decrypt, or both")
        self._namespace = key_namespace
        self._provider_ids = namespaces_in_messages(key_namespace)
        self._name = key_name
        self._padding = check_choice("padding", padding, RSAPadding)
        self._scheme = padding_scheme(self._padding)
        self._public_key = None if public_key is None else load_public_key(public_key)
        self._private_key = None if private_key is None else _load_private(private_key)
        if self._public_key and self._private_key and not _belongs(self._public_key, self._private_key):
            raise ValueError(
                "public_key does not belong to private_key: give both halves of one key pair, or one half"
            )

    def __repr__(self) -> str:
        return f"RawRSAMasterKey({self._namespace!r}, {self._name!r})"

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
        return (
            encrypted_data_key.provider_id in self._provider_ids
            and encrypted_data_key.provider_info == self._name.encode()
        )

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        if self._public_key is None:
            raise ProviderError("this RSA key has no public_key, so it cannot encrypt")
        wrap = partial(self._public_key.encrypt, SecretBytes(data_key.plaintext), self._scheme)
        try:
            ciphertext = await run_work(wrap, ENCRYPT_COST)
        except ValueError as error:
            raise ProviderError(
                f"an RSA key of {self._public_key.key_size} bits is too small to encrypt a data key of "
                f"{len(data_key.plaintext)} bytes with {self._padding.name}"
            ) from error
        return EncryptedDataKey(self._namespace, self._name.encode(), ciphertext)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        if self._private_key is None:
            raise ProviderError("this RSA key has no private_key, so it cannot decrypt")
        unwrap = partial(self._private_key.decrypt, encrypted_data_key.ciphertext, self._scheme)
        failure: ValueError | None = None
        try:
            data_key = SecretBytes(await run_work(unwrap, _DECRYPT_COST))
            # With PKCS1 and another key, OpenSSL returns random bytes of any length in place of an error.
            if len(data_key) == request.algorithm_suite.data_key_length:
                return DataKey(data_key)
        except ValueError as error:
            failure = error
        raise ProviderError(
            "the encrypted data key cannot be decrypted: another RSA key or padding"
        ) from failure
