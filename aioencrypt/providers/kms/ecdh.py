"""The KMS ECDH master key: derive wrapping keys from an EC key in AWS KMS and another party's public key.

Specification: framework/aws-kms/aws-kms-ecdh-keyring.md, framework/key-agreement-schemas.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt.aws.connection import AWSConnection, EntersConnection
from aioencrypt.aws.errors import bytes_of, text_of
from aioencrypt.errors import AttemptLog, ProviderClosedError, ProviderError, escape_text
from aioencrypt.format import EncryptedDataKey
from aioencrypt.providers.base import DecryptedDataKey, MasterKey, attempt, checkpoint_every, no_data_key
from aioencrypt.providers.key_agreement import (
    KMS_ECDH_PROVIDER_ID,
    Parties,
    PublicKey,
    check_ciphertext,
    load_public_key,
    parties_of,
    unwrap,
    wrap,
)
from aioencrypt.providers.kms.arn import check_identifier, parse_key_arn
from aioencrypt.providers.kms.service import KMSService
from aioencrypt.providers.raw.names import random_data_key
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.cache import AsyncCache
from aioencrypt.runtime.secrets import SecretBytes

_ECDH = "ECDH"


@attrs.frozen
class _OwnKey:
    """The public key of a KMS key; `arn` is None until KMS has named the key."""

    public_key: PublicKey
    arn: str | None


class KMSECDHMasterKey(EntersConnection, MasterKey):
    """Wrap data keys with ECDH between a KMS key and another party's key.

    `static` encrypts and decrypts between a KMS key and one other key; `discovery` decrypts whatever was
    encrypted to the KMS key. Both also decrypt messages of `RawECDHMasterKey`. The KMS key needs the usage
    KEY_AGREEMENT and the spec ECC_NIST_P256, P384 or P521 (not SM2); any kind of key identifier works. Public
    keys are DER or PEM bytes (SubjectPublicKeyInfo) or `cryptography` key objects.

    The public key of the KMS key is fetched on first use or by `warm_up`, and kept. Passing it saves the
    call; if you pass the wrong one, nobody can decrypt your messages. Use the key inside `async with`, unless
    `connection` has ready clients or a supplier for KMS. Raises `ValueError` and `TypeError` for keys that
    cannot be used.
    """

    def __init__(
        self, key_id: str, service: KMSService, *, own: PublicKey | None, peer: PublicKey | None
    ) -> None:
        identifier = check_identifier(key_id)
        super().__init__(service)
        self._key_id = key_id
        self._region = identifier.region if identifier else None
        self._arn = key_id if parse_key_arn(key_id) else None
        self._service = service
        self._given = own
        self._own = _OwnKey(own, self._arn) if own else None
        self._peer = peer
        self._fetches: AsyncCache[_OwnKey] = AsyncCache(capacity=0)
        self._entries = 0

    @classmethod
    def static(
        cls,
        sender_key_id: str,
        recipient_public_key: ec.EllipticCurvePublicKey | bytes,
        *,
        sender_public_key: ec.EllipticCurvePublicKey | bytes | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> Self:
        """Encrypt to a recipient, and decrypt messages that either party encrypted to the other.

        A message that decrypts was written by one of the two (KmsPrivateKeyToStaticPublicKey).
        """
        service = KMSService(connection, grant_tokens)
        recipient = load_public_key(recipient_public_key, "recipient_public_key")
        sender = _given_key(sender_key_id, sender_public_key, "sender_public_key")
        if sender:
            sender.check_curve_of(recipient, names="sender_public_key and recipient_public_key")
        return cls(sender_key_id, service, own=sender, peer=recipient)

    @classmethod
    def discovery(
        cls,
        recipient_key_id: str,
        *,
        recipient_public_key: ec.EllipticCurvePublicKey | bytes | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> Self:
        """Decrypt messages that anyone encrypted to this key; cannot encrypt.

        The sender is not authenticated: anyone may have our public key (KmsPublicKeyDiscovery).
        """
        service = KMSService(connection, grant_tokens)
        recipient = _given_key(recipient_key_id, recipient_public_key, "recipient_public_key")
        return cls(recipient_key_id, service, own=recipient, peer=None)

    def __repr__(self) -> str:
        if self._peer:
            recipient = f"{self._peer.curve.name} {self._peer.point.hex()}"
            return f"KMSECDHMasterKey.static({self._key_id!r}, {recipient})"
        return f"KMSECDHMasterKey.discovery({self._key_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        given = self._given.der if self._given else None
        cls, recipe = type(self), self._service.recipe
        if self._peer:
            return recipe(cls.static, self._key_id, self._peer.der, sender_public_key=given)
        return recipe(cls.discovery, self._key_id, recipient_public_key=given)

    @property
    def provider_id(self) -> str:
        return KMS_ECDH_PROVIDER_ID

    @property
    def key_id(self) -> str:
        return self._key_id

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        """Tell whether this key is one of the two parties, or may be one while its public key is unknown."""
        parties = parties_of(encrypted_data_key)
        return parties is not None and self._takes_part(parties, self._own)

    def _takes_part(self, parties: Parties, own: _OwnKey | None) -> bool:
        points = {parties.sender, parties.recipient}
        if self._peer:
            return points == {own.public_key.point, self._peer.point} if own else self._peer.point in points
        return own is None or parties.recipient == own.public_key.point

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        self._recipient()
        return (self,)

    def _recipient(self) -> PublicKey:
        if self._peer is None:
            raise ProviderError(
                "a discovery key cannot encrypt: use KMSECDHMasterKey.static with the recipient's public key"
            )
        return self._peer

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        data_key = random_data_key(request.algorithm_suite)
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        recipient = self._recipient()
        own = await self._own_key()
        secret = await self._derive(own, recipient)
        parties = Parties(recipient.curve, own.public_key.point, recipient.point)
        return wrap(secret, parties, data_key=data_key, request=request, provider_id=KMS_ECDH_PROVIDER_ID)

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if self._own is None and self.owns_data_key(encrypted_data_key):
                try:
                    await self._own_key()
                except ProviderClosedError:
                    raise
                except Exception as error:
                    raise no_data_key(request, AttemptLog([attempt("decrypt", self, error)]), self) from error
        return await super().decrypt_data_key(request)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        own = await self._own_key()
        parties = parties_of(encrypted_data_key)
        if parties is None or not self._takes_part(parties, own):
            raise ProviderError("the encrypted data key is not for this key")
        check_ciphertext(encrypted_data_key, request)
        secret = await self._derive(own, self._peer or parties.sender_public_key())
        return unwrap(secret, parties, encrypted_data_key=encrypted_data_key, request=request)

    async def _own_key(self) -> _OwnKey:
        if self._own is None:
            # Single flight: concurrent callers share one call.
            self._own, _ = await self._fetches.get("public key", self._fetch, max_age=0.0)
        return self._own

    async def _fetch(self) -> _OwnKey:
        answer = await self._service.call(
            "GetPublicKey",
            self._key_id,
            self._region,
            lambda client: client.get_public_key(KeyId=self._key_id, GrantTokens=self._service.grant_tokens),
        )
        arn = self._answering(answer, self._arn)
        usage = text_of(answer, "KeyUsage")
        if usage != "KEY_AGREEMENT":
            raise ProviderError(
                f"the KMS key {arn} has the usage {escape_text(usage)}; it must be KEY_AGREEMENT"
            )
        try:
            public_key = load_public_key(bytes_of(answer, "PublicKey"), "the public key of the KMS key")
            if self._peer:
                public_key.check_curve_of(self._peer, names="the KMS key and recipient_public_key")
        except (TypeError, ValueError) as error:
            raise ProviderError(str(error)) from error
        if text_of(answer, "KeySpec") != public_key.curve.kms_name:
            raise ProviderError(
                f"KMS returned the key spec {escape_text(answer['KeySpec'])} for {arn}, but a public key on "
                f"{public_key.curve.name}"
            )
        return _OwnKey(public_key, arn)

    async def _derive(self, own: _OwnKey, other: PublicKey) -> bytes:
        answer = await self._service.call(
            "DeriveSharedSecret",
            self._key_id,
            self._region,
            lambda client: client.derive_shared_secret(
                KeyId=self._key_id,
                KeyAgreementAlgorithm=_ECDH,
                PublicKey=other.der,
                GrantTokens=self._service.grant_tokens,
            ),
        )
        self._answering(answer, own.arn)
        if text_of(answer, "KeyAgreementAlgorithm") != _ECDH:
            raise ProviderError(f"KMS used {answer['KeyAgreementAlgorithm']!r} instead of ECDH")
        secret = SecretBytes(bytes_of(answer, "SharedSecret"))
        if len(secret) != other.curve.secret_length:
            raise ProviderError(
                f"KMS returned a shared secret of {len(secret)} bytes; "
                f"{other.curve.name} needs {other.curve.secret_length}"
            )
        return secret

    def _answering(self, answer: Mapping[str, Any], expected: str | None) -> str:
        """Return the ARN of the key that KMS used; raises `ProviderError` if it is not the expected one."""
        arn = text_of(answer, "KeyId")
        if expected is not None and arn != expected:
            raise ProviderError(f"KMS used the key {arn!r}, not {expected!r}")
        if parse_key_arn(arn) is None:
            raise ProviderError(f"KMS returned the key id {arn[:200]!r}, which is not a key ARN")
        return arn

    async def warm_up(self) -> None:
        """Create the client and fetch the public key of the KMS key; raises `ProviderError`."""
        await self._service.warm_up([self._region])
        await self._own_key()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._entries += 1
        return self

    async def aclose(self) -> None:
        self._entries = max(0, self._entries - 1)
        try:
            if not self._entries:
                await self._fetches.aclose()
        finally:
            await super().aclose()


def _given_key(key_id: str, key: ec.EllipticCurvePublicKey | bytes | None, what: str) -> PublicKey | None:
    """Load the public key that a caller supplies for a KMS key."""
    if key is None:
        return None
    identifier = check_identifier(key_id)
    if key_id.startswith("alias/") or (identifier and identifier.resource_type == "alias"):
        raise ValueError(
            f"{what} cannot be combined with the alias {key_id!r}, which may move to another key; "
            "give the key ARN, or leave the public key out"
        )
    return load_public_key(key, what)
