"""Connections to Amazon Web Services, the client protocols, and the meaning of service errors."""

from aioencrypt.aws.protocols import ClientSupplier, DynamoDBClient, KMSClient

__all__ = ["ClientSupplier", "DynamoDBClient", "KMSClient"]


def __dir__() -> list[str]:
    return __all__
