"""What master keys share: attempts in order, each failure kept; and keys and providers of users."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, DataKeyRequest, DecryptedDataKey, EncryptedDataKey, MasterKey
from tests.support.providers import SUITE, Interruption, OwnKey, Waiting, asking, raised
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

DATA_KEY = DataKey(bytes(range(32)))
RAW_AES_LENGTHS = bytes.fromhex("000000800000000c")
STRANGER = EncryptedDataKey("somebody", b"else", b"sealed")


# A master key as a provider


async def test_a_master_key_supplies_itself() -> None:
    key = OwnKey("a")
    assert tuple(await key.encryption_keys(asking())) == (key,)


async def test_entering_and_warming_up_do_nothing_by_default() -> None:
    key = OwnKey("a")
    async with key as entered:
        assert entered is key
        await key.warm_up()
    await key.aclose()
    assert key.log == []


async def test_leaving_closes() -> None:
    class Closing(OwnKey):
        async def aclose(self) -> None:
            self.log.append("close")

    key = Closing("a")
    with pytest.raises(ZeroDivisionError):
        async with key:
            raise ZeroDivisionError
    assert key.log == ["close"]


@pytest.mark.spec("framework/keyring-interface.md#overview")
@pytest.mark.parametrize("cls", [MasterKey, MasterKeyProvider])
async def test_the_interfaces_are_abstract(cls: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        cls()


# Decrypting: one attempt at a time


class Choosy(OwnKey):
    """Opens what `answers` has an answer for, by ciphertext; an exception is raised."""

    def __init__(self, **answers: bytes | BaseException) -> None:
        super().__init__("choosy")
        self.answers = answers
        self.tried: list[str] = []

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        return encrypted_data_key.provider_id == "own"

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        name = encrypted_data_key.ciphertext.decode()
        self.tried.append(name)
        await checkpoint()
        answer = self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return DataKey(answer)


def sealed(name: str) -> EncryptedDataKey:
    return EncryptedDataKey("own", b"choosy", name.encode())


@pytest.mark.spec(
    "framework/keyring-interface.md#ondecrypt", "framework/keyring-interface.md#decrypt-data-key"
)
async def test_attempts_go_in_order_until_one_opens() -> None:
    failures = {"a": ValueError("a"), "b": ServiceError("b", code="Denied")}
    key = Choosy(**failures, c=DATA_KEY.plaintext, d=DATA_KEY.plaintext)
    request = asking(sealed("a"), STRANGER, sealed("b"), sealed("c"), sealed("d"))
    assert await key.decrypt_data_key(request) == DecryptedDataKey(DATA_KEY, sealed("c"), key)
    assert key.tried == ["a", "b", "c"]


@pytest.mark.spec(
    "framework/keyring-interface.md#ondecrypt", "framework/keyring-interface.md#decrypt-data-key"
)
async def test_every_failure_is_kept() -> None:
    failures = {
        "a": ValueError("odd"),
        "b": ServiceError("no", code="Denied"),
        "c": ExceptionGroup("several", [OSError("net")]),
    }
    key = Choosy(**failures)
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(*map(sealed, "abc"), STRANGER))
    attempts = caught.value.attempts
    assert [raised(attempt.error) for attempt in attempts] == list(failures.values())
    assert {(attempt.operation, attempt.provider_id, attempt.key_id) for attempt in attempts} == {
        ("decrypt", "own", "choosy")
    }
    assert str(caught.value) == (
        "none of the 4 encrypted data keys of the message could be decrypted; "
        "decrypt under own choosy: Choosy.unwrap_data_key raised ValueError; "
        "decrypt under own choosy: Denied: no; "
        "decrypt under own choosy: Choosy.unwrap_data_key raised ExceptionGroup"
    )


@pytest.mark.spec("framework/keyring-interface.md#ondecrypt")
async def test_no_encrypted_data_key_is_ours() -> None:
    others = [
        EncryptedDataKey("zeta", b"name" + RAW_AES_LENGTHS + bytes(12), b"sealed"),
        EncryptedDataKey("aws-kms", b"arn", b"sealed"),
        EncryptedDataKey("zeta", b"name" + RAW_AES_LENGTHS + b"\xff" * 12, b"sealed"),
        EncryptedDataKey("caf\udce9", b"\xff no text", b"sealed"),
    ]
    with pytest.raises(ProviderError) as caught:
        await OwnKey("a").decrypt_data_key(asking(*others))
    assert caught.value.attempts == ()
    assert str(caught.value) == (
        "none of the 4 encrypted data keys of the message belongs to a master key given here; "
        "they come from the providers 'zeta' ('name'), 'aws-kms' ('arn'), 'caf\\udce9'; given are 'own' ('a')"
    )


@pytest.mark.parametrize(
    ("count", "more"), [(1, ""), (5, ""), (6, " and more"), (64, " and more"), (65, " and more")]
)
@pytest.mark.parametrize("name", ["k", "k" * 300], ids=len)
async def test_an_error_names_a_few_of_many_keys(count: int, more: str, name: str) -> None:
    others = [EncryptedDataKey("zeta", f"{index:03}{name}".encode(), b"sealed") for index in range(count)]
    with pytest.raises(ProviderError) as caught:
        await OwnKey("a").decrypt_data_key(asking(*others))
    shown = ", ".join(f"'zeta' ('{index:03}{name[:197]}')" for index in range(min(count, 5)))
    _, _, names = str(caught.value).partition("they come from the providers ")
    assert names == f"{shown}{more}; given are 'own' ('a')"


async def test_no_more_than_some_of_the_data_keys_are_looked_through_for_names() -> None:
    same = EncryptedDataKey("zeta", b"info", b"sealed")
    with pytest.raises(ProviderError, match=r"providers 'zeta' \('info'\); given"):
        await OwnKey("a").decrypt_data_key(asking(*[same] * 64))
    with pytest.raises(ProviderError, match=r"providers 'zeta' \('info'\) and more; given"):
        await OwnKey("a").decrypt_data_key(asking(*[same] * 65))


@pytest.mark.spec("framework/keyring-interface.md#decrypt-data-key")
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_a_data_key_of_the_wrong_length_is_a_failed_attempt(suite: AlgorithmSuite) -> None:
    right = bytes(suite.data_key_length)
    key = Choosy(empty=b"", short=right[:-1], long=right + b"\0", right=right)
    opened = await key.decrypt_data_key(asking(*map(sealed, key.answers), suite=suite))
    assert opened == DecryptedDataKey(DataKey(right), sealed("right"), key)
    assert key.tried == ["empty", "short", "long", "right"]
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(sealed("long"), suite=suite))
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, ProviderError)
    assert str(attempt.error) == (
        f"Choosy.unwrap_data_key: the data key has {len(right) + 1} bytes; the suite needs {len(right)}"
    )


@pytest.mark.parametrize("kind", [ProviderClosedError, Interruption])
async def test_what_ends_decryption_at_once(kind: type[BaseException]) -> None:
    error = kind("stop")
    key = Choosy(a=ValueError("a"), b=error, c=DATA_KEY.plaintext)
    with pytest.raises(kind) as caught:
        await key.decrypt_data_key(asking(*map(sealed, "abc")))
    assert caught.value is error
    assert key.tried == ["a", "b"]


async def test_cancellation_is_no_failed_attempt() -> None:
    log: list[str] = []
    key = Waiting("a", log)
    request = asking(*[key.wrap(DATA_KEY, asking())] * 2)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(key.decrypt_data_key, request)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert log == ["decrypt a", "cancelled a"]
    assert_idle()


# What users write


class TenantKeys(MasterKeyProvider):
    """Picks a key by the encryption context."""

    def __init__(self, *tenants: str) -> None:
        self.keys = {tenant: OwnKey(tenant) for tenant in tenants}

    def key(self, request: DataKeyRequest) -> OwnKey:
        tenant = request.encryption_context.get("tenant", "")
        if tenant not in self.keys:
            raise ProviderError("the encryption context names no tenant that has a key")
        return self.keys[tenant]

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return [self.key(request)]

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        return await self.key(request).decrypt_data_key(request)


async def test_a_provider_of_a_user() -> None:
    provider = TenantKeys("41", "42")
    message, header = await encrypt(b"attack at dawn", provider, encryption_context={"tenant": "42"})
    assert [edk.provider_info for edk in header.encrypted_data_keys] == [b"42"]
    assert (await decrypt(message, provider)).plaintext == b"attack at dawn"
    assert (provider.keys["41"].log, provider.keys["42"].log) == ([], ["generate 42", "decrypt 42"])
    with pytest.raises(ProviderError, match=r"^the encryption context names no tenant that has a key$"):
        await encrypt(b"attack at dawn", provider)


async def test_keys_of_a_user_beside_each_other() -> None:
    keys = [OwnKey(name) for name in "abc"]
    message, _ = await encrypt(
        b"attack at dawn", MultiMasterKeyProvider(*keys), encryption_context={"k": "v"}
    )
    for key in keys:
        assert (await decrypt(message, key)).plaintext == b"attack at dawn"
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        await decrypt(message, OwnKey("d"))


async def test_a_key_that_knows_suites() -> None:
    """What a key gets to know is the suite, the context with the public key, and the data keys."""
    asked: list[DataKeyRequest] = []

    class Asked(OwnKey):
        async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
            asked.append(request)
            return await super().generate_data_key(request)

        async def unwrap_data_key(
            self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest
        ) -> DataKey:
            asked.append(request)
            return await super().unwrap_data_key(encrypted_data_key, request)

    key = Asked("a")
    message, header = await encrypt(b"", key, encryption_context={"tenant": "42"}, algorithm_suite=SUITE)
    await decrypt(message, key)
    assert asked == [asking(), asking(*header.encrypted_data_keys)]
