"""Raw EC keys: what each scheme writes and reads. Specification: framework/raw-ecdh-keyring.md."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings, strategies as st

from aioencrypt import (
    AlgorithmSuite,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    RawECDHMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from tests.support.ecdh import (
    CURVES,
    DATA_KEY,
    INFO_LENGTHS,
    POINT_LENGTHS,
    ec_key,
    entry,
    opened_by_hand,
    point,
    provider_info,
    raw_discovery as discovery,
    raw_ephemeral as ephemeral,
    raw_static as static,
)
from tests.support.providers import CONTEXT, asking
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/raw-ecdh-keyring.md"
SCHEMAS = "framework/key-agreement-schemas.md"
CONTEXTS: list[dict[str, str]] = [{}, CONTEXT, {"z": "1", "a": "", "größe": "ß", "": "x"}]
each_curve = pytest.mark.parametrize("curve", CURVES)


def from_to(sender: str = "alice", recipient: str = "bob", **options: object) -> EncryptedDataKey:
    """Make an encrypted data key by hand."""
    curve = str(options.get("curve", "p256"))
    return entry(ec_key(sender, curve), ec_key(recipient, curve), **options)  # type: ignore[arg-type]


async def opened(
    key: RawECDHMasterKey, *encrypted: EncryptedDataKey, context: Mapping[str, str] | None = None
) -> bytes:
    return (await key.decrypt_data_key(asking(*encrypted, context=context))).data_key.plaintext


async def refused(
    key: RawECDHMasterKey, encrypted: EncryptedDataKey, context: Mapping[str, str] = CONTEXT
) -> Exception:
    """Return how the one attempt failed."""
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(encrypted, context=context))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "raw-ecdh", key.key_id)
    assert isinstance(attempt.error, ProviderError)
    return attempt.error


async def unclaimed(key: RawECDHMasterKey, *encrypted: EncryptedDataKey) -> None:
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await key.decrypt_data_key(asking(*encrypted))
    assert caught.value.attempts == ()
    assert caught.value.unclaimed


# What is written


@pytest.mark.spec(f"{SCHEMAS}#rawprivatekeytostaticpublickey", f"{PAGE}#onencrypt", f"{PAGE}#interface")
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
@on_asyncio
async def test_what_a_static_key_writes(curve: str, context: dict[str, str]) -> None:
    key = static(curve=curve)
    encrypted = await key.encrypt_data_key(DataKey(DATA_KEY), asking(context=context))
    alice, bob = ec_key("alice", curve), ec_key("bob", curve)
    assert encrypted.provider_id == "raw-ecdh"
    assert encrypted.provider_info == provider_info(point(alice), point(bob))
    assert len(encrypted.provider_info) == INFO_LENGTHS[curve]
    assert opened_by_hand(encrypted, bob, curve=curve, context=context) == DATA_KEY


@pytest.mark.spec(f"{SCHEMAS}#ephemeralprivatekeytostaticpublickey", f"{PAGE}#onencrypt", f"{PAGE}#interface")
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
@on_asyncio
async def test_what_an_ephemeral_key_writes(curve: str, context: dict[str, str]) -> None:
    key = ephemeral(curve=curve)
    bob = ec_key("bob", curve)
    made = [await key.encrypt_data_key(DataKey(DATA_KEY), asking(context=context)) for _ in range(5)]
    for encrypted in made:
        assert encrypted.provider_id == "raw-ecdh"
        assert encrypted.provider_info[5 : 5 + POINT_LENGTHS[curve]] == point(bob)
        assert len(encrypted.provider_info) == INFO_LENGTHS[curve]
        assert opened_by_hand(encrypted, bob, curve=curve, context=context) == DATA_KEY
    senders = {encrypted.provider_info[-POINT_LENGTHS[curve] :] for encrypted in made}
    assert len(senders) == 5, "a new key pair each time"


@pytest.mark.parametrize("make", [static, ephemeral])
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@pytest.mark.spec(f"{PAGE}#data-key-wrapping")
@on_asyncio
async def test_a_new_data_key_for_every_suite(
    suite: AlgorithmSuite, make: Callable[[], RawECDHMasterKey]
) -> None:
    data_keys = set()
    for _ in range(3):
        data_key, encrypted = await make().generate_data_key(asking(suite=suite))
        assert len(data_key.plaintext) == suite.data_key_length
        assert len(encrypted.ciphertext) == 32 + 32 + suite.data_key_length + 16
        found = await discovery().decrypt_data_key(asking(encrypted, suite=suite))
        assert (found.data_key, found.encrypted_data_key) == (data_key, encrypted)
        data_keys.add(data_key.plaintext)
    assert len(data_keys) == 3


# What is read


@pytest.mark.spec(
    f"{SCHEMAS}#publickeydiscovery",
    f"{SCHEMAS}#rawprivatekeytostaticpublickey",
    f"{PAGE}#ondecrypt",
    f"{PAGE}#interface",
)
@pytest.mark.parametrize("provider_id", ["raw-ecdh", "aws-kms-ecdh"])
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
@on_asyncio
async def test_who_reads_what_was_written_to_bob(
    curve: str, context: dict[str, str], provider_id: str
) -> None:
    encrypted = from_to(curve=curve, context=context, provider_id=provider_id)
    for key in (discovery(curve=curve), static("bob", "alice", curve), static("alice", "bob", curve)):
        found = await key.decrypt_data_key(asking(encrypted, context=context))
        assert found.data_key.plaintext == DATA_KEY
        assert (found.encrypted_data_key, found.master_key) == (encrypted, key)


async def test_the_order_of_the_context_does_not_matter() -> None:
    encrypted = await ephemeral().encrypt_data_key(DataKey(DATA_KEY), asking(context={"b": "1", "a": "2"}))
    assert await opened(discovery(), encrypted, context={"a": "2", "b": "1"}) == DATA_KEY


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@each_curve
@on_asyncio
async def test_whose_a_data_key_is(curve: str) -> None:
    """It tries those and no others."""
    encrypted = from_to("alice", "bob", curve=curve)
    for key, owned in [
        (discovery("bob", curve), True),
        (discovery("alice", curve), False),
        (discovery("carol", curve), False),
        (static("alice", "bob", curve), True),
        (static("bob", "alice", curve), True),
        (static("carol", "bob", curve), False),
        (static("alice", "carol", curve), False),
        (static("bob", "carol", curve), False),
        (static("bob", "bob", curve), False),
        (static("alice", "alice", curve), False),
        (ephemeral("bob", curve), True),
        (ephemeral("alice", curve), False),
        *((discovery("bob", other), False) for other in CURVES if other != curve),
    ]:
        assert key.owns_data_key(encrypted) is owned, key
        if not owned:
            await unclaimed(key, encrypted)
            with pytest.raises(ProviderError):
                await key.unwrap_data_key(encrypted, asking(encrypted))


async def test_to_oneself() -> None:
    key = static("alice", "alice")
    encrypted = await key.encrypt_data_key(DataKey(DATA_KEY), asking())
    for reader in (key, discovery("alice")):
        assert await opened(reader, encrypted) == DATA_KEY


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
@pytest.mark.parametrize("make", [static, discovery])
async def test_malformed_provider_info_is_skipped(
    change: Callable[[bytes], bytes], make: Callable[[], RawECDHMasterKey]
) -> None:
    """The next data key is tried, whatever stands in the first."""
    whole = from_to()
    malformed = attrs.evolve(whole, provider_info=change(whole.provider_info))
    assert not make().owns_data_key(malformed)
    await unclaimed(make(), malformed)
    assert await opened(make(), malformed, whole) == DATA_KEY
    with pytest.raises(ProviderError, match=r"^the encrypted data key is not for this key$"):
        await make().unwrap_data_key(malformed, asking(malformed))


# What a scheme cannot do


@pytest.mark.spec(f"{SCHEMAS}#publickeydiscovery", f"{PAGE}#onencrypt")
async def test_a_discovery_key_does_not_encrypt() -> None:
    key = discovery()
    expected = (
        r"^a discovery key cannot encrypt: use RawECDHMasterKey\.static or \.ephemeral "
        r"with the recipient's public key$"
    )
    with pytest.raises(ProviderError, match=expected):
        await encrypt(b"x", key)
    with pytest.raises(ProviderError, match=expected):
        await make_data_key(key, asking())
    with pytest.raises(ProviderError, match=expected):
        await key.generate_data_key(asking())
    with pytest.raises(ProviderError, match=expected):
        await key.encrypt_data_key(DataKey(DATA_KEY), asking())
    other = RawAESMasterKey("a", "b", wrapping_key=bytes(16))
    with pytest.raises(ProviderError, match=expected):
        await encrypt(b"x", MultiMasterKeyProvider(other, key))


@pytest.mark.spec(f"{SCHEMAS}#ephemeralprivatekeytostaticpublickey", f"{PAGE}#ondecrypt")
async def test_an_ephemeral_key_does_not_decrypt() -> None:
    key = ephemeral()
    _, encrypted = await key.generate_data_key(asking())
    assert str(await refused(key, encrypted)) == (
        "an ephemeral key cannot decrypt: the recipient uses RawECDHMasterKey.discovery with the private key"
    )
    for other in (from_to("alice", "carol"), attrs.evolve(encrypted, provider_info=b"")):
        await unclaimed(key, other)
    # the next key is tried
    assert await opened_by(MultiMasterKeyProvider(key, discovery()), encrypted)


async def opened_by(provider: MultiMasterKeyProvider, *encrypted: EncryptedDataKey) -> bool:
    return bool((await provider.decrypt_data_key(asking(*encrypted))).data_key)


# What does not open


WRONG = (
    "the commitment key does not match: another private key or encryption context, "
    "or a changed encrypted data key"
)


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{SCHEMAS}#key-commitment", f"{PAGE}#additional-information")
@pytest.mark.parametrize("make", [partial(static, "bob", "alice"), discovery])
@each_curve
@on_asyncio
async def test_another_context(curve: str, make: Callable[..., RawECDHMasterKey]) -> None:
    key = make(curve=curve)
    for context in ({}, {"tenant": "43"}, {"Tenant": "42"}, {**CONTEXT, "more": ""}):
        assert str(await refused(key, from_to(curve=curve), context)) == WRONG


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("make", [static, discovery])
async def test_what_another_private_key_shared(make: Callable[[], RawECDHMasterKey]) -> None:
    """Somebody writes our names over a secret that is not ours."""
    stranger = ec_key("carol").exchange(ec.ECDH(), ec_key("dave").public_key())
    assert str(await refused(make(), from_to(secret=stranger))) == WRONG


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@each_curve
@on_asyncio
async def test_a_sender_that_is_no_point_on_the_curve(curve: str) -> None:
    """Such a point would let its author learn about our private key."""
    off = b"\x02" + b"\xff" * (POINT_LENGTHS[curve] - 1)
    encrypted = EncryptedDataKey(
        "raw-ecdh", provider_info(off, point(ec_key("bob", curve))), from_to(curve=curve).ciphertext
    )
    error = await refused(discovery(curve=curve), encrypted)
    assert str(error) == f"the sender's public key in the message is not a point on {curve}"
    assert isinstance(error.__cause__, ValueError)
    assert await opened(discovery(curve=curve), encrypted, from_to(curve=curve)) == DATA_KEY


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_another_sender_in_the_message() -> None:
    """Sender and recipient are bound to the data key."""
    whole = from_to("alice", "bob")
    replaced = attrs.evolve(whole, provider_info=from_to("carol", "bob").provider_info)
    assert str(await refused(discovery("bob"), replaced)) == WRONG
    reversed_ = attrs.evolve(whole, provider_info=from_to("bob", "alice").provider_info)
    assert str(await refused(static("alice", "bob"), reversed_)) == WRONG


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("position", [0, 31, 32, 63, 64, 95, 96, 111])
@pytest.mark.parametrize("make", [static, discovery])
async def test_changed_ciphertexts_fail_and_the_next_is_tried(
    make: Callable[[], RawECDHMasterKey], position: int
) -> None:
    whole = from_to()
    changed = bytearray(whole.ciphertext)
    changed[position] ^= 0x80
    tampered = attrs.evolve(whole, ciphertext=bytes(changed))
    error = await refused(make(), tampered)
    assert str(error) == (
        WRONG if position < 64 else "the encrypted data key fails authentication: it was changed"
    )
    assert await opened(make(), tampered, whole) == DATA_KEY


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("length", [0, 31, 32, 63, 64, 80, 111, 113])
async def test_ciphertexts_of_another_length_fail_and_the_next_is_tried(length: int) -> None:
    whole = from_to()
    cut = attrs.evolve(whole, ciphertext=(whole.ciphertext + b"\0")[:length])
    assert str(await refused(discovery(), cut)) == (
        f"the encrypted data key has a ciphertext of {length} bytes; the suite needs 112"
    )
    assert await opened(discovery(), cut, whole) == DATA_KEY


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_all_failures_are_told() -> None:
    whole = from_to()
    tampered = attrs.evolve(whole, ciphertext=bytes(112))
    short = attrs.evolve(whole, ciphertext=b"")
    with pytest.raises(ProviderError) as caught:
        await discovery().decrypt_data_key(asking(tampered, short))
    assert [str(attempt.error) for attempt in caught.value.attempts] == [
        WRONG,
        "the encrypted data key has a ciphertext of 0 bytes; the suite needs 112",
    ]
    assert str(caught.value).startswith(
        "none of the 2 encrypted data keys of the message could be decrypted; "
    )


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#ondecrypt")
async def test_a_context_that_cannot_be_serialized() -> None:
    too_long = asking(context={"k": "v" * 65535})
    for key in (static(), ephemeral()):
        with pytest.raises(ProviderError, match="above the 65535 of the message format") as caught:
            await make_data_key(key, too_long)
        assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ProviderError, match="above the 65535 of the message format"):
        await discovery().decrypt_data_key(attrs.evolve(too_long, encrypted_data_keys=(from_to(),)))


# Keys beside each other


@each_curve
@on_asyncio
async def test_a_message_for_several_recipients(curve: str) -> None:
    recipients = ("bob", "carol", "dave")
    provider = MultiMasterKeyProvider(*(ephemeral(name, curve) for name in recipients))
    message, header = await encrypt(b"attack at dawn", provider, encryption_context=CONTEXT)
    assert len(header.encrypted_data_keys) == 3
    for name in recipients:
        assert (await decrypt(message, discovery(name, curve))).plaintext == b"attack at dawn"
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        await decrypt(message, discovery("alice", curve))


async def test_both_directions_between_two_parties() -> None:
    alice, bob = static("alice", "bob"), static("bob", "alice")
    for writer in (alice, bob):
        message, _ = await encrypt(b"attack at dawn", writer, encryption_context=CONTEXT)
        for reader in (alice, bob):
            assert (await decrypt(message, reader, encryption_context=CONTEXT)).plaintext == b"attack at dawn"
    message, _ = await encrypt(b"attack at dawn", static("alice", "carol"))
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        await decrypt(message, bob)


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=30, deadline=None)
@given(
    curve=st.sampled_from([*CURVES]),
    suite=st.sampled_from(AlgorithmSuite),
    context=st.dictionaries(texts, texts, max_size=5),
)
@on_asyncio
async def test_what_is_wrapped_opens_again(
    curve: str, suite: AlgorithmSuite, context: dict[str, str]
) -> None:
    for writer in (static(curve=curve), ephemeral(curve=curve)):
        data_key, encrypted = await writer.generate_data_key(asking(suite=suite, context=context))
        request = asking(encrypted, suite=suite, context=context)
        assert (await discovery(curve=curve).decrypt_data_key(request)).data_key == data_key


# Where the work runs


@each_curve
@on_asyncio
async def test_slow_agreements_run_in_a_thread(monkeypatch: pytest.MonkeyPatch, curve: str) -> None:
    """P-256 takes tens of microseconds, the others hundreds."""
    threads: list[str] = []
    urandom, compare = os.urandom, hmac.compare_digest

    def salt(length: int) -> bytes:
        threads.append(threading.current_thread().name)
        return urandom(length)

    def watched(a: bytes, b: bytes) -> bool:
        threads.append(threading.current_thread().name)
        return compare(a, b)

    monkeypatch.setattr("aioencrypt.providers.key_agreement.os.urandom", salt)
    monkeypatch.setattr("aioencrypt.providers.key_agreement.hmac.compare_digest", watched)
    for key in (static(curve=curve), ephemeral(curve=curve)):
        encrypted = await key.encrypt_data_key(DataKey(DATA_KEY), asking())
        assert await opened(discovery(curve=curve), encrypted) == DATA_KEY
    assert len(threads) == 4
    for name in threads:
        assert name.startswith("MainThread" if curve == "p256" else "aioencrypt-cryptography")
