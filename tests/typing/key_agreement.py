"""Keys of key agreement as a type checker sees them: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from aioencrypt import AWSConnection, KMSECDHMasterKey, RawECDHMasterKey
from aioencrypt.materials import MasterKey
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient

if TYPE_CHECKING:
    from types_aiobotocore_kms.client import KMSClient as AiobotocoreKMSClient

kms_key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


async def supply(region: str | None) -> InMemoryKMSClient:
    return InMemoryKMS().client(region or "us-east-1")


def raw(private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey) -> None:
    made = RawECDHMasterKey.static(private_key=private, recipient_public_key=public)
    assert_type(made, RawECDHMasterKey)
    as_key: MasterKey = made
    RawECDHMasterKey.static(private_key=b"PEM", recipient_public_key=b"DER")
    assert_type(RawECDHMasterKey.ephemeral(recipient_public_key=public), RawECDHMasterKey)
    assert_type(RawECDHMasterKey.discovery(private_key=private), RawECDHMasterKey)
    RawECDHMasterKey(private_key=private, recipient_public_key=None)
    RawECDHMasterKey()  # type: ignore[call-arg]
    RawECDHMasterKey(private_key=private)  # type: ignore[call-arg]
    RawECDHMasterKey.static(private_key=private)  # type: ignore[call-arg]
    RawECDHMasterKey.static(private_key=public, recipient_public_key=public)  # type: ignore[arg-type]
    RawECDHMasterKey.static(private_key=private, recipient_public_key=private)  # type: ignore[arg-type]
    RawECDHMasterKey.static(private_key=None, recipient_public_key=public)  # type: ignore[arg-type]
    RawECDHMasterKey.ephemeral(recipient_public_key=None)  # type: ignore[arg-type]
    RawECDHMasterKey.ephemeral(private_key=private)  # type: ignore[call-arg]
    RawECDHMasterKey.ephemeral(public)  # type: ignore[call-arg]
    RawECDHMasterKey.discovery(private_key="PEM")  # type: ignore[arg-type]
    del as_key


async def in_kms(
    client: AiobotocoreKMSClient, private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey
) -> None:
    static = KMSECDHMasterKey.static(kms_key, public, connection=AWSConnection(kms={"us-east-1": client}))
    async with static as entered:
        assert_type(entered, KMSECDHMasterKey)
    KMSECDHMasterKey.static(
        kms_key, b"DER", sender_public_key=b"PEM", connection=AWSConnection(kms=supply, timeout=None)
    )
    assert_type(
        KMSECDHMasterKey.discovery(kms_key, connection=AWSConnection(kms="http://localhost")),
        KMSECDHMasterKey,
    )
    KMSECDHMasterKey.discovery(kms_key, recipient_public_key=public, grant_tokens=["token"])
    KMSECDHMasterKey(kms_key)  # type: ignore[call-arg]
    KMSECDHMasterKey.static(kms_key)  # type: ignore[call-arg]
    KMSECDHMasterKey.static(kms_key, private)  # type: ignore[arg-type]
    KMSECDHMasterKey.static(kms_key, public, public)  # type: ignore[call-arg]
    KMSECDHMasterKey.static(kms_key, public, region="us-east-1")  # type: ignore[call-arg]
    KMSECDHMasterKey.discovery([kms_key])  # type: ignore[arg-type]
    KMSECDHMasterKey.discovery(kms_key, public)  # type: ignore[call-arg]
    InMemoryKMS().create_key(key_spec="ECC_NIST_P256", private_key=private)
    InMemoryKMS().create_key(key_spec="ECC_NIST_P256", private_key=public)  # type: ignore[arg-type]
