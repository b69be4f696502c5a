"""What observers are told of calls of services and answers of caches, and what is current meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AsyncCache,
    AWSConnection,
    CachingCMM,
    KMSMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    ServiceError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open as open_file,
    open_seekable,
)
from aioencrypt.aws.errors import call_service
from aioencrypt.runtime.observation import CacheAnswer, ServiceCall, ServiceEnd, observe
from aioencrypt.testing import InMemoryKMS
from tests.support.caching import Clock, Service
from tests.support.cancelling import settle
from tests.support.hierarchical import key_with
from tests.support.kms import EU, US, Call, provider_for, wrapped
from tests.support.observing import Note, Notes, observed
from tests.support.streaming import Feed, on_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture
def notes() -> Iterator[Notes]:
    with observed() as notes:
        yield notes


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Calls


async def test_a_call_is_told_with_all_that_names_it(notes: Notes, kms: InMemoryKMS) -> None:
    first, second = kms.create_key(region=US), kms.create_key(region=EU)
    message, _ = await encrypt(b"x", provider_for(kms, first, second))
    await decrypt(message, provider_for(kms, second))
    calls = [activity for activity in notes.activities if isinstance(activity, ServiceCall)]
    assert calls == [
        ServiceCall("KMS", "GenerateDataKey", first, US),
        ServiceCall("KMS", "Encrypt", second, EU),
        ServiceCall("KMS", "Decrypt", second, EU),
    ]
    ends = [note.call for note in notes.began if isinstance(note.ends[0], ServiceEnd)]
    assert [(end.error, end.code) for end in ends] == [(None, None)] * 3
    assert len({end.request_id for end in ends} - {None}) == 3
    assert all(0 < end.seconds < 60 for end in ends)


async def test_an_alias_is_called_without_a_region(notes: Notes, kms: InMemoryKMS) -> None:
    kms.create_alias("alias/orders", kms.create_key(region=US))
    await encrypt(b"x", KMSMasterKeyProvider(["alias/orders"], connection=kms.connection(US)))
    assert notes.activities[1] == ServiceCall("KMS", "GenerateDataKey", "alias/orders", None)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (ServiceCall("KMS", "Decrypt", "a key", "eu-west-1"), "KMS Decrypt under a key"),
        (ServiceCall("DynamoDB", "GetItem", "a table", None), "DynamoDB GetItem on a table"),
    ],
)
def test_a_call_is_named_in_the_log(call: ServiceCall, text: str) -> None:
    assert str(call) == text


class Refusal(Exception):
    """An error of a client, by its shape."""

    def __init__(self) -> None:
        self.response = {
            "Error": {"Code": "AccessDeniedException", "Message": "no"},
            "ResponseMetadata": {"RequestId": "request 1", "HTTPStatusCode": 400},
        }


async def answering(answer: Any) -> Any:
    await checkpoint()
    if isinstance(answer, BaseException):
        raise answer
    return answer


CALL = ServiceCall("KMS", "Decrypt", "a key", None)
REFUSED = ServiceError("no", code="AccessDeniedException", request_id="request 2")


@pytest.mark.parametrize(
    ("answer", "error", "code", "request_id"),
    [
        ({"ResponseMetadata": {"RequestId": "request 3"}}, None, None, "request 3"),
        ({"ResponseMetadata": {"RequestId": 4}}, None, None, "4"),
        ({"ResponseMetadata": None}, None, None, None),
        ({"ResponseMetadata": {}}, None, None, None),
        ("no mapping", None, None, None),
        (Refusal(), Refusal, "AccessDeniedException", "request 1"),
        (REFUSED, ServiceError, "AccessDeniedException", "request 2"),
        (ConnectionResetError(), ConnectionResetError, None, None),
        (ProviderClosedError(), ProviderClosedError, None, None),
    ],
)
async def test_how_a_call_ended(
    notes: Notes, answer: Any, error: type[Exception] | None, code: str | None, request_id: str | None
) -> None:
    if error is None:
        assert await call_service(CALL, lambda: answering(answer), 10) == answer
    else:
        with pytest.raises((ServiceError, ProviderClosedError)) as caught:
            await call_service(CALL, lambda: answering(answer), 10)
        assert answer in (caught.value, caught.value.__cause__)
    end = notes.only.call
    assert (end.error, end.code, end.request_id) == (error, code, request_id)


async def test_a_call_without_an_answer_ended_by_its_time_limit(notes: Notes) -> None:
    with pytest.raises(ServiceError, match=r"no answer within 0\.001 seconds"):
        await call_service(CALL, anyio.sleep_forever, 0.001)
    assert (notes.only.call.error, notes.only.call.code) == (TimeoutError, None)


async def test_a_call_that_is_cancelled_ended_by_that(notes: Notes) -> None:
    with anyio.move_on_after(0.001):
        await call_service(CALL, anyio.sleep_forever, None)
    assert notes.only.call.error is anyio.get_cancelled_exc_class()


async def test_what_is_no_operation_of_the_service_is_not_told(notes: Notes) -> None:
    assert await call_service("a client of kms", lambda: answering("client"), 10) == "client"
    assert notes.began == []


async def test_an_observer_that_raises_does_not_fail_a_call(kms: InMemoryKMS) -> None:
    class Raising(Notes):
        def call_began(self, call: ServiceCall) -> Note:
            raise ValueError

        def cache_answered(self, answer: CacheAnswer) -> None:
            raise ValueError

    stop = observe(Raising())
    try:
        manager = CachingCMM(provider_for(kms, kms.create_key()), max_age=60)
        assert (await encrypt(b"x", manager)).provenance.cached is False
        assert (await encrypt(b"x", manager)).provenance.cached is True
    finally:
        stop()


# What is current


def within(notes: Notes, name: str) -> list[tuple[str, ...]]:
    return [note.within for note in notes.began if note.name == name]


async def test_calls_are_made_within_their_message(notes: Notes, kms: InMemoryKMS, tmp_path: Any) -> None:
    provider = provider_for(kms, *(kms.create_key() for _ in range(3)))
    message, _ = await encrypt(b"x", provider)
    await decrypt(message, provider)
    async with encrypt_stream(Feed(b"x"), provider) as writing:
        await writing.read()
    async with decrypt_stream(Feed(message), provider) as reading:
        await reading.read()
    async with open_file(tmp_path / "file", "wb", provider=provider) as writer:
        await writer.write(b"x")
    async with open_seekable(message, provider, accept_unverified_signature=True) as seekable:
        await seekable.read()
    assert within(notes, "GenerateDataKey") == [("encrypt whole",), ("encrypt stream",), ("encrypt file",)]
    assert within(notes, "Encrypt") == [
        ("encrypt whole",),
        ("encrypt whole",),
        ("encrypt stream",),
        ("encrypt stream",),
        ("encrypt file",),
        ("encrypt file",),
    ]
    assert within(notes, "Decrypt") == [("decrypt whole",), ("decrypt stream",), ("decrypt seekable",)]
    messages = [note.within for note in notes.began if note.name not in ("GenerateDataKey", "Encrypt")]
    assert set(messages) == {(), ("decrypt whole",), ("decrypt stream",), ("decrypt seekable",)}


async def test_the_client_is_called_within_the_call(notes: Notes, kms: InMemoryKMS) -> None:
    seen = []

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        # A client whose requests are observed, as that of aiobotocore with its own instrumentation.
        seen.append(notes.call_began(ServiceCall("KMS", "request", "", None)).within)
        return await call()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    await encrypt(b"x", provider)
    assert seen == [("encrypt whole", "GenerateDataKey")]


async def test_nothing_is_current_between_the_calls_of_a_stream(notes: Notes, kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key())
    outer, _ = await encrypt(b"x" * 10_000, provider)
    async with decrypt_stream(Feed(outer), provider) as stream:
        await encrypt(b"inside", provider)
        await stream.read(1)
        await encrypt(b"inside", provider)
        await stream.read()
    await encrypt(b"after", provider)
    assert within(notes, "encrypt whole") == [()] * 4


async def test_a_source_is_not_read_within_the_message_after_entry(notes: Notes, kms: InMemoryKMS) -> None:
    async def source() -> Any:
        await encrypt(b"x", provider)
        yield b"x"

    provider = provider_for(kms, kms.create_key())
    async with encrypt_stream(source(), provider) as stream:
        await stream.read()
    assert within(notes, "encrypt whole") == [()]


async def test_tasks_do_not_see_what_is_current_in_others(notes: Notes, kms: InMemoryKMS) -> None:
    arrived = 0
    all_there = anyio.Event()

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        nonlocal arrived
        arrived += 1
        if arrived == 10:
            all_there.set()
        await all_there.wait()
        return await call()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(encrypt, b"x", provider)
    assert within(notes, "encrypt whole") == [()] * 10
    assert within(notes, "GenerateDataKey") == [("encrypt whole",)] * 10


async def test_a_fetch_in_the_background_is_made_within_the_message_that_started_it(
    notes: Notes, kms: InMemoryKMS
) -> None:
    clock = Clock()
    provider = provider_for(kms, kms.create_key())
    async with CachingCMM(provider, max_age=100, refresh_ahead=10, clock=clock) as manager:
        await encrypt(b"x", manager)
        clock.now += 95
        await decrypt((await encrypt(b"x", manager)).ciphertext, manager)
        await settle()
    assert within(notes, "GenerateDataKey") == [("encrypt whole",)] * 2
    assert within(notes, "Decrypt") == [("decrypt whole",)]
    cached = [note.message.tally.cached for note in notes.began if note.name == "encrypt whole"]
    assert cached == [False, True]


# Caches


async def test_what_a_cache_answered(notes: Notes) -> None:
    clock, service = Clock(), Service()
    cache: AsyncCache[str] = AsyncCache(clock=clock)

    async def get() -> tuple[str, bool]:
        return await cache.get("key", service, max_age=100, refresh_ahead=10, observed_as="things")

    assert await get() == ("value 1", False)
    assert await get() == ("value 1", True)
    clock.now += 95
    service.held = True
    assert await get() == ("value 1", True)
    # while it is being refreshed
    assert await get() == ("value 1", True)
    await service.waiting.wait()
    service.release()
    await settle()
    assert await get() == ("value 2", True)
    assert notes.answers == [
        ("miss", "things"),
        ("hit", "things"),
        ("refresh", "things"),
        ("hit", "things"),
        ("hit", "things"),
    ]
    statistics = cache.statistics
    assert (statistics.hits, statistics.misses, statistics.refreshes) == (4, 1, 1)
    await cache.aclose()


async def test_who_waits_for_the_fetch_of_another_hits(notes: Notes) -> None:
    service = Service(held=True)
    cache: AsyncCache[str] = AsyncCache()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(lambda: cache.get("key", service, max_age=100, observed_as="things"))
        await service.waiting.wait()
        assert notes.answers == [("miss", "things")]
        service.release()
    assert sorted(notes.answers) == [("hit", "things")] * 4 + [("miss", "things")]
    await cache.aclose()


async def test_a_fetch_that_fails_is_a_miss(notes: Notes) -> None:
    cache: AsyncCache[str] = AsyncCache()
    with pytest.raises(ProviderError):
        await cache.get("key", Service(error=ProviderError("no")), max_age=100, observed_as="things")
    assert notes.answers == [("miss", "things")]


async def test_a_cache_of_what_has_no_name_tells_nothing(notes: Notes) -> None:
    cache: AsyncCache[str] = AsyncCache()
    for _ in range(2):
        await cache.get("key", Service(), max_age=100)
    assert notes.answers == []
    await cache.aclose()


async def test_observers_may_ask_the_cache() -> None:
    cache: AsyncCache[str] = AsyncCache()

    class Asking(Notes):
        def cache_answered(self, answer: CacheAnswer) -> None:
            statistics = cache.statistics
            self.answers.append((answer.answer, f"{statistics.hits} {statistics.misses}"))

    asking = Asking()
    stop = observe(asking)
    try:
        for _ in range(3):
            await cache.get("key", Service(), max_age=100, observed_as="things")
    finally:
        stop()
    assert asking.answers == [("miss", "0 1"), ("hit", "1 1"), ("hit", "2 1")]
    await cache.aclose()


@on_asyncio
async def test_managers_are_told_apart_from_branch_keys(notes: Notes, kms: InMemoryKMS) -> None:
    key, _ = key_with("branch")
    manager = CachingCMM(key, max_age=60)
    await encrypt(b"x", manager)
    await encrypt(b"x", manager)
    await encrypt(b"x", key)
    assert notes.answers == [
        ("miss", "data keys"),
        ("miss", "branch keys"),
        ("hit", "data keys"),
        ("hit", "branch keys"),
    ]


def test_text_of_a_message_is_escaped_for_observers() -> None:
    forged = "key/1234\n2026-11-30 ERROR forged \x1b[31m"
    call = ServiceCall("KMS", "Decrypt", forged, "eu\nwest")
    end = ServiceEnd(0.1, None, "Denied\n", "id\x1b")
    for text in (call.target, call.region, str(call), end.code, end.request_id):
        assert text is not None
        assert text.isprintable()
