"""Raw AES keys, compared with AES-GCM of `cryptography`. Specification: framework/raw-aes-keyring.md."""

from __future__ import annotations

import base64
import copy
import pickle
from collections.abc import Callable, Mapping

import attrs
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings, strategies as st

from aioencrypt import (
    AlgorithmSuite,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from tests.support.messages import context_bytes, example_data_key, sorted_context
from tests.support.providers import CONTEXT, SUITE, asking
from tests.support.rows import each_row
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

WRAPPING_KEY = bytes(range(32))
KEY = RawAESMasterKey("mine", "kéy", wrapping_key=WRAPPING_KEY)
DATA_KEY = DataKey(example_data_key(SUITE))
IV = bytes(range(50, 62))
# Tag length in bits, IV length in bytes.
LENGTHS = b"\x00\x00\x00\x80\x00\x00\x00\x0c"
CONTEXTS: list[dict[str, str]] = [
    {},
    CONTEXT,
    {"z": "1", "a": "", "größe": "ß", "": "x"},
    # UTF-8 and UTF-16 sort these differently
    {"\U00010000": "1", "\uffff": "2"},
]
each_length = pytest.mark.parametrize("length", [16, 24, 32])


def entry(
    wrapping_key: bytes = WRAPPING_KEY,
    *,
    aad: bytes,
    namespace: str = "mine",
    name: str = "kéy",
    data_key: bytes = DATA_KEY.plaintext,
) -> EncryptedDataKey:
    """Make an encrypted data key as the specification describes it."""
    info = name.encode() + LENGTHS + IV
    return EncryptedDataKey(namespace, info, AESGCM(wrapping_key).encrypt(IV, data_key, aad))


# The format


@pytest.mark.spec(
    "framework/raw-aes-keyring.md#onencrypt",
    "framework/raw-aes-keyring.md#wrapping-algorithm",
    "framework/raw-aes-keyring.md#authentication-tag-length",
    "framework/raw-aes-keyring.md#iv-length",
)
@each_length
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@on_asyncio
async def test_what_it_writes(length: int, context: Mapping[str, str]) -> None:
    key = RawAESMasterKey("mine", "kéy", wrapping_key=WRAPPING_KEY[:length])
    encrypted = await key.encrypt_data_key(DATA_KEY, asking(context=context))
    assert encrypted.provider_id == "mine"
    assert encrypted.provider_info[:-12] == "kéy".encode() + LENGTHS
    assert len(encrypted.ciphertext) == 32 + 16
    iv = encrypted.provider_info[-12:]
    plaintext = AESGCM(WRAPPING_KEY[:length]).decrypt(iv, encrypted.ciphertext, sorted_context(context))
    assert plaintext == DATA_KEY.plaintext


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
@each_length
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@on_asyncio
async def test_what_it_reads(length: int, context: Mapping[str, str]) -> None:
    key = RawAESMasterKey("mine", "kéy", wrapping_key=WRAPPING_KEY[:length])
    encrypted = entry(WRAPPING_KEY[:length], aad=sorted_context(context))
    opened = await key.decrypt_data_key(asking(encrypted, context=context))
    assert (opened.data_key, opened.encrypted_data_key, opened.master_key) == (DATA_KEY, encrypted, key)


async def test_an_empty_context_is_no_bytes() -> None:
    opened = await KEY.decrypt_data_key(asking(entry(aad=b""), context={}))
    assert opened.data_key == DATA_KEY
    with pytest.raises(ProviderError):
        await KEY.decrypt_data_key(asking(entry(aad=b"\0\0"), context={}))


async def test_the_order_of_the_context_does_not_matter() -> None:
    encrypted = await KEY.encrypt_data_key(DATA_KEY, asking(context={"b": "1", "a": "2"}))
    assert (await KEY.decrypt_data_key(asking(encrypted, context={"a": "2", "b": "1"}))).data_key == DATA_KEY


@pytest.mark.parametrize("order", ["bC", "Cb", "Ab"])
async def test_the_orders_of_javascript_open_too(order: str) -> None:
    """Those of the request, which is that of the header, and of its locale; it writes neither."""
    context = {key: key for key in order}
    encrypted = await KEY.encrypt_data_key(DATA_KEY, asking(context=context))
    iv = encrypted.provider_info[-12:]
    AESGCM(WRAPPING_KEY).decrypt(iv, encrypted.ciphertext, sorted_context(context))
    for asked in (context, dict(reversed(context.items()))):
        orders = {tuple(asked), tuple(sorted(asked)), tuple(sorted(asked, key=str.lower))}
        for pairs in (tuple(asked), tuple(reversed(asked))):
            encrypted = entry(aad=context_bytes([(key, key) for key in pairs]))
            request = asking(encrypted, context=asked)
            if pairs in orders:
                assert (await KEY.decrypt_data_key(request)).data_key == DATA_KEY
            else:
                await refused(KEY, encrypted, asked)


@pytest.mark.spec("framework/raw-aes-keyring.md#onencrypt")
@each_row("suite", AlgorithmSuite)
@each_length
@on_asyncio
async def test_a_new_data_key_for_every_suite(suite: AlgorithmSuite, length: int) -> None:
    key = RawAESMasterKey("mine", "kéy", wrapping_key=WRAPPING_KEY[:length])
    data_key, encrypted = await key.generate_data_key(asking(suite=suite))
    assert len(data_key.plaintext) == suite.data_key_length
    assert len(encrypted.ciphertext) == suite.data_key_length + 16
    opened = await key.decrypt_data_key(asking(encrypted, suite=suite))
    assert opened.data_key == data_key


@pytest.mark.spec("framework/raw-aes-keyring.md#onencrypt")
async def test_ivs_and_data_keys_are_new_each_time() -> None:
    made = [await KEY.generate_data_key(asking()) for _ in range(50)]
    made += [(DATA_KEY, await KEY.encrypt_data_key(DATA_KEY, asking())) for _ in range(50)]
    assert len({encrypted.provider_info[-12:] for _, encrypted in made}) == 100
    assert len({data_key.plaintext for data_key, _ in made}) == 51


@pytest.mark.spec("framework/raw-aes-keyring.md#onencrypt", "framework/raw-aes-keyring.md#ondecrypt")
async def test_a_context_that_cannot_be_serialized() -> None:
    too_long = asking(context={"k": "v" * 65535})
    with pytest.raises(ProviderError, match="above the 65535 of the message format") as caught:
        await make_data_key(KEY, too_long)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ProviderError, match="above the 65535 of the message format"):
        await KEY.decrypt_data_key(attrs.evolve(too_long, encrypted_data_keys=(entry(aad=b""),)))


# Whose data key it is


@pytest.mark.spec(
    "framework/raw-aes-keyring.md#ondecrypt",
    "framework/raw-aes-keyring.md#authentication-tag-length",
    "framework/raw-aes-keyring.md#iv-length",
)
@pytest.mark.parametrize(
    ("namespace", "info", "owned"),
    [
        ("mine", "kéy".encode() + LENGTHS + IV, True),
        ("mine", "kéy".encode() + LENGTHS + bytes(12), True),
        ("Mine", "kéy".encode() + LENGTHS + IV, False),
        ("mine ", "kéy".encode() + LENGTHS + IV, False),
        ("", "kéy".encode() + LENGTHS + IV, False),
        ("mine\udce9", "kéy".encode() + LENGTHS + IV, False),
        ("mine", b"key" + LENGTHS + IV, False),
        ("mine", "kéy".encode("latin-1") + LENGTHS + IV, False),
        ("mine", "kéyx".encode() + LENGTHS + IV, False),
        ("mine", "ké".encode() + LENGTHS + IV, False),
        ("mine", LENGTHS + IV, False),
        ("mine", "kéy".encode(), False),
        ("mine", "kéy".encode() + LENGTHS, False),
        ("mine", "kéy".encode() + LENGTHS + IV[:-1], False),
        ("mine", "kéy".encode() + LENGTHS + IV + b"\0", False),
        ("mine", "kéy".encode() + b"\0\0\0\x60\0\0\0\x0c" + IV, False),
        ("mine", "kéy".encode() + b"\0\0\0\x10\0\0\0\x0c" + IV, False),
        ("mine", "kéy".encode() + b"\0\0\0\x80\0\0\0\x0b" + IV, False),
        ("mine", "kéy".encode() + b"\0\0\0\x80\0\0\0\x0d" + IV + b"\0", False),
        ("mine", b"", False),
    ],
)
@on_asyncio
async def test_which_data_keys_it_owns(namespace: str, info: bytes, owned: bool) -> None:
    """It tries those and no others."""
    encrypted = EncryptedDataKey(namespace, info, b"")
    assert KEY.owns_data_key(encrypted) is owned
    with pytest.raises(ProviderError) as caught:
        await KEY.decrypt_data_key(asking(encrypted))
    assert len(caught.value.attempts) == owned


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
def test_a_name_that_ends_as_the_lengths_do() -> None:
    short = RawAESMasterKey("mine", "k", wrapping_key=WRAPPING_KEY)
    name = "k" + (LENGTHS[:3] + b"\x00" + LENGTHS[4:]).decode()
    long = RawAESMasterKey("mine", name, wrapping_key=WRAPPING_KEY)
    ours = EncryptedDataKey("mine", name.encode() + LENGTHS + IV, b"")
    assert (short.owns_data_key(ours), long.owns_data_key(ours)) == (False, True)


# What does not open


async def refused(
    key: RawAESMasterKey, encrypted: EncryptedDataKey, context: Mapping[str, str] = CONTEXT
) -> None:
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(encrypted, context=context))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "mine", "kéy")
    assert str(attempt.error) == (
        "the encrypted data key fails authentication: another wrapping key or encryption context"
    )
    assert isinstance(attempt.error.__cause__, InvalidTag)


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    "other", [bytes(32), WRAPPING_KEY[:24], WRAPPING_KEY[:16], WRAPPING_KEY[::-1]], ids=len
)
async def test_another_wrapping_key(other: bytes) -> None:
    key = RawAESMasterKey("mine", "kéy", wrapping_key=other)
    await refused(key, entry(aad=sorted_context(CONTEXT)))


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    "context", [{}, {"tenant": "43"}, {"Tenant": "42"}, {**CONTEXT, "more": ""}, {"tenant4": "2"}], ids=str
)
async def test_another_context(context: Mapping[str, str]) -> None:
    await refused(KEY, entry(aad=sorted_context(CONTEXT)), context)


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
@on_asyncio
async def test_every_changed_byte_is_noticed() -> None:
    right = entry(aad=sorted_context(CONTEXT))
    for position in range(len(right.ciphertext)):
        changed = bytearray(right.ciphertext)
        changed[position] ^= 1
        await refused(KEY, attrs.evolve(right, ciphertext=bytes(changed)))
    for position in range(1, 13):
        info = bytearray(right.provider_info)
        info[-position] ^= 0x80
        await refused(KEY, attrs.evolve(right, provider_info=bytes(info)))


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
@on_asyncio
async def test_ciphertexts_that_are_cut_or_extended() -> None:
    right = entry(aad=sorted_context(CONTEXT))
    for length in range(len(right.ciphertext)):
        await refused(KEY, attrs.evolve(right, ciphertext=right.ciphertext[:length]))
    await refused(KEY, attrs.evolve(right, ciphertext=right.ciphertext + b"\0"))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
async def test_a_data_key_of_the_wrong_length(length: int) -> None:
    encrypted = entry(aad=sorted_context(CONTEXT), data_key=bytes(length))
    with pytest.raises(ProviderError, match=f"the data key has {length} bytes; the suite needs 32"):
        await KEY.decrypt_data_key(asking(encrypted))


# The key itself


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_of_any_kind(kind: Callable[[bytes], bytes]) -> None:
    key = RawAESMasterKey("mine", "kéy", wrapping_key=kind(WRAPPING_KEY))
    opened = await key.decrypt_data_key(asking(entry(aad=sorted_context(CONTEXT))))
    assert opened.data_key == DATA_KEY


async def test_a_buffer_may_be_wiped_afterwards() -> None:
    buffer = bytearray(WRAPPING_KEY)
    key = RawAESMasterKey("mine", "kéy", wrapping_key=buffer)
    buffer[:] = bytes(32)
    buffer.clear()
    opened = await key.decrypt_data_key(asking(entry(aad=sorted_context(CONTEXT))))
    assert opened.data_key == DATA_KEY


@pytest.mark.spec(
    "framework/raw-aes-keyring.md#wrapping-key", "framework/raw-aes-keyring.md#wrapping-algorithm"
)
@pytest.mark.parametrize("length", [0, 1, 15, 17, 23, 25, 31, 33, 64, 128, 256])
def test_lengths_that_are_no_aes_key(length: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^wrapping_key has {length} bytes; an AES key must have 16, 24 or 32$"
    ):
        RawAESMasterKey("mine", "kéy", wrapping_key=bytes(length))


@pytest.mark.parametrize("text", [bytes(32).hex(), base64.b64encode(bytes(32)).decode() + "\n", "+/" * 22])
def test_a_wrapping_key_that_was_not_decoded(text: str) -> None:
    for wrong in (text, text.encode()):
        with pytest.raises((TypeError, ValueError), match=r"decode base64 or hexadecimal first$"):
            RawAESMasterKey("mine", "kéy", wrapping_key=wrong)  # type: ignore[arg-type]


@pytest.mark.spec("framework/raw-aes-keyring.md#initialization")
@pytest.mark.parametrize("wrong", [16, 24, 32, "0" * 32, None, [7] * 32, range(32)], ids=repr)
def test_what_is_no_wrapping_key(wrong: object) -> None:
    """`bytes(32)` is a key of zeros: a number must not become one."""
    with pytest.raises(TypeError):
        RawAESMasterKey("mine", "kéy", wrapping_key=wrong)  # type: ignore[arg-type]


@pytest.mark.spec("framework/raw-aes-keyring.md#initialization")
@pytest.mark.parametrize(
    ("namespace", "name", "error"),
    [
        ("aws-kms", "name", ValueError),
        ("aws-kms-hierarchy", "name", ValueError),
        (b"mine", "name", TypeError),
        ("mine", None, TypeError),
        ("mine", "a" * 65516, ValueError),
    ],
)
def test_names_are_checked(namespace: str, name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^key_name"):
        RawAESMasterKey(namespace, name, wrapping_key=WRAPPING_KEY)


async def test_the_longest_names_fit_into_a_message() -> None:
    longest = "a" * 65515
    key = RawAESMasterKey(longest, longest, wrapping_key=WRAPPING_KEY)
    message, header = await encrypt(b"attack at dawn", key)
    assert len(header.encrypted_data_keys[0].provider_info) == 65535
    assert (await decrypt(message, key)).plaintext == b"attack at dawn"


def test_what_it_says_of_itself() -> None:
    assert (KEY.provider_id, KEY.key_id) == ("mine", "kéy")
    assert repr(KEY) == "RawAESMasterKey('mine', 'kéy')"


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(
        TypeError, match="RawAESMasterKey holds key bytes and cannot be pickled or copied; create it"
    ):
        duplicate(KEY)


# Keys beside each other


async def test_keys_of_one_name_and_other_bytes() -> None:
    """Names do not tell them apart, so each is tried."""
    keys = [RawAESMasterKey("mine", "kéy", wrapping_key=bytes([i]) * 32) for i in range(3)]
    for key in keys:
        message, _ = await encrypt(b"attack at dawn", key, encryption_context=CONTEXT)
        for provider in (MultiMasterKeyProvider(None, *keys), MultiMasterKeyProvider(*reversed(keys))):
            assert (await decrypt(message, provider)).plaintext == b"attack at dawn"
    with pytest.raises(ProviderError) as caught:
        await decrypt(message, MultiMasterKeyProvider(*keys[:2]))
    assert [attempt.key_id for attempt in caught.value.attempts] == ["kéy"] * 2


@pytest.mark.spec("framework/raw-aes-keyring.md#ondecrypt")
async def test_one_key_opens_the_second_of_two_data_keys_with_its_name() -> None:
    first, second = (RawAESMasterKey("mine", "kéy", wrapping_key=bytes([i]) * 32) for i in range(2))
    message, header = await encrypt(b"attack at dawn", MultiMasterKeyProvider(first, second))
    assert len(header.encrypted_data_keys) == 2
    for key in (first, second):
        assert (await decrypt(message, key)).plaintext == b"attack at dawn"


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.spec(
    "framework/raw-aes-keyring.md#onencrypt",
    "framework/raw-aes-keyring.md#ondecrypt",
    "framework/structures.md#ciphertext",
)
@settings(max_examples=40, deadline=None)
@given(
    namespace=texts.filter(lambda text: not text.startswith("aws-kms")),
    name=texts,
    wrapping_key=st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    context=st.dictionaries(texts, texts, max_size=5),
)
@on_asyncio
async def test_what_is_wrapped_opens_again(
    namespace: str, name: str, wrapping_key: bytes, context: dict[str, str]
) -> None:
    key = RawAESMasterKey(namespace, name, wrapping_key=wrapping_key)
    data_key, encrypted = await key.generate_data_key(asking(context=context))
    assert encrypted.provider_info[: -len(LENGTHS + IV)] == name.encode()
    assert (await key.decrypt_data_key(asking(encrypted, context=context))).data_key == data_key
    iv = encrypted.provider_info[-12:]
    assert (
        AESGCM(wrapping_key).decrypt(iv, encrypted.ciphertext, sorted_context(context)) == data_key.plaintext
    )
