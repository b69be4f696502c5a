"""Making keys, their states, and who may use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient, InMemoryKMSError

anyio_test = pytest.mark.anyio

US, EU = "us-east-1", "eu-west-1"
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def refused(code: str, status: int = 400) -> Iterator[None]:
    with pytest.raises(InMemoryKMSError) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def key(kms: InMemoryKMS) -> str:
    return kms.create_key()


@pytest.fixture
def client(kms: InMemoryKMS) -> InMemoryKMSClient:
    return kms.client(US)


async def use(client: InMemoryKMSClient, key: str) -> None:
    """Use the key in every way."""
    made = await client.generate_data_key(KeyId=key, NumberOfBytes=32)
    await client.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=32)
    await client.encrypt(KeyId=key, Plaintext=b"secret")
    await client.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"])
    await client.decrypt(CiphertextBlob=made["CiphertextBlob"])
    await client.re_encrypt(DestinationKeyId=key, CiphertextBlob=made["CiphertextBlob"])


async def assert_unusable(client: InMemoryKMSClient, key: str, blob: bytes, code: str) -> None:
    with refused(code):
        await client.generate_data_key(KeyId=key, NumberOfBytes=32)
    with refused(code):
        await client.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=32)
    with refused(code):
        await client.encrypt(KeyId=key, Plaintext=b"secret")
    with refused(code):
        await client.decrypt(KeyId=key, CiphertextBlob=blob)
    with refused(code):
        await client.decrypt(CiphertextBlob=blob)
    with refused(code):
        await client.re_encrypt(DestinationKeyId=key, CiphertextBlob=blob)


async def sealed(client: InMemoryKMSClient, key: str) -> bytes:
    blob: bytes = (await client.encrypt(KeyId=key, Plaintext=b"secret"))["CiphertextBlob"]
    return blob


# Making keys


@pytest.mark.parametrize(
    "arguments",
    [
        {"region": "moon"},
        {"region": ""},
        {"account": "42"},
        {"key_id": ""},
        {"key_id": "a/b"},
        {"key_id": "a b"},
        {"key_id": "mrk-1"},
        {"key_id": "plain", "multi_region": True},
    ],
)
def test_keys_that_aws_would_not_have(kms: InMemoryKMS, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unlike|not the name"):
        kms.create_key(**arguments)


def test_partition_and_account() -> None:
    kms = InMemoryKMS(account="999988887777", partition="aws-cn")
    arn = kms.create_key(region="cn-north-1", key_id="the-id")
    assert arn == "arn:aws-cn:kms:cn-north-1:999988887777:key/the-id"
    with pytest.raises(ValueError, match="12 digits"):
        InMemoryKMS(account="1")


def test_the_same_arn_twice(kms: InMemoryKMS) -> None:
    kms.create_key(key_id="the-id")
    with refused("AlreadyExistsException"):
        kms.create_key(key_id="the-id")
    assert kms.create_key(key_id="the-id", region=EU) != kms.create_key(
        key_id="the-id", account="999988887777"
    )


@pytest.mark.parametrize(
    "control", ["disable_key", "enable_key", "schedule_key_deletion", "cancel_key_deletion", "deny", "allow"]
)
def test_controls_want_a_known_arn(kms: InMemoryKMS, key: str, control: str) -> None:
    for name in (key.rpartition("/")[2], "arn:aws:kms:us-east-1:111122223333:key/nobody"):
        with refused("NotFoundException"):
            getattr(kms, control)(name)


# States


@anyio_test
async def test_disabled(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    blob = await sealed(client, key)
    kms.disable_key(key)
    await assert_unusable(client, key, blob, "DisabledException")
    with pytest.raises(InMemoryKMSError, match=f"{key} is disabled."):
        await client.encrypt(KeyId=key, Plaintext=b"secret")
    metadata = (await client.describe_key(KeyId=key))["KeyMetadata"]
    assert (metadata["Enabled"], metadata["KeyState"]) == (False, "Disabled")
    kms.enable_key(key)
    await use(client, key)


@anyio_test
async def test_pending_deletion() -> None:
    clock = Clock()
    kms = InMemoryKMS(clock=clock)
    client, key = kms.client(US), kms.create_key()
    kms.create_alias("alias/app", key)
    blob = await sealed(client, key)
    kms.schedule_key_deletion(key, days=7)
    await assert_unusable(client, key, blob, "KMSInvalidStateException")
    metadata = (await client.describe_key(KeyId=key))["KeyMetadata"]
    assert metadata["KeyState"] == "PendingDeletion"
    assert metadata["DeletionDate"] == datetime.fromtimestamp(clock.now + 7 * DAY, UTC)
    for change in (kms.enable_key, kms.disable_key, kms.schedule_key_deletion):
        with refused("KMSInvalidStateException"):
            change(key)
    with refused("KMSInvalidStateException"):
        kms.create_alias("alias/two", key)

    kms.cancel_key_deletion(key)
    clock.now += 7 * DAY
    await assert_unusable(client, key, blob, "DisabledException")
    assert "DeletionDate" not in (await client.describe_key(KeyId=key))["KeyMetadata"]
    kms.enable_key(key)
    await use(client, key)
    with refused("KMSInvalidStateException"):
        kms.cancel_key_deletion(key)


@anyio_test
async def test_a_deleted_key_is_gone() -> None:
    clock = Clock()
    kms = InMemoryKMS(clock=clock)
    client, key = kms.client(US), kms.create_key(multi_region=True)
    replica = kms.replicate_key(key, EU)
    kms.create_alias("alias/app", key)
    blob = await sealed(client, key)
    kms.schedule_key_deletion(key)
    clock.now += 30 * DAY
    configuration = (await kms.client(EU).describe_key(KeyId=replica))["KeyMetadata"][
        "MultiRegionConfiguration"
    ]
    assert configuration["PrimaryKey"] is None
    for name in (key, key.rpartition("/")[2], "alias/app"):
        with refused("NotFoundException"):
            await client.describe_key(KeyId=name)
    with refused("AccessDeniedException"):
        await client.decrypt(CiphertextBlob=blob)
    assert (await kms.client(EU).decrypt(CiphertextBlob=blob))["KeyId"] == replica


@anyio_test
async def test_replicas_have_states_of_their_own(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    kms.disable_key(primary)
    kms.deny(primary)
    await use(kms.client(EU), replica)


# Permissions


@anyio_test
async def test_deny_everything(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    blob = await sealed(client, key)
    kms.deny(key)
    await assert_unusable(client, key, blob, "AccessDeniedException")
    with pytest.raises(
        InMemoryKMSError, match=f"not authorized to perform: kms:DescribeKey on resource: {key}"
    ):
        await client.describe_key(KeyId=key)
    kms.allow(key)
    await use(client, key)


@anyio_test
async def test_deny_one_operation(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    blob = await sealed(client, key)
    kms.deny(key, "Decrypt", "ReEncryptTo")
    for name in (key, None):
        with refused("AccessDeniedException"):
            await client.decrypt(CiphertextBlob=blob, KeyId=name)
    with refused("AccessDeniedException"):
        await client.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)
    await client.generate_data_key(KeyId=key, NumberOfBytes=32)
    kms.allow(key, "Decrypt")
    await client.decrypt(CiphertextBlob=blob)
    with refused("AccessDeniedException"):
        await client.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)


@anyio_test
async def test_a_denial_comes_before_the_state_and_the_ciphertext(
    kms: InMemoryKMS, client: InMemoryKMSClient, key: str
) -> None:
    kms.disable_key(key)
    kms.deny(key)
    with refused("AccessDeniedException"):
        await client.decrypt(CiphertextBlob=b"garbage", KeyId=key)
    kms.allow(key)
    with refused("DisabledException"):
        await client.decrypt(CiphertextBlob=b"garbage", KeyId=key)
    kms.enable_key(key)
    with refused("InvalidCiphertextException"):
        await client.decrypt(CiphertextBlob=b"garbage", KeyId=key)


@anyio_test
async def test_grants(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    blob = await sealed(client, key)
    kms.deny(key)
    token = kms.create_grant(key, "Decrypt", "DescribeKey")
    elsewhere = kms.create_grant(kms.create_key(), "Encrypt")
    await client.decrypt(CiphertextBlob=blob, GrantTokens=[elsewhere, token])
    await client.decrypt(CiphertextBlob=blob, KeyId=key, GrantTokens=(token,))
    await client.describe_key(KeyId=key, GrantTokens=[token])
    with refused("AccessDeniedException"):
        await client.encrypt(KeyId=key, Plaintext=b"secret", GrantTokens=[token, elsewhere])
    with refused("AccessDeniedException"):
        await client.decrypt(CiphertextBlob=blob, GrantTokens=[elsewhere])
    kms.allow(key)
    with refused("InvalidGrantTokenException"):
        await client.decrypt(CiphertextBlob=blob, GrantTokens=["bogus"])


def test_names_of_operations_are_checked(kms: InMemoryKMS, key: str) -> None:
    for wrong in (
        lambda: kms.deny(key, "decrypt"),
        lambda: kms.allow(key, "kms:Decrypt"),
        lambda: kms.create_grant(key, "DisableKey"),
        lambda: kms.create_grant(key),
        lambda: kms.fail_next("ThrottlingException", operation="generate_data_key"),
        lambda: kms.answer_next("Dance", {}),
        lambda: kms.call_count("Dance"),
        lambda: kms.outage("moon"),
        lambda: kms.client("moon"),
        lambda: kms.fail_next("ThrottlingException", times=0),
        lambda: kms.answer_next("Decrypt", {}, times=0),
    ):
        with pytest.raises(ValueError, match=r"none of|at least|not the name"):
            wrong()


@anyio_test
async def test_expired_credentials(kms: InMemoryKMS, client: InMemoryKMSClient, key: str) -> None:
    kms.expire_credentials()
    for _ in range(2):
        with refused("ExpiredTokenException"):
            await client.describe_key(KeyId=key)
    kms.renew_credentials()
    await use(client, key)
