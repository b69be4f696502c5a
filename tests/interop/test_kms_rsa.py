"""RSA keys of KMS: the keyring of the official library over boto3 and ours over aiobotocore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest
from aiobotocore.session import get_session
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsRsaKeyringInput,
    CreateMultiKeyringInput,
)
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    DecryptResult,
    KMSEncryptionAlgorithm,
    KMSRSAMasterKey,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    decrypt,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.kms_pairs import SHA_1, SHA_256, rsa_kms_key
from tests.support.official import aes_key, mpl, read, write
from tests.support.official_kms import OfficialKMS
from tests.support.rsa_keys import public_pem, rsa_key
from tests.support.streaming import UNSIGNED, client_for, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

PAGE = "framework/aws-kms/aws-kms-rsa-keyring.md"
US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"größe": "ß", "tenant": "42"}
PLAINTEXT = plaintext_of(10_000)
SUITES = [AlgorithmSuite(number) for number in (0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0478)]
SESSION = get_session()
CASES: list[tuple[AlgorithmSuite, str, dict[str, str]]] = [
    *((suite, SHA_256, CONTEXT) for suite in SUITES),
    (UNSIGNED, SHA_256, {}),
    (UNSIGNED, SHA_1, CONTEXT),
    (UNSIGNED, SHA_1, {}),
]
cases = pytest.mark.parametrize(
    ("suite", "algorithm", "context"),
    [pytest.param(*case, id=f"{case[0].value:04x}-{case[1][11:]}-{len(case[2])}-pairs") for case in CASES],
)


@attrs.frozen
class Server:
    """A KMS over HTTP with one RSA key, as a single-Region key and as a primary with a replica."""

    url: str
    kms: InMemoryKMS
    single: str
    primary: str
    replica: str

    def ours(self, key_id: str, algorithm: str = SHA_256, *, public: bool = True) -> KMSRSAMasterKey:
        return KMSRSAMasterKey(
            key_id,
            encryption_algorithm=KMSEncryptionAlgorithm(algorithm),
            public_key=public_pem(rsa_key()) if public else None,
            connection=AWSConnection(session=SESSION, kms=self.url),
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    kms = InMemoryKMS()
    single, primary = rsa_kms_key(kms), rsa_kms_key(kms, multi_region=True)
    with run_in_thread(kms) as url:
        yield Server(url, kms, single, primary, kms.replicate_key(primary, EU))


@pytest.fixture
def official(server: Server) -> Iterator[OfficialKMS]:
    keys = OfficialKMS(server.url, "111122223333")
    yield keys
    keys.close()


def theirs(
    official: OfficialKMS, key_id: str, algorithm: str = SHA_256, *, public: bool = True
) -> dict[str, Any]:
    """Return the official keyring as an argument for an official client."""
    configuration = CreateAwsKmsRsaKeyringInput(
        public_key=public_pem(rsa_key()) if public else None,
        kms_key_id=key_id,
        encryption_algorithm=algorithm,
        kms_client=official.client(key_id.split(":")[3]),
    )
    return {"keyring": mpl().create_aws_kms_rsa_keyring(configuration)}


async def opened(
    message: bytes, provider: MasterKeyProvider, suite: AlgorithmSuite, context: Mapping[str, str]
) -> DecryptResult:
    async with provider:
        return await client_for(suite).decrypt(message, provider, encryption_context=context)


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#ondecrypt")
@cases
async def test_official_to_ours(
    server: Server, official: OfficialKMS, suite: AlgorithmSuite, algorithm: str, context: dict[str, str]
) -> None:
    message = write(PLAINTEXT, theirs(official, server.single, algorithm), suite, encryption_context=context)
    result = await opened(message, server.ours(server.single, algorithm, public=False), suite, context)
    assert result.plaintext == PLAINTEXT
    [encrypted] = result.header.encrypted_data_keys
    assert (encrypted.provider_id, encrypted.provider_info) == ("aws-kms-rsa", server.single.encode())


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#ondecrypt")
@cases
async def test_ours_to_official(
    server: Server, official: OfficialKMS, suite: AlgorithmSuite, algorithm: str, context: dict[str, str]
) -> None:
    server.kms.reset_calls()
    message, _ = await client_for(suite).encrypt(
        PLAINTEXT,
        server.ours(server.single, algorithm),
        algorithm_suite=suite,
        encryption_context=context,
    )
    assert server.kms.call_count() == 0
    key = theirs(official, server.single, algorithm, public=False)
    assert read(message, key, suite)[0] == PLAINTEXT
    assert server.kms.call_count("Decrypt") == 1


async def test_replicas_there_and_back(server: Server, official: OfficialKMS) -> None:
    message = write(PLAINTEXT, theirs(official, server.primary), UNSIGNED, encryption_context=CONTEXT)
    result = await opened(message, server.ours(server.replica), UNSIGNED, CONTEXT)
    assert result.plaintext == PLAINTEXT
    message, _ = await client_for(UNSIGNED).encrypt(
        PLAINTEXT, server.ours(server.replica), algorithm_suite=UNSIGNED, encryption_context=CONTEXT
    )
    assert read(message, theirs(official, server.primary), UNSIGNED)[0] == PLAINTEXT


async def test_beside_another_key(server: Server, official: OfficialKMS) -> None:
    """One key generates the data key, the other encrypts it; either opens."""
    raw, rsa = aes_key(256), theirs(official, server.single)
    both = CreateMultiKeyringInput(generator=raw.keyring, child_keyrings=[rsa["keyring"]])
    message = write(
        PLAINTEXT, {"keyring": mpl().create_multi_keyring(both)}, UNSIGNED, encryption_context=CONTEXT
    )
    for provider in (raw.ours, server.ours(server.single)):
        assert (await opened(message, provider, UNSIGNED, CONTEXT)).plaintext == PLAINTEXT
    message, _ = await client_for(UNSIGNED).encrypt(
        PLAINTEXT,
        MultiMasterKeyProvider(raw.ours, server.ours(server.single)),
        algorithm_suite=UNSIGNED,
        encryption_context=CONTEXT,
    )
    for key in (raw.official("mpl"), rsa):
        assert read(message, key, UNSIGNED)[0] == PLAINTEXT


async def test_both_refuse_another_padding(server: Server, official: OfficialKMS) -> None:
    message = write(PLAINTEXT, theirs(official, server.single, SHA_1), UNSIGNED)
    with pytest.raises(AWSEncryptionSDKClientError):
        read(message, theirs(official, server.single, SHA_256), UNSIGNED)
    async with server.ours(server.single, SHA_256) as key:
        with pytest.raises(ProviderError, match="InvalidCiphertextException"):
            await decrypt(message, key)


async def test_both_refuse_suites_that_sign(server: Server, official: OfficialKMS) -> None:
    signed = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
    with pytest.raises(AWSEncryptionSDKClientError, match="asymmetric signing"):
        write(PLAINTEXT, theirs(official, server.single), signed)
    with pytest.raises(ProviderError, match="does not allow the signed suite"):
        await client_for(signed).encrypt(PLAINTEXT, server.ours(server.single), algorithm_suite=signed)
