"""The raw ECDH master key: derive wrapping keys from an EC key and another party's public key.

Specification: framework/raw-ecdh-keyring.md, framework/key-agreement-schemas.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt.errors import ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.providers.base import MasterKey
from aioencrypt.providers.key_agreement import (
    RAW_ECDH_PROVIDER_ID,
    Parties,
    PublicKey,
    load_private_key,
    load_public_key,
    parties_of,
    public_key_of,
    unwrap,
    wrap,
)
from aioencrypt.providers.raw.names import not_copied, not_identified, random_data_key
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.offload import run_work
from aioencrypt.runtime.secrets import SecretBytes, hides_locals


class RawECDHMasterKey(MasterKey):
    """Wrap data keys with ECDH on P-256, P-384 or P-521.

    `static` encrypts and decrypts between two fixed keys, `ephemeral` encrypts to a public key, and
    `discovery` decrypts whatever was encrypted to our key. They also decrypt messages of `KMSECDHMasterKey`.
    Private keys are unencrypted PEM bytes (PKCS #8) and public keys DER or PEM bytes (SubjectPublicKeyInfo);
    both may be `cryptography` key objects, which has no SM2. Raises `ValueError` for keys that cannot be
    loaded or are on an unsupported curve or on different curves, and `TypeError` for other kinds of keys.
    """

    @hides_locals
    def __init__(
        self,
        *,
        private_key: ec.EllipticCurvePrivateKey | bytes | None,
        recipient_public_key: ec.EllipticCurvePublicKey | bytes | None,
    ) -> None:
        self._private_key: ec.EllipticCurvePrivateKey | None = None
        self._own: PublicKey | None = None
        self._peer: PublicKey | None = None
        if private_key is not None:
            self._private_key = load_private_key(private_key, "private_key")
            self._own = public_key_of(self._private_key, "private_key")
        if recipient_public_key is not None:
            self._peer = load_public_key(recipient_public_key, "recipient_public_key")
        named = self._peer or self._own
        if named is None:
            raise ValueError("give private_key, recipient_public_key, or both")
        if self._own and self._peer:
            self._own.check_curve_of(self._peer, names="private_key and recipient_public_key")
        self._named = named

    @classmethod
    @hides_locals
    def static(
        cls,
        *,
        private_key: ec.EllipticCurvePrivateKey | bytes,
        recipient_public_key: ec.EllipticCurvePublicKey | bytes,
    ) -> Self:
        """Encrypt to a recipient, and decrypt messages that either party encrypted to the other.

        A message that decrypts was written by one of the two (RawPrivateKeyToStaticPublicKey).
        """
        _check_given(private_key=private_key, recipient_public_key=recipient_public_key)
        return cls(private_key=private_key, recipient_public_key=recipient_public_key)

    @classmethod
    @hides_locals
    def ephemeral(cls, *, recipient_public_key: ec.EllipticCurvePublicKey | bytes) -> Self:
        """Encrypt to a recipient with a new key pair for each data key; cannot decrypt.

        The recipient decrypts with `discovery` (EphemeralPrivateKeyToStaticPublicKey).
        """
        _check_given(recipient_public_key=recipient_public_key)
        return cls(private_key=None, recipient_public_key=recipient_public_key)

    @classmethod
    @hides_locals
    def discovery(cls, *, private_key: ec.EllipticCurvePrivateKey | bytes) -> Self:
        """Decrypt messages that anyone encrypted to this key; cannot encrypt.

        The sender is not authenticated: anyone may have our public key (PublicKeyDiscovery).
        """
        _check_given(private_key=private_key)
        return cls(private_key=private_key, recipient_public_key=None)

    def __repr__(self) -> str:
        scheme = "static" if self._own and self._peer else "ephemeral" if self._peer else "discovery"
        return f"RawECDHMasterKey.{scheme}({self._named.curve.name} {self.key_id})"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        if self._private_key:
            raise not_identified(self)
        return self.__reduce__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._private_key:
            raise not_copied(self)
        return partial(type(self).ephemeral, recipient_public_key=self._named.der), ()

    @property
    def provider_id(self) -> str:
        return RAW_ECDH_PROVIDER_ID

    @property
    def key_id(self) -> str:
        """The recipient's public key: its compressed point in hexadecimal."""
        return self._named.point.hex()

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        parties = parties_of(encrypted_data_key)
        return parties is not None and self._takes_part(parties)

    def _takes_part(self, parties: Parties) -> bool:
        if self._own and self._peer:
            ours = {self._own.point, self._peer.point}
            return {parties.sender, parties.recipient} == ours
        return parties.recipient == self._named.point

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        self._recipient()
        return (self,)

    def _recipient(self) -> PublicKey:
        if self._peer is None:
            raise ProviderError(
                "a discovery key cannot encrypt: use RawECDHMasterKey.static or .ephemeral "
                "with the recipient's public key"
            )
        return self._peer

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        recipient = self._recipient()

        def agree() -> EncryptedDataKey:
            private_key = self._private_key or ec.generate_private_key(recipient.curve.group)
            sender = self._own or public_key_of(private_key, "ephemeral key")
            return wrap(
                private_key.exchange(ec.ECDH(), recipient.key),
                Parties(recipient.curve, sender.point, recipient.point),
                data_key=data_key,
                request=request,
                provider_id=RAW_ECDH_PROVIDER_ID,
            )

        return await run_work(agree, recipient.curve.cost)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        private_key = self._private_key
        if private_key is None:
            raise ProviderError(
                "an ephemeral key cannot decrypt: the recipient uses RawECDHMasterKey.discovery "
                "with the private key"
            )
        parties = parties_of(encrypted_data_key)
        if parties is None or not self._takes_part(parties):
            raise ProviderError("the encrypted data key is not for this key")

        def agree() -> DataKey:
            other = self._peer or parties.sender_public_key()
            secret = SecretBytes(private_key.exchange(ec.ECDH(), other.key))
            return unwrap(secret, parties, encrypted_data_key=encrypted_data_key, request=request)

        return await run_work(agree, parties.curve.cost)


def _check_given(**keys: object) -> None:
    for name, key in keys.items():
        if key is None:
            raise TypeError(f"{name} is None; give a key")
