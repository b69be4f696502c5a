"""Branch keys: the keyring of MPL and our key, over one table of moto's server and one KMS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import boto3
import pytest
from aiobotocore.session import get_session
from aws_cryptographic_material_providers.keystore import models as store_models
from aws_cryptographic_material_providers.keystore.client import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsHierarchicalKeyringInput,
    CreateMultiKeyringInput,
    GetBranchKeyIdOutput,
)
from aws_cryptographic_material_providers.mpl.references import BranchKeyIdSupplier
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import AlgorithmSuite, AWSConnection, MultiMasterKeyProvider, ProviderError
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.moto import moto_server
from tests.support.official import aes_key, mpl, read, write
from tests.support.official_kms import OfficialKMS
from tests.support.streaming import SIGNED, UNSIGNED, client_for, in_chunks, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

US = "us-east-1"
TABLE, LOGICAL = "key-store", "the keys of all"
PLAINTEXT = plaintext_of(10_000)
# Data keys of 16, 24 and 32 bytes.
SUITES = [AlgorithmSuite(number) for number in (0x0014, 0x0214, 0x0346, 0x0478, 0x0578)]
CONTEXTS: list[dict[str, str]] = [{}, {"größe": "ß", "tenant": "42", "": "x"}]
# Holds no more than the data files of botocore, which take a while to read.
SESSION = get_session()
TTL = 600

each_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.value:04x}")


class ByTenant(BranchKeyIdSupplier):  # type: ignore[misc]
    """Picks the branch key for MPL."""

    def __init__(self) -> None:
        pass

    def get_branch_key_id(self, param: Any) -> Any:
        return GetBranchKeyIdOutput(branch_key_id=f"tenant-{param.encryption_context['tenant']}")


async def by_tenant(context: Mapping[str, str]) -> str:
    return f"tenant-{context['tenant']}"


@attrs.frozen
class Services:
    """KMS and DynamoDB over HTTP, with a key store that both sides wrote to."""

    kms: InMemoryKMS
    kms_key: str
    dynamodb_url: str
    kms_url: str
    their_store: Any

    def our_store(self) -> BranchKeyStore:
        return BranchKeyStore(
            TABLE,
            kms_configuration=KMSKeyArn(self.kms_key),
            logical_name=LOGICAL,
            connection=AWSConnection(
                session=SESSION, kms=self.kms_url, dynamodb=self.dynamodb_url, region=US
            ),
        )

    def ours(self, branch_key_id: str | None) -> HierarchicalMasterKey:
        """Return our key with empty caches; None picks the branch key by tenant."""
        supplier = by_tenant if branch_key_id is None else None
        return HierarchicalMasterKey(
            self.our_store(), branch_key_id=branch_key_id, branch_key_id_supplier=supplier, max_age=TTL
        )

    def theirs(self, branch_key_id: str | None) -> Any:
        """Return the keyring, likewise."""
        return mpl().create_aws_kms_hierarchical_keyring(
            CreateAwsKmsHierarchicalKeyringInput(
                branch_key_id=branch_key_id,
                branch_key_id_supplier=ByTenant() if branch_key_id is None else None,
                key_store=self.their_store,
                ttl_seconds=TTL,
            )
        )

    def calls(self) -> list[str]:
        """Return the operations that reached KMS since the last time."""
        operations = [call.operation for call in self.kms.calls]
        self.kms.reset_calls()
        return operations


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    kms = InMemoryKMS()
    kms_key = kms.create_key(region=US)
    with run_in_thread(kms) as kms_url, moto_server() as dynamodb_url:
        official = OfficialKMS(kms_url, "111122223333")
        boto = boto3.client("dynamodb", region_name=US, endpoint_url=dynamodb_url)
        store = KeyStore(
            KeyStoreConfig(
                ddb_table_name=TABLE,
                kms_configuration=store_models.KMSConfigurationKmsKeyArn(kms_key),
                logical_key_store_name=LOGICAL,
                ddb_client=boto,
                kms_client=official.client(US),
            )
        )
        store.create_key_store(store_models.CreateKeyStoreInput())
        yield Services(kms, kms_key, dynamodb_url, kms_url, store)
        boto.close()
        official.close()


@pytest.fixture(params=["created by MPL", "created by us"])
async def branch_key_id(request: pytest.FixtureRequest, services: Services) -> str:
    """Name a branch key of which either side made the first version."""
    if request.param == "created by MPL":
        answer = services.their_store.create_key(store_models.CreateKeyInput())
        return str(answer.branch_key_identifier)
    async with services.our_store() as store:
        return await store.create_key()


async def opens(
    key: HierarchicalMasterKey,
    message: bytes,
    suite: AlgorithmSuite = SIGNED,
    context: Mapping[str, str] = CONTEXTS[0],
) -> None:
    """Decrypt with our key, whole and in chunks."""
    opened = await client_for(suite).decrypt(message, key, encryption_context=context)
    assert opened.plaintext == PLAINTEXT
    async with client_for(suite).decrypt_stream(in_chunks(message, 997), key) as stream:
        assert await stream.read() == PLAINTEXT


@each_suite
async def test_mpl_writes_and_we_read(services: Services, branch_key_id: str, suite: AlgorithmSuite) -> None:
    keyring = {"keyring": services.theirs(branch_key_id)}
    async with services.ours(branch_key_id) as key:
        for context in CONTEXTS:
            message = write(PLAINTEXT, keyring, suite, encryption_context=context)
            await opens(key, message, suite, context)


@each_suite
async def test_we_write_and_mpl_reads(services: Services, branch_key_id: str, suite: AlgorithmSuite) -> None:
    keyring = {"keyring": services.theirs(branch_key_id)}
    async with services.ours(branch_key_id) as key:
        for context in CONTEXTS:
            message, header = await client_for(suite).encrypt(
                PLAINTEXT, key, algorithm_suite=suite, encryption_context=context
            )
            [encrypted] = header.encrypted_data_keys
            assert encrypted.provider_id == "aws-kms-hierarchy"
            assert encrypted.provider_info == branch_key_id.encode()
            plaintext, seen = read(message, keyring, suite)
            assert plaintext == PLAINTEXT
            assert seen.encryption_context == dict(header.encryption_context)


@pytest.mark.parametrize("who", ["ours", "theirs"])
async def test_old_versions_are_read_after_a_new_one(
    services: Services, branch_key_id: str, who: str
) -> None:
    async def write_both() -> list[bytes]:
        async with services.ours(branch_key_id) as key:
            ours = (await client_for(SIGNED).encrypt(PLAINTEXT, key)).ciphertext
        return [ours, write(PLAINTEXT, {"keyring": services.theirs(branch_key_id)}, SIGNED)]

    messages = await write_both()
    if who == "ours":
        async with services.our_store() as store:
            await store.version_key(branch_key_id)
    else:
        services.their_store.version_key(store_models.VersionKeyInput(branch_key_identifier=branch_key_id))
    messages += await write_both()
    keyring = {"keyring": services.theirs(branch_key_id)}
    async with services.ours(branch_key_id) as key:
        for message in messages:
            await opens(key, message)
            assert read(message, keyring, SIGNED)[0] == PLAINTEXT
    # The version stands in the encrypted data key, which is not far from the start.
    async with services.our_store() as store:
        version = (await store.active_branch_key(branch_key_id)).version
    used = [bytes.fromhex(version.replace("-", "")) in message[:1000] for message in messages]
    assert used == [False, False, True, True]


async def test_suppliers_pick_the_same_branch_key(services: Services) -> None:
    async with services.our_store() as store:
        for tenant in ("a", "b"):
            await store.create_key(f"tenant-{tenant}", {"tenant": tenant})
    async with services.ours(None) as by_context, services.ours("tenant-a") as always_a:
        for tenant in ("a", "b"):
            context = {"tenant": tenant}
            message = write(PLAINTEXT, {"keyring": services.theirs(None)}, SIGNED, encryption_context=context)
            await opens(by_context, message, context=context)
            written = await client_for(SIGNED).encrypt(PLAINTEXT, by_context, encryption_context=context)
            for name in (None, f"tenant-{tenant}"):
                plaintext, _ = read(written.ciphertext, {"keyring": services.theirs(name)}, SIGNED)
                assert plaintext == PLAINTEXT
            if tenant == "a":
                await opens(always_a, message, context=context)
                continue
            with pytest.raises(ProviderError, match="belongs to a master key given here"):
                await opens(always_a, message, context=context)
            with pytest.raises(AWSEncryptionSDKClientError):
                read(written.ciphertext, {"keyring": services.theirs("tenant-a")}, SIGNED)


async def test_beside_a_raw_key_in_one_message(services: Services, branch_key_id: str) -> None:
    raw = aes_key(256)
    for first in (True, False):
        rings = [services.theirs(branch_key_id), raw.keyring][:: 1 if first else -1]
        ring = mpl().create_multi_keyring(
            CreateMultiKeyringInput(generator=rings[0], child_keyrings=rings[1:])
        )
        message = write(PLAINTEXT, {"keyring": ring}, SIGNED)
        async with services.ours(branch_key_id) as key:
            await opens(key, message)
            keys = [key, raw.ours][:: 1 if first else -1]
            written = await client_for(SIGNED).encrypt(PLAINTEXT, MultiMasterKeyProvider(*keys))
        for keyring in (services.theirs(branch_key_id), raw.keyring):
            assert read(written.ciphertext, {"keyring": keyring}, SIGNED)[0] == PLAINTEXT


async def test_both_ask_kms_once_for_many_messages(services: Services, branch_key_id: str) -> None:
    services.calls()
    keyring = {"keyring": services.theirs(branch_key_id)}
    messages = [write(PLAINTEXT, keyring, UNSIGNED) for _ in range(3)]
    assert services.calls() == ["Decrypt"]
    async with services.ours(branch_key_id) as key:
        messages += [(await client_for(UNSIGNED).encrypt(PLAINTEXT, key)).ciphertext for _ in range(3)]
        assert services.calls() == ["Decrypt"]
        for message in messages:
            assert (await client_for(UNSIGNED).decrypt(message, key)).plaintext == PLAINTEXT
        assert services.calls() == ["Decrypt"]
    for message in messages:
        assert read(message, keyring, UNSIGNED)[0] == PLAINTEXT
    assert services.calls() == ["Decrypt"]
