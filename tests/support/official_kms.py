"""The KMS keys of the official Python SDK, over boto3 clients of one endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import boto3
import botocore.session
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsDiscoveryMultiKeyringInput,
    CreateAwsKmsKeyringInput,
    CreateAwsKmsMrkDiscoveryMultiKeyringInput,
    CreateAwsKmsMrkKeyringInput,
    CreateAwsKmsMrkMultiKeyringInput,
    CreateAwsKmsMultiKeyringInput,
    DiscoveryFilter,
)
from aws_cryptographic_material_providers.mpl.references import ClientSupplier
from aws_encryption_sdk import DiscoveryAwsKmsMasterKeyProvider, StrictAwsKmsMasterKeyProvider
from aws_encryption_sdk.key_providers.kms import (
    DiscoveryFilter as LegacyFilter,
    MRKAwareDiscoveryAwsKmsMasterKeyProvider,
    MRKAwareStrictAwsKmsMasterKeyProvider,
)

from tests.support.official import Kind, mpl


class _Session(botocore.session.Session):  # type: ignore[misc]
    """Makes clients for one endpoint, and remembers them."""

    def __init__(self, endpoint_url: str) -> None:
        super().__init__()
        self._endpoint_url = endpoint_url
        self.clients: list[Any] = []

    def create_client(self, *args: Any, **options: Any) -> Any:
        client = super().create_client(*args, **{**options, "endpoint_url": self._endpoint_url})
        self.clients.append(client)
        return client


class _Supplier(ClientSupplier):  # type: ignore[misc]
    def __init__(self, keys: OfficialKMS) -> None:
        self._keys = keys

    def get_client(self, param: Any) -> Any:
        return self._keys.client(param.region)


class OfficialKMS:
    """Makes official providers and keyrings: each returns the argument for an official client.

    `close` when done.
    """

    def __init__(self, endpoint_url: str, account: str) -> None:
        self._session = _Session(endpoint_url)
        self._account = account

    def client(self, region: str) -> Any:
        """Return a new boto3 client."""
        return boto3.Session(botocore_session=self._session).client("kms", region_name=region)

    def close(self) -> None:
        for client in self._session.clients:
            client.close()

    def strict(self, kind: Kind, *key_ids: str) -> dict[str, Any]:
        """Keys by ARN, id or alias; the first generates."""
        if kind == "legacy":
            return self._provider(StrictAwsKmsMasterKeyProvider, key_ids=key_ids)
        if len(key_ids) == 1:
            region = key_ids[0].split(":")[3] if key_ids[0].startswith("arn:") else "us-east-1"
            one = CreateAwsKmsKeyringInput(kms_key_id=key_ids[0], kms_client=self.client(region))
            return {"keyring": mpl().create_aws_kms_keyring(one)}
        several = CreateAwsKmsMultiKeyringInput(
            generator=key_ids[0], kms_key_ids=list(key_ids[1:]), client_supplier=_Supplier(self)
        )
        return {"keyring": mpl().create_aws_kms_multi_keyring(several)}

    def discovery(
        self, kind: Kind, regions: Sequence[str], accounts: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Any key of these accounts; legacy providers call every region."""
        accounts = [self._account] if accounts is None else accounts
        if kind == "legacy":
            legacy = LegacyFilter(account_ids=tuple(accounts), partition="aws")
            return self._provider(DiscoveryAwsKmsMasterKeyProvider, discovery_filter=legacy)
        rings = CreateAwsKmsDiscoveryMultiKeyringInput(
            regions=list(regions),
            discovery_filter=DiscoveryFilter(account_ids=list(accounts), partition="aws"),
            client_supplier=_Supplier(self),
        )
        return {"keyring": mpl().create_aws_kms_discovery_multi_keyring(rings)}

    def multi_region(self, kind: Kind, *key_ids: str) -> dict[str, Any]:
        """Keys by ARN, where a replica stands for its relatives."""
        if kind == "legacy":
            return self._provider(MRKAwareStrictAwsKmsMasterKeyProvider, key_ids=key_ids)
        if len(key_ids) == 1:
            client = self.client(key_ids[0].split(":")[3])
            one = CreateAwsKmsMrkKeyringInput(kms_key_id=key_ids[0], kms_client=client)
            return {"keyring": mpl().create_aws_kms_mrk_keyring(one)}
        several = CreateAwsKmsMrkMultiKeyringInput(
            generator=key_ids[0], kms_key_ids=list(key_ids[1:]), client_supplier=_Supplier(self)
        )
        return {"keyring": mpl().create_aws_kms_mrk_multi_keyring(several)}

    def multi_region_discovery(self, kind: Kind, region: str) -> dict[str, Any]:
        """Any key of our account in one region, replicas of what the message names included."""
        if kind == "legacy":
            legacy = LegacyFilter(account_ids=(self._account,), partition="aws")
            return self._provider(
                MRKAwareDiscoveryAwsKmsMasterKeyProvider, discovery_filter=legacy, discovery_region=region
            )
        rings = CreateAwsKmsMrkDiscoveryMultiKeyringInput(
            regions=[region],
            discovery_filter=DiscoveryFilter(account_ids=[self._account], partition="aws"),
            client_supplier=_Supplier(self),
        )
        return {"keyring": mpl().create_aws_kms_mrk_discovery_multi_keyring(rings)}

    def _provider(self, kind: Any, **options: Any) -> dict[str, Any]:
        return {"key_provider": kind(botocore_session=self._session, **options)}
