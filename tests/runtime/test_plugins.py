"""Code of users that raises or answers wrongly: one error, which names class and method, at every border."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    CachingCMM,
    CommitmentPolicy,
    DefaultCMM,
    EncryptionClient,
    KMSMasterKeyProvider,
    MessageError,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    RawAESMasterKey,
    RequiredEncryptionContextCMM,
    decrypt,
    encrypt,
)
from aioencrypt.aws import exclude_regions, limit_regions
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.materials import DataKey, DecryptedDataKey, EncryptedDataKey, MasterKey
from aioencrypt.rewrap import rewrap_stream
from aioencrypt.runtime.event_loops import on_trio
from tests.support.hierarchical import MemoryKeyStore
from tests.support.providers import CONTEXT, Interruption, OwnKey, OwnProvider
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, UNSIGNED

pytestmark = pytest.mark.anyio

KEY = OwnKey("a")
GOOD = DataKey(bytes(32))
WRAPPED = EncryptedDataKey("own", b"a", b"sealed")
ERRORS = [TypeError, ValueError, AttributeError, KeyError, OSError, RuntimeError, ExceptionGroup]
PASSING = [asyncio.CancelledError, KeyboardInterrupt, SystemExit, Interruption]


class Key(OwnKey):
    pass


class Provider(OwnProvider):
    pass


class Store(MemoryKeyStore):
    pass


class CMM(DefaultCMM):
    pass


Fault = Any


def broken(made: Any, method: str, fault: Fault) -> Any:
    """Return an object like another, of a class of the same name, of which one method is at fault."""
    base: type = type(made)
    cls: Any = type(base.__name__, (base,), {method: fault})
    copy = cls.__new__(cls)
    copy.__dict__.update(made.__dict__)
    return copy


async def encrypting(provider: Any) -> object:
    return await encrypt(b"", provider, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)


async def decrypting(provider: Any) -> object:
    message, _ = await encrypt(b"", KEY, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    return await decrypt(message, provider)


async def rewrapping(provider: Any) -> object:
    message, _ = await encrypt(b"", KEY, encryption_context=CONTEXT, algorithm_suite=UNSIGNED)
    async with rewrap_stream(message, KEY, new_provider=provider, accept_iv_reuse=True) as stream:
        return await stream.read()


async def encrypting_by_store(key: Any) -> object:
    return await encrypting(HierarchicalMasterKey(key, branch_key_id="id", max_age=60))


async def decrypting_by_store(store: Any) -> object:
    good = MemoryKeyStore()
    good.add("id")
    made, _ = await encrypt(
        b"", HierarchicalMasterKey(good, branch_key_id="id", max_age=60), algorithm_suite=UNSIGNED
    )
    return await decrypt(made, HierarchicalMasterKey(store, branch_key_id="id", max_age=60))


async def as_second(key: Any) -> object:
    return await encrypting(MultiMasterKeyProvider(KEY, key))


def signed_by(signer: Any) -> Any:
    private = ec.generate_private_key(ec.SECP384R1())

    class Signing(DefaultCMM):
        async def get_encryption_materials(self, request: Any) -> Any:
            made = await super().get_encryption_materials(request)
            return attrs.evolve(made, signer=signer)

    del private
    return Signing(KEY)


@attrs.frozen
class Border:
    """A method of a plug-in, what calls it, and wrong answers of the right kind of function."""

    make: Callable[[], Any]
    method: str
    call: Callable[[Any], Awaitable[object]]
    is_async: bool = True
    wrong: tuple[object, ...] = (None, 5, b"bytes", "text", {})

    @property
    def name(self) -> str:
        return f"{type(self.make()).__name__}.{self.method}"

    def __str__(self) -> str:
        return f"{self.name} by {self.call.__name__}"


def edks() -> tuple[object, ...]:
    return (
        EncryptedDataKey(b"own", b"info", b"x"),  # type: ignore[arg-type]
        EncryptedDataKey("own", "info", b"x"),  # type: ignore[arg-type]
        EncryptedDataKey("own", b"info", "x"),  # type: ignore[arg-type]
        EncryptedDataKey("own", b"info", bytes(65536)),
        EncryptedDataKey("\ud800", b"info", b"x"),
    )


def a_key() -> Key:
    return Key("a")


def a_provider() -> Provider:
    return Provider("a", KEY)


def a_store() -> Store:
    store = Store()
    store.add("id")
    return store


def a_cmm() -> CMM:
    return CMM(KEY)


WRONG_DATA_KEYS = (DataKey(bytes(31)), DataKey("x" * 32), DataKey(bytearray(32)))  # type: ignore[arg-type]
BORDERS = [
    Border(a_key, "encryption_keys", encrypting, wrong=(None, 5, KEY, [None], ["text"], "text", {KEY})),
    Border(a_key, "encryption_keys", rewrapping, wrong=(None, 5, KEY, [None], ["text"], "text", {KEY})),
    Border(
        a_key,
        "generate_data_key",
        encrypting,
        wrong=(
            *(
                None,
                (),
                (GOOD,),
                (GOOD, WRAPPED, WRAPPED),
                [GOOD, WRAPPED],
                (WRAPPED, GOOD),
                (bytes(32), WRAPPED),
            ),
            *((GOOD, wrong) for wrong in (None, b"x", *edks())),
            *((wrong, WRAPPED) for wrong in WRONG_DATA_KEYS),
        ),
    ),
    Border(a_key, "encrypt_data_key", as_second, wrong=(None, b"x", "x", *edks())),
    Border(a_key, "encrypt_data_key", rewrapping, wrong=(None, b"x", "x", *edks())),
    Border(a_key, "unwrap_data_key", decrypting, wrong=(None, bytes(32), "x", *WRONG_DATA_KEYS)),
    Border(a_key, "owns_data_key", decrypting, is_async=False, wrong=(None, 1, "yes", b"")),
    Border(a_key, "decrypt_data_key", decrypting, wrong=(None, GOOD, bytes(32))),
    Border(a_provider, "encryption_keys", encrypting, wrong=(None, 5, [None], ["text"], "text")),
    Border(
        a_provider,
        "decrypt_data_key",
        decrypting,
        wrong=(
            None,
            GOOD,
            *(DecryptedDataKey(wrong, WRAPPED, KEY) for wrong in WRONG_DATA_KEYS),
            DecryptedDataKey(bytes(32), WRAPPED, KEY),  # type: ignore[arg-type]
            DecryptedDataKey(GOOD, WRAPPED, "key"),  # type: ignore[arg-type]
        ),
    ),
    Border(a_store, "active_branch_key", encrypting_by_store),
    Border(a_store, "branch_key_version", decrypting_by_store),
    Border(a_cmm, "get_encryption_materials", encrypting),
    Border(a_cmm, "decrypt_materials", decrypting),
]
each_border = pytest.mark.parametrize("border", BORDERS, ids=str)


async def fails(border: Border, fault: Fault) -> ProviderError:
    given = broken(border.make(), border.method, fault)
    with pytest.raises(ProviderError) as caught:
        await border.call(given)
    return caught.value


def raising(error: BaseException, is_async: bool) -> Fault:
    async def later(*_: object) -> object:
        raise error

    def now(*_: object) -> object:
        raise error

    return later if is_async else now


@each_border
@each_row("kind", ERRORS)
async def test_what_raises(border: Border, kind: Any) -> None:
    error = kind("odd", [ValueError()]) if kind is ExceptionGroup else kind("odd")
    faults = [raising(error, border.is_async), raising(error, False)]
    if not isinstance(border.make(), Store):  # whose attributes the constructor of the key looks at
        faults.append(property(raising(error, False)))
    for fault in faults:
        caught = await fails(border, fault)
        told = caught.attempts[0].error if caught.attempts else caught
        assert str(told) == f"{border.name} raised {kind.__name__}"
        assert told.__cause__ is error


@each_border
@each_row("kind", PASSING)
async def test_what_passes(border: Border, kind: type[BaseException]) -> None:
    given = broken(border.make(), border.method, raising(kind(), border.is_async))
    # In a child task, a cancellation that nobody asked for is the failure of what raised it.
    in_child = kind is asyncio.CancelledError and border.call in (as_second, rewrapping, decrypting_by_store)
    in_child |= kind is asyncio.CancelledError and border.call is encrypting_by_store
    in_child &= not on_trio()  # where it is an exception like any other
    with pytest.raises(ProviderError if in_child and border.method != "encryption_keys" else kind):
        await border.call(given)


@each_border
async def test_a_provider_that_is_not_open_passes(border: Border) -> None:
    given = broken(border.make(), border.method, raising(ProviderClosedError("open it"), border.is_async))
    with pytest.raises(ProviderClosedError):
        await border.call(given)


@each_border
async def test_what_answers_wrongly(border: Border) -> None:
    for answer in border.wrong:

        async def later(*_: object, answer: object = answer) -> object:
            return answer

        fault = later if border.is_async else lambda *_, answer=answer: answer
        assert border.name in str(await fails(border, fault)), answer


@each_border
async def test_what_is_async_and_must_not_be_or_the_reverse(border: Border) -> None:
    async def later(*_: object) -> object:
        return True

    text = str(await fails(border, (lambda *_: True) if border.is_async else later))
    told = "returned bool, which is not awaited: is it an async function?"
    assert (
        f"{border.name} {told if border.is_async else 'returned a coroutine, not bool: it must not be async'}"
        in text
    )


@each_border
async def test_what_is_missing(border: Border) -> None:
    missing: Any = None
    given = broken(border.make(), border.method, missing)
    # Managers and key stores are refused when they are given.
    at_once = isinstance(given, CMM | Store)
    with pytest.raises(TypeError if at_once else ProviderError):
        await border.call(given)


@pytest.mark.parametrize("name", ["provider_id", "key_id"])
@pytest.mark.parametrize("wrong", [b"own", None, 5, "async", KeyError("odd"), ValueError("odd")], ids=repr)
async def test_names_of_keys(name: str, wrong: Any) -> None:
    async def later(self: object) -> str:
        return "own"

    def now(self: object) -> object:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    key = broken(Key("a"), name, property(later if wrong == "async" else now))
    stranger = broken(Key("b"), name, property(later if wrong == "async" else now))
    for call, given in (
        (encrypting, key),
        (as_second, key),
        (decrypting, key),
        (decrypting, stranger),
        (decrypting, MultiMasterKeyProvider(stranger, RawAESMasterKey("x", "y", wrapping_key=bytes(32)))),
    ):
        with pytest.raises(ProviderError, match=rf"Key\.{name} (raised|returned) "):
            await call(given)


# Materials


POINT = base64.b64encode(b"\2" + bytes(48)).decode()
CHANGES: list[dict[str, Any]] = [
    {"algorithm_suite": None},
    {"algorithm_suite": 0x0578},
    {"algorithm_suite": "ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY"},
    {"data_key": None},
    {"data_key": bytes(32)},
    *({"data_key": wrong} for wrong in WRONG_DATA_KEYS),
    {"encryption_context": {"a": 1}},
    {"encryption_context": {1: "a"}},
    {"encryption_context": {"a": b"b"}},
    {"encryption_context": {"a": None}},
    {"encryption_context": {"a": "\ud800"}},
    {"encryption_context": {"a": "b" * 65536}},
    {"encryption_context": None},
    {"encryption_context": "text"},
    {"encryption_context": 5},
    {"required_encryption_context_keys": {"missing"}},
    {"required_encryption_context_keys": None},
    {"provenance": None},
    {"provenance": "keys"},
]
WRITING: list[dict[str, Any]] = [
    {"encrypted_data_keys": ()},
    {"encrypted_data_keys": None},
    {"encrypted_data_keys": "text"},
    {"encrypted_data_keys": (b"x",)},
    {"encrypted_data_keys": [WRAPPED] * 65536},
    *({"encrypted_data_keys": (wrong,)} for wrong in edks()),
]
ABOVE: list[Callable[[Any], Any]] = [
    lambda cmm: cmm,
    lambda cmm: CachingCMM(cmm, max_age=60),
    lambda cmm: RequiredEncryptionContextCMM(cmm, ["tenant"]),
]


def changing(**changes: Any) -> Any:
    class Own(DefaultCMM):
        async def get_encryption_materials(self, request: Any) -> Any:
            return attrs.evolve(await super().get_encryption_materials(request), **changes)

        async def decrypt_materials(self, request: Any) -> Any:
            return attrs.evolve(await super().decrypt_materials(request), **changes)

    return Own(KEY)


@pytest.mark.parametrize("above", ABOVE)
@pytest.mark.parametrize("signed", [True, False])
@each_row("changes", [*CHANGES, *WRITING])
async def test_materials_to_write_with(changes: dict[str, Any], signed: bool, above: Any) -> None:
    suite = SIGNED if signed else UNSIGNED
    with pytest.raises(ProviderError, match=r"Own\.get_encryption_materials"):
        await encrypt(b"", above(changing(**changes)), encryption_context=CONTEXT, algorithm_suite=suite)


@pytest.mark.parametrize("above", ABOVE)
@pytest.mark.parametrize("signed", [True, False])
@each_row("changes", [*CHANGES, {"verification_key": "text"}, {"verification_key": 5}])
async def test_materials_to_read_with(changes: dict[str, Any], signed: bool, above: Any) -> None:
    suite = SIGNED if signed else UNSIGNED
    message, _ = await encrypt(b"", KEY, encryption_context=CONTEXT, algorithm_suite=suite)
    with pytest.raises(ProviderError, match=r"Own\.decrypt_materials"):
        await decrypt(message, above(changing(**changes)), encryption_context=CONTEXT)


@pytest.mark.parametrize(
    ("suite", "changes"),
    [
        (SIGNED, {"signer": None}),
        (SIGNED, {"signer": "sign"}),
        (SIGNED, {"encryption_context": {}}),
        (UNSIGNED, {"signer": lambda digest: digest}),
        (UNSIGNED, {"encryption_context": {"aws-crypto-public-key": POINT}}),
    ],
)
async def test_signers_where_they_belong(suite: AlgorithmSuite, changes: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match=r"^Own\.get_encryption_materials returned "):
        await encrypt(b"", changing(**changes), algorithm_suite=suite)


@pytest.mark.parametrize(("suite", "key"), [(SIGNED, None), (UNSIGNED, b"\2" + bytes(48))])
async def test_verification_keys_where_they_belong(suite: AlgorithmSuite, key: bytes | None) -> None:
    message, _ = await encrypt(b"", KEY, algorithm_suite=suite)
    with pytest.raises(ProviderError, match=r"^Own\.decrypt_materials returned (no|a) verification key"):
        await decrypt(message, changing(verification_key=key))


@each_row("suite", AlgorithmSuite)
@pytest.mark.parametrize("length", [16, 24, 32])
async def test_a_manager_with_one_key_meets_messages_of_every_suite(
    suite: AlgorithmSuite, length: int
) -> None:
    """Whatever the bytes, no other error gets out."""
    policy = next(policy for policy in CommitmentPolicy if policy.allows_encrypt(suite))
    client = EncryptionClient(commitment_policy=policy)
    message, _ = await client.encrypt(b"", KEY, encryption_context=CONTEXT, algorithm_suite=suite)

    class One(DefaultCMM):
        async def decrypt_materials(self, request: Any) -> Any:
            return attrs.evolve(await super().decrypt_materials(request), data_key=DataKey(bytes(length)))

    with pytest.raises((ProviderError, MessageError)) as caught:
        await client.decrypt(message, One(KEY))
    assert isinstance(caught.value, ProviderError) is (suite.data_key_length != length)


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, OSError])
async def test_a_signer_that_raises(error: type[Exception]) -> None:
    def sign(digest: bytes) -> bytes:
        raise error("secret")

    with pytest.raises(ProviderError, match=rf"^the signer .*sign raised {error.__name__}$") as caught:
        await encrypt(b"", signed_by(sign))
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize(
    "answer", [None, "text", 5, b"", b"no signature", bytes(103), bytearray(103)], ids=repr
)
async def test_a_signer_that_answers_wrongly(answer: Any) -> None:
    with pytest.raises(ProviderError, match=r"^the signer .*lambda.* returned "):
        await encrypt(b"", signed_by(lambda digest: answer))


async def test_a_signer_that_is_async() -> None:
    async def sign(digest: bytes) -> bytes:
        return digest

    with pytest.raises(ProviderError, match=r"sign returned a coroutine, not bytes: it must not be async$"):
        await encrypt(b"", signed_by(sign))


# Suppliers of branch key ids


@pytest.mark.parametrize("fault", ["raises", "sync", "wrong"])
async def test_suppliers_of_branch_key_ids(fault: str) -> None:
    async def later(context: object) -> Any:
        if fault == "raises":
            raise KeyError("secret")
        return b"id"

    supplier: Any = (lambda context: "id") if fault == "sync" else later
    key = HierarchicalMasterKey(a_store(), branch_key_id_supplier=supplier, max_age=60)
    with pytest.raises(ProviderError, match=r"^branch_key_id_supplier (raised|returned) ") as caught:
        await encrypting(key)
    assert "secret" not in str(caught.value)


def test_abstract_keys_are_refused_by_python() -> None:
    class Half(MasterKey):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize(
    "around",
    [
        lambda supplier: supplier,
        lambda supplier: limit_regions(supplier, ["us-east-1"]),
        lambda supplier: exclude_regions(supplier, ["eu-west-1"]),
    ],
)
@pytest.mark.parametrize("fault", ["raises", "sync", "wrong"])
async def test_suppliers_of_clients(fault: str, around: Callable[[Any], Any]) -> None:
    async def later(region: str | None) -> Any:
        if fault == "raises":
            raise KeyError("odd")
        return "client"

    supplier: Any = around((lambda region: None) if fault == "sync" else later)
    arn = "arn:aws:kms:us-east-1:123456789012:key/0e7b7a4e-4f27-4c5a-9f5b-2f0f6d3a1c11"
    text = {"raises": "KeyError", "sync": "is it an async function?", "wrong": "str is not a client of KMS"}
    with pytest.raises(ProviderError) as caught:
        await encrypting(KMSMasterKeyProvider([arn], connection=AWSConnection(kms=supplier)))
    assert text[fault] in str(caught.value)
