"""Fixtures for tests of programs that use aioencrypt: AWS in memory, without network and account.

pytest finds this file by itself wherever aioencrypt is installed. It stands outside of the package and
imports it only when a fixture is used, so that all other tests start as fast as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aioencrypt import BranchKeyStore, KMSMasterKeyProvider
    from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS

REGION = "us-east-1"


@pytest.fixture
def aioencrypt_kms() -> InMemoryKMS:
    """An AWS KMS in memory, new for each test: no keys, no network, no account."""
    from aioencrypt.testing import InMemoryKMS

    return InMemoryKMS()


@pytest.fixture
def aioencrypt_provider(aioencrypt_kms: InMemoryKMS) -> KMSMasterKeyProvider:
    """A provider of one new KMS key in us-east-1, over the client of `aioencrypt_kms`."""
    from aioencrypt import KMSMasterKeyProvider

    return KMSMasterKeyProvider(
        [aioencrypt_kms.create_key(region=REGION)], clients=aioencrypt_kms.clients(REGION)
    )


@pytest.fixture
def aioencrypt_dynamodb() -> InMemoryDynamoDB:
    """A DynamoDB in memory, new for each test: no tables, no network, no account."""
    from aioencrypt.testing import InMemoryDynamoDB

    return InMemoryDynamoDB()


@pytest.fixture
def aioencrypt_key_store(
    aioencrypt_kms: InMemoryKMS, aioencrypt_dynamodb: InMemoryDynamoDB
) -> BranchKeyStore:
    """A branch key store over both, with one new KMS key; `create_key_store` makes its table."""
    from aioencrypt import BranchKeyStore, KMSKeyArn

    return BranchKeyStore(
        "branch-keys",
        kms_configuration=KMSKeyArn(aioencrypt_kms.create_key(region=REGION)),
        logical_name="branch-keys",
        clients=aioencrypt_kms.clients(REGION),
        dynamodb_client=aioencrypt_dynamodb.client(REGION),
    )
