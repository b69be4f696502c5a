"""The KMS clients and grant tokens of one provider.

Specification: framework/aws-kms/aws-kms-keyring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aioencrypt.aws.connection import AWSClients, AWSConnection
from aioencrypt.aws.protocols import KMSClient
from aioencrypt.runtime.arguments import check_texts


class KMSService(AWSClients[KMSClient]):
    """The KMS clients and grant tokens of one provider; raises `TypeError` for arguments of a wrong type."""

    def __init__(self, connection: AWSConnection | None, grant_tokens: Sequence[str]) -> None:
        super().__init__(connection, "kms")
        self.grant_tokens: list[str] = [*check_texts("grant_tokens", grant_tokens, "grant token")]

    def recipe(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, ...]:
        return super().recipe(make, *arguments, grant_tokens=tuple(self.grant_tokens), **options)
