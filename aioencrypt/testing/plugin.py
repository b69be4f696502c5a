"""pytest fixtures for programs that use aioencrypt: AWS in memory, without a network or an account.

pytest finds this plugin wherever aioencrypt is installed. It imports nothing until a fixture is used, so
other tests do not start more slowly.
"""

from __future__ import annotations

import pytest

import aioencrypt
from aioencrypt import testing

REGION = "us-east-1"


@pytest.fixture
def aioencrypt_kms() -> testing.InMemoryKMS:
    """An in-memory AWS KMS without keys, new for each test."""
    return testing.InMemoryKMS()


@pytest.fixture
def aioencrypt_provider(aioencrypt_kms: testing.InMemoryKMS) -> aioencrypt.KMSMasterKeyProvider:
    """A provider with one new KMS key in us-east-1, in `aioencrypt_kms`."""
    return aioencrypt.KMSMasterKeyProvider(
        [aioencrypt_kms.create_key(region=REGION)], connection=aioencrypt_kms.connection(REGION)
    )


@pytest.fixture
def aioencrypt_dynamodb() -> testing.InMemoryDynamoDB:
    """An in-memory DynamoDB without tables, new for each test."""
    return testing.InMemoryDynamoDB()


@pytest.fixture
def aioencrypt_key_store(
    aioencrypt_kms: testing.InMemoryKMS, aioencrypt_dynamodb: testing.InMemoryDynamoDB
) -> aioencrypt.branch_keys.BranchKeyStore:
    """A branch key store that uses both, with one new KMS key; `create_key_store` creates its table."""
    return aioencrypt.branch_keys.BranchKeyStore(
        "branch-keys",
        kms_configuration=aioencrypt.branch_keys.KMSKeyArn(aioencrypt_kms.create_key(region=REGION)),
        logical_name="branch-keys",
        connection=aioencrypt.AWSConnection(
            kms=aioencrypt_kms.clients(REGION), dynamodb=aioencrypt_dynamodb.clients(REGION)
        ),
    )
