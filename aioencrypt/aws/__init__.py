"""Connections to Amazon Web Services, the client protocols, and the meaning of service errors."""

from aioencrypt.aws.client_suppliers import KMSClientFactory, exclude_regions, limit_regions
from aioencrypt.aws.protocols import ClientSupplier, DynamoDBClient, KMSClient

__all__ = [
    "ClientSupplier",
    "DynamoDBClient",
    "KMSClient",
    "KMSClientFactory",
    "exclude_regions",
    "limit_regions",
]


def __dir__() -> list[str]:
    return __all__
