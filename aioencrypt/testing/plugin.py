"""Fixtures for tests of programs that use aioencrypt: AWS in memory, without network and account.

pytest finds this file by itself wherever aioencrypt is installed. Both packages load what is used of them
when it is used, so that all other tests start as fast as before.
"""

from __future__ import annotations

import pytest

import aioencrypt
from aioencrypt import testing

REGION = "us-east-1"


@pytest.fixture
def aioencrypt_kms() -> testing.InMemoryKMS:
    """An AWS KMS in memory, new for each test: no keys, no network, no account."""
    return testing.InMemoryKMS()


@pytest.fixture
def aioencrypt_provider(aioencrypt_kms: testing.InMemoryKMS) -> aioencrypt.KMSMasterKeyProvider:
    """A provider of one new KMS key in us-east-1, over the client of `aioencrypt_kms`."""
    return aioencrypt.KMSMasterKeyProvider(
        [aioencrypt_kms.create_key(region=REGION)], connection=aioencrypt_kms.connection(REGION)
    )


@pytest.fixture
def aioencrypt_dynamodb() -> testing.InMemoryDynamoDB:
    """A DynamoDB in memory, new for each test: no tables, no network, no account."""
    return testing.InMemoryDynamoDB()


@pytest.fixture
def aioencrypt_key_store(
    aioencrypt_kms: testing.InMemoryKMS, aioencrypt_dynamodb: testing.InMemoryDynamoDB
) -> aioencrypt.BranchKeyStore:
    """A branch key store over both, with one new KMS key; `create_key_store` makes its table."""
    return aioencrypt.BranchKeyStore(
        "branch-keys",
        kms_configuration=aioencrypt.KMSKeyArn(aioencrypt_kms.create_key(region=REGION)),
        logical_name="branch-keys",
        connection=aioencrypt.AWSConnection(
            kms=aioencrypt_kms.clients(REGION), dynamodb=aioencrypt_dynamodb.clients(REGION)
        ),
    )
