"""Parameters that AWS refuses by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt.testing import InMemoryKMS, InMemoryKMSError

pytestmark = pytest.mark.anyio

KEY = "the-id"
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("GenerateDataKey", {"KeyId": KEY}, "Please specify either number of bytes or key spec."),
    (
        "GenerateDataKey",
        {"KeyId": KEY, "NumberOfBytes": 32, "KeySpec": "AES_256"},
        "Please specify either number of bytes or key spec.",
    ),
    ("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": 0}, "'numberOfBytes'"),
    ("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": 1025}, "less than or equal to 1024"),
    ("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": True}, "must be an integer"),
    ("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": "32"}, "must be an integer"),
    ("GenerateDataKey", {"KeyId": KEY, "KeySpec": "AES-256"}, "enum value set: [AES_128, AES_256]"),
    ("GenerateDataKeyWithoutPlaintext", {"KeyId": KEY}, "either number of bytes"),
    ("Encrypt", {"KeyId": KEY}, "'plaintext' failed to satisfy constraint: Member must not be null"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": b""}, "greater than or equal to 1"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": bytes(4097)}, "less than or equal to 4096"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "text"}, "must be bytes"),
    ("Encrypt", {"Plaintext": b"a"}, "'keyId' failed to satisfy constraint: Member must not be null"),
    ("Encrypt", {"KeyId": "", "Plaintext": b"a"}, "greater than or equal to 1"),
    ("Encrypt", {"KeyId": "a" * 2049, "Plaintext": b"a"}, "less than or equal to 2048"),
    ("Encrypt", {"KeyId": 7, "Plaintext": b"a"}, "must be a string"),
    ("Decrypt", {}, "'ciphertextBlob'"),
    ("Decrypt", {"CiphertextBlob": b""}, "'ciphertextBlob'"),
    ("Decrypt", {"CiphertextBlob": bytes(6145)}, "less than or equal to 6144"),
    ("ReEncrypt", {"CiphertextBlob": b"a"}, "'destinationKeyId'"),
    ("DescribeKey", {}, "'keyId'"),
    ("CreateKey", {"MultiRegion": "yes"}, "must be a boolean"),
    ("ReplicateKey", {"KeyId": KEY, "ReplicaRegion": "moon"}, "'replicaRegion'"),
    ("ScheduleKeyDeletion", {"KeyId": KEY, "PendingWindowInDays": 6}, "greater than or equal to 7"),
    ("CreateGrant", {"KeyId": KEY, "Operations": []}, "'operations'"),
    ("CreateGrant", {"KeyId": KEY, "Operations": ["Dance"]}, "'operations'"),
    *(
        ("Encrypt", {"KeyId": KEY, "Plaintext": b"a", "EncryptionContext": context}, "'encryptionContext'")
        for context in ([("a", "b")], "text", {"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, {"a": "\ud800"})
    ),
    *(
        ("Encrypt", {"KeyId": KEY, "Plaintext": b"a", "GrantTokens": tokens}, "'grantTokens'")
        for tokens in ("token", [""], [1], ["a" * 8193], ["a"] * 11, {"a": "b"})
    ),
]


@pytest.mark.parametrize(("operation", "parameters", "message"), WRONG)
async def test_refused_before_anything_is_looked_up(
    operation: str, parameters: dict[str, Any], message: str
) -> None:
    kms = InMemoryKMS()  # without the key: that would be the next thing to refuse
    with pytest.raises(InMemoryKMSError) as caught:
        await kms.invoke("us-east-1", operation, parameters)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert message in caught.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("Encrypt", {"KeyId": KEY, "Plaintext": b"a", "DryRun": True}),
        ("DescribeKey", {"KeyId": KEY, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}),
        ("Decrypt", {"CiphertextBlob": b"a", "Recipient": {}}),
        ("CreateKey", {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}),
        ("CreateKey", {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}),
        ("CreateKey", {"CustomerMasterKeySpec": "RSA_2048"}),
    ],
)
async def test_what_is_not_served_is_refused(operation: str, parameters: dict[str, Any]) -> None:
    kms = InMemoryKMS()
    kms.create_key(key_id=KEY)
    with pytest.raises(InMemoryKMSError, match="UnsupportedOperationException"):
        await kms.invoke("us-east-1", operation, parameters)


async def test_what_changes_nothing_is_accepted() -> None:
    kms = InMemoryKMS()
    kms.create_key(key_id=KEY)
    parameters = {
        "KeyId": KEY,
        "Plaintext": b"a",
        "DryRun": False,
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }
    await kms.invoke("us-east-1", "Encrypt", parameters)
    await kms.invoke(
        "us-east-1", "CreateKey", {"Description": "mine", "Tags": [], "KeySpec": "SYMMETRIC_DEFAULT"}
    )


async def test_an_unknown_operation() -> None:
    with pytest.raises(InMemoryKMSError, match="UnknownOperationException"):
        await InMemoryKMS().invoke("us-east-1", "Dance", {})


@pytest.mark.parametrize(
    "operation",
    ["CreateAlias", "DisableKey", "EnableKey", "ScheduleKeyDeletion", "ReplicateKey", "CreateGrant"],
)
async def test_an_alias_cannot_name_a_key_to_manage(operation: str) -> None:
    kms = InMemoryKMS()
    kms.create_alias("alias/app", kms.create_key(multi_region=True))
    parameters: dict[str, dict[str, Any]] = {
        "CreateAlias": {"AliasName": "alias/two", "TargetKeyId": "alias/app"},
        "ReplicateKey": {"KeyId": "alias/app", "ReplicaRegion": "eu-west-1"},
        "CreateGrant": {"KeyId": "arn:aws:kms:us-east-1:111122223333:alias/app", "Operations": ["Decrypt"]},
    }
    with pytest.raises(InMemoryKMSError, match="NotFoundException"):
        await kms.invoke("us-east-1", operation, parameters.get(operation, {"KeyId": "alias/app"}))
