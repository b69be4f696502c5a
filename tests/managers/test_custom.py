"""CMMs of users: what they return is checked as strictly as what a caller asks for.

Specification: framework/cmm-interface.md, client-apis/encrypt.md, client-apis/decrypt.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    CommitmentPolicyError,
    DefaultCMM,
    EncryptionClient,
    EncryptionError,
    LimitError,
    MessageError,
    MultiMasterKeyProvider,
    PolicyError,
    ProviderError,
    SignatureError,
    TagError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import (
    DataKey,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from tests.support.providers import CONTEXT, OwnKey
from tests.support.streaming import SIGNED, UNSIGNED, Feed, assert_idle, in_chunks, on_asyncio

pytestmark = pytest.mark.anyio

FORBID, ALLOW, REQUIRE = CommitmentPolicy
NOT_COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
PLAINTEXT = b"attack at dawn" * 1000


class OwnCMM:
    """A CMM as users write it: two methods. It changes what the default CMM gives."""

    def __init__(
        self, *, policy: CommitmentPolicy | None = None, suite: AlgorithmSuite | None = None, **changes: Any
    ) -> None:
        self.key = OwnKey("a")
        self.inner = DefaultCMM(self.key)
        self.policy = policy
        self.suite = suite
        self.changes = changes
        self.asked: list[EncryptionMaterialsRequest | DecryptionMaterialsRequest] = []

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        self.asked.append(request)
        if self.policy:
            request = attrs.evolve(request, commitment_policy=self.policy)
        if self.suite:
            request = attrs.evolve(request, algorithm_suite=self.suite)
        return attrs.evolve(await self.inner.get_encryption_materials(request), **self.changes)

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        self.asked.append(request)
        if self.policy:
            request = attrs.evolve(request, commitment_policy=self.policy)
        return attrs.evolve(await self.inner.decrypt_materials(request), **self.changes)


async def fails_to_encrypt(
    cmm: OwnCMM,
    expected: type[Exception] | tuple[type[Exception], ...],
    client: EncryptionClient | None = None,
) -> Exception:
    """Encrypt in both ways; neither writes anything, or reads of the source. Return the error."""
    client = client or EncryptionClient()
    with pytest.raises(expected):
        await client.encrypt(PLAINTEXT, cmm, encryption_context=CONTEXT)
    source = Feed(PLAINTEXT)
    with pytest.raises(expected) as caught:
        async with client.encrypt_stream(source, cmm, encryption_context=CONTEXT):
            pytest.fail("entered")
    assert source.reads == 0
    assert_idle()
    return caught.value


async def fails_to_decrypt(
    message: bytes,
    cmm: OwnCMM,
    expected: type[Exception] | tuple[type[Exception], ...],
    client: EncryptionClient | None = None,
) -> Exception:
    """Decrypt in both ways; nothing comes out. Return the error."""
    client = client or EncryptionClient()
    with pytest.raises(expected):
        await client.decrypt(message, cmm)
    async with aclosing(in_chunks(message, 500)) as source:
        with pytest.raises(expected) as caught:
            async with client.decrypt_stream(source, cmm):
                pytest.fail("entered")
    assert_idle()
    return caught.value


async def message_of(
    key: OwnKey, suite: AlgorithmSuite = SIGNED, context: Mapping[str, str] = CONTEXT
) -> bytes:
    policy = REQUIRE if suite.committing else FORBID
    client = EncryptionClient(commitment_policy=policy)
    return (
        await client.encrypt(PLAINTEXT, key, encryption_context=context, algorithm_suite=suite)
    ).ciphertext


# What a CMM gets to know, and what counts


@pytest.mark.spec(
    "framework/cmm-interface.md#overview",
    "framework/cmm-interface.md#behaviors",
    "client-apis/decrypt.md#cryptographic-materials-manager",
)
async def test_any_object_with_the_two_methods_is_one() -> None:
    cmm = OwnCMM()
    message, _ = await encrypt(PLAINTEXT, cmm, encryption_context=CONTEXT)
    assert (await decrypt(message, cmm, encryption_context={"tenant": "42"})).plaintext == PLAINTEXT
    written, read = cmm.asked
    assert written == EncryptionMaterialsRequest(
        commitment_policy=REQUIRE, encryption_context=CONTEXT, plaintext_length=len(PLAINTEXT)
    )
    assert isinstance(read, DecryptionMaterialsRequest)
    assert read.algorithm_suite is SIGNED
    assert read.reproduced_encryption_context == CONTEXT
    assert len(read.encrypted_data_keys) == 1
    assert read.encryption_context.keys() == {*CONTEXT, "aws-crypto-public-key"}


@pytest.mark.spec("framework/cmm-interface.md#encryption-materials-request")
@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, None),
        ({"plaintext_length": len(PLAINTEXT)}, len(PLAINTEXT)),
        ({"plaintext_length_bound": 10**6}, 10**6),
        ({"plaintext_length": len(PLAINTEXT), "plaintext_length_bound": 10**6}, len(PLAINTEXT)),
    ],
)
async def test_the_length_that_a_cmm_gets_to_know(options: dict[str, int], known: int | None) -> None:
    cmm = OwnCMM()
    await encrypt(Feed(PLAINTEXT), cmm, algorithm_suite=UNSIGNED, **options)  # type: ignore[arg-type]
    [request] = cmm.asked
    assert isinstance(request, EncryptionMaterialsRequest)
    assert (request.plaintext_length, request.algorithm_suite) == (known, UNSIGNED)


class HalfCMM:
    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> None:
        pass


@pytest.mark.spec("framework/cmm-interface.md#behaviors")
@pytest.mark.parametrize(
    "wrong", [OwnCMM, DefaultCMM, OwnKey, HalfCMM(), None, "key"], ids=lambda value: str(value)[:20]
)
async def test_what_is_no_cmm(wrong: Any) -> None:
    client = EncryptionClient()
    for call in (client.encrypt_stream, client.decrypt_stream):
        with pytest.raises(TypeError, match="is neither a master key, nor a provider, nor a CMM"):
            call(b"", wrong)


@pytest.mark.spec("client-apis/encrypt.md#get-the-encryption-materials")
async def test_the_suite_of_the_materials_is_the_one_that_is_written() -> None:
    """client-apis/encrypt.md#get-the-encryption-materials; a caller may ask for another one."""
    cmm = OwnCMM(suite=UNSIGNED)
    message, header = await encrypt(PLAINTEXT, cmm, algorithm_suite=SIGNED)
    assert header.algorithm_suite is UNSIGNED
    assert (await decrypt(message, cmm)).plaintext == PLAINTEXT


@pytest.mark.spec("client-apis/encrypt.md#construct-the-header", "client-apis/decrypt.md#verify-the-header")
async def test_pairs_that_a_cmm_requires_are_authenticated_and_not_stored() -> None:
    cmm = OwnCMM(required_encryption_context_keys=frozenset({"tenant"}))
    reader = cmm.key
    message, header = await encrypt(PLAINTEXT, cmm, encryption_context={"tenant": "42", "user": "7"})
    assert header.encryption_context.keys() == {"user", "aws-crypto-public-key"}
    assert b"tenant" not in message
    opened = await decrypt(message, reader, encryption_context={"tenant": "42"})
    assert opened.plaintext == PLAINTEXT
    assert opened.header == header
    for context in ({}, {"tenant": "43"}, {"tenant": "42", "more": ""}, {"user": "7"}):
        with pytest.raises(ProviderError) as caught:
            await decrypt(message, reader, encryption_context=context)
        absent = [key for key in context if key != "user"]
        assert ("the header does not have the encryption context keys" in str(caught.value)) is bool(absent)
        assert all(repr(key) in str(caught.value) for key in absent)


# The commitment policy


@pytest.mark.spec("client-apis/encrypt.md#get-the-encryption-materials")
@pytest.mark.parametrize(
    ("policy", "suite"), [(REQUIRE, NOT_COMMITTING), (ALLOW, NOT_COMMITTING), (FORBID, UNSIGNED)]
)
async def test_a_suite_against_the_policy_is_not_written(
    policy: CommitmentPolicy, suite: AlgorithmSuite
) -> None:
    cmm = OwnCMM(policy=FORBID if policy is not FORBID else REQUIRE, suite=suite)
    error = await fails_to_encrypt(cmm, CommitmentPolicyError, EncryptionClient(commitment_policy=policy))
    assert str(error).startswith(
        f"commitment policy {policy.name} does not allow encrypting with {suite.name}"
    )


@pytest.mark.spec("client-apis/decrypt.md#get-the-decryption-materials")
async def test_a_message_against_the_policy_is_refused_before_a_cmm_is_asked() -> None:
    cmm = OwnCMM(policy=ALLOW)
    message = await message_of(cmm.key, NOT_COMMITTING)
    await fails_to_decrypt(message, cmm, CommitmentPolicyError)
    assert cmm.asked == []
    client = EncryptionClient(commitment_policy=ALLOW)
    assert (await client.decrypt(message, cmm)).plaintext == PLAINTEXT


@pytest.mark.spec("client-apis/decrypt.md#get-the-decryption-materials")
@pytest.mark.parametrize(
    ("policy", "suite", "expected"),
    [
        (REQUIRE, NOT_COMMITTING, CommitmentPolicyError),
        (ALLOW, NOT_COMMITTING, ProviderError),
        (REQUIRE, UNSIGNED, ProviderError),
        (FORBID, UNSIGNED, ProviderError),
    ],
)
async def test_materials_for_another_suite_than_the_header_has(
    policy: CommitmentPolicy, suite: AlgorithmSuite, expected: type[EncryptionError]
) -> None:
    cmm = OwnCMM(algorithm_suite=suite)
    client = EncryptionClient(commitment_policy=policy)
    error = await fails_to_decrypt(await message_of(cmm.key), cmm, expected, client)
    assert type(error) is expected
    if expected is ProviderError:
        assert str(error) == (
            f"OwnCMM.decrypt_materials returned materials for {suite.name}, and the message has {SIGNED.name}"
        )


# The number of encrypted data keys


@pytest.mark.spec("client-apis/encrypt.md#get-the-encryption-materials")
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("own", [True, False], ids=["own CMM", "provider"])
@on_asyncio
async def test_the_number_of_encrypted_data_keys(count: int, own: bool) -> None:
    keys = MultiMasterKeyProvider(*(OwnKey(str(i)) for i in range(count)))
    cmm = OwnCMM()
    cmm.inner = DefaultCMM(keys)
    provider: Any = cmm if own else keys
    message, _ = await encrypt(PLAINTEXT, provider)
    client = EncryptionClient(max_encrypted_data_keys=3)
    if count <= 3:
        assert (await client.decrypt(message, provider)).plaintext == PLAINTEXT
        assert len((await client.encrypt(PLAINTEXT, provider)).header.encrypted_data_keys) == count
        return
    cmm.asked.clear()
    errors = [
        await fails_to_encrypt(provider, LimitError, client),
        await fails_to_decrypt(message, provider, LimitError, client),
    ]
    for error in errors:
        assert isinstance(error, LimitError)
        assert (error.parameter, error.limit, error.actual) == ("max_encrypted_data_keys", 3, 4)
    assert not any(isinstance(request, DecryptionMaterialsRequest) for request in cmm.asked)


# Materials that cannot be right

CHANGED_TO_WRITE: dict[str, dict[str, Any]] = {
    "data key too short": {"data_key": DataKey(bytes(31))},
    "data key too long": {"data_key": DataKey(bytes(33))},
    "no data key": {"data_key": DataKey(b"")},
    "no encrypted data keys": {"encrypted_data_keys": ()},
    "no signer": {"signer": None},
    "a context that is too long": {"encryption_context": {"k": "v" * 65535}},
    "required keys that are not there": {"required_encryption_context_keys": frozenset({"x"})},
}
CHANGED_TO_READ: dict[str, dict[str, Any]] = {
    "data key too short": {"data_key": DataKey(bytes(31))},
    "data key too long": {"data_key": DataKey(bytes(33))},
    "no data key": {"data_key": DataKey(b"")},
    "another data key": {"data_key": DataKey(bytes(32))},
    "no verification key": {"verification_key": None},
    "required keys that are not there": {"required_encryption_context_keys": frozenset({"x"})},
    "a required key that is stored": {"required_encryption_context_keys": frozenset({"tenant"})},
}
OURS = (MessageError, PolicyError, ProviderError, ValueError)


@pytest.mark.spec(
    "framework/cmm-interface.md#get-encryption-materials",
    "framework/structures.md#overview",
    "framework/structures.md#plaintext-data-key",
    "framework/structures.md#required-encryption-context-keys",
)
@pytest.mark.parametrize("changes", CHANGED_TO_WRITE.values(), ids=CHANGED_TO_WRITE)
@on_asyncio
async def test_materials_that_cannot_be_right(changes: dict[str, Any]) -> None:
    await fails_to_encrypt(OwnCMM(**changes), OURS)


@pytest.mark.spec("framework/structures.md#signing-key")
async def test_a_signer_for_a_suite_that_does_not_sign() -> None:
    cmm = OwnCMM(suite=UNSIGNED, signer=lambda digest: hashlib.sha256(digest).digest())
    await fails_to_encrypt(cmm, ProviderError)


@pytest.mark.spec(
    "framework/cmm-interface.md#decrypt-materials",
    "framework/structures.md#overview",
    "framework/structures.md#plaintext-data-key-1",
    "framework/structures.md#required-encryption-context-keys-1",
)
@pytest.mark.parametrize("changes", CHANGED_TO_READ.values(), ids=CHANGED_TO_READ)
@on_asyncio
async def test_materials_that_cannot_open_the_message(changes: dict[str, Any]) -> None:
    cmm = OwnCMM(**changes)
    await fails_to_decrypt(await message_of(cmm.key), cmm, OURS)


@pytest.mark.spec("framework/structures.md#verification-key")
@pytest.mark.parametrize("point", [b"", b"\x02" * 33, b"\x02" + bytes(48), b"\x04" + bytes(48)], ids=len)
async def test_a_verification_key_that_is_not_that_of_the_message(point: bytes) -> None:
    cmm = OwnCMM(verification_key=point)
    message = await message_of(cmm.key)
    with pytest.raises(SignatureError):
        await decrypt(message, cmm)
    assert_idle()


@pytest.mark.parametrize("error", [ProviderError("no"), PolicyError("no"), TagError("no")], ids=repr)
async def test_the_errors_of_a_cmm_pass(error: Exception) -> None:
    class Failing(OwnCMM):
        async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
            raise error

        async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
            raise error

    message = await message_of(OwnKey("a"))
    assert await fails_to_encrypt(Failing(), type(error)) is error
    assert await fails_to_decrypt(message, Failing(), type(error)) is error
