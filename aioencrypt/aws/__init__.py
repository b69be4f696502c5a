"""Amazon Web Services: the methods that a client needs, connections, and what errors mean."""

from aioencrypt.aws.protocols import ClientSupplier, DynamoDBClient, KMSClient

__all__ = ["ClientSupplier", "DynamoDBClient", "KMSClient"]


def __dir__() -> list[str]:
    return __all__
