"""EC keys of KMS when KMS says no, says nonsense, or says nothing.

Specification: framework/aws-kms/aws-kms-ecdh-keyring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import attrs
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt import (
    KMSECDHMasterKey,
    MultiMasterKeyProvider,
    ProviderError,
    RawECDHMasterKey,
    ServiceError,
    encrypt,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS, InMemoryKMSError
from tests.support.ecdh import (
    CURVES,
    DATA_KEY,
    POINT_LENGTHS,
    around_clients,
    ec_key,
    entry,
    kms_discovery,
    kms_key,
    kms_static,
    point,
    provider_info,
    public_der,
)
from tests.support.kms import Call
from tests.support.providers import CONTEXT, asking
from tests.support.rsa_keys import rsa_key
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-ecdh-keyring.md"
SCHEMAS = "framework/key-agreement-schemas.md"
GET, DERIVE = "GetPublicKey", "DeriveSharedSecret"
BOTH = pytest.mark.parametrize("called", [GET, DERIVE])
OTHER_ARN = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000"
WRONG = (
    "the commitment key does not match: another private key or encryption context, "
    "or a changed encrypted data key"
)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def from_bob(**options: Any) -> EncryptedDataKey:
    return entry(ec_key("bob"), ec_key("alice"), **options)


async def generating(key: KMSECDHMasterKey) -> Exception:
    """Return how encrypting failed."""
    with pytest.raises(ProviderError) as caught, anyio.fail_after(10):
        await encrypt(b"x", key)
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == (
        "generate",
        "aws-kms-ecdh",
        key.key_id,
    )
    assert caught.value.__cause__ is attempt.error
    return attempt.error


async def decrypting(key: KMSECDHMasterKey, encrypted: EncryptedDataKey | None = None) -> Exception:
    """Return how the one attempt to decrypt failed."""
    with pytest.raises(ProviderError) as caught, anyio.fail_after(10):
        await key.decrypt_data_key(asking(encrypted or from_bob()))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "aws-kms-ecdh", key.key_id)
    assert str(attempt) in str(caught.value)
    return attempt.error


async def both_failing(kms: InMemoryKMS, arn: str, spoil: Callable[[], object]) -> list[Exception]:
    """Return how encrypting and decrypting fail, with keys that know nothing yet."""
    errors = []
    for key, fails in (
        (kms_static(kms, arn), generating),
        (kms_static(kms, arn), decrypting),
        (kms_discovery(kms, arn), decrypting),
    ):
        spoil()
        errors.append(await fails(key))
        # failures are not kept
        found = await key.decrypt_data_key(asking(from_bob()))
        assert found.data_key.plaintext == DATA_KEY
    return errors


# What KMS refuses


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#ondecrypt",
    f"{SCHEMAS}#kmspublickeydiscovery",
    f"{SCHEMAS}#kmsprivatekeytostaticpublickey",
)
@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        ("AccessDeniedException", False),
        ("DisabledException", False),
        ("NotFoundException", False),
        ("InvalidKeyUsageException", False),
        ("KMSInvalidStateException", False),
        ("UnsupportedOperationException", False),
        ("ThrottlingException", True),
        ("KeyUnavailableException", True),
        ("DependencyTimeoutException", True),
        ("KMSInternalException", True),
    ],
)
@BOTH
@on_asyncio
async def test_a_refusal_is_told_with_its_code(
    kms: InMemoryKMS, called: str, code: str, retryable: bool
) -> None:
    arn = kms_key(kms)
    for error in await both_failing(kms, arn, lambda: kms.fail_next(code, operation=called)):
        assert isinstance(error, ServiceError)
        assert (error.code, error.retryable) == (code, retryable)
        assert error.request_id
        assert isinstance(error.__cause__, InMemoryKMSError)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda kms, arn: kms.deny(arn, DERIVE), "AccessDeniedException"),
        (lambda kms, arn: kms.deny(arn, GET), "AccessDeniedException"),
        (lambda kms, arn: kms.disable_key(arn), "DisabledException"),
        (lambda kms, arn: kms.schedule_key_deletion(arn), "KMSInvalidStateException"),
        (lambda kms, arn: kms.expire_credentials(), "ExpiredTokenException"),
        (lambda kms, arn: kms.outage("us-east-1"), None),
    ],
    ids=["no DeriveSharedSecret", "no GetPublicKey", "disabled", "deleted", "expired", "outage"],
)
async def test_a_key_that_cannot_be_used(
    kms: InMemoryKMS, spoil: Callable[[InMemoryKMS, str], None], code: str | None
) -> None:
    """The next data key, and the next provider, are tried."""
    arn = kms_key(kms)
    spoil(kms, arn)
    for error in (
        await generating(kms_static(kms, arn)),
        await decrypting(kms_static(kms, arn)),
        await decrypting(kms_discovery(kms, arn)),
    ):
        assert isinstance(error, ServiceError)
        assert error.code == code
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        spare = RawECDHMasterKey.discovery(private_key=ec_key("alice"))
        found = await MultiMasterKeyProvider(key, spare).decrypt_data_key(asking(from_bob()))
        assert (found.data_key.plaintext, found.master_key) == (DATA_KEY, spare)


async def test_a_key_that_is_not_there(kms: InMemoryKMS) -> None:
    for key in (kms_static(kms, OTHER_ARN), kms_discovery(kms, OTHER_ARN)):
        error = await decrypting(key)
        assert isinstance(error, ServiceError)
        assert error.code == "NotFoundException"


async def test_without_the_public_key_a_message_costs_one_attempt(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    kms.deny(arn, GET)
    with pytest.raises(ProviderError, match="none of the 3 encrypted data keys") as caught:
        await kms_discovery(kms, arn).decrypt_data_key(asking(from_bob(), from_bob(), from_bob()))
    assert len(caught.value.attempts) == 1
    assert isinstance(caught.value.__cause__, ServiceError)
    assert kms.call_count() == 1


async def test_all_who_wait_for_the_public_key_fail_with_one_call(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    kms.latency = 0.005
    kms.fail_next("KMSInternalException", operation=GET)
    key = kms_static(kms, arn)
    errors: list[Exception] = []

    async def make() -> None:
        try:
            await key.generate_data_key(asking())
        except ServiceError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(make)
    assert len({id(error) for error in errors}) == 20
    assert kms.call_count() == 1
    await make()
    assert (len(errors), kms.call_count()) == (20, 3)


@BOTH
async def test_no_answer_in_time(kms: InMemoryKMS, called: str) -> None:
    arn = kms_key(kms)

    async def hang(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if operation == called:
            await anyio.sleep_forever()
        return await call()

    options: Any = {"clients": around_clients(kms, hang), "timeout": 0.02}
    for error in (
        await generating(kms_static(kms, arn, **options)),
        await decrypting(kms_static(kms, arn, **options)),
        await decrypting(kms_discovery(kms, arn, **options)),
    ):
        assert str(error) == "no answer within 0.02 seconds"
        assert isinstance(error, ServiceError)
        assert error.retryable
    assert_idle()


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3)])
@on_asyncio
async def test_an_interrupt_is_not_a_failure_of_a_key(kms: InMemoryKMS, raised: BaseException) -> None:
    async def interrupt(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        if operation == DERIVE:
            raise raised
        return await call()

    key = kms_static(kms, kms_key(kms), clients=around_clients(kms, interrupt))
    for call in (key.decrypt_data_key(asking(from_bob())), encrypt(b"x", key)):
        with pytest.raises(type(raised)) as caught:
            await call
        assert caught.value is raised


# What KMS answers


def der(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


WRONG_KEY_ID = f"KMS used the key '{OTHER_ARN}', not "


@pytest.mark.spec(f"{SCHEMAS}#kmsprivatekeytostaticpublickey", f"{SCHEMAS}#kmspublickeydiscovery")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"KeyId": None}, "the answer of KMS has no KeyId"),
        ({"KeyId": OTHER_ARN}, WRONG_KEY_ID),
        ({"KeyUsage": None}, "the answer of KMS has no KeyUsage"),
        ({"KeyUsage": "SIGN_VERIFY"}, "has the usage SIGN_VERIFY; it must be KEY_AGREEMENT"),
        ({"KeySpec": None}, "the answer of KMS has no KeySpec"),
        ({"KeySpec": "ECC_NIST_P384"}, "KMS returned the key spec ECC_NIST_P384"),
        ({"KeySpec": "SM2"}, "KMS returned the key spec SM2"),
        ({"PublicKey": None}, "the answer of KMS has no PublicKey"),
        ({"PublicKey": b""}, "the answer of KMS has no PublicKey"),
        (
            {"PublicKey": b"\x30\x00"},
            "the public key of the KMS key is not a valid public key in PEM or DER: ",
        ),
        (
            {"PublicKey": public_der(ec_key("a"))[:-1]},
            "the public key of the KMS key is not a valid public key in PEM or DER: ",
        ),
        (
            {"PublicKey": der(rsa_key().public_key())},
            "the public key of the KMS key is not an EC public key: ",
        ),
        (
            {"PublicKey": der(ec.generate_private_key(ec.SECP256K1()).public_key())},
            "the public key of the KMS key is on the curve secp256k1; ",
        ),
    ],
    ids=range(13),
)
async def test_answers_to_get_public_key(kms: InMemoryKMS, changes: dict[str, object], text: str) -> None:
    arn = kms_key(kms)
    for error in await both_failing(kms, arn, lambda: kms.answer_next(GET, changes)):
        assert type(error) is ProviderError
        assert text in str(error)
    assert kms.call_count(DERIVE) == 3


@pytest.mark.parametrize("name", ["alias/agreement", "id"])
async def test_the_answer_names_a_key_by_its_arn(kms: InMemoryKMS, name: str) -> None:
    arn = kms_key(kms)
    kms.create_alias("alias/agreement", arn)
    key_id = arn.rpartition("/")[2] if name == "id" else name
    clients = kms.clients("us-east-1")
    for key in (kms_static(kms, key_id, clients=clients), kms_discovery(kms, key_id, clients=clients)):
        kms.answer_next(GET, {"KeyId": key_id})
        assert str(await decrypting(key)) == (f"KMS returned the key id {key_id!r}, which is not a key ARN")
        await key.warm_up()
        kms.answer_next(DERIVE, {"KeyId": OTHER_ARN})
        assert str(await decrypting(key)) == f"{WRONG_KEY_ID}{arn!r}"


async def test_a_public_key_given_for_a_key_id_is_not_checked_against_an_arn(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    options: Any = {"clients": kms.clients("us-east-1"), "recipient_public_key": public_der(ec_key("alice"))}
    key = kms_discovery(kms, arn.rpartition("/")[2], **options)
    assert (await key.decrypt_data_key(asking(from_bob()))).data_key.plaintext == DATA_KEY
    kms.answer_next(DERIVE, {"KeyId": "alias/x"})
    assert "which is not a key ARN" in str(await decrypting(key))


@pytest.mark.spec(
    f"{SCHEMAS}#kmsprivatekeytostaticpublickey",
    f"{PAGE}#curve-specification",
    f"{PAGE}#supported-curve-specifications",
)
async def test_a_kms_key_on_another_curve(kms: InMemoryKMS) -> None:
    arn = kms_key(kms, "alice", "p384")
    assert str(await generating(kms_static(kms, arn))) == (
        "the KMS key and recipient_public_key are on different curves, p384 and p256; "
        "both parties need keys of one curve"
    )
    assert kms.call_count(DERIVE) == 0


@pytest.mark.spec(f"{SCHEMAS}#kmsprivatekeytostaticpublickey", f"{SCHEMAS}#kmspublickeydiscovery")
async def test_a_kms_key_of_another_kind(kms: InMemoryKMS) -> None:
    arn = kms.create_key(key_spec="RSA_2048")
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        assert (
            str(await decrypting(key))
            == f"the KMS key {arn} has the usage ENCRYPT_DECRYPT; it must be KEY_AGREEMENT"
        )
    symmetric = kms.create_key()
    error = await generating(kms_static(kms, symmetric))
    assert isinstance(error, ServiceError)
    assert error.code == "UnsupportedOperationException"


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#ondecrypt")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"KeyId": None}, "the answer of KMS has no KeyId"),
        ({"KeyId": OTHER_ARN}, WRONG_KEY_ID),
        ({"KeyAgreementAlgorithm": None}, "the answer of KMS has no KeyAgreementAlgorithm"),
        ({"KeyAgreementAlgorithm": "ECMQV"}, "KMS used 'ECMQV' instead of ECDH"),
        ({"SharedSecret": None}, "the answer of KMS has no SharedSecret"),
        ({"SharedSecret": b""}, "the answer of KMS has no SharedSecret"),
        ({"SharedSecret": bytes(31)}, "KMS returned a shared secret of 31 bytes; p256 needs 32"),
        ({"SharedSecret": bytes(48)}, "KMS returned a shared secret of 48 bytes; p256 needs 32"),
    ],
    ids=range(8),
)
async def test_answers_to_derive_shared_secret(
    kms: InMemoryKMS, changes: dict[str, object], text: str
) -> None:
    arn = kms_key(kms)
    for error in await both_failing(kms, arn, lambda: kms.answer_next(DERIVE, changes)):
        assert type(error) is ProviderError
        assert str(error).startswith(text)


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{SCHEMAS}#key-commitment")
async def test_another_shared_secret(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        kms.answer_next(DERIVE, {"SharedSecret": bytes(32)})
        assert str(await decrypting(key)) == WRONG
        kms.answer_next(DERIVE, {"SharedSecret": bytes(32)})
        found = await key.decrypt_data_key(asking(from_bob(), from_bob()))
        assert found.data_key.plaintext == DATA_KEY


# What the message holds


@pytest.mark.spec(f"{PAGE}#ondecrypt", f"{PAGE}#additional-information")
async def test_another_context(kms: InMemoryKMS) -> None:
    arn = kms_key(kms)
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        for context in ({}, {"tenant": "43"}, {**CONTEXT, "more": ""}):
            assert str(await decrypting(key, from_bob(context=context))) == WRONG


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("position", [0, 31, 32, 63, 64, 95, 96, 111])
async def test_changed_ciphertexts_fail_and_the_next_is_tried(kms: InMemoryKMS, position: int) -> None:
    arn = kms_key(kms)
    whole = from_bob()
    changed = bytearray(whole.ciphertext)
    changed[position] ^= 0x80
    tampered = attrs.evolve(whole, ciphertext=bytes(changed))
    for key in (kms_static(kms, arn), kms_discovery(kms, arn)):
        error = await decrypting(key, tampered)
        if position < 64:
            assert str(error) == WRONG
        else:
            assert str(error) == "the encrypted data key fails authentication: it was changed"
            assert isinstance(error.__cause__, InvalidTag)
        found = await key.decrypt_data_key(asking(tampered, whole))
        assert (found.data_key.plaintext, found.encrypted_data_key) == (DATA_KEY, whole)


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_a_ciphertext_of_another_length_never_reaches_kms(kms: InMemoryKMS) -> None:
    cut = attrs.evolve(from_bob(), ciphertext=from_bob().ciphertext[:-1])
    assert str(await decrypting(kms_discovery(kms, kms_key(kms)), cut)) == (
        "the encrypted data key has a ciphertext of 111 bytes; the suite needs 112"
    )
    assert kms.call_count(DERIVE) == 0


@pytest.mark.spec(f"{PAGE}#ondecrypt")
@pytest.mark.parametrize("curve", CURVES)
@on_asyncio
async def test_a_sender_that_is_no_point_on_the_curve_never_reaches_kms(kms: InMemoryKMS, curve: str) -> None:
    off = b"\x02" + b"\xff" * (POINT_LENGTHS[curve] - 1)
    info = provider_info(off, point(ec_key("alice", curve)))
    key = kms_discovery(kms, kms_key(kms, curve=curve))
    error = await decrypting(key, EncryptedDataKey("aws-kms-ecdh", info, bytes(112)))
    assert str(error) == f"the sender's public key in the message is not a point on {curve}"
    assert kms.call_count(DERIVE) == 0
