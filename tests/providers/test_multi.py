"""Several providers as one: which keys encrypt, in which order they are tried, and every failure kept.

Specification: framework/multi-keyring.md.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aioencrypt import (
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    RawAESMasterKey,
    RawRSAMasterKey,
    RSAPadding,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, EncryptedDataKey
from tests.support.providers import Interruption, OwnKey, OwnProvider, Waiting, asking, raised
from tests.support.rsa_keys import rsa_key
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

DATA_KEY = DataKey(bytes(range(32)))
Multi = MultiMasterKeyProvider


def build(tree: object, log: list[str] | None = None) -> MasterKeyProvider:
    """Build providers from names: a text is a key, a tuple a multi provider, its first item the generator."""
    if isinstance(tree, str):
        return OwnKey(tree, log)
    assert isinstance(tree, tuple)
    generator, *children = tree
    return Multi(
        None if generator is None else build(generator, log), *(build(item, log) for item in children)
    )


# What it is made of


@pytest.mark.spec(
    "framework/multi-keyring.md#inputs",
    "framework/multi-keyring.md#generator-keyring",
    "framework/multi-keyring.md#child-keyrings",
)
def test_a_generator_or_a_child_is_needed() -> None:
    with pytest.raises(ValueError, match=r"^a multi provider needs a generator or a child$"):
        Multi(None)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [("key", "str"), (b"secret", "bytes"), (OwnKey, "the class OwnKey"), ({"a": 1}, "dict"), (0, "int")],
)
def test_what_is_no_provider(wrong: Any, kind: str) -> None:
    for arguments in ((wrong,), (None, wrong), (OwnKey("a"), OwnKey("b"), wrong)):
        with pytest.raises(TypeError) as caught:
            Multi(*arguments)
        assert str(caught.value).partition(": ")[0] == f"{kind} is not a MasterKeyProvider"
        assert "secret" not in str(caught.value)


async def test_a_provider_that_is_empty_is_one_all_the_same() -> None:
    """It may have a length, and that may be 0."""

    class Empty(OwnProvider):
        def __len__(self) -> int:
            return 0

    provider = Empty("empty", OwnKey("a"))
    multi = Multi(provider, OwnKey("b"))
    assert multi.providers[0] is provider
    async with multi:
        assert provider.entries == 1
        opened = await multi.decrypt_data_key(asking(*wrapped("a")))
    assert opened.data_key == DATA_KEY


def test_none_is_no_child() -> None:
    with pytest.raises(TypeError, match="NoneType is not a MasterKeyProvider"):
        Multi(OwnKey("a"), None)  # type: ignore[arg-type]


def test_what_it_says_of_itself() -> None:
    one, two = OwnKey("one"), OwnKey("two")
    full, children_only = Multi(one, two), Multi(None, two, one)
    assert (full.providers, full.generates) == ((one, two), True)
    assert (children_only.providers, children_only.generates) == ((two, one), False)
    nested = Multi(one, children_only)
    assert nested.providers == (one, two, one)
    assert repr(nested) == "MultiMasterKeyProvider(OwnKey('one'), OwnKey('two'), OwnKey('one'))"
    assert repr(Multi(None, children_only)) == "MultiMasterKeyProvider(None, OwnKey('two'), OwnKey('one'))"


# Encrypting

TREES = [
    (("a",), "a"),
    (("a", "b", "c"), "abc"),
    ((("a", "b"), "c"), "abc"),
    (("a", ("b", "c"), "d"), "abcd"),
    ((("a", ("b", "c")), ("d", ("e",)), "f"), "abcdef"),
    (("a", "a", ("a",)), "aaa"),
    # children without a generator encrypt all the same
    (("a", (None, "b", "c"), "d"), "abcd"),
    (("a", (None, (None, "b", ("c", "d")), "e")), "abcde"),
]


@pytest.mark.spec("framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize(("tree", "order"), TREES, ids=str)
@on_asyncio
async def test_all_keys_encrypt_in_their_order(tree: object, order: str) -> None:
    log: list[str] = []
    keys = await build(tree, log).encryption_keys(asking())
    assert "".join(key.key_id for key in keys) == order
    message, header = await encrypt(b"attack at dawn", build(tree, log))
    assert [edk.provider_info.decode() for edk in header.encrypted_data_keys] == list(order)
    assert log == [f"generate {order[0]}", *(f"encrypt {name}" for name in order[1:])]
    for name in set(order):
        assert (await decrypt(message, OwnKey(name))).plaintext == b"attack at dawn"


@pytest.mark.spec("framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize(
    "tree", [(None, "a"), (None, ("a", "b")), ((None, "a"), "b"), (((None, "a"),),)], ids=str
)
async def test_without_a_generator_there_is_no_data_key(tree: object) -> None:
    log: list[str] = []
    with pytest.raises(
        ProviderError, match=r"^this multi provider has no generator, so it cannot generate a data key$"
    ):
        await encrypt(b"", build(tree, log))
    assert log == []


@pytest.mark.spec("framework/multi-keyring.md#generator-keyring", "framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize("at", ["generator", "child", "grandchild"])
async def test_a_provider_that_only_decrypts_cannot_take_part(at: str) -> None:
    log: list[str] = []
    good = OwnKey("good", log)

    class DecryptsOnly(OwnProvider):
        async def encryption_keys(self, request: object) -> tuple[()]:
            raise ProviderError("only decrypts")

    bad: MasterKeyProvider = DecryptsOnly("bad")
    if at == "grandchild":
        bad = Multi(None, bad)
    multi = Multi(bad, good) if at == "generator" else Multi(good, bad)
    with pytest.raises(ProviderError, match=r"^only decrypts$"):
        await encrypt(b"", multi)
    assert log == []


@pytest.mark.spec("framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize("at", ["generator", "child", "grandchild"])
async def test_a_provider_that_gives_no_key(at: str) -> None:
    """It could not decrypt the message; and it is the generator that generates, nobody else."""
    log: list[str] = []
    empty: MasterKeyProvider = OwnProvider("empty")
    if at == "grandchild":
        empty = Multi(None, empty)
    key = OwnKey("a", log)
    with pytest.raises(ProviderError):
        await encrypt(b"", Multi(empty, key) if at == "generator" else Multi(key, empty))
    assert log == []


@pytest.mark.spec("framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize("failing", ["a", "b", "c"])
async def test_every_key_must_succeed(failing: str) -> None:
    error = ServiceError("no", code="Denied")
    keys = [OwnKey(name, error=error if name == failing else None) for name in "abc"]
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"", Multi(keys[0], Multi(None, *keys[1:])))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.key_id, attempt.error) == (
        "generate" if failing == "a" else "encrypt",
        failing,
        error,
    )


@on_asyncio
async def test_each_kind_of_key_opens_a_message_of_all() -> None:
    pair = rsa_key()
    keys: list[MasterKeyProvider] = [
        RawAESMasterKey("raw", "aes", wrapping_key=bytes(32)),
        RawRSAMasterKey(
            "raw", "rsa", padding=RSAPadding.OAEP_SHA256, public_key=pair.public_key(), private_key=pair
        ),
        OwnKey("own"),
    ]
    for order in itertools.permutations(keys):
        message, _ = await encrypt(b"attack at dawn", Multi(*order))
        for provider in (*keys, Multi(None, *keys)):
            assert (await decrypt(message, provider)).plaintext == b"attack at dawn"


# Decrypting


def wrapped(*names: str) -> list[EncryptedDataKey]:
    return [OwnKey(name).wrap(DATA_KEY, asking()) for name in names]


def spoiled(name: str) -> EncryptedDataKey:
    return EncryptedDataKey("own", name.encode(), bytes(60))


@pytest.mark.spec("framework/multi-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    ("tree", "order"), [*TREES, ((None, "a", "b"), "ab"), ((None, ("a", "b"), (None, "c")), "abc")], ids=str
)
@on_asyncio
async def test_attempts_go_generator_first_and_depth_first(tree: object, order: str) -> None:
    """Provider by provider, and for each in the order of the message."""
    log: list[str] = []
    names = sorted(set(order), reverse=True)
    request = asking(*map(spoiled, names), *map(spoiled, names))
    with pytest.raises(ProviderError) as caught:
        await build(tree, log).decrypt_data_key(request)
    expected = [name for name in order for _ in range(2)]
    assert log == [f"decrypt {name}" for name in expected]
    assert [attempt.key_id for attempt in caught.value.attempts] == expected
    assert caught.value.summary == (
        f"none of the {len(names) * 2} encrypted data keys of the message could be decrypted"
    )
    assert {str(attempt.error) for attempt in caught.value.attempts} == {"does not open"}


@pytest.mark.spec("framework/multi-keyring.md#ondecrypt")
async def test_the_first_that_opens_ends_the_search() -> None:
    log: list[str] = []
    provider = build(("a", ("b", "c"), "d"), log)
    edks = [*wrapped("d", "c"), spoiled("b"), *wrapped("b")]
    opened = await provider.decrypt_data_key(asking(*edks))
    assert (opened.data_key, opened.encrypted_data_key) == (DATA_KEY, edks[3])
    assert opened.master_key.key_id == "b"
    assert log == ["decrypt b", "decrypt b"]


@pytest.mark.spec("framework/multi-keyring.md#ondecrypt")
async def test_no_provider_has_a_key_for_the_message() -> None:
    with pytest.raises(ProviderError) as caught:
        await build(("a", ("b", (None, "c")))).decrypt_data_key(asking(*wrapped("x", "y")))
    assert caught.value.attempts == ()
    assert str(caught.value) == (
        "none of the 2 encrypted data keys of the message belongs to a master key given here; "
        "they come from the providers 'own' ('x'), 'own' ('y'); "
        "given are 'own' ('a'), 'own' ('b'), 'own' ('c')"
    )


@pytest.mark.spec("framework/multi-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    "make",
    [ValueError, ServiceError, lambda text: ExceptionGroup(text, [OSError()])],
    ids=["value", "service", "group"],
)
async def test_whatever_a_provider_raises_is_kept_and_the_next_is_tried(
    make: Callable[[str], Exception],
) -> None:
    error = make("broken")
    broken = OwnProvider("broken", error=error)
    with pytest.raises(ProviderError) as caught:
        await Multi(broken, OwnKey("a")).decrypt_data_key(asking(spoiled("a")))
    first, second = caught.value.attempts
    assert (first.operation, first.provider_id, first.key_id) == (
        "decrypt",
        "OwnProvider",
        "OwnProvider('broken')",
    )
    assert raised(first.error) is error
    assert (second.key_id, str(second.error)) == ("a", "does not open")
    opened = await Multi(broken, OwnKey("a")).decrypt_data_key(asking(*wrapped("a")))
    assert opened.data_key == DATA_KEY


@pytest.mark.spec("framework/multi-keyring.md#ondecrypt")
@pytest.mark.parametrize("depth", range(3))
async def test_a_failure_without_attempts_is_kept(depth: int) -> None:
    """framework/multi-keyring.md#ondecrypt: the failure contains the messages of the children."""
    error = ProviderError("the vault is sealed")
    provider: MasterKeyProvider = OwnProvider("vault", error=error)
    for _ in range(depth):
        provider = Multi(provider)
    with pytest.raises(ProviderError, match="the vault is sealed") as caught:
        await Multi(OwnKey("a"), provider).decrypt_data_key(asking(spoiled("a")))
    assert [str(attempt.error) for attempt in caught.value.attempts] == [
        "does not open",
        "the vault is sealed",
    ]
    with pytest.raises(ProviderError, match="the vault is sealed"):
        await Multi(OwnKey("a"), provider).decrypt_data_key(asking(*wrapped("x")))


@pytest.mark.parametrize("kind", [ProviderClosedError, Interruption])
async def test_what_ends_decryption_at_once(kind: type[BaseException]) -> None:
    log: list[str] = []
    error = kind("stop")
    provider = Multi(OwnKey("a", log), Multi(OwnKey("bad", log, error=error)), OwnKey("c", log))
    with pytest.raises(kind) as caught:
        await provider.decrypt_data_key(asking(spoiled("a"), *wrapped("c", "bad")))
    assert caught.value is error
    assert log == ["decrypt a", "decrypt bad"]


async def test_cancellation_ends_decryption_at_once() -> None:
    log: list[str] = []
    provider = Multi(Waiting("a", log), OwnKey("b", log))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(provider.decrypt_data_key, asking(*wrapped("a", "b")))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert log == ["decrypt a", "cancelled a"]
    assert_idle()


DEPTH = 2000


@pytest.mark.parametrize("side", ["generator", "child", "child without generator"])
@on_asyncio
async def test_as_deep_as_you_like(side: str) -> None:
    """Nothing of it is recursive: building, encrypting, decrypting, entering, texts and pickles."""
    log: list[str] = []
    inner = OwnProvider("inner", OwnKey("a"), log=log)
    provider: MasterKeyProvider = inner
    for depth in range(DEPTH):
        key = OwnKey(str(depth % 3))
        if side == "generator":
            provider = Multi(provider, key) if depth % 100 == 0 else Multi(provider)
        elif side == "child":
            provider = Multi(key, provider) if depth % 100 == 0 else Multi(provider)
        else:
            provider = Multi(None, key, provider) if depth % 100 == 0 else Multi(None, provider)
    assert repr(provider).count("OwnKey(") == DEPTH // 100
    outer = Multi(OwnKey("outer"), provider)
    async with outer:
        assert log == ["enter inner"]
        message, header = await encrypt(b"attack at dawn", outer)
        assert len(header.encrypted_data_keys) == DEPTH // 100 + 2
        for reader in (OwnKey("a"), OwnKey("outer"), Multi(None, provider)):
            assert (await decrypt(message, reader)).plaintext == b"attack at dawn"
    await outer.warm_up()
    assert log == ["enter inner", "leave inner", "warm up inner"]
    stranger, _ = await encrypt(b"", OwnKey("stranger"))
    with pytest.raises(ProviderError) as caught:
        await decrypt(stranger, outer)
    assert caught.value.unclaimed


def test_copies_as_deep_as_you_like() -> None:
    provider = Multi(None, OwnProvider("inner"))
    for _ in range(DEPTH):
        provider = Multi(None, provider)
    for copied in (copy.deepcopy(provider), pickle.loads(pickle.dumps(provider))):
        assert repr(copied) == repr(provider) == "MultiMasterKeyProvider(None, OwnProvider('inner'))"
