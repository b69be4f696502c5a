"""Arguments of RSA keys of KMS, where clients come from, and what is pickled and shown."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt import (
    AWSConnection,
    KMSEncryptionAlgorithm,
    KMSRSAMasterKey,
    ProviderError,
    RSAPadding,
    ServiceError,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.aws import connected
from tests.support.kms import EU, ID, MRK, US, arn
from tests.support.kms_pairs import CONTEXT_DIGEST, oaep, reading, rsa_entry, rsa_kms_key, rsa_master_key
from tests.support.rsa_keys import private_pem, public_pem, rsa_key

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-rsa-keyring.md"
KEY = arn(f"key/{ID}")
SHA_256 = KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def made(key_id: Any = KEY, **options: Any) -> KMSRSAMasterKey:
    return KMSRSAMasterKey(key_id, **{"encryption_algorithm": SHA_256, **connected(options)})


@pytest.mark.spec(f"{PAGE}#initialization")
@pytest.mark.parametrize("key_id", [KEY, arn(f"key/{MRK}"), arn("key/1", partition="aws-cn")])
def test_key_ids_that_are_taken(key_id: str) -> None:
    key = made(key_id)
    assert (key.provider_id, key.key_id, repr(key)) == (
        "aws-kms-rsa",
        key_id,
        f"KMSRSAMasterKey('{key_id}')",
    )


@pytest.mark.spec(f"{PAGE}#initialization")
@pytest.mark.parametrize(
    "key_id", ["", ID, MRK, "alias/app", arn("alias/app"), arn("key/"), KEY.replace(":kms:", ":s3:")]
)
def test_key_ids_that_messages_cannot_name(key_id: str) -> None:
    with pytest.raises(ValueError, match="is not the ARN of a KMS key; an RSA key needs the key ARN"):
        made(key_id)


@pytest.mark.spec(f"{PAGE}#initialization")
@pytest.mark.parametrize("key_id", [None, KEY.encode(), 1])
def test_key_ids_that_are_no_text(key_id: Any) -> None:
    with pytest.raises(TypeError, match=f"key_id must be a str, not {type(key_id).__name__}"):
        made(key_id)


@pytest.mark.spec(f"{PAGE}#aws-kms-encryption-algorithm", f"{PAGE}#supported-padding-schemes")
@pytest.mark.parametrize(
    "algorithm", ["SYMMETRIC_DEFAULT", "RSAES_PKCS1_V1_5", "SM2PKE", "", None, *RSAPadding]
)
def test_other_algorithms_are_refused(algorithm: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^encryption_algorithm (is|must be) "):
        made(encryption_algorithm=algorithm)


@pytest.mark.spec(f"{PAGE}#initialization")
def test_the_algorithm_must_be_given() -> None:
    with pytest.raises(TypeError, match="encryption_algorithm"):
        KMSRSAMasterKey(KEY)  # type: ignore[call-arg]


@pytest.mark.spec(f"{PAGE}#initialization")
@pytest.mark.parametrize("public_key", [public_pem(rsa_key()), rsa_key().public_key()], ids=["pem", "object"])
async def test_public_keys_that_are_taken(public_key: Any) -> None:
    data_key, encrypted = await made(public_key=public_key).generate_data_key(reading())
    assert rsa_key().decrypt(encrypted.ciphertext, oaep(SHA_256.value)) == CONTEXT_DIGEST + data_key.plaintext


@pytest.mark.spec(f"{PAGE}#initialization", f"{PAGE}#encryption-context-digest")
@pytest.mark.parametrize("bits", [1024, 2047])
def test_small_public_keys_are_refused(bits: int) -> None:
    text = f"public_key has {bits} bits; KMS RSA keys have at least 2048"
    small = rsa_key("small", bits)
    for public_key in (public_pem(small), small.public_key()):
        with pytest.raises(ValueError, match=text):
            made(public_key=public_key)


CURVE = ec.derive_private_key(7, ec.SECP256R1()).public_key()


@pytest.mark.parametrize(
    ("public_key", "error"),
    [
        (b"", ValueError),
        (b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", ValueError),
        (private_pem(rsa_key()), ValueError),
        (public_pem(rsa_key()).decode(), TypeError),
        (rsa_key(), TypeError),
        (CURVE, TypeError),
        (CURVE.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), TypeError),
        (7, TypeError),
    ],
    ids=["nothing", "broken", "private-pem", "text", "private", "curve", "curve-pem", "number"],
)
def test_public_keys_that_are_none(public_key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        made(public_key=public_key)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"grant_tokens": "token"}, TypeError, "a collection of grant tokens"),
        ({"connection": AWSConnection}, TypeError, "connection must be an AWSConnection, not the class"),
    ],
)
def test_other_arguments_that_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        made(**options)


# Clients


async def test_the_client_is_that_of_the_region_of_the_key(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms, region=EU)
    await rsa_master_key(kms, key_id).decrypt_data_key(reading(rsa_entry(key_id)))
    assert [call.region for call in kms.calls] == [EU]
    with pytest.raises(ProviderError) as caught:
        await rsa_master_key(kms, key_id, clients=kms.clients(US)).decrypt_data_key(
            reading(rsa_entry(key_id))
        )
    error = caught.value.attempts[0].error
    assert isinstance(error, ServiceError)
    assert f"no client for the region '{EU}'" in str(error)


async def test_a_client_supplier_is_asked_for_the_region(kms: InMemoryKMS) -> None:
    regions: list[str | None] = []

    async def supply(region: str | None) -> Any:
        regions.append(region)
        return kms.client(str(region))

    key_id = rsa_kms_key(kms, region=EU)
    key = rsa_master_key(kms, key_id, clients=supply)
    async with key:
        await key.warm_up()
        assert (regions, kms.call_count()) == ([EU], 0)
        await key.decrypt_data_key(reading(rsa_entry(key_id)))
    assert regions == [EU, EU]


async def test_leaving_closes_nothing_that_was_given(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    key = rsa_master_key(kms, key_id)
    async with key as entered:
        assert entered is key
    await key.aclose()
    await key.decrypt_data_key(reading(rsa_entry(key_id)))


# Copies


@pytest.mark.parametrize("public", [True, False])
async def test_a_key_is_pickled_as_its_configuration(public: bool) -> None:
    options: dict[str, Any] = {"grant_tokens": ["token"], "timeout": 7, "kms": "http://127.0.0.1:1"}
    if public:
        options["public_key"] = rsa_key().public_key()
    key = made(**options)
    for other in (pickle.loads(pickle.dumps(key)), copy.copy(key), copy.deepcopy(key)):
        assert (type(other), repr(other)) == (KMSRSAMasterKey, repr(key))
        assert other.__reduce__()[0].keywords == {
            "encryption_algorithm": SHA_256,
            "public_key": public_pem(rsa_key()) if public else None,
            "grant_tokens": ("token",),
            "connection": AWSConnection(timeout=7, kms="http://127.0.0.1:1"),
        }
        if public:
            await other.generate_data_key(reading())


def test_a_key_with_clients_is_not_pickled(kms: InMemoryKMS) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(made(kms=kms.clients(US)))
