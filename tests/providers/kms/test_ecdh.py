"""EC keys of KMS: which calls they make, and what they write and read.

Specification: framework/aws-kms/aws-kms-ecdh-keyring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSECDHMasterKey,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    RawECDHMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from aioencrypt.testing import InMemoryKMS
from tests.support.ecdh import (
    CURVES,
    DATA_KEY,
    around_clients,
    ec_key,
    entry,
    kms_discovery,
    kms_key,
    kms_static,
    opened_by_hand,
    point,
    provider_info,
    public_der,
    public_pem,
)
from tests.support.kms import Call
from tests.support.providers import CONTEXT, asking
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-ecdh-keyring.md"
SCHEMAS = "framework/key-agreement-schemas.md"
CONTEXTS: list[dict[str, str]] = [{}, CONTEXT, {"z": "1", "a": "", "größe": "ß", "": "x"}]
GET, DERIVE = "GetPublicKey", "DeriveSharedSecret"
each_curve = pytest.mark.parametrize("curve", CURVES)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def calls(kms: InMemoryKMS) -> list[str]:
    """Return the operations of the requests, and forget them."""
    operations = [call.operation for call in kms.calls]
    kms.reset_calls()
    return operations


def from_to(sender: str = "bob", recipient: str = "alice", **options: Any) -> EncryptedDataKey:
    curve = options.get("curve", "p256")
    return entry(ec_key(sender, curve), ec_key(recipient, curve), **options)


async def opened(key: KMSECDHMasterKey, *encrypted: EncryptedDataKey) -> bytes:
    return (await key.decrypt_data_key(asking(*encrypted))).data_key.plaintext


async def unclaimed(key: KMSECDHMasterKey, *encrypted: EncryptedDataKey) -> None:
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await key.decrypt_data_key(asking(*encrypted))
    assert caught.value.unclaimed


# Encrypting


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#interface", f"{SCHEMAS}#kmsprivatekeytostaticpublickey")
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
@on_asyncio
async def test_what_it_writes(kms: InMemoryKMS, curve: str, context: dict[str, str]) -> None:
    key = kms_static(kms, kms_key(kms, curve=curve), curve=curve)
    encrypted = await key.encrypt_data_key(DataKey(DATA_KEY), asking(context=context))
    alice, bob = ec_key("alice", curve), ec_key("bob", curve)
    assert encrypted.provider_id == "aws-kms-ecdh"
    assert encrypted.provider_info == provider_info(point(alice), point(bob))
    assert opened_by_hand(encrypted, bob, curve=curve, context=context) == DATA_KEY
    assert calls(kms) == [GET, DERIVE]


@pytest.mark.spec(f"{PAGE}#onencrypt")
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_a_new_data_key_for_every_suite(kms: InMemoryKMS, suite: AlgorithmSuite) -> None:
    key = kms_static(kms, kms_key(kms))
    bob = RawECDHMasterKey.discovery(private_key=ec_key("bob"))
    made = [await key.generate_data_key(asking(suite=suite)) for _ in range(3)]
    assert len({data_key.plaintext for data_key, _ in made}) == 3
    for data_key, encrypted in made:
        assert len(data_key.plaintext) == suite.data_key_length
        for reader in (key, bob):
            found = await reader.decrypt_data_key(asking(encrypted, suite=suite))
            assert (found.data_key, found.encrypted_data_key) == (data_key, encrypted)
            assert found.master_key is reader


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#ondecrypt",
    f"{PAGE}#initialization",
    f"{SCHEMAS}#kmsprivatekeytostaticpublickey",
    f"{SCHEMAS}#kmspublickeydiscovery",
)
async def test_the_parameters_of_the_calls(kms: InMemoryKMS) -> None:
    """To KMS goes the public key of the other party: when we decrypt from strangers, that of the sender."""
    arn = kms_key(kms)
    tokens = [kms.create_grant(arn, DERIVE)]
    seen: list[tuple[str, Mapping[str, Any]]] = []

    async def note(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        seen.append((operation, parameters))
        return await call()

    options: Any = {"connection": AWSConnection(kms=around_clients(kms, note)), "grant_tokens": tokens}
    bob, carol = public_der(ec_key("bob")), public_der(ec_key("carol"))
    static = KMSECDHMasterKey.static(arn, bob, **options)
    get = (GET, {"KeyId": arn, "GrantTokens": tokens})
    derive = {"KeyId": arn, "KeyAgreementAlgorithm": "ECDH", "GrantTokens": tokens}
    with_bob, with_carol = (DERIVE, {**derive, "PublicKey": bob}), (DERIVE, {**derive, "PublicKey": carol})
    await encrypt(b"x", static)
    assert seen == [get, with_bob]
    seen.clear()
    for encrypted in (from_to("alice", "bob"), from_to("bob", "alice")):
        assert await opened(static, encrypted) == DATA_KEY
    assert seen == [with_bob, with_bob]
    seen.clear()
    discovery = KMSECDHMasterKey.discovery(arn, **options)
    assert await opened(discovery, from_to("carol", "alice")) == DATA_KEY
    assert await opened(discovery, from_to("bob", "alice")) == DATA_KEY
    assert seen == [get, with_carol, with_bob]


@pytest.mark.spec(f"{SCHEMAS}#kmspublickeydiscovery", f"{PAGE}#onencrypt")
async def test_a_discovery_key_does_not_encrypt(kms: InMemoryKMS) -> None:
    key = kms_discovery(kms, kms_key(kms))
    expected = (
        r"^a discovery key cannot encrypt: use KMSECDHMasterKey\.static with the recipient's public key$"
    )
    other = RawAESMasterKey("a", "b", wrapping_key=bytes(16))
    for attempt in (
        encrypt(b"x", key),
        make_data_key(key, asking()),
        key.generate_data_key(asking()),
        key.encrypt_data_key(DataKey(DATA_KEY), asking()),
        encrypt(b"x", MultiMasterKeyProvider(other, key)),
    ):
        with pytest.raises(ProviderError, match=expected):
            await attempt
    assert calls(kms) == []


# Decrypting


@pytest.mark.spec(
    f"{PAGE}#ondecrypt",
    f"{PAGE}#interface",
    f"{SCHEMAS}#kmspublickeydiscovery",
    f"{SCHEMAS}#kmsprivatekeytostaticpublickey",
)
@pytest.mark.parametrize("provider_id", ["raw-ecdh", "aws-kms-ecdh"])
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
@on_asyncio
async def test_what_it_reads(kms: InMemoryKMS, curve: str, context: dict[str, str], provider_id: str) -> None:
    arn = kms_key(kms, curve=curve)
    to_alice = from_to(curve=curve, context=context, provider_id=provider_id)
    to_bob = from_to("alice", "bob", curve=curve, context=context, provider_id=provider_id)
    static, discovery = kms_static(kms, arn, curve=curve), kms_discovery(kms, arn)
    for key, encrypted in ((static, to_alice), (static, to_bob), (discovery, to_alice)):
        found = await key.decrypt_data_key(asking(encrypted, context=context))
        assert found.data_key.plaintext == DATA_KEY
        assert (found.encrypted_data_key, found.master_key) == (encrypted, key)
    await unclaimed(discovery, to_bob)


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{PAGE}#initialization")
@on_asyncio
async def test_whose_a_data_key_is(kms: InMemoryKMS) -> None:
    """Before the public key is there it shows less; it is fetched then."""
    arn = kms_key(kms)
    for sender, recipient, before, static, discovery in [
        ("bob", "alice", True, True, True),
        ("alice", "bob", True, True, False),
        ("carol", "alice", False, False, True),
        ("carol", "bob", True, False, False),
        ("bob", "carol", True, False, False),
        ("bob", "bob", True, False, False),
        ("alice", "alice", False, False, True),
        ("alice", "carol", False, False, False),
    ]:
        encrypted = from_to(sender, recipient)
        for key, at_first, owned in [
            (kms_static(kms, arn), before, static),
            (kms_discovery(kms, arn), True, discovery),
        ]:
            assert key.owns_data_key(encrypted) is at_first
            if owned:
                assert await opened(key, encrypted) == DATA_KEY
                assert calls(kms) == [GET, DERIVE]
            else:
                await unclaimed(key, encrypted)
                with pytest.raises(ProviderError, match=r"^the encrypted data key is not for this key$"):
                    await key.unwrap_data_key(encrypted, asking(encrypted))
                assert calls(kms) == [GET]
            assert key.owns_data_key(encrypted) is owned


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    "change",
    [
        lambda info: b"\x02" + info[1:],
        lambda info: info[:-1],
        lambda info: info + b"\0",
        lambda info: info[:4] + b"\x22" + info[5:],
        lambda info: b"",
    ],
    ids=["version", "shorter", "longer", "length", "empty"],
)
async def test_malformed_provider_info_is_skipped_without_a_call(
    kms: InMemoryKMS, change: Callable[[bytes], bytes]
) -> None:
    arn = kms_key(kms)
    whole = from_to()
    malformed = attrs.evolve(whole, provider_info=change(whole.provider_info))
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        await unclaimed(key, malformed)
        assert calls(kms) == []
        assert await opened(key, malformed, whole) == DATA_KEY
        assert calls(kms) == [GET, DERIVE]
        with pytest.raises(ProviderError, match=r"^the encrypted data key is not for this key$"):
            await key.unwrap_data_key(malformed, asking(malformed))


async def test_messages_of_other_keys_cost_no_call(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    message, _ = await encrypt(b"x", RawAESMasterKey("a", "b", wrapping_key=bytes(16)))
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        with pytest.raises(ProviderError, match="belongs to a master key given here"):
            await decrypt(message, key)
    assert calls(kms) == []


@each_curve
@on_asyncio
async def test_two_parties_in_kms(kms: InMemoryKMS, curve: str) -> None:
    alice = kms_key(kms, "alice", curve)
    bob = kms_key(kms, "bob", curve, region="eu-west-1")
    writer, other = kms_static(kms, alice, "bob", curve), kms_static(kms, bob, "alice", curve)
    message, header = await encrypt(b"attack at dawn", writer, encryption_context=CONTEXT)
    assert [key.provider_id for key in header.encrypted_data_keys] == ["aws-kms-ecdh"]
    for reader in (writer, other, kms_discovery(kms, bob)):
        plaintext, _ = await decrypt(message, reader, encryption_context=CONTEXT)
        assert plaintext == b"attack at dawn"
    assert [(call.operation, call.region) for call in kms.calls] == [
        (GET, "us-east-1"),
        (DERIVE, "us-east-1"),
        (DERIVE, "us-east-1"),
        (GET, "eu-west-1"),
        (DERIVE, "eu-west-1"),
        (GET, "eu-west-1"),
        (DERIVE, "eu-west-1"),
    ]


@each_curve
@on_asyncio
async def test_raw_keys_and_keys_of_kms_read_each_others_messages(kms: InMemoryKMS, curve: str) -> None:
    arn = kms_key(kms, "alice", curve)
    alice, bob = (ec_key(name, curve) for name in ("alice", "bob"))
    raw_bob = RawECDHMasterKey.static(private_key=bob, recipient_public_key=alice.public_key())
    to_alice = RawECDHMasterKey.ephemeral(recipient_public_key=alice.public_key())
    kms_alice, anybody = kms_static(kms, arn, "bob", curve), kms_discovery(kms, arn)
    for writer, readers in (
        (kms_alice, (kms_alice, raw_bob, RawECDHMasterKey.discovery(private_key=bob))),
        (raw_bob, (raw_bob, kms_alice, anybody)),
        (to_alice, (anybody, RawECDHMasterKey.discovery(private_key=alice))),
    ):
        message, _ = await encrypt(b"attack at dawn", writer, encryption_context=CONTEXT)
        for reader in readers:
            assert (await decrypt(message, reader)).plaintext == b"attack at dawn"


# The public key of the KMS key


@pytest.mark.spec(f"{SCHEMAS}#kmsprivatekeytostaticpublickey", f"{SCHEMAS}#kmspublickeydiscovery")
async def test_it_is_fetched_once(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    static, discovery = kms_static(kms, arn), kms_discovery(kms, arn)
    for _ in range(3):
        message, _ = await encrypt(b"x", static)
        await decrypt(message, static)
    assert calls(kms) == [GET, *[DERIVE] * 6]
    for _ in range(3):
        await opened(discovery, from_to())
    assert calls(kms) == [GET, *[DERIVE] * 3]


@pytest.mark.spec(f"{SCHEMAS}#kmsprivatekeytostaticpublickey", f"{SCHEMAS}#kmspublickeydiscovery")
@pytest.mark.parametrize("form", [public_der, public_pem, lambda key: key.public_key()])
async def test_given_it_is_not_fetched(kms: InMemoryKMS, form: Callable[[Any], Any]) -> None:
    arn = kms_key(kms)
    public_key = form(ec_key("alice"))
    static = kms_static(kms, arn, sender_public_key=public_key)
    discovery = kms_discovery(kms, arn, recipient_public_key=public_key)
    encrypted = await static.encrypt_data_key(DataKey(DATA_KEY), asking())
    assert opened_by_hand(encrypted, ec_key("bob"), curve="p256", context=CONTEXT) == DATA_KEY
    assert await opened(static, from_to("bob", "alice")) == DATA_KEY
    assert await opened(discovery, from_to("carol", "alice")) == DATA_KEY
    await unclaimed(discovery, from_to("alice", "bob"))
    await static.warm_up()
    await discovery.warm_up()
    assert calls(kms) == [DERIVE] * 3


async def test_warm_up_fetches_it(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        await key.warm_up()
        assert calls(kms) == [GET]
        assert not key.owns_data_key(from_to("alice", "carol"))
        await key.warm_up()
        assert calls(kms) == []


async def test_many_tasks_at_once_share_one_fetch(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    key = kms_static(kms, arn)
    kms.latency = 0.005
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(key.generate_data_key, asking())
    assert (kms.call_count(GET), kms.call_count(DERIVE)) == (1, 100)
    assert_idle()


async def test_the_fetch_goes_on_when_who_began_it_is_cancelled(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    called, answer = anyio.Event(), anyio.Event()

    async def slow(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if operation == GET:
            called.set()
            await answer.wait()
        return await call()

    key = KMSECDHMasterKey.static(
        arn, public_der(ec_key("bob")), connection=AWSConnection(kms=around_clients(kms, slow))
    )
    made: list[DataKey] = []

    async def make() -> None:
        made.append((await key.generate_data_key(asking()))[0])

    async with anyio.create_task_group() as group, anyio.create_task_group() as impatient:
        impatient.start_soon(make)
        await called.wait()
        group.start_soon(make)
        impatient.cancel_scope.cancel()
        answer.set()
    assert len(made) == 1
    assert calls(kms) == [GET, DERIVE]


@pytest.mark.parametrize("name", ["alias/agreement", "id"])
async def test_keys_named_in_other_ways(kms: InMemoryKMS, name: str) -> None:
    arn = kms_key(kms)
    kms.create_alias("alias/agreement", arn)
    key_id = arn.rpartition("/")[2] if name == "id" else name
    clients = kms.clients("us-east-1")
    key = KMSECDHMasterKey.static(key_id, public_der(ec_key("bob")), connection=AWSConnection(kms=clients))
    message, _ = await encrypt(b"x", key)
    assert (await decrypt(message, key)).plaintext == b"x"
    assert {call.key_id for call in kms.calls} == {key_id}
    with_arn = KMSECDHMasterKey.discovery(arn, connection=AWSConnection(kms=clients))
    assert await opened(with_arn, from_to("bob", "alice")) == DATA_KEY


async def test_an_alias_that_is_moved_to_another_key(kms: InMemoryKMS) -> None:
    """What one key agreed on must not stand beside the public key of another."""
    first, second = kms_key(kms, "alice"), kms_key(kms, "carol")
    kms.create_alias("alias/agreement", first)
    key = kms_static(kms, "arn:aws:kms:us-east-1:111122223333:alias/agreement")
    await encrypt(b"x", key)
    kms.delete_alias("alias/agreement")
    kms.create_alias("alias/agreement", second)
    with pytest.raises(ProviderError, match=f"KMS used the key '{second}', not '{first}'"):
        await encrypt(b"x", key)
