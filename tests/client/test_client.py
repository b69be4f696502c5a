"""The client: its settings, what it refuses, and what it asks a manager for."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import attrs
import pytest

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    CommitmentPolicyError,
    DefaultCMM,
    EncryptionClient,
    LimitError,
    Limits,
    MultiMasterKeyProvider,
    Offload,
    PlaintextLengthError,
    RawAESMasterKey,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.integrations import aiohttp, asgi
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from aioencrypt.integrations.s3 import put_encrypted
from aioencrypt.materials import (
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from tests.support.messages import build_message, example_signing_key, public_key_pair
from tests.support.rows import each_row
from tests.support.streaming import KEY, SIGNED, UNSIGNED, Feed, on_asyncio
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

Policy = CommitmentPolicy
COMMITTING = {AlgorithmSuite(0x0478), AlgorithmSuite(0x0578)}
# framework/commitment-policy.md: what each policy writes, and what it reads
WRITTEN = {
    Policy.FORBID_ENCRYPT_ALLOW_DECRYPT: set(AlgorithmSuite) - COMMITTING,
    Policy.REQUIRE_ENCRYPT_ALLOW_DECRYPT: COMMITTING,
    Policy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT: COMMITTING,
}
READ = {
    Policy.FORBID_ENCRYPT_ALLOW_DECRYPT: set(AlgorithmSuite),
    Policy.REQUIRE_ENCRYPT_ALLOW_DECRYPT: set(AlgorithmSuite),
    Policy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT: COMMITTING,
}
DEFAULT_SUITES = {
    Policy.FORBID_ENCRYPT_ALLOW_DECRYPT: AlgorithmSuite(0x0378),
    Policy.REQUIRE_ENCRYPT_ALLOW_DECRYPT: SIGNED,
    Policy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT: SIGNED,
}
policies = pytest.mark.parametrize("policy", Policy, ids=lambda policy: policy.name)
all_suites = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))


# Settings


@pytest.mark.spec("client-apis/client.md#initialization")
def test_a_client_says_what_it_is_set_to() -> None:
    assert repr(EncryptionClient()) == (
        "EncryptionClient(commitment_policy=REQUIRE_ENCRYPT_REQUIRE_DECRYPT, max_encrypted_data_keys=None, "
        "limits=Limits(max_header_length=1048576, max_frame_length=67108864, max_plaintext_length=None))"
    )
    client = EncryptionClient(
        commitment_policy=Policy.FORBID_ENCRYPT_ALLOW_DECRYPT,
        max_encrypted_data_keys=2,
        limits=Limits(max_header_length=1, max_frame_length=None, max_plaintext_length=3),
        offload=Offload.INLINE,
    )
    assert repr(client) == (
        "EncryptionClient(commitment_policy=FORBID_ENCRYPT_ALLOW_DECRYPT, max_encrypted_data_keys=2, "
        "limits=Limits(max_header_length=1, max_frame_length=None, max_plaintext_length=3))"
    )


@pytest.mark.spec("client-apis/client.md#initialization")
@policies
def test_the_commitment_policy_does_not_change(policy: CommitmentPolicy) -> None:
    """client.md#initialization."""
    client: Any = EncryptionClient(commitment_policy=policy)
    assert client.commitment_policy is policy
    with pytest.raises(AttributeError):
        client.commitment_policy = policy


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"max_encrypted_data_keys": 0},
            ValueError,
            "max_encrypted_data_keys is 0; it must be 1 or more, or",
        ),
        ({"max_encrypted_data_keys": -1}, ValueError, "max_encrypted_data_keys is -1; it must be 1 or more"),
        ({"max_encrypted_data_keys": "1"}, TypeError, "int"),
        ({"commitment_policy": "none"}, ValueError, "commitment_policy is 'none'; it must be one of"),
        (
            {"commitment_policy": None},
            TypeError,
            "commitment_policy must be a CommitmentPolicy, not NoneType",
        ),
        ({"offload": "elsewhere"}, ValueError, "offload is 'elsewhere'; it must be one of 'auto', 'inline'"),
        ({"frame_length": "10"}, TypeError, "frame_length must be an int, not str"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        EncryptionClient(**settings)


def test_the_module_has_the_functions_of_one_client_with_the_defaults() -> None:
    names = ("encrypt", "encrypt_stream", "decrypt", "decrypt_stream", "open")
    functions: list[Any] = [getattr(aioencrypt, name) for name in names]
    (client,) = {function.__self__ for function in functions}
    assert type(client) is EncryptionClient
    assert repr(client) == repr(EncryptionClient())
    assert [function.__name__ for function in functions] == list(names)


# Commitment policy


@pytest.mark.spec(
    "client-apis/client.md#commitment-policy", "client-apis/encrypt.md#get-the-encryption-materials"
)
@policies
@each_row("suite", AlgorithmSuite)
@on_asyncio
async def test_commitment_policy_for_writing(suite: AlgorithmSuite, policy: CommitmentPolicy) -> None:
    """encrypt.md#algorithm-suite, framework/commitment-policy.md."""
    client, key = EncryptionClient(commitment_policy=policy), CountingKey()
    if suite in WRITTEN[policy]:
        _, header = await client.encrypt(b"abc", key, algorithm_suite=suite)
        assert header.algorithm_suite is suite
        return
    text = f"{policy.name} does not allow encrypting with {suite.name}; .* get {DEFAULT_SUITES[policy].name}"
    for start in (
        client.encrypt_stream,
        lambda *args, **named: client.open("x", "wb", provider=key, **named),
    ):
        with pytest.raises(CommitmentPolicyError, match=text):
            start(b"abc", key, algorithm_suite=suite)
    with pytest.raises(CommitmentPolicyError, match=text):
        await client.encrypt(b"abc", key, algorithm_suite=suite)
    assert key.calls == []


@pytest.mark.spec("client-apis/encrypt.md#input")
@policies
async def test_the_default_suite(policy: CommitmentPolicy) -> None:
    """framework/algorithm-suites.md: the defaults of the policies."""
    client = EncryptionClient(commitment_policy=policy)
    assert (await client.encrypt(b"abc", KEY)).header.algorithm_suite is DEFAULT_SUITES[policy]


@pytest.mark.spec(
    "client-apis/client.md#commitment-policy", "client-apis/decrypt.md#get-the-decryption-materials"
)
@policies
@each_row("suite", AlgorithmSuite)
@on_asyncio
async def test_commitment_policy_for_reading(suite: AlgorithmSuite, policy: CommitmentPolicy) -> None:
    """decrypt.md#get-the-decryption-materials: refused before any key call."""
    client, key = EncryptionClient(commitment_policy=policy), CountingKey()
    pairs = public_key_pair(example_signing_key(suite)) if suite.signed else None
    message = build_message(suite, b"abc", encryption_context=pairs).data
    if suite in READ[policy]:
        assert (await client.decrypt(message, key)).plaintext == b"abc"
        return
    text = f"{policy.name} does not allow decrypting {suite.name}, .* use REQUIRE_ENCRYPT_ALLOW_DECRYPT"
    for source in (message, Feed(message)):
        with pytest.raises(CommitmentPolicyError, match=text):
            await client.decrypt(source, key)
    with pytest.raises(CommitmentPolicyError, match=text):
        await client.decrypt_stream(message, key).__aenter__()
    assert key.calls == []


# Encrypted data keys


def keys(count: int) -> MultiMasterKeyProvider:
    return MultiMasterKeyProvider(
        *(RawAESMasterKey("tests", f"key {i}", wrapping_key=bytes(32)) for i in range(count))
    )


@pytest.mark.spec("client-apis/client.md#maximum-number-of-encrypted-data-keys")
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_max_encrypted_data_keys_in_both_directions(count: int) -> None:
    """client.md#maximum-number-of-encrypted-data-keys."""
    message, header = await EncryptionClient(max_encrypted_data_keys=count).encrypt(b"abc", keys(count))
    assert len(header.encrypted_data_keys) == count
    assert (
        await EncryptionClient(max_encrypted_data_keys=count).decrypt(message, keys(1))
    ).plaintext == b"abc"
    if count == 1:
        return
    client, source, counting = (
        EncryptionClient(max_encrypted_data_keys=count - 1),
        Feed(b"abc"),
        CountingKey(),
    )
    refused: list[Callable[[], Any]] = [
        lambda: client.encrypt(b"abc", keys(count)),
        lambda: client.encrypt_stream(source, keys(count)).__aenter__(),
        lambda: client.decrypt(message, counting),
        lambda: client.decrypt_stream(Feed(message), counting).__aenter__(),
    ]
    for attempt in refused:
        with pytest.raises(
            LimitError, match=f"the number of encrypted data keys is {count}, above"
        ) as caught:
            await attempt()
        error = caught.value
        assert (error.parameter, error.limit, error.actual) == ("max_encrypted_data_keys", count - 1, count)
    assert source.reads == 0
    assert counting.calls == []


@pytest.mark.spec(
    "client-apis/client.md#initialization", "client-apis/client.md#maximum-number-of-encrypted-data-keys"
)
async def test_no_maximum_is_the_default() -> None:
    message, header = await encrypt(b"abc", keys(40))
    assert len(header.encrypted_data_keys) == 40
    assert (await decrypt(message, keys(1))).plaintext == b"abc"


@attrs.define
class RecordingCMM:
    """A CMM of its own kind: records what it is asked for, and may give more data keys."""

    more_keys: tuple[EncryptedDataKey, ...] = ()
    inner: DefaultCMM = attrs.field(factory=lambda: DefaultCMM(KEY))
    requests: list[Any] = attrs.field(factory=list)

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        self.requests.append(request)
        materials = await self.inner.get_encryption_materials(request)
        return attrs.evolve(materials, encrypted_data_keys=materials.encrypted_data_keys + self.more_keys)

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> Any:
        self.requests.append(request)
        return await self.inner.decrypt_materials(request)


async def test_what_a_manager_returns_is_limited_too() -> None:
    cmm = RecordingCMM(more_keys=(EncryptedDataKey("other", b"", b""),) * 2)
    client = EncryptionClient(max_encrypted_data_keys=2)
    for source in (b"abc", Feed(b"abc")):
        with pytest.raises(LimitError) as caught:
            await client.encrypt(source, cmm)
        assert (caught.value.limit, caught.value.actual) == (2, 3)
    _, header = await EncryptionClient(max_encrypted_data_keys=3).encrypt(b"abc", cmm)
    assert len(header.encrypted_data_keys) == 3


# What a manager is asked for


@pytest.mark.spec(
    "client-apis/encrypt.md#get-the-encryption-materials",
    "client-apis/encrypt.md#input",
    "framework/cmm-interface.md#encryption-materials-request",
)
@pytest.mark.parametrize(
    ("source", "lengths", "told"),
    [
        (b"abc", {}, 3),
        (bytearray(b"abc"), {}, 3),
        (memoryview(b"abcdef")[::2], {}, 3),
        (b"", {}, 0),
        (b"abc", {"plaintext_length": 3, "plaintext_length_bound": 9}, 3),
        (b"abc", {"plaintext_length_bound": 9}, 3),
        (None, {}, None),
        (None, {"plaintext_length": 3}, 3),
        (None, {"plaintext_length": 3, "plaintext_length_bound": 9}, 3),
        (None, {"plaintext_length_bound": 9}, 9),
    ],
)
async def test_a_manager_is_told_the_length_or_its_bound(
    source: Any, lengths: dict[str, int], told: int | None
) -> None:
    """encrypt.md#get-the-encryption-materials: max plaintext length."""
    cmm = RecordingCMM()
    context = {"tenant": "42"}
    for suite in (None, UNSIGNED):
        for one_shot in (True, False):
            data = Feed(b"abc") if source is None else source
            options: dict[str, Any] = {"encryption_context": context, "algorithm_suite": suite, **lengths}
            if one_shot:
                await encrypt(data, cmm, **options)
            else:
                async with encrypt_stream(data, cmm, **options) as stream:
                    await stream.read()
        assert (
            cmm.requests[-2:]
            == [
                EncryptionMaterialsRequest(
                    commitment_policy=Policy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
                    encryption_context=context,
                    algorithm_suite=suite,
                    plaintext_length=told,
                )
            ]
            * 2
        )


@pytest.mark.spec(
    "client-apis/decrypt.md#get-the-decryption-materials",
    "framework/cmm-interface.md#decrypt-materials-request",
)
async def test_a_manager_is_told_both_contexts_on_decrypt() -> None:
    """decrypt.md#get-the-decryption-materials."""
    cmm = RecordingCMM()
    message, header = await encrypt(b"abc", cmm, encryption_context={"tenant": "42", "a": "b"})
    await decrypt(message, cmm, encryption_context={"a": "b"})
    assert cmm.requests[-1] == DecryptionMaterialsRequest(
        algorithm_suite=SIGNED,
        commitment_policy=Policy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        encrypted_data_keys=header.encrypted_data_keys,
        encryption_context=header.encryption_context,
        reproduced_encryption_context={"a": "b"},
    )


# Providers


@pytest.mark.spec(
    "client-apis/client.md#encrypt",
    "client-apis/client.md#decrypt",
    "client-apis/decrypt.md#input",
    "client-apis/decrypt.md#keyring",
)
@pytest.mark.parametrize(
    "provider",
    [KEY, MultiMasterKeyProvider(KEY), DefaultCMM(KEY), RecordingCMM()],
    ids=["master-key", "provider", "default-cmm", "own-cmm"],
)
async def test_a_provider_is_a_master_key_a_provider_or_a_manager(provider: Any) -> None:
    message, _ = await encrypt(b"abc", provider)
    assert (await decrypt(message, provider)).plaintext == b"abc"
    async with encrypt_stream(b"abc", provider) as stream, decrypt_stream(stream, provider) as opened:
        assert await opened.read() == b"abc"


@pytest.mark.spec("client-apis/decrypt.md#input")
@pytest.mark.parametrize(
    "provider",
    [None, b"key", "key", object(), RawAESMasterKey, DefaultCMM, RecordingCMM, MultiMasterKeyProvider, [KEY]],
)
async def test_what_is_no_provider_is_refused_at_once(provider: Any) -> None:
    for refused in (
        lambda: encrypt_stream(b"abc", provider),
        lambda: decrypt_stream(b"abc", provider),
        lambda: aioencrypt.open("missing", "rb", provider=provider),
        lambda: aioencrypt.open("missing", "wb", provider=provider),
    ):
        with pytest.raises(TypeError, match="is neither a master key, nor a provider, nor a CMM"):
            refused()
    for function in (encrypt, decrypt):
        with pytest.raises(TypeError, match="is neither a master key, nor a provider, nor a CMM"):
            await function(b"abc", provider)


# Lengths


@pytest.mark.spec(
    "client-apis/encrypt.md#frame-length", "client-apis/encrypt.md#un-framed-message-body-encryption"
)
@pytest.mark.parametrize("frame_length", [0, -1, 2**32, 10**12])
async def test_frame_lengths_outside_the_format_are_refused(frame_length: int) -> None:
    text = f"frame_length is {frame_length}; it must be 1 to 4294967295"
    with pytest.raises(ValueError, match=text):
        encrypt_stream(b"abc", KEY, frame_length=frame_length)
    with pytest.raises(ValueError, match=text):
        await encrypt(b"abc", KEY, frame_length=frame_length)


@pytest.mark.spec("client-apis/encrypt.md#frame-length")
@pytest.mark.parametrize("frame_length", [1, 2, 2**31, 2**32 - 1])
async def test_frame_lengths_at_the_bounds_of_the_format(frame_length: int) -> None:
    message, header = await encrypt(b"abc", KEY, frame_length=frame_length)
    assert header.frame_length == frame_length
    client = EncryptionClient(limits=Limits(max_frame_length=None))
    assert (await client.decrypt(message, KEY)).plaintext == b"abc"


@pytest.mark.spec("client-apis/encrypt.md#frame-length")
async def test_the_default_frame_length() -> None:
    assert (await encrypt(b"abc", KEY)).header.frame_length == 4096


async def test_the_default_frame_length_of_a_client(tmp_path: Path) -> None:
    client = EncryptionClient(frame_length=1000)
    assert (await client.encrypt(b"abc", KEY)).header.frame_length == 1000
    assert (await client.encrypt(b"abc", KEY, frame_length=10)).header.frame_length == 10
    async with client.encrypt_stream(b"abc", KEY) as stream:
        assert stream.header.frame_length == 1000
        await stream.read()
    async with client.open(tmp_path / "message", "wb", provider=KEY) as writer:
        assert writer.header.frame_length == 1000
    with pytest.raises(ValueError, match="frame_length is 0; it must be 1 to 4294967295"):
        EncryptionClient(frame_length=0)


@pytest.mark.parametrize(
    "function",
    [
        EncryptionClient.encrypt,
        EncryptionClient.encrypt_stream,
        EncryptionClient.open,
        aiohttp.encrypt_upload,
        aiohttp.encrypted_payload,
        asgi.encrypt_upload,
        put_encrypted,
        EncryptedFileSystem.__init__,
    ],
    ids=lambda function: f"{function.__module__}.{function.__qualname__}",
)
def test_no_operation_overrides_the_frame_length_of_its_client(function: Any) -> None:
    assert signature(function).parameters["frame_length"].default is None


@pytest.mark.parametrize("name", ["plaintext_length", "plaintext_length_bound"])
def test_negative_lengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1; it must be 0 or more"):
        encrypt_stream(Feed(), KEY, **{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "given"), [(0, 1), (3, 0), (3, 2), (3, 4), (10_000, 9_999)])
async def test_a_wrong_plaintext_length_of_bytes_is_an_error(length: int, given: int) -> None:
    for source in (bytes(length), bytearray(length), memoryview(bytes(length)), Feed(bytes(length))):
        with pytest.raises(PlaintextLengthError) as caught:
            await encrypt(source, KEY, plaintext_length=given)
        assert caught.value.expected == given
        assert caught.value.actual == length
        async with encrypt_stream(bytes(length), KEY, plaintext_length=given) as stream:
            with pytest.raises(PlaintextLengthError):
                await stream.read()
            stream.abandon()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"algorithm_suite": 0x0578}, "algorithm_suite must be an AlgorithmSuite, not int"),
        ({"frame_length": 10.0}, "frame_length must be an int, not float"),
        ({"plaintext_length": 3.0}, "plaintext_length must be an int, not float"),
        ({"plaintext_length_bound": "3"}, "plaintext_length_bound must be an int, not str"),
        (
            {"encryption_context": [("a", "b")]},
            "an encryption context must be a mapping of str to str, not list",
        ),
        ({"encryption_context": "ab"}, "an encryption context must be a mapping of str to str, not str"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        encrypt_stream(b"abc", KEY, **options)
