"""EC keys of KMS: arguments, names, copies, and their life.

Specification: framework/aws-kms/aws-kms-ecdh-keyring.md#initialization.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from aiobotocore.session import get_session
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt import (
    AWSConnection,
    KMSECDHMasterKey,
    ProviderClosedError,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import connected
from tests.support.ecdh import (
    DATA_KEY,
    around_clients,
    ec_key,
    entry,
    kms_discovery,
    kms_key,
    kms_static,
    point,
    public_der,
)
from tests.support.kms import ID, Call
from tests.support.providers import asking
from tests.support.rsa_keys import rsa_key
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-ecdh-keyring.md"
SCHEMAS = "framework/key-agreement-schemas.md"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/{ID}"
ALIAS_ARN = "arn:aws:kms:us-east-1:111122223333:alias/agreement"
BOB = public_der(ec_key("bob"))
Make = Callable[..., KMSECDHMasterKey]


def static(key_id: str = ARN, **options: Any) -> KMSECDHMasterKey:
    return KMSECDHMasterKey.static(key_id, BOB, **connected(options))


def discovery(key_id: str = ARN, **options: Any) -> KMSECDHMasterKey:
    return KMSECDHMasterKey.discovery(key_id, **connected(options))


each_scheme = pytest.mark.parametrize("make", [static, discovery])


async def supplier(region: str | None) -> InMemoryKMSClient:
    raise NotImplementedError


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Arguments


@pytest.mark.spec(
    f"{PAGE}#initialization", f"{SCHEMAS}#kmspublickeydiscovery", f"{SCHEMAS}#kmsprivatekeytostaticpublickey"
)
@pytest.mark.parametrize(
    ("key_id", "error", "text"),
    [
        ("", ValueError, "'' is not a KMS key id"),
        (None, TypeError, "must be a str, not NoneType"),
        (ARN.encode(), TypeError, "must be a str, not bytes"),
        ("arn:aws:kms:us-east-1", ValueError, "is not the ARN of a KMS key or alias"),
        (ARN.replace(":kms:", ":s3:"), ValueError, "is not the ARN of a KMS key or alias"),
        ("key/1", ValueError, "is not a KMS key id"),
    ],
)
@each_scheme
def test_key_ids_that_are_refused(make: Make, key_id: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make(key_id, kms={})


@pytest.mark.spec(f"{PAGE}#initialization", f"{PAGE}#ecc-keys", f"{SCHEMAS}#kmsprivatekeytostaticpublickey")
@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (None, TypeError, "is not an EC public key: "),
        (b"", ValueError, "is not a valid public key in PEM or DER: "),
        (ec_key("bob"), TypeError, "is not an EC public key: "),
        (rsa_key().public_key(), TypeError, "is not an EC public key: "),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), ValueError, "is on the curve secp256k1; "),
    ],
    ids=["None", "empty", "private", "RSA", "secp256k1"],
)
def test_public_keys_that_are_refused(key: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^recipient_public_key {text}"):
        KMSECDHMasterKey.static(ARN, key, connection=AWSConnection(kms={}))
    if key is not None:
        with pytest.raises(error, match=f"^sender_public_key {text}"):
            static(sender_public_key=key, kms={})
        with pytest.raises(error, match=f"^recipient_public_key {text}"):
            discovery(recipient_public_key=key, kms={})


@pytest.mark.spec(f"{PAGE}#curve-specification", f"{PAGE}#supported-curve-specifications")
def test_public_keys_of_two_curves() -> None:
    with pytest.raises(
        ValueError,
        match=r"^sender_public_key and recipient_public_key are on different curves, p384 and p256; "
        r"both parties need keys of one curve$",
    ):
        static(sender_public_key=public_der(ec_key("alice", "p384")), kms={})


@pytest.mark.parametrize("key_id", ["alias/agreement", ALIAS_ARN])
def test_a_public_key_does_not_go_with_an_alias(key_id: str) -> None:
    """The alias may be moved, and then nobody opens what is encrypted."""
    alice = public_der(ec_key("alice"))
    with pytest.raises(
        ValueError, match=f"^sender_public_key cannot be combined with the alias '{key_id}', which may "
    ):
        static(key_id, sender_public_key=alice, kms={})
    with pytest.raises(
        ValueError, match=f"^recipient_public_key cannot be combined with the alias '{key_id}', which"
    ):
        discovery(key_id, recipient_public_key=alice, kms={})
    for taken in (ARN, ID):
        static(taken, sender_public_key=alice, kms={})


@pytest.mark.spec(f"{PAGE}#initialization")
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"grant_tokens": "token"}, TypeError, "a collection of grant tokens"),
        ({"connection": get_session()}, TypeError, "connection must be an AWSConnection, not AioSession"),
    ],
)
@each_scheme
def test_arguments_that_are_refused(
    make: Make, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(**options)


def test_a_second_public_key_is_not_taken_by_position() -> None:
    with pytest.raises(TypeError, match="positional"):
        KMSECDHMasterKey.static(ARN, BOB, BOB)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        KMSECDHMasterKey.discovery(ARN, BOB)  # type: ignore[call-arg]


def test_what_it_says_of_itself() -> None:
    bob = point(ec_key("bob")).hex()
    for key, expected in (
        (static(kms={}), f"KMSECDHMasterKey.static({ARN!r}, p256 {bob})"),
        (discovery(kms={}), f"KMSECDHMasterKey.discovery({ARN!r})"),
    ):
        assert repr(key) == expected
        assert (key.provider_id, key.key_id) == ("aws-kms-ecdh", ARN)


# Copies


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("duplicate", [lambda key: pickle.loads(pickle.dumps(key)), copy.copy, copy.deepcopy])
@on_asyncio
async def test_it_is_pickled_as_its_configuration(
    kms: InMemoryKMS, duplicate: Callable[[KMSECDHMasterKey], KMSECDHMasterKey], given: bool
) -> None:
    arn = kms_key(kms)
    alice = public_der(ec_key("alice")) if given else None
    with run_in_thread(kms) as url:
        token = kms.create_grant(arn, "DeriveSharedSecret")
        options: Any = {"connection": AWSConnection(kms=url, timeout=20.0), "grant_tokens": [token]}
        for key in (
            KMSECDHMasterKey.static(arn, BOB, sender_public_key=alice, **options),
            KMSECDHMasterKey.discovery(arn, recipient_public_key=alice, **options),
        ):
            async with key:
                # what was fetched stays behind
                await key.warm_up()
            twin = duplicate(key)
            assert repr(twin) == repr(key)
            kms.reset_calls()
            with pytest.raises(ProviderClosedError):
                await twin.decrypt_data_key(asking(entry(ec_key("bob"), ec_key("alice"))))
            async with twin:
                found = await twin.decrypt_data_key(asking(entry(ec_key("bob"), ec_key("alice"))))
            assert found.data_key.plaintext == DATA_KEY
            operations = ["DeriveSharedSecret"] if given else ["GetPublicKey", "DeriveSharedSecret"]
            assert [(call.operation, call.grant_tokens) for call in kms.calls] == [
                (operation, (token,)) for operation in operations
            ]


@pytest.mark.parametrize("options", [{"kms": {}}, {"kms": supplier}, {"session": get_session()}])
@each_scheme
def test_with_clients_of_the_caller_it_is_not_pickled(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make(**options))


# Life


@pytest.mark.spec(f"{PAGE}#interface")
async def test_given_clients_need_no_async_with_and_may_have_it(kms: InMemoryKMS) -> None:
    key = kms_static(kms, kms_key(kms))
    message, _ = await encrypt(b"x", key)
    async with key as entered, key:
        assert entered is key
        await key.aclose()
        assert (await decrypt(message, key)).plaintext == b"x"
    assert (await decrypt(message, key)).plaintext == b"x"


@on_asyncio
async def test_clients_of_its_own_need_async_with(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    encrypted = entry(ec_key("bob"), ec_key("alice"))
    with run_in_thread(kms) as url:
        writer, reader = static(arn, kms=url), discovery(arn, kms=url)
        for key in (writer, reader):
            with pytest.raises(ProviderClosedError, match="open it with `async with`, or give ready clients"):
                await key.decrypt_data_key(asking(encrypted))
            with pytest.raises(ProviderClosedError, match="open it with `async with`, or give ready clients"):
                await key.warm_up()
        with pytest.raises(ProviderClosedError):
            await encrypt(b"x", writer)
        async with reader, writer, writer:
            await writer.__aexit__(None, None, None)
            message, _ = await encrypt(b"x", writer)
            assert (await decrypt(message, writer)).plaintext == b"x"
            assert (await reader.decrypt_data_key(asking(encrypted))).data_key.plaintext == DATA_KEY
            await writer.__aenter__()
        with pytest.raises(ProviderClosedError):
            await encrypt(b"x", writer)
        with pytest.raises(ProviderClosedError):
            await decrypt(message, writer)
    assert_idle()


async def test_leaving_ends_a_fetch_for_which_nobody_waits(kms: InMemoryKMS) -> None:
    called, ended = anyio.Event(), anyio.Event()

    async def hang(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        called.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    arn = kms_key(kms)
    async with kms_static(kms, arn, clients=around_clients(kms, hang), timeout=None) as key:
        async with key, anyio.create_task_group() as group:
            group.start_soon(key.warm_up)
            await called.wait()
            group.cancel_scope.cancel()
        # left once, entered twice
        assert not ended.is_set()
    assert ended.is_set()
    assert_idle()


async def test_who_waits_when_it_is_left_is_told(kms: InMemoryKMS) -> None:
    called = anyio.Event()

    async def hang(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        called.set()
        await anyio.sleep_forever()

    key = kms_discovery(kms, kms_key(kms), clients=around_clients(kms, hang), timeout=None)
    errors: list[Exception] = []

    async def read() -> None:
        try:
            await key.decrypt_data_key(asking(entry(ec_key("bob"), ec_key("alice"))))
        except ProviderClosedError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await called.wait()
        await key.aclose()
    assert len(errors) == 1


async def test_a_supplier_is_asked_for_the_region_of_the_key(kms: InMemoryKMS) -> None:
    arn = kms_key(kms, region="eu-west-1")
    asked: list[str | None] = []

    async def supply(region: str | None) -> InMemoryKMSClient:
        asked.append(region)
        return kms.client(region or "eu-west-1")

    await KMSECDHMasterKey.static(arn, BOB, connection=AWSConnection(kms=supply)).warm_up()
    await KMSECDHMasterKey.discovery(arn.rpartition("/")[2], connection=AWSConnection(kms=supply)).warm_up()
    assert set(asked[: len(asked) // 2]) == {"eu-west-1"}
    assert set(asked[len(asked) // 2 :]) == {None}


async def test_no_client_for_the_region(kms: InMemoryKMS) -> None:
    key = static(ARN, kms=kms.clients("eu-west-1"))
    with pytest.raises(ServiceError, match="no client for the region 'us-east-1'"):
        await key.warm_up()
    with pytest.raises(ProviderError, match="no client for the region 'us-east-1'") as caught:
        await encrypt(b"x", key)
    assert isinstance(caught.value.__cause__, ServiceError)
