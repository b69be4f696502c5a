"""Branch keys: what is written, what is read, and what does not open."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import attrs
import pytest
from cryptography.exceptions import InvalidTag

from aioencrypt import (
    AlgorithmSuite,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.branch_keys import BranchKeyMaterials, HierarchicalMasterKey
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from tests.support.hierarchical import LABEL, MemoryKeyStore, key_with, wrapped, wrapping_key
from tests.support.messages import example_data_key, sorted_context
from tests.support.providers import CONTEXT, SUITE, asking
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-hierarchical-keyring.md"
DATA_KEY = DataKey(example_data_key(SUITE))
CONTEXTS: list[dict[str, str]] = [
    {},
    CONTEXT,
    {"z": "1", "a": "", "größe": "ß", "": "x"},
    # UTF-8 and UTF-16 sort these differently
    {"\U00010000": "1", "\uffff": "2"},
]


def entry(
    store: MemoryKeyStore,
    branch_key_id: str = "tenant-é",
    version: str | None = None,
    *,
    data_key: bytes = DATA_KEY.plaintext,
    context: Mapping[str, str] = CONTEXT,
    label: bytes = LABEL,
) -> EncryptedDataKey:
    """Make an encrypted data key under a version, the last unless given."""
    versions = store.keys[branch_key_id]
    version = version or [*versions][-1]
    return wrapped(versions[version], branch_key_id, version, data_key=data_key, context=context, label=label)


# The format


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#branch-key-wrapping",
    f"{PAGE}#branch-key-wrapping-and-unwrapping-aad",
)
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@on_asyncio
async def test_what_it_writes(context: Mapping[str, str]) -> None:
    key, store = key_with("tenant-é")
    encrypted = await key.encrypt_data_key(DATA_KEY, asking(context=context))
    [(version, branch_key)] = store.keys["tenant-é"].items()
    assert encrypted.provider_id == "aws-kms-hierarchy"
    assert encrypted.provider_info == "tenant-é".encode()
    assert len(encrypted.ciphertext) == 16 + 12 + 16 + 32 + 16
    salt, iv, stored, sealed = (
        encrypted.ciphertext[start:end] for start, end in ((0, 16), (16, 28), (28, 44), (44, None))
    )
    assert stored == UUID(version).bytes
    aad = LABEL + "tenant-é".encode() + stored + sorted_context(context)
    assert wrapping_key(branch_key, salt).decrypt(iv, sealed, aad) == DATA_KEY.plaintext


@pytest.mark.spec(
    f"{PAGE}#ondecrypt",
    f"{PAGE}#branch-key-unwrapping",
    f"{PAGE}#branch-key-wrapping-and-unwrapping-aad",
)
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@on_asyncio
async def test_what_it_reads(context: Mapping[str, str]) -> None:
    key, store = key_with("tenant-é")
    encrypted = entry(store, context=context)
    opened = await key.decrypt_data_key(asking(encrypted, context=context))
    assert (opened.data_key, opened.encrypted_data_key, opened.master_key) == (DATA_KEY, encrypted, key)


@pytest.mark.spec(f"{PAGE}#onencrypt")
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_a_new_data_key_for_every_suite(suite: AlgorithmSuite) -> None:
    key, _ = key_with("tenant")
    data_key, encrypted = await key.generate_data_key(asking(suite=suite))
    assert len(data_key.plaintext) == suite.data_key_length
    assert len(encrypted.ciphertext) == 60 + suite.data_key_length
    assert (await key.decrypt_data_key(asking(encrypted, suite=suite))).data_key == data_key


@pytest.mark.spec(f"{PAGE}#branch-key-wrapping")
async def test_salts_ivs_and_data_keys_are_new_each_time() -> None:
    key, _ = key_with("tenant")
    made = [await key.generate_data_key(asking()) for _ in range(50)]
    made += [(DATA_KEY, await key.encrypt_data_key(DATA_KEY, asking())) for _ in range(50)]
    assert len({encrypted.ciphertext[:16] for _, encrypted in made}) == 100
    assert len({encrypted.ciphertext[16:28] for _, encrypted in made}) == 100
    assert len({data_key.plaintext for data_key, _ in made}) == 51


@pytest.mark.spec(
    f"{PAGE}#query-branch-keystore-onencrypt",
    f"{PAGE}#getitem-branch-keystore-ondecrypt",
)
async def test_each_message_is_read_with_the_version_that_wrote_it() -> None:
    store = MemoryKeyStore()
    entries = {}
    for _ in range(3):
        version = store.add("tenant")
        key = HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60)
        entries[version] = await key.encrypt_data_key(DATA_KEY, asking())
        assert entries[version].ciphertext[28:44] == UUID(version).bytes
    assert store.log == ["active tenant"] * 3
    store.log.clear()
    for version, encrypted in entries.items():
        assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
        assert store.log.pop() == f"version tenant {version}"
        assert not store.log


@pytest.mark.spec(f"{PAGE}#branch-key-wrapping-and-unwrapping-aad")
async def test_a_context_that_cannot_be_serialized() -> None:
    key, store = key_with("tenant-é")
    too_long = asking(context={"k": "v" * 65535})
    with pytest.raises(ProviderError, match="above the 65535 of the message format") as caught:
        await make_data_key(key, too_long)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ProviderError, match="above the 65535 of the message format"):
        await key.decrypt_data_key(attrs.evolve(too_long, encrypted_data_keys=(entry(store),)))


# Whose data key it is


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    ("provider_id", "info", "owned"),
    [
        ("aws-kms-hierarchy", "tenant-é".encode(), True),
        ("aws-kms-hierarchy", b"tenant-e", False),
        ("aws-kms-hierarchy", "Tenant-é".encode(), False),
        ("aws-kms-hierarchy", "tenant-é ".encode(), False),
        ("aws-kms-hierarchy", "tenant-é\0".encode(), False),
        ("aws-kms-hierarchy", "tenant-é".encode("latin-1"), False),
        ("aws-kms-hierarchy", "tenant-e\u0301".encode(), False),
        ("aws-kms-hierarchy", b"", False),
        ("aws-kms", "tenant-é".encode(), False),
        ("aws-kms-hierarchy ", "tenant-é".encode(), False),
        ("AWS-KMS-HIERARCHY", "tenant-é".encode(), False),
        ("", "tenant-é".encode(), False),
    ],
)
@on_asyncio
async def test_which_data_keys_it_owns(provider_id: str, info: bytes, owned: bool) -> None:
    """It tries those and no others: neither the store is asked, nor does a failure stop it."""
    key, store = key_with("tenant-é")
    right = entry(store)
    encrypted = attrs.evolve(right, provider_id=provider_id, provider_info=info)
    assert key.owns_data_key(encrypted) is owned
    if owned:
        assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
        return
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await key.decrypt_data_key(asking(encrypted))
    assert (caught.value.attempts, caught.value.unclaimed, store.log) == ((), True, [])
    assert (await key.decrypt_data_key(asking(encrypted, right))).encrypted_data_key == right
    with pytest.raises(ProviderError, match=r"^the encrypted data key is not under the branch key of this"):
        await key.unwrap_data_key(encrypted, asking(encrypted))


# What does not open


async def refused(
    key: HierarchicalMasterKey, encrypted: EncryptedDataKey, context: Mapping[str, str] = CONTEXT
) -> Exception:
    """Return the error of the one attempt."""
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(encrypted, context=context))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id) == ("decrypt", "aws-kms-hierarchy")
    assert attempt.key_id == encrypted.provider_info.decode()
    return attempt.error


def assert_fails_authentication(error: Exception) -> None:
    assert type(error) is ProviderError
    assert str(error) == (
        "the encrypted data key fails authentication: another branch key or encryption context"
    )
    assert isinstance(error.__cause__, InvalidTag)


@pytest.mark.spec(f"{PAGE}#branch-key-unwrapping")
@on_asyncio
async def test_every_changed_byte_is_noticed() -> None:
    key, store = key_with("tenant-é")
    right = entry(store)
    for position in [*range(28), *range(44, 92)]:
        changed = bytearray(right.ciphertext)
        changed[position] ^= 1
        error = await refused(key, attrs.evolve(right, ciphertext=bytes(changed)))
        assert_fails_authentication(error)
    for position in range(28, 44):
        changed = bytearray(right.ciphertext)
        changed[position] ^= 1
        error = await refused(key, attrs.evolve(right, ciphertext=bytes(changed)))
        assert isinstance(error.__cause__, KeyError), "the store is asked for the version that stands there"
        assert error.__cause__.args == (str(UUID(bytes=bytes(changed[28:44]))),)


@pytest.mark.spec(f"{PAGE}#branch-key-wrapping-and-unwrapping-aad")
@pytest.mark.parametrize(
    "context", [{}, {"tenant": "43"}, {"Tenant": "42"}, {**CONTEXT, "more": ""}, {"tenant4": "2"}], ids=str
)
async def test_another_context(context: Mapping[str, str]) -> None:
    key, store = key_with("tenant-é")
    assert_fails_authentication(await refused(key, entry(store), context))


async def test_another_branch_key_of_the_same_name() -> None:
    key, store = key_with("tenant-é")
    encrypted = entry(store)
    [version] = store.keys["tenant-é"]
    store.keys["tenant-é"][version] = bytes(32)
    assert_fails_authentication(await refused(key, encrypted))


async def test_branch_key_id_and_version_are_authenticated() -> None:
    """The same key bytes under another name or version open nothing."""
    key, store = key_with("tenant-é")
    [(version, branch_key)] = store.keys["tenant-é"].items()
    other = "0" * 8 + version[8:]
    store.add("tenant-é", other, branch_key)
    moved = bytearray(entry(store, version=version).ciphertext)
    moved[28:44] = UUID(other).bytes
    encrypted = attrs.evolve(entry(store, version=version), ciphertext=bytes(moved))
    assert_fails_authentication(await refused(key, encrypted))
    store.add("tenant-e", version, branch_key)
    encrypted = attrs.evolve(entry(store, version=version), provider_info=b"tenant-e")
    another = HierarchicalMasterKey(store, branch_key_id="tenant-e", max_age=60)
    assert_fails_authentication(await refused(another, encrypted))


@pytest.mark.spec(f"{PAGE}#branch-key-unwrapping")
@pytest.mark.parametrize(
    "suite", [AlgorithmSuite(0x0114), AlgorithmSuite(0x0346), SUITE], ids=lambda suite: hex(suite.value)
)
@on_asyncio
async def test_ciphertexts_that_are_cut_or_extended(suite: AlgorithmSuite) -> None:
    """Such a one is a failure without a call, and the next one is tried."""
    key, store = key_with("tenant-é")
    data_key = DataKey(example_data_key(suite))
    right = entry(store, data_key=data_key.plaintext)
    length = len(right.ciphertext)
    for wrong in [*range(length), length + 1, 65535]:
        encrypted = attrs.evolve(right, ciphertext=(right.ciphertext + bytes(65535))[:wrong])
        with pytest.raises(ProviderError) as caught:
            await key.decrypt_data_key(asking(encrypted, suite=suite))
        [attempt] = caught.value.attempts
        assert str(attempt.error) == f"the encrypted data key has {wrong} bytes; {length} were due"
    assert store.log == []
    opened = await key.decrypt_data_key(asking(encrypted, right, suite=suite))
    assert (opened.encrypted_data_key, opened.data_key) == (right, data_key)


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_all_failures_are_collected_and_the_next_is_tried() -> None:
    key, store = key_with("tenant-é")
    right = entry(store)
    gone = attrs.evolve(right, ciphertext=right.ciphertext[:28] + bytes(16) + right.ciphertext[44:])
    short = attrs.evolve(right, ciphertext=b"short")
    broken = attrs.evolve(right, ciphertext=right.ciphertext[:-1] + b"?")
    stranger = EncryptedDataKey("aws-kms-hierarchy", b"\xff", b"")
    bad = [gone, stranger, short, broken]
    opened = await key.decrypt_data_key(asking(*bad, right))
    assert opened.encrypted_data_key == right
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(*bad))
    assert [type(attempt.error.__cause__) for attempt in caught.value.attempts] == [
        KeyError,
        type(None),
        InvalidTag,
    ]
    assert str(caught.value).startswith("none of the 4 encrypted data keys of the message could be decrypted")


# What the store answers


class Refusal(Exception):
    pass


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#query-branch-keystore-onencrypt",
    f"{PAGE}#getitem-branch-keystore-ondecrypt",
)
async def test_a_store_that_fails() -> None:
    key, store = key_with("tenant-é")
    error = Refusal("denied")

    async def fail(line: str) -> None:
        raise error

    store.before = fail
    with pytest.raises(ProviderError, match="could not generate a data key") as caught:
        await encrypt(b"attack at dawn", key)
    [attempt] = caught.value.attempts
    assert attempt.error is caught.value.__cause__
    assert str(attempt.error) == "MemoryKeyStore.active_branch_key raised Refusal"
    assert attempt.error.__cause__ is error
    assert (attempt.operation, attempt.key_id) == ("generate", "tenant-é")
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"attack at dawn", MultiMasterKeyProvider(RAW, key))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.error.__cause__) == ("encrypt", error)
    assert (await refused(key, entry(store))).__cause__ is error
    store.before = None
    message, _ = await encrypt(b"attack at dawn", key)
    assert (await decrypt(message, key)).plaintext == b"attack at dawn"


async def test_a_store_that_is_not_open_ends_the_call() -> None:
    key, store = key_with("tenant-é")

    async def fail(line: str) -> None:
        raise ProviderClosedError("open it")

    store.before = fail
    with pytest.raises(ProviderClosedError, match="open it"):
        await encrypt(b"attack at dawn", key)
    with pytest.raises(ProviderClosedError, match="open it"):
        await key.decrypt_data_key(asking(entry(store)))


VERSION = "d6a6d5b2-6a6f-4b1b-8d5e-0123456789ab"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "Store.active_branch_key returned NoneType, not BranchKeyMaterials"),
        ({"key": bytes(32)}, "Store.active_branch_key returned dict, not BranchKeyMaterials"),
        (
            ("tenant-e", VERSION, 32),
            "Store.active_branch_key answered for another branch key, or another version of it",
        ),
        (
            ("tenant-é", "branch:" + VERSION, 32),
            "Store.active_branch_key answered with a version that is no UUID",
        ),
        (("tenant-é", "", 32), "Store.active_branch_key answered with a version that is no UUID"),
        (
            ("tenant-é", VERSION.upper(), 32),
            "Store.active_branch_key answered with a version that is not written as UUIDs are",
        ),
        (
            ("tenant-é", VERSION.replace("-", ""), 32),
            "Store.active_branch_key answered with a version that is not written as UUIDs are",
        ),
        (("tenant-é", VERSION, 31), "Store.active_branch_key: the branch key has 31 bytes; it must have 32"),
        (("tenant-é", VERSION, 0), "Store.active_branch_key: the branch key has 0 bytes; it must have 32"),
    ],
    ids=str,
)
async def test_wrong_answers_of_a_store(answer: Any, text: str) -> None:
    """Nothing is wrapped under a key that nobody finds again."""

    class Store(MemoryKeyStore):
        async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
            if isinstance(answer, tuple):
                given, version, length = answer
                return BranchKeyMaterials(given, version, {}, bytes(length))
            wrong: BranchKeyMaterials = answer
            return wrong

    with pytest.raises(ProviderError) as caught:
        await encrypt(b"x", HierarchicalMasterKey(Store(), branch_key_id="tenant-é", max_age=60))
    [attempt] = caught.value.attempts
    assert str(attempt.error) == text
    assert type(attempt.error) is ProviderError


async def test_a_store_that_answers_with_another_version() -> None:
    class Store(MemoryKeyStore):
        async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
            return await self.active_branch_key(branch_key_id)

    store = Store()
    old = store.add("tenant-é")
    store.add("tenant-é")
    key = HierarchicalMasterKey(store, branch_key_id="tenant-é", max_age=60)
    assert (await key.decrypt_data_key(asking(entry(store)))).data_key == DATA_KEY
    error = await refused(key, entry(store, version=old))
    assert str(error) == "Store.branch_key_version answered for another branch key, or another version of it"


# Messages


RAW = RawAESMasterKey("tests", "hierarchical", wrapping_key=bytes(32))


@pytest.mark.spec(f"{PAGE}#interface")
async def test_beside_other_keys_in_one_message() -> None:
    key, store = key_with("tenant-é")
    other = HierarchicalMasterKey(store, branch_key_id="other", max_age=60)
    store.add("other")
    for provider in (MultiMasterKeyProvider(key, RAW, other), MultiMasterKeyProvider(RAW, other, key)):
        result = await encrypt(b"attack at dawn", provider, encryption_context=CONTEXT)
        assert len(result.header.encrypted_data_keys) == 3
        for reader in (key, RAW, other, provider, MultiMasterKeyProvider(None, other, key)):
            opened = await decrypt(result.ciphertext, reader, encryption_context=CONTEXT)
            assert opened.plaintext == b"attack at dawn"
    assert [use.key_id for use in result.provenance.keys] == ["hierarchical", "other", "tenant-é"]
    [use] = (await decrypt(result.ciphertext, other)).provenance.keys
    assert (use.provider_id, use.key_id) == ("aws-kms-hierarchy", "other")
    third, _ = key_with("third")
    with pytest.raises(ProviderError) as caught:
        await decrypt(result.ciphertext, third)
    assert str(caught.value).endswith(
        "they come from the providers 'tests' ('hierarchical'), 'aws-kms-hierarchy' ('other'), "
        "'aws-kms-hierarchy' ('tenant-é'); given are 'aws-kms-hierarchy' ('third')"
    )


@pytest.mark.parametrize("length", [0, 16, 31, 33])
async def test_a_data_key_of_the_wrong_length(length: int) -> None:
    key, store = key_with("tenant-é")
    error = await refused(key, entry(store, data_key=bytes(length)))
    assert str(error) == f"the encrypted data key has {60 + length} bytes; 92 were due"


async def test_the_longest_branch_key_id_fits_into_a_message() -> None:
    key, _ = key_with("é" * 32767 + "a")
    message, header = await encrypt(b"attack at dawn", key)
    assert len(header.encrypted_data_keys[0].provider_info) == 65535
    assert (await decrypt(message, key)).plaintext == b"attack at dawn"


# The key itself


def test_what_it_says_of_itself() -> None:
    key, _ = key_with("tenant-é")
    assert (key.provider_id, key.key_id) == ("aws-kms-hierarchy", "tenant-é")
    assert repr(key) == "HierarchicalMasterKey(MemoryKeyStore('store'), branch_key_id='tenant-é')"


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied(duplicate: Callable[[object], object]) -> None:
    key, _ = key_with("tenant")
    with pytest.raises(
        TypeError, match="HierarchicalMasterKey holds key bytes and cannot be pickled or copied"
    ):
        duplicate(key)


async def supplier(context: Mapping[str, str]) -> str:
    return "tenant"


@pytest.mark.spec(
    f"{PAGE}#initialization",
    f"{PAGE}#cache-limit-ttl",
)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "give either branch_key_id or branch_key_id_supplier"),
        (
            {"branch_key_id": "a", "branch_key_id_supplier": supplier},
            ValueError,
            "give either branch_key_id or branch_key_id_supplier",
        ),
        ({"branch_key_id": b"a"}, TypeError, "branch_key_id must be a str, not bytes"),
        ({"branch_key_id": ""}, ValueError, "the branch key id has 0 bytes; it may have 1 to 65535"),
        ({"branch_key_id": "é" * 32768}, ValueError, "the branch key id has 65536 bytes; it may have 1 to"),
        ({"branch_key_id": "\ud800"}, ValueError, "branch_key_id is not valid Unicode text"),
        (
            {"branch_key_id_supplier": "tenant"},
            TypeError,
            "branch_key_id_supplier must be an async function, not str",
        ),
        (
            {"branch_key_id": "a", "max_age": 0},
            ValueError,
            "max_age is 0; it must be more than 0 seconds, and finite",
        ),
        (
            {"branch_key_id": "a", "max_age": -1.5},
            ValueError,
            "max_age is -1.5; it must be more than 0",
        ),
        (
            {"branch_key_id": "a", "max_age": float("inf")},
            ValueError,
            "max_age is inf; it must be more than 0 seconds",
        ),
        (
            {"branch_key_id": "a", "max_age": float("nan")},
            ValueError,
            "max_age is nan; it must be more than 0 seconds",
        ),
        ({"branch_key_id": "a", "max_age": "60"}, TypeError, "max_age must be a number of seconds, not"),
        ({"branch_key_id": "a", "max_age": True}, TypeError, "max_age must be a number of seconds, not"),
        (
            {"branch_key_id": "a", "max_age": None},
            TypeError,
            "max_age must be a number of seconds, not",
        ),
        (
            {"branch_key_id": "a", "refresh_ahead": 60},
            ValueError,
            "refresh_ahead is 60; it must be at least 0 and less than max_age=60",
        ),
        ({"branch_key_id": "a", "refresh_ahead": -1}, ValueError, "refresh_ahead is -1; it must be at least"),
        ({"branch_key_id": "a", "refresh_ahead": float("nan")}, ValueError, "refresh_ahead is nan; it must"),
        (
            {"branch_key_id": "a", "refresh_ahead": "1"},
            TypeError,
            "refresh_ahead must be a number of seconds, not",
        ),
        ({"branch_key_id": "a", "cache": {}}, TypeError, "cache must be an AsyncCache, not dict"),
        ({"branch_key_id": "a", "partition": b"x"}, TypeError, "partition must be a str, not bytes"),
        ({"branch_key_id": "a", "partition": "a\0b"}, ValueError, "partition must be a name without NUL"),
        ({"branch_key_id": "a", "partition": ""}, ValueError, "partition must be a name"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        HierarchicalMasterKey(MemoryKeyStore(), **{"max_age": 60, **options})
    assert str(caught.value).startswith(text)
    assert type(caught.value) is error


@pytest.mark.spec(f"{PAGE}#initialization")
def test_store_and_ttl_must_be_given() -> None:
    with pytest.raises(TypeError, match="max_age"):
        HierarchicalMasterKey(MemoryKeyStore(), branch_key_id="a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="key_store"):
        HierarchicalMasterKey(branch_key_id="a", max_age=60)  # type: ignore[call-arg]


class NamedStore(MemoryKeyStore):
    logical_name = "a class has all that a store has"


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        (None, "NoneType"),
        ("table", "str"),
        (b"secret", "bytes"),
        (object(), "object"),
        (NamedStore, "the class NamedStore"),
    ],
)
def test_what_is_no_key_store(store: Any, kind: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^key_store must be a BranchKeyStore, or have its methods, not {kind}$"
    ):
        HierarchicalMasterKey(store, branch_key_id="a", max_age=60)


@pytest.mark.parametrize("name", [None, b"store", 7])
def test_a_store_whose_logical_name_is_no_text(name: Any) -> None:
    with pytest.raises(TypeError, match=r"^the logical name of the key store must be a str, not "):
        HierarchicalMasterKey(MemoryKeyStore(name), branch_key_id="a", max_age=60)


def test_a_store_whose_logical_name_has_a_null_character() -> None:
    with pytest.raises(ValueError, match="logical name of the key store must be a name without NUL"):
        HierarchicalMasterKey(MemoryKeyStore("a\0b"), branch_key_id="a", max_age=60)
