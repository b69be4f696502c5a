# The public names and where they are: read by type checkers, and by `__init__.py`, which loads them.
# It has no docstring, so that editors show the one of `__init__.py`.

from .dynamodb.memory import (
    DynamoDBCall as DynamoDBCall,
    InMemoryDynamoDB as InMemoryDynamoDB,
    InMemoryDynamoDBClient as InMemoryDynamoDBClient,
    InMemoryDynamoDBError as InMemoryDynamoDBError,
)
from .kms.memory import (
    InMemoryKMS as InMemoryKMS,
    InMemoryKMSClient as InMemoryKMSClient,
    InMemoryKMSError as InMemoryKMSError,
    KMSCall as KMSCall,
)

__all__ = [
    "DynamoDBCall",
    "InMemoryDynamoDB",
    "InMemoryDynamoDBClient",
    "InMemoryDynamoDBError",
    "InMemoryKMS",
    "InMemoryKMSClient",
    "InMemoryKMSError",
    "KMSCall",
]
