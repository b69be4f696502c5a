"""Keys, providers and managers as a type checker sees them: the rules of this file are those of `api.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, assert_type

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    CommitmentPolicy,
    DefaultCMM,
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSEncryptionAlgorithm,
    KMSMasterKey,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    MultiRegion,
    Provider,
    RawAESMasterKey,
    RawRSAMasterKey,
    RSAPadding,
    encrypt,
)
from aioencrypt.aws import ClientSupplier, KMSClient
from aioencrypt.materials import (
    CryptographicMaterialsManager,
    DataKey,
    DataKeyRequest,
    DecryptedDataKey,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    MasterKey,
)
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient

if TYPE_CHECKING:
    from types_aiobotocore_kms.client import KMSClient as AiobotocoreKMSClient

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))
kms_key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def local_keys(public: RSAPublicKey, private: RSAPrivateKey) -> None:
    RawAESMasterKey("ns", "name", wrapping_key=bytearray(32))
    RawRSAMasterKey("ns", "name", padding=RSAPadding.OAEP_SHA256, public_key=public, private_key=private)
    RawRSAMasterKey("ns", "name", padding=RSAPadding.PKCS1, public_key=b"PEM")
    assert_type(MultiMasterKeyProvider(key, key, key).providers, tuple[MasterKeyProvider, ...])
    MultiMasterKeyProvider(None, key)
    RawAESMasterKey("ns", "name", b"")  # type: ignore[call-arg]
    RawAESMasterKey("ns", "name", wrapping_key="text")  # type: ignore[arg-type]
    RawAESMasterKey("ns", "name")  # type: ignore[call-arg]
    RawRSAMasterKey("ns", "name", public_key=public)  # type: ignore[call-arg]
    RawRSAMasterKey("ns", "name", padding="oaep", public_key=public)  # type: ignore[arg-type]
    RawRSAMasterKey("ns", "name", padding=RSAPadding.PKCS1, public_key=private)  # type: ignore[arg-type]
    MultiMasterKeyProvider([key])  # type: ignore[arg-type]
    MasterKeyProvider()  # type: ignore[abstract]
    MasterKey()  # type: ignore[abstract]


# AWS KMS


async def kms(client: AiobotocoreKMSClient) -> None:
    as_ours: KMSClient = client
    memory: KMSClient = InMemoryKMS().client("us-east-1")
    mixed: dict[str, KMSClient] = {"us-east-1": client, "eu-west-1": memory}
    provider = KMSMasterKeyProvider(
        [kms_key],
        multi_region=MultiRegion.EXACT,
        connection=AWSConnection(kms=mixed, timeout=None),
        grant_tokens=("token",),
    )
    KMSMasterKeyProvider((kms_key,), connection=AWSConnection(kms={"us-east-1": client}))
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=InMemoryKMS().clients("us-east-1")))
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms="http://localhost", timeout=1))
    async with provider as entered:
        assert_type(entered, KMSMasterKeyProvider)
        await entered.warm_up()
    discovery = KMSDiscoveryMasterKeyProvider(
        discovery_filter=DiscoveryFilter(accounts=["111122223333"], partition="aws"), region="us-east-1"
    )
    async with discovery as found:
        assert_type(found, KMSDiscoveryMasterKeyProvider)
    KMSDiscoveryMasterKeyProvider(discovery_filter=None)
    KMSMasterKeyProvider()  # type: ignore[call-arg]
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=[client]))  # type: ignore[arg-type]
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms={"us-east-1": object()}))  # type: ignore[dict-item]
    KMSMasterKeyProvider([kms_key], multi_region=True)  # type: ignore[arg-type]
    KMSMasterKeyProvider([kms_key], region="us-east-1")  # type: ignore[call-arg]
    KMSDiscoveryMasterKeyProvider()  # type: ignore[call-arg]
    KMSDiscoveryMasterKeyProvider(discovery_filter=["111122223333"])  # type: ignore[arg-type]
    del as_ours


def made_by_a_provider(made: KMSMasterKey) -> None:
    assert_type(made.region, str | None)
    assert_type(made.provider_id, str)
    KMSMasterKey(kms_key)  # type: ignore[call-arg]


async def rsa_in_kms(client: AiobotocoreKMSClient, public: RSAPublicKey, private: RSAPrivateKey) -> None:
    padding = KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256
    reader = KMSRSAMasterKey(
        kms_key, encryption_algorithm=padding, connection=AWSConnection(kms={"us-east-1": client})
    )
    async with reader as entered:
        assert_type(entered, KMSRSAMasterKey)
    KMSRSAMasterKey(
        kms_key, encryption_algorithm=padding, public_key=public, connection=AWSConnection(kms=supply)
    )
    KMSRSAMasterKey(kms_key, encryption_algorithm=padding, public_key=b"PEM", grant_tokens=["token"])
    KMSRSAMasterKey(kms_key)  # type: ignore[call-arg]
    KMSRSAMasterKey(kms_key, padding)  # type: ignore[call-arg]
    KMSRSAMasterKey(kms_key, encryption_algorithm="RSAES_OAEP_SHA_256")  # type: ignore[arg-type]
    KMSRSAMasterKey(kms_key, encryption_algorithm=RSAPadding.OAEP_SHA256)  # type: ignore[arg-type]
    KMSRSAMasterKey(kms_key, encryption_algorithm=padding, public_key=private)  # type: ignore[arg-type]
    InMemoryKMS().create_key(key_spec="RSA_2048", private_key=private)
    InMemoryKMS().create_key(key_spec="RSA_2048", private_key=public)  # type: ignore[arg-type]


async def supply(region: str | None) -> InMemoryKMSClient:
    return InMemoryKMS().client(region or "us-east-1")


def supply_at_once(region: str | None) -> InMemoryKMSClient:
    return InMemoryKMS().client(region or "us-east-1")


def suppliers(typed: Callable[[str | None], Awaitable[AiobotocoreKMSClient]]) -> None:
    supplier: ClientSupplier = supply
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=supplier))
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=typed))
    KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=supply_at_once))  # type: ignore[arg-type]


# Keys, providers and managers of a user's own


class OwnKey(MasterKey):
    @property
    def provider_id(self) -> str:
        return "own"

    @property
    def key_id(self) -> str:
        return "key"

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        return encrypted_data_key.provider_id == self.provider_id

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        assert_type(request.algorithm_suite, AlgorithmSuite)
        assert_type(request.encryption_context, Mapping[str, str])
        assert_type(request.encrypted_data_keys, tuple[EncryptedDataKey, ...])
        data_key = DataKey(bytes(request.algorithm_suite.data_key_length))
        return data_key, await self.encrypt_data_key(data_key, request)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        return EncryptedDataKey("own", b"key", data_key.plaintext)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        return DataKey(encrypted_data_key.ciphertext)


class HalfAKey(MasterKey):
    @property
    def key_id(self) -> str:
        return "key"


class OwnProvider(MasterKeyProvider):
    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return [OwnKey()]

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        opened = await OwnKey().decrypt_data_key(request)
        assert_type(opened.data_key, DataKey)
        assert_type(opened.encrypted_data_key, EncryptedDataKey)
        assert_type(opened.master_key, MasterKey)
        return opened


class OwnManager:
    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        assert_type(request.commitment_policy, CommitmentPolicy)
        assert_type(request.algorithm_suite, AlgorithmSuite | None)
        assert_type(request.plaintext_length, int | None)
        return await DefaultCMM(key).get_encryption_materials(request)

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        assert_type(request.reproduced_encryption_context, Mapping[str, str])
        return await DefaultCMM(key).decrypt_materials(request)


class SynchronousManager:
    def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        raise NotImplementedError

    def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        raise NotImplementedError


async def own() -> None:
    providers: list[Provider] = [OwnKey(), OwnProvider(), OwnManager(), DefaultCMM(OwnKey()), key]
    manager: CryptographicMaterialsManager = DefaultCMM(key)
    for provider in (*providers, manager):
        await encrypt(b"", provider)
    async with OwnProvider() as entered:
        assert_type(entered, OwnProvider)
    async with DefaultCMM(key) as cmm:
        assert_type(cmm, DefaultCMM)
    HalfAKey()  # type: ignore[abstract]
    await encrypt(b"", SynchronousManager())  # type: ignore[arg-type]
    await encrypt(b"", OwnProvider)  # type: ignore[arg-type]
    DefaultCMM(OwnManager())  # type: ignore[arg-type]
