"""Names of AWS KMS keys.

Specification: framework/aws-kms/aws-kms-key-arn.md, aws-kms-mrk-match-for-decrypt.md,
aws-kms-mrk-are-unique.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

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
    """Parse an ARN; None for what is no valid ARN of a KMS key or alias.

    Headers are not authenticated when they are parsed, so an ARN has neither spaces nor control characters.
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
    """Parse the ARN of a key; None for anything else, aliases included."""
    arn = parse_arn(text)
    return arn if arn and arn.resource_type == "key" else None


def check_identifier(key_id: str) -> KeyArn | None:
    """Check a key id, key ARN, alias name or alias ARN; returns the ARN if it is one.

    Raises `TypeError` for what is not text and `ValueError` for what cannot be an identifier.
    """
    if not isinstance(key_id, str):
        raise TypeError(f"a KMS key is named by a str, not by {type(key_id).__name__}")
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
    """Tell whether a configured key opens what a stored ARN names: a replica opens a replica's."""
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
    """Refuse related multi-Region keys, which leave open which region to call; raises `ValueError`."""
    resources = [(key_id, _resource_id(key_id)) for key_id in key_ids if is_multi_region(key_id)]
    counts = Counter(resource for _, resource in resources)
    related = [key_id for key_id, resource in resources if counts[resource] > 1]
    if related:
        raise ValueError(
            f"these multi-Region keys are the same, or replicas of each other: {', '.join(related)}; "
            "name one of them, or use MultiRegion.EXACT"
        )
