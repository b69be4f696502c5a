"""Clients that the providers make with aiobotocore: where they come from, and how long they live."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioencrypt import (
    AWSConnection,
    EncryptionError,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import WatchedSession, connected, run_script, sealed, strict
from tests.support.kms import AP, EU, SECRET, US, calls_of
from tests.support.providers import asking
from tests.support.streaming import assert_idle, collected, on_asyncio, on_asyncio_and_uvloop

pytestmark = pytest.mark.anyio
collect_what_a_test_left = pytest.fixture(autouse=True)(collected)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


# Where clients come from


@on_asyncio_and_uvloop
async def test_the_standard_credentials_at_an_endpoint(kms: InMemoryKMS, url: str) -> None:
    keys = [kms.create_key(), kms.create_key(region=EU)]
    async with strict(*keys, kms=url) as provider:
        message = await sealed(provider)
        assert calls_of(kms) == [("GenerateDataKey", US, keys[0]), ("Encrypt", EU, keys[1])]
        kms.deny(keys[0])
        assert (await decrypt(message, provider)).plaintext == b"x"
    async with KMSDiscoveryMasterKeyProvider(
        discovery_filter=None, connection=AWSConnection(kms=url)
    ) as discovery:
        kms.reset_calls()
        assert (await decrypt(message, discovery)).plaintext == b"x"
        # botocore does not repeat what was denied
        assert calls_of(kms) == [("Decrypt", US, keys[0]), ("Decrypt", EU, keys[1])]
    assert_idle()


@on_asyncio
async def test_a_key_without_a_region_is_in_the_default_region(
    kms: InMemoryKMS, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", EU)
    kms.create_alias("alias/app", kms.create_key(region=EU))
    async with strict("alias/app", kms=url) as provider:
        await provider.warm_up()
        await sealed(provider)
    assert calls_of(kms) == [("GenerateDataKey", EU, "alias/app")]


@on_asyncio
async def test_a_session_brings_its_own_credentials(
    kms: InMemoryKMS, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    session = WatchedSession()
    session.set_credentials("mine", "secret")
    key = kms.create_key()
    async with strict(key, session=session, kms=url) as provider:
        assert session.regions == []
        await sealed(provider)
    assert session.regions == [US]


@on_asyncio
async def test_given_clients_stay_open_and_need_no_async_with(kms: InMemoryKMS, url: str) -> None:
    keys = [kms.create_key(), kms.create_key(region=EU)]
    async with AsyncExitStack() as stack:
        clients = {
            region: await stack.enter_async_context(
                get_session().create_client("kms", region_name=region, endpoint_url=url)
            )
            for region in (US, EU)
        }

        async def supply(region: str | None) -> Any:
            return clients[region or US]

        for source in (clients, supply):
            provider = strict(*keys, kms=source)
            message = await sealed(provider)
            async with provider:
                await sealed(provider)
            await provider.aclose()
            assert (await decrypt(message, provider)).plaintext == b"x"
        for region, key in zip((US, EU), keys, strict=True):
            await clients[region].describe_key(KeyId=key)


@on_asyncio_and_uvloop
async def test_a_cold_provider_makes_one_client_for_each_region(kms: InMemoryKMS, url: str) -> None:
    session = WatchedSession()
    keys = [kms.create_key(region=region) for region in (US, EU, US, EU)]
    async with strict(*keys, session=session, kms=url) as provider:
        messages = await asyncio.gather(*(sealed(provider) for _ in range(10)))
        await asyncio.gather(*(decrypt(message, provider) for message in messages))
        assert sorted(filter(None, session.regions)) == [EU, US]
        await provider.warm_up()
        assert len(session.regions) == 2


@on_asyncio
async def test_a_message_does_not_make_as_many_clients_as_it_names_regions(url: str) -> None:
    """A header of a megabyte has room for 16,000 regions, and a client takes a megabyte, too."""
    session = WatchedSession()
    names = [f"arn:aws:kms:xx-any-{number}:111122223333:key/any" for number in range(66)]
    request = asking(*[EncryptedDataKey("aws-kms", name.encode(), b"x") for name in names])
    connection = AWSConnection(session=session, kms=url)
    async with KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=connection) as provider:
        with pytest.raises(ProviderError):
            await provider.decrypt_data_key(request)
        assert len(set(session.regions)) == 64
        with pytest.raises(ProviderError) as caught:
            await provider.decrypt_data_key(asking(*request.encrypted_data_keys[64:]))
    assert [str(attempt.error) for attempt in caught.value.attempts] == [
        f"no client is created for {region!r}, as there are clients for 64 regions; "
        "restrict the regions with region= or limit_regions()"
        for region in ("xx-any-64", "xx-any-65")
    ]


@on_asyncio
async def test_warming_up_makes_the_clients_and_calls_nobody(kms: InMemoryKMS, url: str) -> None:
    session = WatchedSession()
    key, other = kms.create_key(region=EU), kms.create_key(region=AP)
    async with strict(key, other, key, session=session, kms=url) as provider:
        await provider.warm_up()
        assert session.regions == [EU, AP]
    async with KMSDiscoveryMasterKeyProvider(
        discovery_filter=None, region=US, connection=AWSConnection(session=session, kms=url)
    ) as discovery:
        await discovery.warm_up()
    assert session.regions == [EU, AP, US]
    assert not kms.calls


# Only inside `async with`


@on_asyncio
async def test_outside_of_async_with_nothing_is_opened(kms: InMemoryKMS, url: str) -> None:
    session = WatchedSession()
    key = kms.create_key()
    options = connected({"session": session, "kms": url})
    provider = strict(key, key, **options)
    discovery = KMSDiscoveryMasterKeyProvider(discovery_filter=None, region=US, **options)
    message = await sealed(strict(key, kms=kms.clients(US)))
    kms.reset_calls()

    async def check_closed() -> None:
        for use in (
            lambda: encrypt(b"x", provider),
            lambda: decrypt(message, provider),
            lambda: decrypt(message, discovery),
            lambda: decrypt(message, MultiMasterKeyProvider(discovery, provider)),
            provider.warm_up,
            discovery.warm_up,
        ):
            with pytest.raises(
                ProviderClosedError,
                match="is not open: open it with `async with`, or give ready clients",
            ):
                await use()

    await check_closed()
    await provider.aclose()
    assert session.regions == []
    async with MultiMasterKeyProvider(discovery, provider):
        await decrypt(message, discovery)
        await decrypt(message, provider)
    await check_closed()
    assert session.regions == [US], "they have one connection"
    assert kms.call_count() == 2


@on_asyncio
async def test_entries_are_counted(kms: InMemoryKMS, url: str) -> None:
    session = WatchedSession()
    provider = strict(kms.create_key(), session=session, kms=url)
    for _ in range(2):
        async with provider as entered:
            assert entered is provider
            async with provider:
                await sealed(provider)
            await sealed(provider)
            await provider.__aenter__()
            await provider.aclose()
            await sealed(provider)
        with pytest.raises(ProviderClosedError):
            await sealed(provider)
        # more often than it was entered
        await provider.aclose()
    assert session.regions == [US, US]


@on_asyncio
async def test_entered_by_many_tasks_at_once(kms: InMemoryKMS, url: str) -> None:
    session = WatchedSession()
    provider = strict(kms.create_key(), session=session, kms=url)
    everyone = asyncio.Barrier(5)

    async def use() -> None:
        async with provider:
            await everyone.wait()
            await sealed(provider)
            await everyone.wait()

    await asyncio.gather(*(use() for _ in range(5)))
    assert session.regions == [US]
    with pytest.raises(ProviderClosedError):
        await sealed(provider)


@on_asyncio
async def test_entered_and_left_by_different_tasks(kms: InMemoryKMS, url: str) -> None:
    provider = strict(kms.create_key(), kms=url)
    await asyncio.create_task(provider.__aenter__())
    await asyncio.create_task(sealed(provider))
    await asyncio.create_task(provider.aclose())


async def fail_inside(provider: KMSMasterKeyProvider) -> None:
    async with provider:
        await sealed(provider)
        raise KeyError


@on_asyncio
async def test_an_exception_passes_and_leaves_nothing_open(kms: InMemoryKMS, url: str) -> None:
    provider = strict(kms.create_key(), kms=url)
    with pytest.raises(KeyError):
        await fail_inside(provider)
    with pytest.raises(ProviderClosedError):
        await sealed(provider)


@on_asyncio
async def test_cancelled_on_entry_and_in_a_call(kms: InMemoryKMS, url: str) -> None:
    provider = strict(kms.create_key(), kms=url)
    entering = asyncio.create_task(provider.__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    with pytest.raises(ProviderClosedError):
        await sealed(provider)
    kms.latency = 3600
    async with provider:
        calling = asyncio.create_task(sealed(provider))
        while not kms.calls:
            await asyncio.sleep(0.001)
        calling.cancel()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        kms.latency = 0
        await sealed(provider)
    assert_idle()


class HeldSession(WatchedSession):
    """A session whose clients are made when `go_on` is set; `open` counts those that are not closed."""

    def __init__(self, kms: InMemoryKMS) -> None:
        super().__init__()
        self.kms = kms
        self.making, self.go_on = asyncio.Event(), asyncio.Event()
        self.made = self.open = 0

    def create_client(self, service: str, **options: Any) -> Any:
        return self

    async def __aenter__(self) -> Any:
        self.making.set()
        await self.go_on.wait()
        self.made += 1
        self.open += 1
        return self.kms.client(US)

    async def __aexit__(self, *error: object) -> None:
        self.open -= 1


@on_asyncio
async def test_a_client_that_is_made_while_the_provider_is_left_is_closed(kms: InMemoryKMS) -> None:
    session = HeldSession(kms)
    provider = strict(kms.create_key(), session=session)
    await provider.__aenter__()
    warming = [asyncio.create_task(provider.warm_up()) for _ in range(2)]
    await session.making.wait()
    leaving = asyncio.create_task(provider.aclose())
    await asyncio.sleep(0)
    session.go_on.set()
    await leaving
    outcomes = await asyncio.gather(*warming, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, EncryptionError) for outcome in outcomes)
    assert (session.made, session.open) == (1, 0)


# The extra


WITHOUT_AIOBOTOCORE = """
import asyncio, sys
sys.modules["aiobotocore"] = sys.modules["botocore"] = None
from aioencrypt import KMSDiscoveryMasterKeyProvider, KMSMasterKeyProvider, decrypt, encrypt
from aioencrypt.testing import InMemoryKMS

async def main():
    kms = InMemoryKMS()
    key = kms.create_key()
    for provider in (KMSMasterKeyProvider([key]), KMSDiscoveryMasterKeyProvider(discovery_filter=None)):
        try:
            await provider.__aenter__()
        except ImportError as error:
            print(error, "|", type(error.__cause__).__name__)
    kms.deny(key, "Encrypt")
    provider = KMSMasterKeyProvider([key], connection=kms.connection("us-east-1"))
    print((await decrypt((await encrypt(b"works", provider)).ciphertext, provider)).plaintext.decode())
    try:
        await encrypt(b"x", KMSMasterKeyProvider([key, key], connection=kms.connection("us-east-1")))
    except Exception as error:
        print(error.attempts[0].error.code)

asyncio.run(main())
"""


def test_without_aiobotocore_the_error_names_the_extra_and_given_clients_work() -> None:
    text = (
        "AWS clients need aiobotocore: pip install 'aioencrypt[aws]', "
        "or give ready clients or a supplier in connection= | ModuleNotFoundError"
    )
    assert run_script(WITHOUT_AIOBOTOCORE) == [text, text, "works", "AccessDeniedException"]


# The log


@on_asyncio
async def test_nothing_above_debug_and_nothing_secret_is_logged(
    kms: InMemoryKMS, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    keys = [kms.create_key(), kms.create_key()]
    tokens = [kms.create_grant(keys[0], "Decrypt")]
    config = AioConfig(retries={"total_max_attempts": 1})
    options: dict[str, Any] = {"kms": url, "client_config": config, "grant_tokens": tokens}
    async with strict(*keys, **options) as provider:
        message, _ = await encrypt(b"x", provider, encryption_context={"tenant": SECRET})
        kms.outage(US)
        with pytest.raises(EncryptionError):
            await decrypt(message, provider)
    records = [record for record in caplog.records if record.name.startswith("aioencrypt")]
    assert [record.getMessage().split(" under ")[0] for record in records] == [
        "KMS GenerateDataKey", "KMS Encrypt", "KMS Decrypt", "KMS Decrypt"
    ]  # fmt: skip
    assert {record.levelno for record in records} == {logging.DEBUG}
    text = caplog.text
    assert not any(secret in text for secret in (SECRET, "tenant", tokens[0], "testing"))
