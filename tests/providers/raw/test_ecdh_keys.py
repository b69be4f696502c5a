"""Raw EC keys: which keys are taken, what they say of themselves, and copies.

Specification: framework/raw-ecdh-keyring.md#initialization.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from aioencrypt import RawECDHMasterKey
from aioencrypt.materials import DataKey, EncryptedDataKey
from tests.support.ecdh import (
    CURVES,
    DATA_KEY,
    ec_key,
    point,
    private_pem,
    public_der,
    public_pem,
    raw_discovery as discovery,
    raw_ephemeral as ephemeral,
    raw_static as static,
)
from tests.support.providers import asking
from tests.support.rsa_keys import rsa_key
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/raw-ecdh-keyring.md"
SCHEMAS = "framework/key-agreement-schemas.md"
each_curve = pytest.mark.parametrize("curve", CURVES)


async def opened(key: RawECDHMasterKey, encrypted: EncryptedDataKey) -> bytes:
    return (await key.decrypt_data_key(asking(encrypted))).data_key.plaintext


@pytest.mark.spec(f"{PAGE}#initialization", f"{PAGE}#curve-specification")
@each_curve
def test_keys_of_two_curves(curve: str) -> None:
    for other in CURVES:
        if other != curve:
            with pytest.raises(
                ValueError,
                match=rf"^private_key and recipient_public_key are on different curves, {curve} and {other}; "
                r"both parties need keys of one curve$",
            ):
                RawECDHMasterKey.static(
                    private_key=ec_key("alice", curve),
                    recipient_public_key=ec_key("bob", other).public_key(),
                )


@pytest.mark.spec(f"{PAGE}#initialization", f"{PAGE}#ecc-keys")
@pytest.mark.parametrize("form", [public_der, public_pem, lambda key: key.public_key()])
@each_curve
@on_asyncio
async def test_keys_of_each_form(
    curve: str, form: Callable[[ec.EllipticCurvePrivateKey], bytes | ec.EllipticCurvePublicKey]
) -> None:
    alice, bob = ec_key("alice", curve), ec_key("bob", curve)
    for private in (alice, private_pem(alice)):
        key = RawECDHMasterKey.static(private_key=private, recipient_public_key=form(bob))
        encrypted = await key.encrypt_data_key(DataKey(DATA_KEY), asking())
        assert await opened(RawECDHMasterKey.discovery(private_key=bob), encrypted) == DATA_KEY


BAD_PRIVATE: list[tuple[object, type[Exception], str]] = [
    (None, TypeError, "private_key is None; give a key"),
    (b"", ValueError, "private_key is not a valid private key in PEM: "),
    (private_pem(ec_key("a"), BestAvailableEncryption(b"x")), ValueError, "private_key is encrypted PEM: "),
    (rsa_key(), TypeError, "private_key is not an EC private key: "),
    (ec.generate_private_key(ec.SECP256K1()), ValueError, "private_key is on the curve secp256k1; "),
]
BAD_PUBLIC: list[tuple[object, type[Exception], str]] = [
    (None, TypeError, "recipient_public_key is None; give a key"),
    (b"", ValueError, "recipient_public_key is not a valid public key in PEM or DER: "),
    (rsa_key().public_key(), TypeError, "recipient_public_key is not an EC public key: "),
    (
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ValueError,
        "recipient_public_key is on the curve secp256k1; ",
    ),
]


@pytest.mark.spec(
    f"{PAGE}#initialization",
    f"{PAGE}#ecc-keys",
    f"{PAGE}#supported-curve-specifications",
    f"{SCHEMAS}#rawprivatekeytostaticpublickey",
    f"{SCHEMAS}#publickeydiscovery",
)
@pytest.mark.parametrize(("key", "error", "text"), BAD_PRIVATE, ids=range(len(BAD_PRIVATE)))
def test_private_keys_that_do_not_fit(key: object, error: type[Exception], text: str) -> None:
    bob = ec_key("bob").public_key()
    with pytest.raises(error, match=rf"^{text}"):
        RawECDHMasterKey.discovery(private_key=key)  # type: ignore[arg-type]
    with pytest.raises(error, match=rf"^{text}"):
        RawECDHMasterKey.static(private_key=key, recipient_public_key=bob)  # type: ignore[arg-type]


@pytest.mark.spec(
    f"{PAGE}#initialization",
    f"{PAGE}#ecc-keys",
    f"{PAGE}#supported-curve-specifications",
    f"{SCHEMAS}#rawprivatekeytostaticpublickey",
    f"{SCHEMAS}#ephemeralprivatekeytostaticpublickey",
)
@pytest.mark.parametrize(("key", "error", "text"), BAD_PUBLIC, ids=range(len(BAD_PUBLIC)))
def test_public_keys_that_do_not_fit(key: object, error: type[Exception], text: str) -> None:
    alice = ec_key("alice")
    with pytest.raises(error, match=rf"^{text}"):
        RawECDHMasterKey.ephemeral(recipient_public_key=key)  # type: ignore[arg-type]
    with pytest.raises(error, match=rf"^{text}"):
        RawECDHMasterKey.static(private_key=alice, recipient_public_key=key)  # type: ignore[arg-type]


def test_no_key_at_all() -> None:
    with pytest.raises(ValueError, match=r"^give private_key, recipient_public_key, or both$"):
        RawECDHMasterKey(private_key=None, recipient_public_key=None)


@each_curve
def test_what_it_says_of_itself(curve: str) -> None:
    alice, bob = (point(ec_key(name, curve)).hex() for name in ("alice", "bob"))
    for key, expected, name in [
        (static(curve=curve), f"RawECDHMasterKey.static({curve} {bob})", bob),
        (ephemeral(curve=curve), f"RawECDHMasterKey.ephemeral({curve} {bob})", bob),
        (discovery("alice", curve), f"RawECDHMasterKey.discovery({curve} {alice})", alice),
    ]:
        assert repr(key) == expected
        assert (key.provider_id, key.key_id) == ("raw-ecdh", name)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("make", [static, discovery])
def test_private_keys_are_not_copied(
    make: Callable[[], RawECDHMasterKey], duplicate: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match="RawECDHMasterKey holds key bytes and cannot be pickled or copied; "):
        duplicate(make())


@each_curve
@on_asyncio
async def test_an_ephemeral_key_is_pickled(curve: str) -> None:
    """It holds nothing but a public key."""
    for key in (pickle.loads(pickle.dumps(ephemeral(curve=curve))), copy.deepcopy(ephemeral(curve=curve))):
        assert repr(key) == repr(ephemeral(curve=curve))
        _, encrypted = await key.generate_data_key(asking())
        assert discovery(curve=curve).owns_data_key(encrypted)
        assert await opened(discovery(curve=curve), encrypted)
