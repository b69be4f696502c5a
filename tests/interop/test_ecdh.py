"""Key agreement: the keyrings of the official library, and ours, raw and in one KMS over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from aiobotocore.session import get_session
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsEcdhKeyringInput,
    CreateMultiKeyringInput,
    CreateRawEcdhKeyringInput,
    EphemeralPrivateKeyToStaticPublicKeyInput,
    KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey,
    KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery,
    KmsPrivateKeyToStaticPublicKeyInput,
    KmsPublicKeyDiscoveryInput,
    PublicKeyDiscoveryInput,
    RawEcdhStaticConfigurationsEphemeralPrivateKeyToStaticPublicKey,
    RawEcdhStaticConfigurationsPublicKeyDiscovery,
    RawEcdhStaticConfigurationsRawPrivateKeyToStaticPublicKey,
    RawPrivateKeyToStaticPublicKeyInput,
)
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSECDHMasterKey,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawECDHMasterKey,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.ecdh import CURVES, KMS_SPECS, ec_key, kms_key, private_pem, public_der
from tests.support.official import aes_key, mpl, read, write
from tests.support.official_kms import OfficialKMS
from tests.support.streaming import SIGNED, UNSIGNED, client_for, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

SCHEMAS = "framework/key-agreement-schemas.md"
RAW, KMS = "framework/raw-ecdh-keyring.md", "framework/aws-kms/aws-kms-ecdh-keyring.md"
US, EU = "us-east-1", "eu-west-1"
PLAINTEXT = plaintext_of(5_000)
SESSION = get_session()
CONTEXTS: dict[str, dict[str, str]] = {
    "empty": {},
    "one": {"tenant": "42"},
    "order": {"\U0001f511": "1", "\uff5e": "2", "a": "", "größe": "ß"},
}
# Data keys of 16, 24 and 32 bytes; one suite signs.
SUITES = [AlgorithmSuite(number) for number in (0x0014, 0x0146, 0x0378, 0x0478, 0x0578)]
each_curve = pytest.mark.parametrize("curve", CURVES)


# Raw keys of both sides


def official_raw(curve: str, scheme: Any) -> dict[str, Any]:
    asked = CreateRawEcdhKeyringInput(key_agreement_scheme=scheme, curve_spec=KMS_SPECS[curve])
    return {"keyring": mpl().create_raw_ecdh_keyring(asked)}


def official_static(own: str, other: str, curve: str) -> dict[str, Any]:
    scheme = RawPrivateKeyToStaticPublicKeyInput(
        sender_static_private_key=private_pem(ec_key(own, curve)),
        recipient_public_key=public_der(ec_key(other, curve)),
    )
    return official_raw(curve, RawEcdhStaticConfigurationsRawPrivateKeyToStaticPublicKey(scheme))


def official_ephemeral(to: str, curve: str) -> dict[str, Any]:
    scheme = EphemeralPrivateKeyToStaticPublicKeyInput(recipient_public_key=public_der(ec_key(to, curve)))
    return official_raw(curve, RawEcdhStaticConfigurationsEphemeralPrivateKeyToStaticPublicKey(scheme))


def official_discovery(own: str, curve: str) -> dict[str, Any]:
    scheme = PublicKeyDiscoveryInput(recipient_static_private_key=private_pem(ec_key(own, curve)))
    return official_raw(curve, RawEcdhStaticConfigurationsPublicKeyDiscovery(scheme))


def static(own: str, other: str, curve: str) -> RawECDHMasterKey:
    return RawECDHMasterKey.static(
        private_key=ec_key(own, curve), recipient_public_key=public_der(ec_key(other, curve))
    )


def ephemeral(to: str, curve: str) -> RawECDHMasterKey:
    return RawECDHMasterKey.ephemeral(recipient_public_key=public_der(ec_key(to, curve)))


def discovery(own: str, curve: str) -> RawECDHMasterKey:
    return RawECDHMasterKey.discovery(private_key=ec_key(own, curve))


async def sealed(
    provider: MasterKeyProvider, suite: AlgorithmSuite = UNSIGNED, context: dict[str, str] | None = None
) -> bytes:
    async with provider:
        made = await client_for(suite).encrypt(
            PLAINTEXT, provider, algorithm_suite=suite, encryption_context=context or {}
        )
    return made.ciphertext


async def opens(message: bytes, provider: MasterKeyProvider, suite: AlgorithmSuite = UNSIGNED) -> bool:
    async with provider:
        return (await client_for(suite).decrypt(message, provider)).plaintext == PLAINTEXT


def opens_officially(message: bytes, key: dict[str, Any], suite: AlgorithmSuite = UNSIGNED) -> bool:
    return bool(read(message, key, suite)[0] == PLAINTEXT)


@pytest.mark.spec(
    f"{RAW}#ondecrypt", f"{SCHEMAS}#publickeydiscovery", f"{SCHEMAS}#rawprivatekeytostaticpublickey"
)
@pytest.mark.parametrize("context", CONTEXTS)
@each_curve
async def test_official_raw_keys_to_ours(curve: str, context: str) -> None:
    for written_with in (official_static("alice", "bob", curve), official_ephemeral("bob", curve)):
        for suite in SUITES:
            message = write(PLAINTEXT, written_with, suite, encryption_context=CONTEXTS[context])
            assert await opens(message, discovery("bob", curve), suite)
    message = write(PLAINTEXT, official_static("alice", "bob", curve), UNSIGNED)
    assert await opens(message, static("bob", "alice", curve))
    assert await opens(message, static("alice", "bob", curve))


@pytest.mark.spec(
    f"{RAW}#onencrypt",
    f"{RAW}#data-key-wrapping",
    f"{SCHEMAS}#ephemeralprivatekeytostaticpublickey",
    f"{SCHEMAS}#rawprivatekeytostaticpublickey",
)
@pytest.mark.parametrize("context", CONTEXTS)
@each_curve
async def test_our_raw_keys_to_the_official_ones(curve: str, context: str) -> None:
    for writer in (static("alice", "bob", curve), ephemeral("bob", curve)):
        for suite in SUITES:
            message = await sealed(writer, suite, CONTEXTS[context])
            assert opens_officially(message, official_discovery("bob", curve), suite)
    message = await sealed(static("alice", "bob", curve))
    assert opens_officially(message, official_static("bob", "alice", curve))
    assert opens_officially(message, official_static("alice", "bob", curve))


@each_curve
async def test_what_is_not_for_a_key_opens_on_neither_side(curve: str) -> None:
    message = write(PLAINTEXT, official_static("alice", "bob", curve), UNSIGNED)
    ours = await sealed(static("alice", "bob", curve))
    for key, official in (
        (discovery("alice", curve), official_discovery("alice", curve)),
        (discovery("carol", curve), official_discovery("carol", curve)),
        (static("bob", "carol", curve), official_static("bob", "carol", curve)),
        (ephemeral("bob", curve), official_ephemeral("bob", curve)),
    ):
        with pytest.raises(ProviderError):
            await opens(message, key)
        with pytest.raises(AWSEncryptionSDKClientError):
            opens_officially(ours, official)


async def test_key_agreement_beside_other_keys() -> None:
    raw = aes_key(256)
    rings = [raw.keyring, official_ephemeral("bob", "p384")["keyring"]]
    several = CreateMultiKeyringInput(generator=rings[0], child_keyrings=rings[1:])
    message = write(PLAINTEXT, {"keyring": mpl().create_multi_keyring(several)}, SIGNED)
    ours = await sealed(MultiMasterKeyProvider(ephemeral("bob", "p384"), raw.ours), SIGNED)
    for written in (message, ours):
        assert await opens(written, discovery("bob", "p384"), SIGNED)
        assert await opens(written, raw.ours, SIGNED)
        assert opens_officially(written, official_discovery("bob", "p384"), SIGNED)
        assert opens_officially(written, raw.official("mpl"), SIGNED)


# Keys of KMS


@attrs.frozen
class Server:
    """A KMS over HTTP, with the keys of alice and of bob on one curve."""

    url: str
    kms: InMemoryKMS
    curve: str
    alice: str
    bob: str
    official: OfficialKMS

    def static(self, key_id: str, other: str, **options: Any) -> KMSECDHMasterKey:
        recipient = public_der(ec_key(other, self.curve))
        return KMSECDHMasterKey.static(
            key_id, recipient, connection=AWSConnection(session=SESSION, kms=self.url), **options
        )

    def discovery(self, key_id: str) -> KMSECDHMasterKey:
        return KMSECDHMasterKey.discovery(key_id, connection=AWSConnection(session=SESSION, kms=self.url))

    def official_static(self, key_id: str, other: str, sender: str | None = None) -> dict[str, Any]:
        scheme = KmsPrivateKeyToStaticPublicKeyInput(
            sender_kms_identifier=key_id,
            recipient_public_key=public_der(ec_key(other, self.curve)),
            sender_public_key=public_der(ec_key(sender, self.curve)) if sender else None,
        )
        return self._keyring(key_id, KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey(scheme))

    def official_discovery(self, key_id: str) -> dict[str, Any]:
        scheme = KmsPublicKeyDiscoveryInput(recipient_kms_identifier=key_id)
        return self._keyring(key_id, KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery(scheme))

    def _keyring(self, key_id: str, scheme: Any) -> dict[str, Any]:
        asked = CreateAwsKmsEcdhKeyringInput(
            key_agreement_scheme=scheme,
            curve_spec=KMS_SPECS[self.curve],
            kms_client=self.official.client(key_id.split(":")[3]),
        )
        return {"keyring": mpl().create_aws_kms_ecdh_keyring(asked)}


@pytest.fixture(scope="module", params=CURVES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    curve = request.param
    kms = InMemoryKMS()
    alice, bob = kms_key(kms, "alice", curve), kms_key(kms, "bob", curve, region=EU)
    with run_in_thread(kms) as url:
        official = OfficialKMS(url, "111122223333")
        yield Server(url, kms, curve, alice, bob, official)
        official.close()


def asked(kms: InMemoryKMS) -> list[tuple[str, str, str | None]]:
    """Return what reached KMS since the last time."""
    calls = [(call.operation, call.region, call.key_id) for call in kms.calls]
    kms.reset_calls()
    return calls


@pytest.mark.spec(
    f"{KMS}#ondecrypt", f"{SCHEMAS}#kmspublickeydiscovery", f"{SCHEMAS}#kmsprivatekeytostaticpublickey"
)
@pytest.mark.parametrize("context", CONTEXTS)
async def test_official_keys_of_kms_to_ours(server: Server, context: str) -> None:
    curve = server.curve
    for suite in (UNSIGNED, SIGNED, SUITES[0]):
        message = write(
            PLAINTEXT,
            server.official_static(server.alice, "bob"),
            suite,
            encryption_context=CONTEXTS[context],
        )
        for reader in (
            server.discovery(server.bob),
            server.static(server.bob, "alice"),
            server.static(server.alice, "bob"),
            discovery("bob", curve),
            static("bob", "alice", curve),
        ):
            assert await opens(message, reader, suite)
    message = write(PLAINTEXT, server.official_static(server.alice, "bob", "alice"), UNSIGNED)
    assert await opens(message, server.discovery(server.bob))


@pytest.mark.spec(f"{KMS}#onencrypt", f"{SCHEMAS}#kmsprivatekeytostaticpublickey")
@pytest.mark.parametrize("context", CONTEXTS)
async def test_our_keys_of_kms_to_the_official_ones(server: Server, context: str) -> None:
    curve = server.curve
    for suite in (UNSIGNED, SIGNED, SUITES[0]):
        message = await sealed(server.static(server.alice, "bob"), suite, CONTEXTS[context])
        for reader in (
            server.official_discovery(server.bob),
            server.official_static(server.bob, "alice"),
            server.official_static(server.alice, "bob"),
            official_discovery("bob", curve),
            official_static("bob", "alice", curve),
        ):
            assert opens_officially(message, reader, suite)
    sender = public_der(ec_key("alice", curve))
    message = await sealed(server.static(server.alice, "bob", sender_public_key=sender))
    assert opens_officially(message, server.official_discovery(server.bob))


async def test_raw_keys_to_keys_of_kms(server: Server) -> None:
    curve = server.curve
    for official in (official_static("alice", "bob", curve), official_ephemeral("bob", curve)):
        assert await opens(write(PLAINTEXT, official, UNSIGNED), server.discovery(server.bob))
    for ours in (static("alice", "bob", curve), ephemeral("bob", curve)):
        assert opens_officially(await sealed(ours), server.official_discovery(server.bob))


async def test_both_sides_ask_kms_the_same(server: Server) -> None:
    kms = server.kms
    message = await sealed(ephemeral("bob", server.curve))
    kms.reset_calls()
    get, derive = ("GetPublicKey", EU, server.bob), ("DeriveSharedSecret", EU, server.bob)
    write(PLAINTEXT, server.official_static(server.bob, "alice"), UNSIGNED)
    assert asked(kms) == [get, derive]
    await sealed(server.static(server.bob, "alice"))
    assert asked(kms) == [get, derive]
    opens_officially(message, server.official_discovery(server.bob))
    assert asked(kms) == [get, derive]
    await opens(message, server.discovery(server.bob))
    assert asked(kms) == [get, derive]


async def test_a_key_of_another_party_opens_on_neither_side(server: Server) -> None:
    message = await sealed(ephemeral("bob", server.curve))
    makers: list[tuple[Callable[[str], MasterKeyProvider], Callable[[str], dict[str, Any]]]] = [
        (server.discovery, server.official_discovery),
        (lambda key: server.static(key, "bob"), lambda key: server.official_static(key, "bob")),
    ]
    for ours, official in makers:
        with pytest.raises(ProviderError, match="belongs to a master key given here"):
            await opens(message, ours(server.alice))
        with pytest.raises(AWSEncryptionSDKClientError):
            opens_officially(message, official(server.alice))
