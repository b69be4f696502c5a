"""Encrypting under several keys: one generates, the others at once, and one error for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from aioencrypt import ProviderClosedError, ProviderError, ServiceError
from aioencrypt.materials import DataKeyRequest, MasterKey
from aioencrypt.providers.base import make_data_key
from tests.support.providers import Interruption, OwnKey, OwnProvider, Waiting, asking, raised
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio


# Encrypting: the first key generates


@pytest.mark.spec(
    "framework/keyring-interface.md#onencrypt",
    "framework/keyring-interface.md#encrypt-data-key",
    "framework/default-cmm.md#legacy-behavior--master-key-providers",
    "framework/default-cmm.md#get-encryption-materials-master-key-provider",
)
async def test_the_first_key_generates_and_the_others_encrypt() -> None:
    log: list[str] = []
    keys = [OwnKey(name, log) for name in "abc"]
    request = asking()
    data_key, encrypted, _ = await make_data_key(OwnProvider("p", *keys), request)
    assert log[0] == "generate a"
    assert sorted(log[1:]) == ["encrypt b", "encrypt c"]
    assert [edk.provider_info for edk in encrypted] == [b"a", b"b", b"c"]
    for key, edk in zip(keys, encrypted, strict=True):
        assert await key.unwrap_data_key(edk, request) == data_key


@pytest.mark.spec("framework/keyring-interface.md#onencrypt")
async def test_no_key_to_encrypt_with() -> None:
    with pytest.raises(ProviderError, match=r"^the provider returned no master key to encrypt with$"):
        await make_data_key(OwnProvider("p"), asking())


async def test_the_error_of_a_provider_that_cannot_encrypt_passes() -> None:
    class DecryptsOnly(OwnProvider):
        async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
            raise ProviderError("only decrypts")

    with pytest.raises(ProviderError, match=r"^only decrypts$"):
        await make_data_key(DecryptsOnly("p"), asking())


@pytest.mark.spec("framework/default-cmm.md#get-encryption-materials-master-key-provider")
@pytest.mark.parametrize(
    "make",
    [ValueError, ServiceError, lambda text: ExceptionGroup(text, [OSError()])],
    ids=["ours", "raw", "group"],
)
async def test_the_first_key_fails(make: Callable[[str], Exception]) -> None:
    error = make("no")
    log: list[str] = []
    with pytest.raises(ProviderError) as caught:
        await make_data_key(OwnProvider("p", OwnKey("a", log, error=error), OwnKey("b", log)), asking())
    assert_one_failure(caught.value, "generate", "a", error)
    assert log == ["generate a"]


def assert_one_failure(caught: ProviderError, operation: str, name: str, error: Exception) -> None:
    assert type(caught) is ProviderError
    [attempt] = caught.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == (operation, "own", name)
    assert attempt.error is caught.__cause__
    assert raised(attempt.error) is error
    assert caught.summary == f"could not {operation} a data key"


@pytest.mark.spec("framework/keyring-interface.md#generate-data-key")
@pytest.mark.parametrize("length", [0, 31, 33])
async def test_the_first_key_generates_the_wrong_length(length: int) -> None:
    log: list[str] = []
    with pytest.raises(ProviderError) as caught:
        await make_data_key(OwnProvider("p", OwnKey("a", log, length=length), OwnKey("b", log)), asking())
    assert str(caught.value) == (
        "could not generate a data key; "
        f"generate under own a: OwnKey.generate_data_key: the data key has {length} bytes; the suite needs 32"
    )
    assert log == ["generate a"]


# Encrypting: the others at once


class Chained(OwnKey):
    """Ends only after the next key of the chain has ended."""

    def __init__(self, name: str, log: list[str], before: anyio.Event | None) -> None:
        super().__init__(name, log)
        self.before = before
        self.done = anyio.Event()

    async def act(self, operation: str) -> None:
        await super().act(operation)
        if self.before:
            await self.before.wait()
        self.log.append(f"done {self.name}")
        self.done.set()


async def test_keys_encrypt_at_once_and_stay_in_order() -> None:
    log: list[str] = []
    chain: list[Chained] = []
    for name in "edcb":
        chain.insert(0, Chained(name, log, chain[0].done if chain else None))
    with anyio.fail_after(10):
        _, encrypted, _ = await make_data_key(OwnProvider("p", OwnKey("a", log), *chain), asking())
    assert [edk.provider_info for edk in encrypted] == [b"a", b"b", b"c", b"d", b"e"]
    assert log[0] == "generate a"
    assert [line for line in log if line.startswith("done")] == ["done e", "done d", "done c", "done b"]


class FailsLater(OwnKey):
    """Fails when all others wait."""

    async def act(self, operation: str) -> None:
        await anyio.wait_all_tasks_blocked()
        await super().act(operation)


@pytest.mark.spec("framework/multi-keyring.md#onencrypt")
@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("on_cancel", [None, RuntimeError])
async def test_one_failure_cancels_the_others_and_is_one_error(
    position: int, on_cancel: type[Exception] | None
) -> None:
    """What the others say when they are cancelled is no news."""
    log: list[str] = []
    error = ServiceError("no", code="AccessDeniedException")
    keys: list[MasterKey] = [Waiting(name, log, on_cancel) for name in "bc"]
    keys.insert(position, FailsLater("bad", log, error=error))
    with anyio.fail_after(10), pytest.raises(ProviderError) as caught:
        await make_data_key(OwnProvider("p", OwnKey("a", log), *keys), asking())
    assert_one_failure(caught.value, "encrypt", "bad", error)
    assert str(caught.value) == (
        "could not encrypt a data key; encrypt under own bad: AccessDeniedException: no"
    )
    assert log.index("encrypt bad") == 3
    assert sorted(log[-2:]) == ["cancelled b", "cancelled c"]
    assert_idle()


async def test_two_failures_are_one_error() -> None:
    log: list[str] = []
    errors = {name: ValueError(name) for name in "bc"}
    keys = [OwnKey(name, log, error=error) for name, error in errors.items()]
    with pytest.raises(ProviderError) as caught:
        await make_data_key(OwnProvider("p", OwnKey("a"), *keys), asking())
    first = log[0].split()[1]
    assert_one_failure(caught.value, "encrypt", first, errors[first])


@pytest.mark.parametrize("kind", [ProviderClosedError, Interruption])
@pytest.mark.parametrize("position", range(3))
async def test_what_is_no_failure_is_not_wrapped(kind: type[BaseException], position: int) -> None:
    """A provider that is not open ends the call; `SystemExit` and its like are nobody's to wrap."""
    error = kind("stop")
    log: list[str] = []
    keys: list[MasterKey] = [OwnKey("a", log), Waiting("b", log)]
    keys.insert(position, OwnKey("bad", log, error=error))
    with anyio.fail_after(10), pytest.raises(kind) as caught:
        await make_data_key(OwnProvider("p", *keys), asking())
    assert caught.value is error
    assert_idle()


@on_asyncio
async def test_a_key_that_cancels_itself() -> None:
    """It awaited something that was cancelled elsewhere."""
    log: list[str] = []
    keys = (OwnKey("a"), OwnKey("b", error=asyncio.CancelledError()), Waiting("c", log))
    with anyio.fail_after(10), pytest.raises((ProviderError, asyncio.CancelledError)):
        await make_data_key(OwnProvider("p", *keys), asking())
    assert log[-1] == "cancelled c"
    assert_idle()


def waiting_keys(log: list[str]) -> OwnProvider:
    return OwnProvider("p", OwnKey("a"), Waiting("b", log), Waiting("c", log))


async def test_cancellation_passes_through() -> None:
    log: list[str] = []
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(make_data_key, waiting_keys(log), asking())
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert sorted(log) == ["cancelled b", "cancelled c", "encrypt b", "encrypt c"]
    assert_idle()


async def by_task(call: Callable[[], Any]) -> None:
    task = asyncio.create_task(call())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def by_timeout(call: Callable[[], Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await call()


@pytest.mark.parametrize("cancel", [by_task, by_timeout])
@on_asyncio
async def test_cancellation_by_asyncio_passes_through(cancel: Callable[[Callable[[], Any]], Any]) -> None:
    log: list[str] = []
    await cancel(lambda: make_data_key(waiting_keys(log), asking()))
    assert sorted(log) == ["cancelled b", "cancelled c", "encrypt b", "encrypt c"]
    assert_idle()
