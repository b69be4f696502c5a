"""The KMS RSA master key: encrypt locally with the public key, decrypt in AWS KMS.

Specification: framework/aws-kms/aws-kms-rsa-keyring.md.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from functools import partial
from hmac import compare_digest
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt.aws.connection import AWSConnection, EntersConnection
from aioencrypt.aws.errors import bytes_of, text_of
from aioencrypt.errors import ProviderError
from aioencrypt.format import AlgorithmSuite, EncryptedDataKey
from aioencrypt.providers.base import DecryptedDataKey, MasterKey, checkpoint_every
from aioencrypt.providers.kms.arn import KeyArn, matches_for_decrypt, parse_key_arn
from aioencrypt.providers.kms.service import KMSService
from aioencrypt.providers.raw.names import random_data_key
from aioencrypt.providers.raw.rsa import ENCRYPT_COST, RSAPadding, load_public_key, padding_scheme
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.arguments import check_choice, check_type
from aioencrypt.runtime.offload import run_work
from aioencrypt.runtime.secrets import SecretBytes

_PROVIDER_ID = "aws-kms-rsa"
_DIGEST_LENGTH = 48
_SMALLEST_KEY = 2048


class KMSEncryptionAlgorithm(enum.Enum):
    """The encryption algorithms of RSA keys in KMS, by AWS's names: OAEP with MGF1 and the same hash."""

    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"


_PADDINGS = {
    KMSEncryptionAlgorithm.RSAES_OAEP_SHA_1: RSAPadding.OAEP_SHA1,
    KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256: RSAPadding.OAEP_SHA256,
}


class KMSRSAMasterKey(EntersConnection, MasterKey):
    """Wrap data keys under an RSA key in KMS: encrypt locally with `public_key`, decrypt in KMS.

    `key_id` must be a key ARN, because messages store the ARN. `public_key` is PEM, DER, or an `RSAPublicKey`
    of at least 2048 bits; without it the key only decrypts. A public key of another KMS key is noticed only
    on decrypt. Signed suites, such as the default one, raise `ProviderError`, because anyone with the public
    key can write messages: pass `algorithm_suite`.

    Encrypting needs no `async with`; to decrypt, use the key inside `async with`, or give a `connection` with
    ready clients. Raises `ValueError` and `TypeError` for keys that cannot be used.
    """

    def __init__(
        self,
        key_id: str,
        *,
        encryption_algorithm: KMSEncryptionAlgorithm,
        public_key: RSAPublicKey | bytes | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> None:
        self._region = _parse(key_id).region
        self._key_id = key_id
        self._algorithm = check_choice("encryption_algorithm", encryption_algorithm, KMSEncryptionAlgorithm)
        self._public_key = None if public_key is None else _load(public_key)
        self._service = KMSService(connection, grant_tokens)
        super().__init__(self._service)

    def __repr__(self) -> str:
        return f"KMSRSAMasterKey({self._key_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        key = self._public_key
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) if key else None
        return self._service.recipe(
            type(self), self._key_id, encryption_algorithm=self._algorithm, public_key=pem
        )

    @property
    def provider_id(self) -> str:
        return _PROVIDER_ID

    @property
    def key_id(self) -> str:
        return self._key_id

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        if encrypted_data_key.provider_id != _PROVIDER_ID:
            return False
        stored = _stored_arn(encrypted_data_key)
        return stored is not None and matches_for_decrypt(self._key_id, str(stored))

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        _refuse_signed(request.algorithm_suite)
        if self._public_key is None:
            raise ProviderError("this KMS RSA key has no public_key, so it cannot encrypt")
        scheme = padding_scheme(_PADDINGS[self._algorithm])
        plaintext = SecretBytes(_context_digest(request) + data_key.plaintext)
        ciphertext = await run_work(partial(self._public_key.encrypt, plaintext, scheme), ENCRYPT_COST)
        return EncryptedDataKey(_PROVIDER_ID, self._key_id.encode(), ciphertext)

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if encrypted_data_key.provider_id == _PROVIDER_ID and _stored_arn(encrypted_data_key) is None:
                raise ProviderError("an encrypted data key of a KMS RSA key does not name a KMS key ARN")
        return await super().decrypt_data_key(request)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        _refuse_signed(request.algorithm_suite)
        answer = await self._service.call(
            "Decrypt",
            self._key_id,
            self._region,
            lambda client: client.decrypt(
                KeyId=self._key_id,
                CiphertextBlob=encrypted_data_key.ciphertext,
                EncryptionAlgorithm=self._algorithm.value,
                GrantTokens=self._service.grant_tokens,
            ),
        )
        if text_of(answer, "KeyId") != self._key_id:
            raise ProviderError(f"KMS used the key {answer['KeyId']!r}, not {self._key_id!r}")
        plaintext = SecretBytes(bytes_of(answer, "Plaintext"))
        if not compare_digest(plaintext[:_DIGEST_LENGTH], _context_digest(request)):
            raise ProviderError("the data key was encrypted under another encryption context")
        return DataKey(plaintext[_DIGEST_LENGTH:])

    async def warm_up(self) -> None:
        await self._service.warm_up([self._region])


def _parse(key_id: str) -> KeyArn:
    arn = parse_key_arn(check_type("key_id", key_id, str))
    if arn is None:
        raise ValueError(f"{key_id!r} is not the ARN of a KMS key; an RSA key needs the key ARN")
    return arn


def _load(public_key: RSAPublicKey | bytes) -> RSAPublicKey:
    key = load_public_key(public_key)
    if key.key_size < _SMALLEST_KEY:
        raise ValueError(f"public_key has {key.key_size} bits; KMS RSA keys have at least {_SMALLEST_KEY}")
    return key


def _stored_arn(encrypted_data_key: EncryptedDataKey) -> KeyArn | None:
    return parse_key_arn(encrypted_data_key.provider_info.decode("utf-8", "replace"))


def _context_digest(request: DataKeyRequest) -> bytes:
    return hashlib.sha384(request.serialized_context).digest()


def _refuse_signed(suite: AlgorithmSuite) -> None:
    if suite.signed:
        raise ProviderError(
            f"a KMS RSA key does not allow the signed suite {suite.name}, because anyone with its public key "
            "can write messages; use a suite without ECDSA, such as "
            f"{AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY.name}"
        )
