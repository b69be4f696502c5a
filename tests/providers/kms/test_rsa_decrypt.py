"""RSA keys of KMS: what they read.

Specification: framework/aws-kms/aws-kms-rsa-keyring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    KMSEncryptionAlgorithm,
    KMSRSAMasterKey,
    ProviderClosedError,
    ProviderError,
    ServiceError,
)
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import CONTEXT, DATA_KEY, EU, MRK, SECRET, US, Call, arn, wrapped
from tests.support.kms_pairs import (
    CONTEXT_DIGEST,
    SHA_1,
    SHA_256,
    reading,
    rsa_entry,
    rsa_kms_key,
    rsa_master_key,
)
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-rsa-keyring.md"
each_algorithm = pytest.mark.parametrize("algorithm", [SHA_1, SHA_256])
SIGNED = [suite for suite in AlgorithmSuite if suite.signed]
UNSIGNED = [suite for suite in AlgorithmSuite if not suite.signed]


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@each_algorithm
@pytest.mark.parametrize("suite", UNSIGNED, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_what_it_reads(kms: InMemoryKMS, suite: AlgorithmSuite, algorithm: str) -> None:
    key_id = rsa_kms_key(kms)
    data_key = DATA_KEY[: suite.data_key_length]
    encrypted = rsa_entry(key_id, plaintext=CONTEXT_DIGEST + data_key, algorithm=algorithm)
    key = rsa_master_key(kms, key_id, algorithm, public=False)
    opened = await key.decrypt_data_key(reading(encrypted, suite=suite))
    assert (opened.data_key, opened.encrypted_data_key, opened.master_key) == (
        DataKey(data_key),
        encrypted,
        key,
    )


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{PAGE}#initialization")
@each_algorithm
async def test_what_it_asks_of_kms(kms: InMemoryKMS, algorithm: str) -> None:
    key_id = rsa_kms_key(kms)
    tokens = [kms.create_grant(key_id, "Decrypt")]
    kms.deny(key_id, "Decrypt")
    log: list[tuple[str, Mapping[str, Any]]] = []

    async def note(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        log.append((operation, parameters))
        return await call()

    key = rsa_master_key(kms, key_id, algorithm, clients=wrapped(kms, note, US), grant_tokens=tokens)
    encrypted = rsa_entry(key_id, algorithm=algorithm)
    await key.decrypt_data_key(reading(encrypted))
    assert log == [
        (
            "Decrypt",
            {
                "KeyId": key_id,
                "CiphertextBlob": encrypted.ciphertext,
                "EncryptionAlgorithm": algorithm,
                "GrantTokens": tokens,
            },
        )
    ]


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_only_data_keys_of_its_own_are_tried(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    strangers = [
        rsa_entry(key_id, provider_id=provider_id)
        for provider_id in ("aws-kms", "aws-kms-rs", "aws-kms-rsa2", "AWS-KMS-RSA", "")
    ]
    strangers += [rsa_entry(arn(f"key/{MRK}")), rsa_entry(key_id.replace(US, EU)), rsa_entry(key_id + "0")]
    key = rsa_master_key(kms, key_id)
    assert not any(map(key.owns_data_key, strangers))
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(reading(*strangers))
    assert caught.value.unclaimed
    assert kms.call_count() == 0
    own = rsa_entry(key_id)
    assert key.owns_data_key(own)
    assert (await key.decrypt_data_key(reading(*strangers, own))).encrypted_data_key == own
    assert kms.call_count() == 1


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_a_replica_opens_what_was_encrypted_for_another(kms: InMemoryKMS) -> None:
    primary = rsa_kms_key(kms, multi_region=True)
    replica = kms.replicate_key(primary, EU)
    _, encrypted = await rsa_master_key(kms, primary).generate_data_key(reading())
    await rsa_master_key(kms, replica, public=False).decrypt_data_key(reading(encrypted))
    assert [(call.region, call.key_id) for call in kms.calls] == [(EU, replica)]


NO_KEY_ARNS = ["", "1", "alias/app", arn("alias/app"), arn("key/"), "arn:aws:s3:us-east-1:1:key/1"]


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("info", [*(text.encode() for text in NO_KEY_ARNS), b"\xff"])
async def test_data_keys_that_name_no_key_fail_the_message(kms: InMemoryKMS, info: bytes) -> None:
    key_id = rsa_kms_key(kms)
    broken = EncryptedDataKey("aws-kms-rsa", info, b"x")
    key = rsa_master_key(kms, key_id)
    assert not key.owns_data_key(broken)
    for request in (reading(broken), reading(rsa_entry(key_id), broken)):
        with pytest.raises(ProviderError) as caught:
            await key.decrypt_data_key(request)
        assert str(caught.value) == "an encrypted data key of a KMS RSA key does not name a KMS key ARN"
        assert not caught.value.unclaimed
    assert kms.call_count() == 0


async def failed(key: KMSRSAMasterKey, request: DataKeyRequest) -> Exception:
    """Return the error of the only attempt."""
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(request)
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "aws-kms-rsa", key.key_id)
    assert SECRET not in str(caught.value)
    return attempt.error


ANOTHER_CONTEXT = "the data key was encrypted under another encryption context"


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    "context", [{}, {"tenant": SECRET}, {**CONTEXT, "more": SECRET}, {"tenant": "42"}, {"tenant42": ""}]
)
async def test_another_context_does_not_open(kms: InMemoryKMS, context: Mapping[str, str]) -> None:
    key_id = rsa_kms_key(kms)
    error = await failed(rsa_master_key(kms, key_id), reading(rsa_entry(key_id), context=context))
    assert (type(error), str(error)) == (ProviderError, ANOTHER_CONTEXT)


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{PAGE}#encryption-context-digest")
@pytest.mark.parametrize(
    ("plaintext", "text"),
    [
        (bytes([CONTEXT_DIGEST[0] ^ 1]) + CONTEXT_DIGEST[1:] + DATA_KEY, ANOTHER_CONTEXT),
        (CONTEXT_DIGEST[:47] + bytes([CONTEXT_DIGEST[47] ^ 1]) + DATA_KEY, ANOTHER_CONTEXT),
        (CONTEXT_DIGEST[:47] + DATA_KEY, ANOTHER_CONTEXT),
        (CONTEXT_DIGEST[:47], ANOTHER_CONTEXT),
        (DATA_KEY, ANOTHER_CONTEXT),
        (b"x", ANOTHER_CONTEXT),
        (CONTEXT_DIGEST, "KMSRSAMasterKey.unwrap_data_key: the data key has 0 bytes; the suite needs 32"),
        (
            CONTEXT_DIGEST + DATA_KEY[:31],
            "KMSRSAMasterKey.unwrap_data_key: the data key has 31 bytes; the suite needs 32",
        ),
        (
            CONTEXT_DIGEST + DATA_KEY + b"\0",
            "KMSRSAMasterKey.unwrap_data_key: the data key has 33 bytes; the suite needs 32",
        ),
    ],
)
async def test_plaintexts_of_another_form(kms: InMemoryKMS, plaintext: bytes, text: str) -> None:
    key_id = rsa_kms_key(kms)
    error = await failed(rsa_master_key(kms, key_id), reading(rsa_entry(key_id, plaintext=plaintext)))
    assert (type(error), str(error)) == (ProviderError, text)


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"KeyId": None}, "the answer of KMS has no KeyId"),
        ({"KeyId": b"arn"}, "the answer of KMS has no KeyId"),
        ({"KeyId": "1"}, "KMS used the key '1', not '{}'"),
        ({"KeyId": arn("key/other")}, f"KMS used the key '{arn('key/other')}', not '{{}}'"),
        ({"Plaintext": None}, "the answer of KMS has no Plaintext"),
        ({"Plaintext": b""}, "the answer of KMS has no Plaintext"),
        ({"Plaintext": SECRET}, "the answer of KMS has no Plaintext"),
    ],
)
async def test_answers_that_cannot_be_right(
    kms: InMemoryKMS, changes: Mapping[str, object], text: str
) -> None:
    key_id = rsa_kms_key(kms)
    kms.answer_next("Decrypt", changes)
    error = await failed(rsa_master_key(kms, key_id), reading(rsa_entry(key_id)))
    assert (type(error), str(error)) == (ProviderError, text.format(key_id))


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (InMemoryKMS.disable_key, "DisabledException"),
        (InMemoryKMS.schedule_key_deletion, "KMSInvalidStateException"),
        (InMemoryKMS.deny, "AccessDeniedException"),
        (lambda kms, key: kms.fail_next("ThrottlingException"), "ThrottlingException"),
        (lambda kms, key: kms.expire_credentials(), "ExpiredTokenException"),
    ],
)
async def test_what_kms_refuses(
    kms: InMemoryKMS, spoil: Callable[[InMemoryKMS, str], object], code: str
) -> None:
    key_id = rsa_kms_key(kms)
    spoil(kms, key_id)
    error = await failed(rsa_master_key(kms, key_id), reading(rsa_entry(key_id)))
    assert isinstance(error, ServiceError)
    assert (error.code, error.retryable) == (code, code == "ThrottlingException")
    assert error.__cause__ is not None


async def test_a_public_key_that_is_not_that_of_the_key_shows_on_decrypt(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    error = await failed(rsa_master_key(kms, key_id), reading(rsa_entry(key_id, pair="second")))
    assert isinstance(error, ServiceError)
    assert error.code == "InvalidCiphertextException"


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_failures_are_collected_and_the_next_data_key_is_tried(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    bad = [rsa_entry(key_id, pair="second"), rsa_entry(key_id, plaintext=DATA_KEY)]
    good = [rsa_entry(key_id), rsa_entry(key_id)]
    opened = await rsa_master_key(kms, key_id).decrypt_data_key(reading(*bad, *good))
    assert opened.encrypted_data_key is good[0]
    assert kms.call_count() == 3
    with pytest.raises(ProviderError) as caught:
        await rsa_master_key(kms, key_id).decrypt_data_key(reading(*bad))
    assert [type(attempt.error) for attempt in caught.value.attempts] == [ServiceError, ProviderError]


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_decrypting_needs_a_client() -> None:
    key = KMSRSAMasterKey(arn("key/1"), encryption_algorithm=KMSEncryptionAlgorithm.RSAES_OAEP_SHA_1)
    with pytest.raises(ProviderClosedError, match="open it with `async with`, or give ready clients"):
        await key.decrypt_data_key(reading(rsa_entry(arn("key/1"))))


async def test_a_client_that_does_not_answer(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    kms.latency = 3600
    error = await failed(rsa_master_key(kms, key_id, timeout=0.01), reading(rsa_entry(key_id)))
    assert isinstance(error, ServiceError)
    assert str(error) == "no answer within 0.01 seconds"


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("suite", SIGNED, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_it_decrypts_for_no_suite_that_signs(kms: InMemoryKMS, suite: AlgorithmSuite) -> None:
    key_id = rsa_kms_key(kms)
    data_key = bytes(suite.data_key_length)
    with pytest.raises(ProviderError) as caught:
        await rsa_master_key(kms, key_id).decrypt_data_key(
            reading(rsa_entry(key_id, plaintext=CONTEXT_DIGEST + data_key), suite=suite)
        )
    [attempt] = caught.value.attempts
    start = (
        f"decrypt under aws-kms-rsa {key_id}: a KMS RSA key does not allow the signed suite {suite.name}, "
    )
    assert str(attempt).startswith(start)
    assert kms.call_count() == 0
