"""Key pairs of the in-memory KMS: RSA keys to encrypt and decrypt, keys on curves for key agreement."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient
from tests.support.kms_pairs import CURVES, SHA_1, SHA_256, curve_key, der, oaep, refused, rsa_kms_key
from tests.support.rsa_keys import private_pem, rsa_key

pytestmark = pytest.mark.anyio

US = "us-east-1"
RSA = ["RSA_2048", "RSA_3072", "RSA_4096"]
LENGTHS = {"ECC_NIST_P256": 32, "ECC_NIST_P384": 48, "ECC_NIST_P521": 66}
each_algorithm = pytest.mark.parametrize("algorithm", [SHA_1, SHA_256])


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def client(kms: InMemoryKMS) -> InMemoryKMSClient:
    return kms.client(US)


# Creating keys


@pytest.mark.parametrize("spec", [*RSA, *CURVES])
async def test_a_new_key_pair_has_the_spec_that_was_asked_for(
    kms: InMemoryKMS, client: InMemoryKMSClient, spec: str
) -> None:
    bits = int(spec[4:]) if spec in RSA else 0
    # made anew where that is fast
    key = kms.create_key(key_spec=spec, private_key=rsa_key("of a size", bits) if bits > 2048 else None)
    answer = await client.get_public_key(KeyId=key)
    public = load_der_public_key(answer["PublicKey"])
    if isinstance(public, rsa.RSAPublicKey):
        assert public.key_size == bits
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert public.curve.name == CURVES[spec].name


async def test_every_new_key_pair_is_another(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    keys = [kms.create_key(key_spec="ECC_NIST_P256") for _ in range(3)]
    assert len({(await client.get_public_key(KeyId=key))["PublicKey"] for key in keys}) == 3


@pytest.mark.parametrize(
    ("spec", "private_key"),
    [
        ("RSA_2048", rsa_key()),
        ("RSA_2048", private_pem(rsa_key())),
        ("ECC_NIST_P384", curve_key("ECC_NIST_P384")),
        (
            "ECC_NIST_P384",
            curve_key("ECC_NIST_P384").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ),
    ],
    ids=["rsa", "rsa-pem", "curve", "curve-pem"],
)
async def test_a_key_pair_of_ones_own(
    kms: InMemoryKMS, client: InMemoryKMSClient, spec: str, private_key: Any
) -> None:
    key = kms.create_key(key_spec=spec, private_key=private_key)
    expected = der(rsa_key() if spec == "RSA_2048" else curve_key(spec))
    assert (await client.get_public_key(KeyId=key))["PublicKey"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_spec": "HMAC_256"}, "'HMAC_256' is none of ECC_NIST_P256, "),
        ({"key_spec": "RSA_2048", "key_usage": "SIGN_VERIFY"}, "key_usage of RSA_2048 is ENCRYPT_DECRYPT"),
        (
            {"key_spec": "ECC_NIST_P256", "key_usage": "ENCRYPT_DECRYPT"},
            "key_usage of ECC_NIST_P256 is KEY_AGREEMENT here, not 'ENCRYPT_DECRYPT'",
        ),
        ({"key_usage": "KEY_AGREEMENT"}, "key_usage of SYMMETRIC_DEFAULT is ENCRYPT_DECRYPT"),
        ({"private_key": bytes(32)}, "PEM"),
        ({"private_key": rsa_key()}, "private_key is not a key of the key_spec SYMMETRIC_DEFAULT"),
        ({"key_spec": "RSA_3072", "private_key": rsa_key()}, "not a key of the key_spec RSA_3072"),
        ({"key_spec": "RSA_2048", "private_key": curve_key()}, "not a key of the key_spec RSA_2048"),
        (
            {"key_spec": "ECC_NIST_P384", "private_key": curve_key()},
            "not a key of the key_spec ECC_NIST_P384",
        ),
        ({"key_spec": "ECC_NIST_P256", "private_key": rsa_key()}, "not a key of the key_spec ECC_NIST_P256"),
    ],
)
async def test_keys_that_aws_would_not_have(kms: InMemoryKMS, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kms.create_key(**options)


@pytest.mark.parametrize(
    ("spec", "usage", "lists"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT", {"EncryptionAlgorithms": [SHA_1, SHA_256]}),
        ("ECC_NIST_P256", "KEY_AGREEMENT", {"KeyAgreementAlgorithms": ["ECDH"]}),
    ],
)
async def test_what_is_told_about_a_key_pair(
    kms: InMemoryKMS, client: InMemoryKMSClient, spec: str, usage: str, lists: dict[str, Any]
) -> None:
    key = kms.create_key(
        key_spec=spec, key_usage=usage, private_key=rsa_key() if spec == "RSA_2048" else None
    )
    metadata = (await client.describe_key(KeyId=key))["KeyMetadata"]
    assert isinstance(metadata.pop("CreationDate"), datetime)
    assert metadata == {
        "AWSAccountId": "111122223333",
        "Arn": key,
        "CustomerMasterKeySpec": spec,
        "Description": "",
        "Enabled": True,
        "KeyId": key.split("/")[1],
        "KeyManager": "CUSTOMER",
        "KeySpec": spec,
        "KeyState": "Enabled",
        "KeyUsage": usage,
        "MultiRegion": False,
        "Origin": "AWS_KMS",
        **lists,
    }
    answer = await client.get_public_key(KeyId=key)
    assert answer.pop("ResponseMetadata")["HTTPStatusCode"] == 200
    assert isinstance(answer.pop("PublicKey"), bytes)
    assert answer == {
        "KeyId": key,
        "CustomerMasterKeySpec": spec,
        "KeySpec": spec,
        "KeyUsage": usage,
        **lists,
    }


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"KeySpec": "ECC_NIST_P256"}, "ValidationException", "You must specify a KeyUsage"),
        (
            {"KeySpec": "ECC_NIST_P256", "KeyUsage": "ENCRYPT_DECRYPT"},
            "ValidationException",
            "KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec ECC_NIST_P256",
        ),
        (
            {"KeyUsage": "KEY_AGREEMENT"},
            "ValidationException",
            "KeyUsage KEY_AGREEMENT is not compatible with KeySpec SYMMETRIC_DEFAULT",
        ),
        ({"KeySpec": "SM2", "KeyUsage": "KEY_AGREEMENT"}, "UnsupportedOperationException", "KeySpec"),
        ({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException", "KeyUsage"),
    ],
)
async def test_key_pairs_that_create_key_refuses(
    kms: InMemoryKMS, parameters: dict[str, Any], code: str, message: str
) -> None:
    await refused(kms.invoke(US, "CreateKey", parameters), code, message)


async def test_create_key_makes_key_pairs(kms: InMemoryKMS) -> None:
    parameters = {"KeySpec": "ECC_NIST_P521", "KeyUsage": "KEY_AGREEMENT", "MultiRegion": True}
    metadata = (await kms.invoke(US, "CreateKey", parameters))["KeyMetadata"]
    assert (metadata["KeySpec"], metadata["MultiRegion"]) == ("ECC_NIST_P521", True)
    await kms.client(US).get_public_key(KeyId=metadata["Arn"])


# RSA


@each_algorithm
async def test_rsa_is_that_of_everybody_else(
    kms: InMemoryKMS, client: InMemoryKMSClient, algorithm: str
) -> None:
    key = rsa_kms_key(kms)
    made = await client.encrypt(KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=algorithm)
    assert made.pop("ResponseMetadata")
    assert rsa_key().decrypt(made.pop("CiphertextBlob"), oaep(algorithm)) == b"secret"
    assert made == {"KeyId": key, "EncryptionAlgorithm": algorithm}
    blob = rsa_key().public_key().encrypt(b"secret", oaep(algorithm))
    opened = await client.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
    assert opened.pop("ResponseMetadata")
    assert opened == {"KeyId": key, "EncryptionAlgorithm": algorithm, "Plaintext": b"secret"}


@pytest.mark.parametrize(
    ("bits", "algorithm", "longest"),
    [
        (2048, SHA_1, 214),
        (2048, SHA_256, 190),
        (3072, SHA_1, 342),
        (3072, SHA_256, 318),
        (4096, SHA_1, 470),
        (4096, SHA_256, 446),
    ],
)
async def test_the_longest_plaintext_under_an_rsa_key(
    kms: InMemoryKMS, client: InMemoryKMSClient, bits: int, algorithm: str, longest: int
) -> None:
    pair = rsa_key("of a size" if bits > 2048 else "first", bits)
    key = kms.create_key(key_spec=f"RSA_{bits}", private_key=pair)
    await client.encrypt(KeyId=key, Plaintext=bytes(longest), EncryptionAlgorithm=algorithm)
    await refused(
        client.encrypt(KeyId=key, Plaintext=bytes(longest + 1), EncryptionAlgorithm=algorithm),
        "ValidationException",
        f"Algorithm {algorithm} and key spec RSA_{bits} cannot encrypt data larger than {longest} bytes.",
    )


async def test_ciphertexts_that_do_not_open(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = rsa_kms_key(kms)
    blob = rsa_key().public_key().encrypt(b"secret", oaep(SHA_256))
    others = [blob[:-1] + bytes([blob[-1] ^ 1]), blob[:-1], blob + b"\0", b"x"]
    others += [rsa_key("second").public_key().encrypt(b"secret", oaep(SHA_256))]
    for data in others:
        await refused(
            client.decrypt(KeyId=key, CiphertextBlob=data, EncryptionAlgorithm=SHA_256),
            "InvalidCiphertextException",
        )
    await refused(
        client.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=SHA_1),
        "InvalidCiphertextException",
    )


async def test_an_rsa_key_has_no_encryption_context(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = rsa_kms_key(kms)
    made = await client.encrypt(
        KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=SHA_256, EncryptionContext={}
    )
    for call in (
        client.encrypt(
            KeyId=key, Plaintext=b"a", EncryptionAlgorithm=SHA_256, EncryptionContext={"tenant": "42"}
        ),
        client.decrypt(
            KeyId=key,
            CiphertextBlob=made["CiphertextBlob"],
            EncryptionAlgorithm=SHA_256,
            EncryptionContext={"tenant": "42"},
        ),
    ):
        await refused(call, "ValidationException", "'encryptionContext'")
    await refused(
        client.re_encrypt(
            CiphertextBlob=b"a",
            DestinationKeyId=key,
            DestinationEncryptionAlgorithm=SHA_256,
            DestinationEncryptionContext={"tenant": "42"},
        ),
        "ValidationException",
        "'destinationEncryptionContext'",
    )


async def test_an_rsa_ciphertext_does_not_name_its_key(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    blob = rsa_key().public_key().encrypt(b"secret", oaep(SHA_256))
    await refused(
        client.decrypt(CiphertextBlob=blob, EncryptionAlgorithm=SHA_256), "ValidationException", "'keyId'"
    )
    await refused(client.decrypt(CiphertextBlob=blob), "InvalidCiphertextException")


async def test_re_encrypting_to_an_rsa_key_and_back(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key, symmetric = rsa_kms_key(kms), kms.create_key()
    made = await client.encrypt(KeyId=symmetric, Plaintext=b"secret", EncryptionContext={"tenant": "42"})
    there = await client.re_encrypt(
        CiphertextBlob=made["CiphertextBlob"],
        SourceEncryptionContext={"tenant": "42"},
        DestinationKeyId=key,
        DestinationEncryptionAlgorithm=SHA_1,
    )
    assert rsa_key().decrypt(there["CiphertextBlob"], oaep(SHA_1)) == b"secret"
    assert (there["SourceEncryptionAlgorithm"], there["DestinationEncryptionAlgorithm"]) == (
        "SYMMETRIC_DEFAULT",
        SHA_1,
    )
    assert "SourceKeyMaterialId" in there
    assert "DestinationKeyMaterialId" not in there
    back = await client.re_encrypt(
        CiphertextBlob=there["CiphertextBlob"],
        SourceKeyId=key,
        SourceEncryptionAlgorithm=SHA_1,
        DestinationKeyId=symmetric,
    )
    opened = await client.decrypt(CiphertextBlob=back["CiphertextBlob"])
    assert opened["Plaintext"] == b"secret"
    await refused(
        client.re_encrypt(
            CiphertextBlob=there["CiphertextBlob"],
            SourceEncryptionAlgorithm=SHA_1,
            DestinationKeyId=symmetric,
        ),
        "ValidationException",
        "'sourceKeyId'",
    )


# Key agreement


@pytest.mark.parametrize("spec", CURVES)
async def test_both_sides_agree(kms: InMemoryKMS, client: InMemoryKMSClient, spec: str) -> None:
    mine, peer = curve_key(spec), curve_key(spec, 1234567)
    key = kms.create_key(key_spec=spec, private_key=mine)
    answer = await client.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=der(peer))
    assert answer.pop("ResponseMetadata")
    assert answer == {
        "KeyId": key,
        "SharedSecret": peer.exchange(ec.ECDH(), mine.public_key()),
        "KeyAgreementAlgorithm": "ECDH",
        "KeyOrigin": "AWS_KMS",
    }


@pytest.mark.parametrize(
    ("spec", "length"), [("ECC_NIST_P256", 32), ("ECC_NIST_P384", 48), ("ECC_NIST_P521", 66)]
)
async def test_a_secret_keeps_its_leading_zeros(
    kms: InMemoryKMS, client: InMemoryKMSClient, spec: str, length: int
) -> None:
    one = curve_key(spec, 1)
    peer = next(
        key
        for key in (curve_key(spec, number) for number in range(1, 2000))
        if key.public_key().public_numbers().x < 1 << 8 * (length - 1)
    )
    key = kms.create_key(key_spec=spec, private_key=one)
    answer = await client.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=der(peer))
    # with the private key 1 the shared point is the peer's
    assert answer["SharedSecret"] == peer.public_key().public_numbers().x.to_bytes(length, "big")
    assert answer["SharedSecret"][0] == 0


@pytest.mark.parametrize(
    "public_key",
    [
        b"x",
        der(curve_key())[:-1],
        der(curve_key()) + b"\0",
        der(curve_key("ECC_NIST_P384")),
        der(rsa_key()),
        curve_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        curve_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        der(curve_key())[:-64] + bytes(64),
    ],
    ids=["x", "short", "long", "other-curve", "rsa", "pem", "point", "not-on-the-curve"],
)
async def test_peers_that_are_none(kms: InMemoryKMS, client: InMemoryKMSClient, public_key: bytes) -> None:
    key = kms.create_key(key_spec="ECC_NIST_P256")
    await refused(
        client.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=public_key),
        "ValidationException",
        "'publicKey'",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"KeyAgreementAlgorithm": None},
            "'keyAgreementAlgorithm' failed to satisfy constraint: Member must not",
        ),
        ({"KeyAgreementAlgorithm": "ecdh"}, "enum value set: [ECDH]"),
        ({"PublicKey": None}, "'publicKey'"),
        ({"PublicKey": b""}, "'publicKey'"),
        ({"PublicKey": bytes(8193)}, "less than or equal to 8192"),
        ({"KeyId": None}, "'keyId'"),
    ],
)
async def test_agreements_refused_before_anything_is_looked_up(
    kms: InMemoryKMS, changes: dict[str, Any], message: str
) -> None:
    parameters = {"KeyId": "nobody", "KeyAgreementAlgorithm": "ECDH", "PublicKey": b"a", **changes}
    await refused(kms.invoke(US, "DeriveSharedSecret", parameters), "ValidationException", message)
