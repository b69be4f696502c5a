"""KMS keys when KMS answers with what cannot be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aioencrypt import ProviderError, encrypt
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import EU, OPERATIONS, SECRET, US, Call, arn, failure, provider_for, wrapped
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


GARBAGE: list[Any] = [
    *(
        (operation, {field: value}, f"the answer of KMS has no {field}")
        for operation, fields in (
            ("generate", ("Plaintext", "CiphertextBlob")),
            ("encrypt", ("CiphertextBlob",)),
            ("decrypt", ("Plaintext",)),
        )
        for field in fields
        for value in (None, b"", SECRET, 32, [0] * 32)
    ),
    *(
        (operation, {"KeyId": value}, "the answer of KMS has no KeyId")
        for operation in OPERATIONS
        for value in (None, 7, b"arn:aws:kms:us-east-1:1:key/1")
    ),
    *(
        (operation, {"KeyId": value}, f"KMS returned the key id {value!r}, which is not a key ARN")
        for operation in ("generate", "encrypt")
        for value in ("", "1234abcd", "alias/app", arn("alias/app"), arn("key/"), "arn:aws:s3:eu:1:key/1")
    ),
    *(
        ("decrypt", {"KeyId": value}, f"KMS used the key {value!r}, not '")
        for value in ("", "1234abcd", arn("alias/app"), arn("key/other"))
    ),
    *(
        (operation, {"Plaintext": bytes(length)}, f"the data key has {length} bytes; the suite needs 32")
        for operation in ("generate", "decrypt")
        for length in (1, 16, 31, 33, 4096)
    ),
    # more than a field of an encrypted data key holds
    *((operation, {"CiphertextBlob": bytes(65536)}, "65,535") for operation in ("generate", "encrypt")),
    *((operation, {"KeyId": arn("key/" + "1" * 65536)}, "65,535") for operation in ("generate", "encrypt")),
    *((operation, {"KeyId": arn("key/\ud800")}, "") for operation in OPERATIONS),
]  # fmt: skip


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-mrk-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt",
)
@on_asyncio
@pytest.mark.parametrize(
    ("operation", "changes", "text"),
    [pytest.param(*row, id=f"{row[0]}-{number}") for number, row in enumerate(GARBAGE)],
)
async def test_a_garbled_answer(
    kms: InMemoryKMS, operation: str, changes: dict[str, object], text: str
) -> None:
    error, _ = await failure(operation, kms, lambda key: kms.answer_next(OPERATIONS[operation], changes))
    assert text in str(error.attempts[0].error)


@on_asyncio
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("answer", [None, [], SECRET, b"", 7, object(), [("Plaintext", b"")]])
async def test_an_answer_that_is_no_mapping(kms: InMemoryKMS, operation: str, answer: object) -> None:
    spoiled: list[str] = []

    async def garble(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        right = await call()
        return answer if parameters["KeyId"] in spoiled else right

    error, _ = await failure(operation, kms, spoiled.append, clients=wrapped(kms, garble, US, EU))
    assert type(error.attempts[0].error) is ProviderError
    assert str(error.attempts[0].error).endswith(f"returned {type(answer).__name__}, not Mapping")


async def test_the_longest_answer_that_fits(kms: InMemoryKMS) -> None:
    kms.answer_next("GenerateDataKey", {"CiphertextBlob": bytes(65535)})
    message, header = await encrypt(b"x", provider_for(kms, kms.create_key()))
    assert header.encrypted_data_keys[0].ciphertext == bytes(65535)
    assert len(message) > 65535
