"""The KMS configurations of a branch key store: which KMS keys wrap its branch keys.

Specification: framework/branch-key-store.md#aws-kms-configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import attrs

from aioencrypt.errors import ProviderError
from aioencrypt.providers.kms.arn import matches_for_decrypt, parse_key_arn
from aioencrypt.runtime.arguments import check_type


class KMSConfiguration(ABC):
    """Base class of `KMSKeyArn`, `KMSMRKeyArn`, `KMSDiscovery` and `KMSMRDiscovery`."""

    @property
    @abstractmethod
    def region(self) -> str | None:
        """The region to call KMS in; None means the default region."""

    @property
    def wrapping_key(self) -> str:
        """The ARN of the key that wraps new branch keys; raises `ProviderError` for discovery."""
        raise ProviderError(
            f"a branch key store with {type(self).__name__} is read-only; "
            "configure it with KMSKeyArn or KMSMRKeyArn to create keys and versions"
        )

    @abstractmethod
    def key_for(self, stored: str) -> str:
        """Return the ARN to call KMS with, for an item wrapped under the key `stored`.

        Raises `ProviderError` if this configuration does not allow that key.
        """


def _check_arn(instance: Any, attribute: object, arn: Any) -> None:
    kind = type(instance).__name__
    if parse_key_arn(check_type(f"the key ARN of {kind}", arn, str)) is None:
        raise ValueError(f"{arn!r} is not the ARN of a KMS key; {kind} takes neither aliases nor key ids")


def _disagreement(stored: str, configured: str) -> ProviderError:
    return ProviderError(
        f"the item is wrapped under the KMS key {stored!r}, but the store is configured for {configured!r}"
    )


@attrs.frozen
class _OneKey(KMSConfiguration):
    arn: str = attrs.field(validator=_check_arn)

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    @property
    def wrapping_key(self) -> str:
        return self.arn


@attrs.frozen
class KMSKeyArn(_OneKey):
    """Exactly one KMS key. Replicas of a multi-Region key do not match."""

    def key_for(self, stored: str) -> str:
        if stored != self.arn:
            raise _disagreement(stored, self.arn)
        return self.arn


@attrs.frozen
class KMSMRKeyArn(_OneKey):
    """One KMS key and, if it is a multi-Region key, its replicas. KMS is called in the region of the ARN."""

    def key_for(self, stored: str) -> str:
        if not matches_for_decrypt(self.arn, stored):
            raise _disagreement(stored, self.arn)
        return self.arn


@attrs.frozen
class KMSDiscovery(KMSConfiguration):
    """The key that each item names, called in one region. Read-only."""

    @property
    def region(self) -> None:
        return None

    def key_for(self, stored: str) -> str:
        return stored


@attrs.frozen
class KMSMRDiscovery(KMSConfiguration):
    """The key that each item names; for a multi-Region key, its replica in `region`. Read-only."""

    region: str = attrs.field()

    @region.validator
    def _check(self, attribute: object, region: Any) -> None:
        if not isinstance(region, str) or not region:
            shown = repr(region) if region == "" else type(region).__name__
            raise ValueError(f"KMSMRDiscovery takes the name of a region, not {shown}")

    def key_for(self, stored: str) -> str:
        arn = parse_key_arn(stored)
        if arn is None or not arn.multi_region:
            return stored
        return str(attrs.evolve(arn, region=self.region))
