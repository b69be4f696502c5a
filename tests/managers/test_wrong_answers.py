"""Managers, providers and keys of users that return what they must not: one error that names the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioencrypt import (
    CachingCMM,
    DefaultCMM,
    MultiMasterKeyProvider,
    ProviderError,
    RequiredEncryptionContextCMM,
    decrypt,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import DataKeyRequest, DecryptionMaterialsRequest, EncryptionMaterialsRequest
from aioencrypt.rewrap import rewrap_stream
from tests.support.providers import CONTEXT, OwnKey

pytestmark = pytest.mark.anyio

KEY = OwnKey("a")


class Manager:
    """A manager that returns what it is told, and not even later where it is not `later`."""

    def __init__(self, answer: object, *, later: bool = True) -> None:
        self.answer = answer
        self.later = later

    def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> Any:
        return self._later() if self.later else self.answer

    def decrypt_materials(self, request: DecryptionMaterialsRequest) -> Any:
        return self._later() if self.later else self.answer

    async def _later(self) -> object:
        return self.answer


class Wrong(OwnKey):
    """A key of which one method returns what it is told."""

    def __init__(self, method: str, answer: object, *, later: bool = True) -> None:
        super().__init__("a")

        async def wrong(*_: object) -> object:
            return answer

        setattr(self, method, wrong if later else lambda *_: answer)


ABOVE: dict[str, Callable[[Any], Any]] = {
    "alone": lambda manager: manager,
    "below caching": lambda manager: CachingCMM(manager, max_age=60),
    "below required": lambda manager: RequiredEncryptionContextCMM(manager, ["tenant"]),
}
WRONG_ANSWERS: list[tuple[object, bool, str]] = [
    (None, True, "NoneType, not {kind}"),
    ({}, True, "dict, not {kind}"),
    (None, False, "NoneType, which is not awaited: is it an async function?"),
    (5, False, "int, which is not awaited: is it an async function?"),
]


@pytest.mark.parametrize(("answer", "later", "text"), WRONG_ANSWERS)
@pytest.mark.parametrize("above", ABOVE)
async def test_what_a_manager_must_not_return(above: str, answer: object, later: bool, text: str) -> None:
    manager = ABOVE[above](Manager(answer, later=later))
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"", manager, encryption_context=CONTEXT)
    told = text.format(kind="EncryptionMaterials")
    assert str(caught.value) == f"Manager.get_encryption_materials returned {told}"

    message, _ = await encrypt(b"", KEY, encryption_context=CONTEXT)
    with pytest.raises(ProviderError) as caught:
        await decrypt(message, manager, encryption_context=CONTEXT)
    told = text.format(kind="DecryptionMaterials")
    assert str(caught.value) == f"Manager.decrypt_materials returned {told}"


async def test_materials_of_a_message_that_a_cache_does_not_keep_are_checked_too() -> None:
    async def unknown() -> Any:
        yield b""

    manager: Any = Manager(None)
    with pytest.raises(ProviderError, match=r"^Manager\.get_encryption_materials returned NoneType"):
        async with encrypt_stream(unknown(), CachingCMM(manager, max_age=60)):
            pytest.fail("entered")


@pytest.mark.parametrize(("answer", "later", "text"), WRONG_ANSWERS)
async def test_what_a_provider_must_not_return(answer: object, later: bool, text: str) -> None:
    message, _ = await encrypt(b"", KEY)
    wrong = Wrong("decrypt_data_key", answer, later=later)
    told = f"Wrong.decrypt_data_key returned {text.format(kind='DecryptedDataKey')}"
    with pytest.raises(ProviderError) as caught:
        await decrypt(message, DefaultCMM(wrong))
    assert str(caught.value) == told
    with pytest.raises(ProviderError) as caught:
        await decrypt(message, MultiMasterKeyProvider(wrong))
    [attempt] = caught.value.attempts
    assert str(attempt.error) == told
    assert (await decrypt(message, MultiMasterKeyProvider(wrong, KEY))).plaintext == b""


KEYS_GIVEN: list[tuple[object, bool, str]] = [
    (None, True, "NoneType, not Sequence"),
    (KEY, True, "OwnKey, not Sequence"),
    ([KEY], False, "list, which is not awaited: is it an async function?"),
    ([KEY, "key"], True, "str, not master keys"),
]


@pytest.mark.parametrize(("answer", "later", "text"), KEYS_GIVEN)
async def test_keys_to_encrypt_with_that_are_none(answer: object, later: bool, text: str) -> None:
    wrong = Wrong("encryption_keys", answer, later=later)
    for provider in (wrong, MultiMasterKeyProvider(wrong), MultiMasterKeyProvider(KEY, wrong)):
        with pytest.raises(ProviderError) as caught:
            await encrypt(b"", provider)
        assert str(caught.value) == f"Wrong.encryption_keys returned {text}"
    message, _ = await encrypt(b"", KEY)
    with pytest.raises(ProviderError, match=r"^Wrong\.encryption_keys returned "):
        async with rewrap_stream(message, KEY, new_provider=wrong):
            pytest.fail("entered")


@pytest.mark.parametrize(
    ("method", "kind"), [("generate_data_key", "tuple"), ("encrypt_data_key", "EncryptedDataKey")]
)
@pytest.mark.parametrize(("answer", "later", "text"), WRONG_ANSWERS)
async def test_what_a_key_must_not_return_when_it_encrypts(
    method: str, kind: str, answer: object, later: bool, text: str
) -> None:
    wrong = Wrong(method, answer, later=later)
    provider = wrong if method == "generate_data_key" else MultiMasterKeyProvider(KEY, wrong)
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"", provider)
    [attempt] = caught.value.attempts
    assert str(attempt.error) == f"Wrong.{method} returned {text.format(kind=kind)}"


@pytest.mark.parametrize(("answer", "later", "text"), WRONG_ANSWERS)
async def test_what_a_key_must_not_return_when_it_decrypts(answer: object, later: bool, text: str) -> None:
    request = DataKeyRequest(
        algorithm_suite=(await encrypt(b"", KEY)).header.algorithm_suite,
        encrypted_data_keys=(await encrypt(b"", KEY)).header.encrypted_data_keys,
    )
    with pytest.raises(ProviderError) as caught:
        await Wrong("unwrap_data_key", answer, later=later).decrypt_data_key(request)
    [attempt] = caught.value.attempts
    assert str(attempt.error) == f"Wrong.unwrap_data_key returned {text.format(kind='DataKey')}"
