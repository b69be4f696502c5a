"""Identifiers of AWS KMS keys: parse and match ARNs.

Specification: framework/aws-kms/aws-kms-key-arn.md, aws-kms-mrk-match-for-decrypt.md,
aws-kms-mrk-are-unique.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

from aioencrypt.runtime.arguments import check_type

_MULTI_REGION_PREFIX = "mrk-"
_ALIAS_PREFIX = "alias/"


def _is_name(text: str) -> bool:
    return text.isprintable() and " " not in text


@attrs.frozen
class KeyArn:
    """The parts of the ARN of a KMS key or alias."""

    partition: str
    region: str
    account: str
    resource_type: str
    resource_id: str

    def __str__(self) -> str:
        return (
            f"arn:{self.partition}:kms:{self.region}:{self.account}:{self.resource_type}/{self.resource_id}"
        )

    @property
    def multi_region(self) -> bool:
        """Whether it names a multi-Region key; an alias never does."""
        return self.resource_type == "key" and self.resource_id.startswith(_MULTI_REGION_PREFIX)


def parse_arn(text: str) -> KeyArn | None:
    """Parse the ARN of a KMS key or alias; return None for any other text.

    ARNs with spaces or control characters are rejected, because they may come from unauthenticated headers.
    """
    parts = text.split(":")
    if len(parts) != 6 or not _is_name(text):
        return None
    prefix, partition, service, region, account, resource = parts
    resource_type, _, resource_id = resource.partition("/")
    valid = prefix == "arn" and service == "kms" and resource_type in ("key", "alias")
    if not (valid and partition and region and account and resource_id):
        return None
    return KeyArn(partition, region, account, resource_type, resource_id)


def parse_key_arn(text: str) -> KeyArn | None:
    """Parse the ARN of a KMS key; return None for any other text, including alias ARNs."""
    arn = parse_arn(text)
    return arn if arn and arn.resource_type == "key" else None


def check_identifier(key_id: str) -> KeyArn | None:
    """Check a key id, key ARN, alias name or alias ARN; return the parsed ARN, or None if it is not an ARN.

    Raises `TypeError` if it is not a str, and `ValueError` if it cannot identify a KMS key.
    """
    check_type("a KMS key id", key_id, str)
    if key_id.startswith("arn:"):
        arn = parse_arn(key_id)
        if arn is None:
            raise ValueError(f"{key_id!r} is not the ARN of a KMS key or alias")
        return arn
    if (
        key_id in ("", _ALIAS_PREFIX)
        or not _is_name(key_id)
        or ":" in key_id
        or ("/" in key_id and not key_id.startswith(_ALIAS_PREFIX))
    ):
        raise ValueError(f"{key_id!r} is not a KMS key id, key ARN, alias name (alias/...) or alias ARN")
    return None


def is_multi_region(identifier: str) -> bool:
    """Tell whether an identifier names a multi-Region key."""
    arn = parse_arn(identifier)
    return arn.multi_region if arn else identifier.startswith(_MULTI_REGION_PREFIX)


def matches_for_decrypt(configured: str, stored: str) -> bool:
    """Tell whether the configured key decrypts under the stored ARN; replicas of one key match each other."""
    if configured == stored:
        return True
    ours, theirs = parse_arn(configured), parse_arn(stored)
    if not (ours and theirs and ours.multi_region and theirs.multi_region):
        return False
    return attrs.evolve(ours, region=theirs.region) == theirs


def _resource_id(identifier: str) -> str:
    arn = parse_arn(identifier)
    return arn.resource_id if arn else identifier


def check_unrelated(key_ids: Sequence[str]) -> None:
    """Raise `ValueError` for replicas of the same multi-Region key, which make the region ambiguous."""
    resources = [(key_id, _resource_id(key_id)) for key_id in key_ids if is_multi_region(key_id)]
    counts = Counter(resource for _, resource in resources)
    related = [key_id for key_id, resource in resources if counts[resource] > 1]
    if related:
        raise ValueError(
            f"these multi-Region keys are equal or replicas of each other: {', '.join(related)}; "
            "give only one of them, or use MultiRegion.EXACT"
        )
