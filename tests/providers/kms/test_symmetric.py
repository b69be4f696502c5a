"""KMS keys that are named: which calls they make, in which order, and what goes into the message.

The sections cited are those of the specification, framework/aws-kms/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    MultiRegion,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import (
    ACCOUNT,
    AP,
    CONTEXT,
    EU,
    ID,
    SUITE,
    US,
    Call,
    arn,
    calls_of,
    encrypted_data_key,
    key_arns,
    opened_with,
    provider_for,
    request,
    wrapped,
)
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Encrypting: aws-kms-keyring.md#onencrypt, aws-kms-mrk-keyring.md#onencrypt


async def test_one_key_is_one_call_for_a_message_of_many_frames(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    provider = provider_for(kms, key)
    message, header = await encrypt(b"x" * 50, provider, frame_length=4)
    assert calls_of(kms) == [("GenerateDataKey", US, key)]
    plaintext, _ = await decrypt(message, provider)
    assert plaintext == b"x" * 50
    assert calls_of(kms) == [("Decrypt", US, key)]
    assert key_arns(header) == [key]


async def test_the_context_of_every_call_is_that_of_the_header(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    provider = provider_for(kms, here, there)
    message, header = await encrypt(b"x", provider, encryption_context=CONTEXT)
    await decrypt(message, provider)
    assert len(kms.calls) == 3
    assert all(call.encryption_context == header.encryption_context for call in kms.calls)
    # the public key of the signature is bound to the data key, too
    assert header.encryption_context.keys() == CONTEXT.keys() | {"aws-crypto-public-key"}


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-mrk-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt",
)
@pytest.mark.parametrize(
    ("suite", "length"),
    [
        (AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_NO_KDF, 16),
        (AlgorithmSuite.ALG_AES_192_GCM_IV12_TAG16_HKDF_SHA256, 24),
        (SUITE, 32),
    ],
)
async def test_the_parameters_of_the_calls(kms: InMemoryKMS, suite: AlgorithmSuite, length: int) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    tokens = [kms.create_grant(here, "Decrypt")]
    seen: list[tuple[str, Mapping[str, Any]]] = []

    async def note(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        seen.append((operation, parameters))
        return await call()

    provider = KMSMasterKeyProvider(
        [here, there], connection=AWSConnection(kms=wrapped(kms, note, US, EU)), grant_tokens=tokens
    )
    data_key, encrypted, _ = await make_data_key(provider, request(suite=suite))
    opened = await provider.decrypt_data_key(request(encrypted[0], suite=suite))
    assert opened.data_key == data_key
    assert (opened.encrypted_data_key, opened.master_key.key_id) == (encrypted[0], here)
    assert len(data_key.plaintext) == length
    shared = {"EncryptionContext": CONTEXT, "GrantTokens": tokens}
    assert seen == [
        ("GenerateDataKey", {"KeyId": here, "NumberOfBytes": length, **shared}),
        ("Encrypt", {"KeyId": there, "Plaintext": data_key.plaintext, **shared}),
        ("Decrypt", {"KeyId": here, "CiphertextBlob": encrypted[0].ciphertext, **shared}),
    ]


async def test_without_context_and_grant_tokens_both_are_empty(kms: InMemoryKMS) -> None:
    await encrypt(b"x", provider_for(kms, kms.create_key()), algorithm_suite=SUITE)
    assert kms.calls[0].encryption_context == {}
    assert kms.calls[0].grant_tokens == ()


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring",
)
async def test_keys_in_several_regions_each_open_the_message_alone(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=region) for region in (EU, US, AP, EU)]
    message, header = await encrypt(b"x", provider_for(kms, *keys), encryption_context=CONTEXT)
    assert key_arns(header) == keys
    assert {key.provider_id for key in header.encrypted_data_keys} == {"aws-kms"}
    made, *others = calls_of(kms)
    assert made == ("GenerateDataKey", EU, keys[0])
    assert sorted(others) == sorted(
        [("Encrypt", US, keys[1]), ("Encrypt", AP, keys[2]), ("Encrypt", EU, keys[3])]
    )
    for key in keys:
        assert (await decrypt(message, provider_for(kms, key))).plaintext == b"x"
        [(_, region, called)] = calls_of(kms)
        assert (region, called) == (key.split(":")[3], key)


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#onencrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#onencrypt"
)
async def test_the_message_names_the_key_that_kms_answered_with(kms: InMemoryKMS) -> None:
    """Whatever the key was called, provider info is the KeyId of the answer, a key ARN."""
    key = kms.create_key(key_id=ID)
    kms.create_alias("alias/app", key)
    for name in (key, ID, "alias/app", arn("alias/app")):
        # as generator, and as a further key
        provider = KMSMasterKeyProvider([name, name], connection=kms.connection(US))
        message, header = await encrypt(b"x", provider)
        assert key_arns(header) == [key, key]
        assert [call[1:] for call in calls_of(kms)] == [(US, name), (US, name)]
        assert (await decrypt(message, provider_for(kms, key))).plaintext == b"x"
        kms.reset_calls()


@pytest.mark.spec("framework/aws-kms/aws-kms-keyring.md#ondecrypt")
@pytest.mark.parametrize("provider_id", ["aws-kms-rsa", "aws-kms-ecdh", "aws-kms-hierarchy", "aws-km", ""])
async def test_data_keys_of_other_providers_are_not_tried(kms: InMemoryKMS, provider_id: str) -> None:
    key = kms.create_key()
    stored = EncryptedDataKey(provider_id, key.encode(), b"blob")
    provider = provider_for(kms, key)
    [own] = await provider.encryption_keys(request())
    assert not own.owns_data_key(stored)
    with pytest.raises(ProviderError) as caught:
        await provider.decrypt_data_key(request(stored))
    assert caught.value.unclaimed
    assert kms.calls == []


async def test_all_further_keys_are_called_at_once(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=region) for region in (US, EU, AP, US)]
    arrived: list[str] = []
    everyone = anyio.Event()

    async def wait_for_all(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if operation == "Encrypt":
            arrived.append(parameters["KeyId"])
            if len(arrived) == 3:
                everyone.set()
            await everyone.wait()
        return await call()

    provider = KMSMasterKeyProvider(
        keys, connection=AWSConnection(kms=wrapped(kms, wait_for_all, US, EU, AP))
    )
    with anyio.fail_after(10):
        await encrypt(b"x", provider)
    assert sorted(arrived) == sorted(keys[1:])


async def test_the_order_in_the_message_is_that_of_the_keys_not_of_the_answers(kms: InMemoryKMS) -> None:
    keys = [kms.create_key() for _ in range(4)]
    answered = {key: anyio.Event() for key in keys}

    async def backwards(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if operation == "Encrypt" and parameters["KeyId"] != keys[-1]:
            await answered[keys[keys.index(parameters["KeyId"]) + 1]].wait()
        answer = await call()
        answered[parameters["KeyId"]].set()
        return answer

    provider = KMSMasterKeyProvider(keys, connection=AWSConnection(kms=wrapped(kms, backwards, US)))
    with anyio.fail_after(10):
        _, header = await encrypt(b"x", provider)
    assert [call[2] for call in calls_of(kms)] == [keys[0], *reversed(keys[1:])]
    assert key_arns(header) == keys


# Decrypting: aws-kms-keyring.md#ondecrypt, aws-kms-mrk-keyring.md#ondecrypt


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt"
)
async def test_attempts_go_in_the_order_of_the_message_until_one_succeeds(kms: InMemoryKMS) -> None:
    a, b, c, d = (kms.create_key() for _ in range(4))
    of = {key: await encrypted_data_key(kms, key) for key in (a, b, c, d)}
    provider = provider_for(kms, a, b, c)
    message = [of[d], of[c], of[a], of[b]]
    assert await opened_with(kms, provider, *message) == [c]
    kms.deny(c)
    assert await opened_with(kms, provider, *message) == [c, a]
    kms.disable_key(a)
    assert await opened_with(kms, provider, *message) == [c, a, b]
    kms.deny(b, "Decrypt")
    with pytest.raises(ProviderError, match="none of the 4 encrypted data keys") as caught:
        await provider.decrypt_data_key(request(*message))
    assert [
        (attempt.operation, attempt.provider_id, attempt.key_id) for attempt in caught.value.attempts
    ] == [("decrypt", "aws-kms", key) for key in (c, a, b)]


@pytest.mark.spec("framework/aws-kms/aws-kms-keyring.md#ondecrypt")
async def test_two_encrypted_data_keys_of_one_key_are_two_attempts(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    good = await encrypted_data_key(kms, key)
    bad = EncryptedDataKey("aws-kms", key.encode(), b"\x01" * 60)
    assert await opened_with(kms, provider_for(kms, key), bad, good) == [key, key]


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt"
)
@on_asyncio
@pytest.mark.parametrize(
    "stored",
    [
        ("aws-kms-hierarchy", arn(f"key/{ID}")),
        ("AWS-KMS", arn(f"key/{ID}")),
        ("raw", arn(f"key/{ID}")),
        ("aws-kms", arn(f"key/{ID}", region=EU)),
        ("aws-kms", arn(f"key/{ID}", account="999988887777")),
        ("aws-kms", arn(f"key/{ID}", partition="aws-cn")),
        ("aws-kms", arn(f"key/{ID}0")),
        ("aws-kms", arn(f"key/{ID.upper()}")),
    ],
)
async def test_keys_of_others_are_not_called(kms: InMemoryKMS, stored: tuple[str, str]) -> None:
    key = kms.create_key(key_id=ID)
    theirs = EncryptedDataKey(stored[0], stored[1].encode(), b"blob")
    provider = provider_for(kms, key)
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await provider.decrypt_data_key(request(theirs))
    assert caught.value.attempts == ()
    assert repr(stored[0]) in str(caught.value)
    assert not kms.calls
    assert await opened_with(kms, provider, theirs, await encrypted_data_key(kms, key)) == [key]


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt"
)
@pytest.mark.parametrize("name", [ID, "alias/app", arn("alias/app")])
async def test_only_a_key_named_by_its_arn_decrypts(kms: InMemoryKMS, name: str) -> None:
    key = kms.create_key(key_id=ID)
    kms.create_alias("alias/app", key)
    encrypted = await encrypted_data_key(kms, key)
    for multi_region in MultiRegion:
        provider = KMSMasterKeyProvider([name], connection=kms.connection(US), multi_region=multi_region)
        other = RawAESMasterKey("tests", "other", wrapping_key=bytes(32))
        multi = MultiMasterKeyProvider(None, MultiMasterKeyProvider(other), provider)
        for given, names in ((provider, ""), (multi, "'tests' ('other'), ")):
            with pytest.raises(ProviderError) as caught:
                await given.decrypt_data_key(request(encrypted))
            assert str(caught.value).endswith(
                f"; given are {names}'aws-kms' ('{name}'); "
                "only a key ARN decrypts: name the key by its key ARN"
            )
    assert not kms.calls


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt"
)
@on_asyncio
@pytest.mark.parametrize(
    "info",
    [b"", b"\xff\xfe", ID.encode(), b"alias/app", arn("alias/app").encode(), arn("key/").encode(),
     f"arn:aws:s3:{US}:{ACCOUNT}:key/{ID}".encode(), f"arn:aws:kms::{ACCOUNT}:key/{ID}".encode(),
     f"arn:aws:kms:{US}:{ACCOUNT}:key:{ID}".encode()],
)  # fmt: skip
async def test_malformed_provider_info_in_a_message_fails_without_a_call(
    kms: InMemoryKMS, info: bytes
) -> None:
    """`aws-kms` with anything but the ARN of a key: "OnDecrypt MUST fail"."""
    key = kms.create_key()
    good, malformed = await encrypted_data_key(kms, key), EncryptedDataKey("aws-kms", info, b"blob")
    for message in ([malformed], [malformed, good], [good, malformed]):
        with pytest.raises(ProviderError, match="does not name a KMS key ARN"):
            await provider_for(kms, key).decrypt_data_key(request(*message))
    assert not kms.calls


async def test_a_raw_key_beside_it_in_the_message_is_passed_over(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    raw = RawAESMasterKey("raw", arn(f"key/{ID}"), wrapping_key=bytes(32))
    _, (theirs,), _ = await make_data_key(raw, request())
    assert await opened_with(kms, provider_for(kms, key), theirs, await encrypted_data_key(kms, key)) == [key]


async def test_another_context_does_not_open(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    message, _ = await encrypt(b"x", provider_for(kms, key), algorithm_suite=SUITE)
    with pytest.raises(ProviderError, match=r"InvalidCiphertextException: .*encryption context was changed"):
        await decrypt(message, provider_for(kms, key), encryption_context={"more": "pairs"})


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#interface", "framework/aws-kms/aws-kms-mrk-keyring.md#interface"
)
async def test_a_key_by_itself_is_a_provider(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    key, other = await provider_for(kms, here, there).encryption_keys(request())
    good, theirs = await encrypted_data_key(kms, here), await encrypted_data_key(kms, there)
    malformed = EncryptedDataKey("aws-kms", b"alias/app", b"blob")
    raw = EncryptedDataKey("raw", here.encode(), b"blob")
    assert [key.owns_data_key(encrypted) for encrypted in (good, theirs, malformed, raw)] == [
        True,
        False,
        False,
        False,
    ]
    assert await opened_with(kms, key, raw, theirs, good) == [here]
    message, header = await encrypt(b"x", other)
    assert key_arns(header) == [there]
    assert (await decrypt(message, other)).plaintext == b"x"


# Grant tokens


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#onencrypt", "framework/aws-kms/aws-kms-keyring.md#ondecrypt"
)
async def test_grant_tokens_go_with_every_call(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    for key in (here, there):
        kms.deny(key)
    with pytest.raises(ProviderError, match="AccessDeniedException"):
        await encrypt(b"x", provider_for(kms, here, there))
    tokens = (kms.create_grant(here, "GenerateDataKey", "Decrypt"), kms.create_grant(there, "Encrypt"))
    kms.reset_calls()
    provider = provider_for(kms, here, there, grant_tokens=tokens)
    message, _ = await encrypt(b"x", provider)
    assert (await decrypt(message, provider)).plaintext == b"x"
    assert [call.grant_tokens for call in kms.calls] == [tokens] * 3


async def test_many_messages_at_once_are_one_call_each(kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key())
    messages: list[bytes] = []

    async def one(number: int) -> None:
        await checkpoint()
        message = (await encrypt(b"%d" % number, provider)).ciphertext
        assert (await decrypt(message, provider)).plaintext == b"%d" % number
        messages.append(message)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert len(set(messages)) == 20
    assert (kms.call_count("GenerateDataKey"), kms.call_count("Decrypt")) == (20, 20)
