"""What the in-memory KMS answers, and what it refuses, by its rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient, InMemoryKMSError

pytestmark = pytest.mark.anyio

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"tenant": "42", "größe": "ß"}


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
def client(kms: InMemoryKMS) -> InMemoryKMSClient:
    return kms.client(US)


async def sealed(client: InMemoryKMSClient, key: str, context: Mapping[str, str] | None = None) -> bytes:
    answer = await client.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)
    blob: bytes = answer["CiphertextBlob"]
    return blob


# Answers


async def test_a_generated_data_key_decrypts(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    made = await client.generate_data_key(KeyId=key, NumberOfBytes=24, EncryptionContext=CONTEXT)
    assert made["KeyId"] == key
    assert len(made["Plaintext"]) == 24
    assert made["Plaintext"] not in made["CiphertextBlob"]
    opened = await client.decrypt(CiphertextBlob=made["CiphertextBlob"], KeyId=key, EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"]
    assert opened["KeyId"] == key
    assert opened["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    assert opened["KeyMaterialId"] == made["KeyMaterialId"]
    assert len(opened["KeyMaterialId"]) == 64


@pytest.mark.parametrize(("spec", "length"), [("AES_128", 16), ("AES_256", 32)])
async def test_key_specs(kms: InMemoryKMS, client: InMemoryKMSClient, spec: str, length: int) -> None:
    made = await client.generate_data_key(KeyId=kms.create_key(), KeySpec=spec)
    assert len(made["Plaintext"]) == length


async def test_without_plaintext(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    made = await client.generate_data_key_without_plaintext(
        KeyId=key, NumberOfBytes=1024, EncryptionContext=CONTEXT
    )
    assert "Plaintext" not in made
    assert made["KeyId"] == key
    opened = await client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert len(opened["Plaintext"]) == 1024


@pytest.mark.parametrize("plaintext", [b"a", bytearray(b"b" * 4096), memoryview(b"xcx")[1:2]])
async def test_encrypt(
    kms: InMemoryKMS, client: InMemoryKMSClient, plaintext: bytes | bytearray | memoryview
) -> None:
    key = kms.create_key()
    made = await client.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT)
    assert made["KeyId"] == key
    assert made["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    opened = await client.decrypt(
        CiphertextBlob=bytearray(made["CiphertextBlob"]), EncryptionContext=dict(reversed(CONTEXT.items()))
    )
    assert opened["Plaintext"] == plaintext
    assert isinstance(opened["Plaintext"], bytes)


async def test_a_blob_is_never_the_same_twice(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    assert await sealed(client, key) != await sealed(client, key)


async def test_answers_carry_request_ids(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    first = await client.describe_key(KeyId=key)
    second = await client.describe_key(KeyId=key)
    assert first["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert first["ResponseMetadata"]["RequestId"] != second["ResponseMetadata"]["RequestId"]


async def test_re_encrypt(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    old, new = kms.create_key(), kms.create_key()
    kms.create_alias("alias/new", new)
    moved = await client.re_encrypt(
        CiphertextBlob=await sealed(client, old, {"of": "old"}),
        SourceKeyId=old,
        SourceEncryptionContext={"of": "old"},
        DestinationKeyId="alias/new",
        DestinationEncryptionContext={"of": "new"},
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (old, new)
    opened = await client.decrypt(
        CiphertextBlob=moved["CiphertextBlob"], KeyId=new, EncryptionContext={"of": "new"}
    )
    assert opened["Plaintext"] == b"secret"


async def test_re_encrypt_checks_the_source(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    old, new = kms.create_key(), kms.create_key()
    blob = await sealed(client, old, {"of": "old"})
    with refused("IncorrectKeyException"):
        await client.re_encrypt(
            CiphertextBlob=blob, SourceKeyId=new, SourceEncryptionContext={"of": "old"}, DestinationKeyId=new
        )
    with refused("InvalidCiphertextException"):
        await client.re_encrypt(CiphertextBlob=blob, DestinationKeyId=new)
    with refused("NotFoundException"):
        await client.re_encrypt(
            CiphertextBlob=blob, SourceEncryptionContext={"of": "old"}, DestinationKeyId="nobody"
        )


async def test_describe_key(client: InMemoryKMSClient) -> None:
    kms = InMemoryKMS(clock=lambda: 1_700_000_000.0)
    key = kms.create_key(region=EU, key_id="the-id")
    metadata = (await kms.client(EU).describe_key(KeyId="the-id"))["KeyMetadata"]
    assert metadata["Arn"] == key == "arn:aws:kms:eu-west-1:111122223333:key/the-id"
    assert metadata["KeyId"] == "the-id"
    assert metadata["AWSAccountId"] == "111122223333"
    assert metadata["CreationDate"] == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (metadata["Enabled"], metadata["KeyState"]) == (True, "Enabled")
    assert (metadata["KeySpec"], metadata["KeyUsage"]) == ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    assert metadata["MultiRegion"] is False
    assert "MultiRegionConfiguration" not in metadata
    assert "DeletionDate" not in metadata


# Names of keys


async def test_every_way_to_name_a_key(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    kms.create_alias("alias/app/main", key)
    alias_arn = f"{key.rpartition(':')[0]}:alias/app/main"
    for name in (key, key.rpartition("/")[2], "alias/app/main", alias_arn):
        made = await client.encrypt(KeyId=name, Plaintext=b"secret")
        assert made["KeyId"] == key
        opened = await client.decrypt(CiphertextBlob=made["CiphertextBlob"], KeyId=name)
        assert (opened["KeyId"], opened["Plaintext"]) == (key, b"secret")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody", "Key 'arn:aws:kms:us-east-1:111122223333:key/nobody' does not exist"),
        (
            "arn:aws:kms:us-east-1:111122223333:key/nobody",
            "Key 'arn:aws:kms:us-east-1:111122223333:key/nobody' does not exist",
        ),
        ("alias/nobody", "Alias arn:aws:kms:us-east-1:111122223333:alias/nobody is not found."),
        ("arn:aws:kms:eu-west-1:111122223333:key/the-id", "Invalid arn eu-west-1"),
        ("arn:aws-cn:kms:us-east-1:111122223333:key/the-id", "Invalid arn us-east-1"),
        ("arn:aws:sqs:us-east-1:111122223333:key/the-id", "Invalid arn us-east-1"),
        ("arn:aws:kms:us-east-1:111122223333:the-id", "Invalid arn"),
        ("arn:aws:kms", "Invalid arn"),
    ],
)
async def test_unknown_keys(kms: InMemoryKMS, client: InMemoryKMSClient, name: str, message: str) -> None:
    kms.create_key(region=EU, key_id="the-id")
    kms.create_key(region=US, key_id="the-id")
    with pytest.raises(InMemoryKMSError) as caught:
        await client.generate_data_key(KeyId=name, NumberOfBytes=32)
    assert caught.value.operation_name == "GenerateDataKey"
    assert caught.value.response["Error"] == {"Code": "NotFoundException", "Message": message}
    assert str(caught.value) == (
        f"An error occurred (NotFoundException) when calling the GenerateDataKey operation: {message}"
    )


async def test_keys_of_other_accounts_are_named_by_arn(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key(account="999988887777", key_id="theirs")
    kms.create_alias("alias/theirs", key)
    blob = await sealed(client, key)
    assert (await client.decrypt(CiphertextBlob=blob))["KeyId"] == key
    alias_arn = "arn:aws:kms:us-east-1:999988887777:alias/theirs"
    assert (await client.describe_key(KeyId=alias_arn))["KeyMetadata"]["Arn"] == key
    for name in ("theirs", "alias/theirs"):
        with refused("NotFoundException"):
            await client.encrypt(KeyId=name, Plaintext=b"secret")


async def test_aliases_live_in_one_region(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(region=US), kms.create_key(region=EU)
    kms.create_alias("alias/app", here)
    kms.create_alias("alias/app", there)
    for region, key in ((US, here), (EU, there)):
        answer = await kms.client(region).describe_key(KeyId="alias/app")
        assert answer["KeyMetadata"]["Arn"] == key
    with refused("AlreadyExistsException"):
        kms.create_alias("alias/app", there)
    kms.delete_alias("alias/app", region=EU)
    with refused("NotFoundException"):
        await kms.client(EU).describe_key(KeyId="alias/app")
    with refused("NotFoundException"):
        kms.delete_alias("alias/app", region=EU)
    kms.delete_alias("alias/app")
    kms.create_alias("alias/app", here)


@pytest.mark.parametrize(
    "name", ["app", "alias/", "alias/a b", "alias/a:b", "alias/" + "a" * 251, "alias/a\n"]
)
async def test_alias_syntax(kms: InMemoryKMS, client: InMemoryKMSClient, name: str) -> None:
    key = kms.create_key()
    with refused("ValidationException"):
        kms.create_alias(name, key)
    with refused("NotFoundException" if name == "app" else "ValidationException"):
        await client.describe_key(KeyId=name)


# Which key a blob is for


async def test_another_key_than_the_one_of_the_blob(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    blob = await sealed(client, kms.create_key())
    with refused("IncorrectKeyException"):
        await client.decrypt(CiphertextBlob=blob, KeyId=kms.create_key())


async def test_the_same_key_id_in_another_account_is_another_key(
    kms: InMemoryKMS, client: InMemoryKMSClient
) -> None:
    ours = kms.create_key(key_id="twin")
    theirs = kms.create_key(key_id="twin", account="999988887777")
    blob = await sealed(client, ours)
    assert (await client.decrypt(CiphertextBlob=blob))["KeyId"] == ours
    with refused("IncorrectKeyException"):
        await client.decrypt(CiphertextBlob=blob, KeyId=theirs)


async def test_a_blob_of_a_single_region_key_stays_in_its_region(kms: InMemoryKMS) -> None:
    key = kms.create_key(region=US)
    blob = await sealed(kms.client(US), key, CONTEXT)
    there = kms.client(EU)
    with refused("AccessDeniedException"):
        await there.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
    with refused("NotFoundException"):
        await there.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=key)
    with refused("IncorrectKeyException"):
        await there.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=kms.create_key(region=EU))
    # an id that two regions have by chance makes no multi-Region key
    namesake = kms.create_key(region=EU, key_id=key.rpartition("/")[2])
    with refused("InvalidCiphertextException"):
        await there.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=namesake)


async def test_replicas_open_each_others_blobs(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    assert replica == primary.replace(US, EU)
    assert len(primary.rpartition("/mrk-")[2]) == 32
    for here, key, there, other in ((US, primary, EU, replica), (EU, replica, US, primary)):
        blob = await sealed(kms.client(here), key, CONTEXT)
        for name in (None, other):
            opened = await kms.client(there).decrypt(
                CiphertextBlob=blob, KeyId=name, EncryptionContext=CONTEXT
            )
            assert (opened["KeyId"], opened["Plaintext"]) == (other, b"secret")
    with refused("AccessDeniedException"):
        await kms.client("ap-south-1").decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)


async def test_replicas_describe_each_other(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    expected: dict[str, Any] = {
        "PrimaryKey": {"Arn": primary, "Region": US},
        "ReplicaKeys": [{"Arn": replica, "Region": EU}],
    }
    for region, kind in ((US, "PRIMARY"), (EU, "REPLICA")):
        answer = await kms.client(region).describe_key(KeyId=primary.rpartition("/")[2])
        configuration = answer["KeyMetadata"]["MultiRegionConfiguration"]
        assert configuration == expected | {"MultiRegionKeyType": kind}


async def test_what_cannot_be_replicated(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    for region in (US, EU):
        with refused("AlreadyExistsException"):
            kms.replicate_key(primary, region)
    for key in (replica, kms.create_key()):
        with refused("UnsupportedOperationException"):
            kms.replicate_key(key, "ap-south-1")
    with refused("NotFoundException"):
        kms.replicate_key("arn:aws:kms:us-east-1:111122223333:key/mrk-1", EU)
    with refused("AlreadyExistsException"):
        kms.create_key(region="ap-south-1", multi_region=True, key_id=primary.rpartition("/")[2])


# Blobs


async def test_garbage_is_no_ciphertext(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key()
    blob = await sealed(client, key)
    garbage = [
        b"\x00",
        b"\x01" * 14,
        b"A" * 200,
        b"\x01" * 6144,
        blob[:-1],
        blob + b"\x00",
        blob[:40],
        blob * 2,
    ]
    for data in garbage:
        for name in (None, key):
            with refused("InvalidCiphertextException"):
                await client.decrypt(CiphertextBlob=data, KeyId=name)


async def test_every_flipped_bit_is_noticed(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key(key_id="k")
    blob = await sealed(client, key)
    for position in range(len(blob) * 8):
        flipped = bytearray(blob)
        flipped[position // 8] ^= 1 << position % 8
        with refused("InvalidCiphertextException"):
            await client.decrypt(CiphertextBlob=flipped)


@pytest.mark.parametrize(
    "context",
    [
        None,
        {},
        {"tenant": "42"},
        {"tenant": "43", "größe": "ß"},
        CONTEXT | {"more": ""},
        {"tenant4": "2", "größe": "ß"},
    ],
)
async def test_the_context_must_be_the_same(
    kms: InMemoryKMS, client: InMemoryKMSClient, context: dict[str, str] | None
) -> None:
    blob = await sealed(client, kms.create_key(), CONTEXT)
    with refused("InvalidCiphertextException"):
        await client.decrypt(CiphertextBlob=blob, EncryptionContext=context)


async def test_no_context_and_an_empty_one_are_the_same(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    blob = await sealed(client, kms.create_key(), {})
    assert (await client.decrypt(CiphertextBlob=blob))["Plaintext"] == b"secret"


async def test_pairs_do_not_run_into_each_other(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    blob = await sealed(client, kms.create_key(), {"a": "1", "b": "2"})
    with refused("InvalidCiphertextException"):
        await client.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "1b2"})


async def test_the_blobs_of_another_kms(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    other = InMemoryKMS()
    blob = await sealed(other.client(US), other.create_key(key_id="the-id"))
    kms.create_key(key_id="the-id")
    with refused("InvalidCiphertextException"):
        await client.decrypt(CiphertextBlob=blob)
