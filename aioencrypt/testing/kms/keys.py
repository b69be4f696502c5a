"""Keys, aliases, grants and denials of the in-memory KMS, and the one place that decides who may use what."""

from __future__ import annotations

import base64
import enum
import os
import re
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from aioencrypt.testing.kms.asymmetric import KEY_SPECS, SYMMETRIC_DEFAULT, KeyPair, KeySpec, load_key_pair
from aioencrypt.testing.kms.errors import Refusal

GRANTABLE = frozenset(
    {
        "CreateGrant",
        "Decrypt",
        "DeriveSharedSecret",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GetPublicKey",
        "ReEncryptFrom",
        "ReEncryptTo",
    }
)
PERMISSIONS = GRANTABLE | {
    "CancelKeyDeletion",
    "CreateAlias",
    "DeleteAlias",
    "DisableKey",
    "EnableKey",
    "ReplicateKey",
    "ScheduleKeyDeletion",
}

_REGION = re.compile(r"([a-z]+-){2,3}\d+", re.ASCII)
_ACCOUNT = re.compile(r"\d{12}", re.ASCII)
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,1024}", re.ASCII)
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}", re.ASCII)
_SECONDS_PER_DAY = 86_400


class KeyState(enum.StrEnum):
    """The states of a key, as DescribeKey spells them."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@attrs.frozen
class KeyMaterial:
    """The secret of a key, and its public name, 64 hexadecimal digits. Replicas have it in common.

    `key` is what the spec of the key says: 32 bytes for AES-256, or a private key of cryptography.
    """

    material_id: str
    key: Any = attrs.field(repr=False)


@attrs.define(kw_only=True, eq=False)
class KeyRecord:
    """One key in one region. Times are seconds since the epoch."""

    partition: str
    region: str
    account: str
    key_id: str
    spec: KeySpec
    material: KeyMaterial
    created: float
    primary_region: str | None = None
    """Where the primary of a multi-Region key lives; None for a single-Region key."""
    state: KeyState = KeyState.ENABLED
    deletion: float | None = None
    denied: set[str] = attrs.Factory(set)

    @property
    def arn(self) -> str:
        """The key ARN."""
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"

    @property
    def symmetric(self) -> bool:
        """Whether it is not a key pair."""
        return self.spec.name == SYMMETRIC_DEFAULT


@attrs.frozen
class _Grant:
    key_arn: str
    operations: frozenset[str]


def check_region(region: str) -> None:
    """Raise `ValueError` for what cannot be the name of an AWS region."""
    if not isinstance(region, str):
        raise TypeError(f"a region must be a str, not {type(region).__name__}")
    if not _REGION.fullmatch(region):
        raise ValueError(f"{region!r} is not the name of an AWS region")


class KeyStore:
    """All keys of all regions. Not thread-safe; every error is a `Refusal`, and nothing here waits."""

    def __init__(self, *, account: str, partition: str, clock: Callable[[], float]) -> None:
        if not _ACCOUNT.fullmatch(account):
            raise ValueError(f"an AWS account has 12 digits, unlike {account!r}")
        self.account = account
        self.partition = partition
        self._clock = clock
        self._keys: dict[str, KeyRecord] = {}
        self._aliases: dict[str, str] = {}
        self._grants: dict[str, _Grant] = {}

    # Keys

    def create(
        self,
        *,
        region: str,
        account: str | None = None,
        multi_region: bool = False,
        key_id: str | None = None,
        spec: KeySpec = KEY_SPECS[SYMMETRIC_DEFAULT],
        private_key: KeyPair | bytes | None = None,
    ) -> KeyRecord:
        """Add a key.

        Raises `ValueError` for an id that contradicts `multi_region`, and for a private key of another spec.
        """
        check_region(region)
        account = self.account if account is None else account
        if not _ACCOUNT.fullmatch(account):
            raise ValueError(f"an AWS account has 12 digits, unlike {account!r}")
        if key_id is None:
            key_id = f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())
        elif not _KEY_ID.fullmatch(key_id):
            raise ValueError(f"a key id has 1 to 1024 letters, digits, - and _, unlike {key_id!r}")
        elif key_id.startswith("mrk-") != multi_region:
            raise ValueError(f"mrk- starts the ids of multi-Region keys and of no other, unlike {key_id!r}")
        record = KeyRecord(
            partition=self.partition,
            region=region,
            account=account,
            key_id=key_id,
            spec=spec,
            material=_material(spec, private_key),
            created=self._clock(),
            primary_region=region if multi_region else None,
        )
        if multi_region and (others := self.related(record)):
            raise Refusal("AlreadyExistsException", f"{others[0].arn} exists: replicate it")
        return self._add(record)

    def replicate(self, primary: KeyRecord, region: str) -> KeyRecord:
        """Add the replica of a primary multi-Region key, with the same id and material."""
        check_region(region)
        if primary.primary_region != primary.region:
            raise Refusal(
                "UnsupportedOperationException", f"{primary.arn} is not a multi-Region primary key."
            )
        return self._add(
            KeyRecord(
                partition=primary.partition,
                region=region,
                account=primary.account,
                key_id=primary.key_id,
                spec=primary.spec,
                material=primary.material,
                created=self._clock(),
                primary_region=primary.region,
            )
        )

    def _add(self, record: KeyRecord) -> KeyRecord:
        if self._get(record.arn) is not None:
            raise Refusal("AlreadyExistsException", f"{record.arn} already exists")
        self._keys[record.arn] = record
        return record

    def related(self, record: KeyRecord) -> list[KeyRecord]:
        """Return primary and replicas of a multi-Region key, the primary first."""
        records = [
            other
            for other in self._keys.values()
            if (other.account, other.key_id) == (record.account, record.key_id) and not self._is_gone(other)
        ]
        return sorted(records, key=lambda other: (other.region != other.primary_region, other.region))

    def _is_gone(self, record: KeyRecord) -> bool:
        return record.deletion is not None and self._clock() >= record.deletion

    def _get(self, arn: str) -> KeyRecord | None:
        record = self._keys.get(arn)
        if record is None or not self._is_gone(record):
            return record
        del self._keys[arn]
        self._aliases = {alias: key for alias, key in self._aliases.items() if key != arn}
        return None

    # Names

    def by_arn(self, arn: str) -> KeyRecord:
        """Return the key with exactly this key ARN, in whichever region."""
        record = self._get(arn)
        if record is None:
            raise Refusal("NotFoundException", f"Key '{arn}' does not exist")
        return record

    def by_identifier(self, identifier: str, region: str) -> KeyRecord:
        """Return the key that a request in a region means by a key id, key ARN, alias or alias ARN."""
        account, resource = self.account, identifier
        if identifier.startswith("arn:"):
            account, resource = self._split_arn(identifier, region)
        elif not identifier.startswith("alias/"):
            resource = f"key/{identifier}"
        arn = f"arn:{self.partition}:kms:{region}:{account}:{resource}"
        if resource.startswith("alias/"):
            _check_alias(resource)
            if arn not in self._aliases:
                raise Refusal("NotFoundException", f"Alias {arn} is not found.")
            arn = self._aliases[arn]
        return self.by_arn(arn)

    def _split_arn(self, arn: str, region: str) -> tuple[str, str]:
        parts = arn.split(":", 5)
        if len(parts) != 6 or not parts[5].startswith(("key/", "alias/")):
            raise Refusal("NotFoundException", "Invalid arn")
        if parts[1:4] != [self.partition, "kms", region]:
            raise Refusal("NotFoundException", f"Invalid arn {parts[3]}")
        return parts[4], parts[5]

    def of_blob(self, account: str, key_id: str, region: str) -> KeyRecord:
        """Return the key that a ciphertext blob names, if it lives in the region."""
        record = self._get(f"arn:{self.partition}:kms:{region}:{account}:key/{key_id}")
        if record is None:
            raise Refusal(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this "
                "region, or you are not allowed to access.",
            )
        return record

    # Aliases

    def create_alias(self, name: str, record: KeyRecord) -> None:
        """Give the key a name in its own account and region."""
        _check_alias(name)
        alias = f"arn:{record.partition}:kms:{record.region}:{record.account}:{name}"
        if alias in self._aliases:
            raise Refusal("AlreadyExistsException", f"An alias with the name {alias} already exists")
        if record.state is KeyState.PENDING_DELETION:
            raise Refusal("KMSInvalidStateException", f"{record.arn} is pending deletion.")
        self._aliases[alias] = record.arn

    def alias_target(self, name: str, region: str, account: str | None = None) -> KeyRecord:
        """Return the key that an alias of an account means in a region."""
        _check_alias(name)
        account = self.account if account is None else account
        return self.by_identifier(f"arn:{self.partition}:kms:{region}:{account}:{name}", region)

    def delete_alias(self, name: str, region: str, account: str | None = None) -> None:
        """Take the name away again."""
        record = self.alias_target(name, region, account)
        del self._aliases[f"arn:{record.partition}:kms:{region}:{record.account}:{name}"]

    # Permission and state

    def create_grant(self, record: KeyRecord, operations: Iterable[str]) -> str:
        """Return a new grant token for the key and these operations."""
        token = base64.b64encode(os.urandom(48)).decode()
        self._grants[token] = _Grant(record.arn, frozenset(operations))
        return token

    def authorize(self, record: KeyRecord, permission: str, tokens: Iterable[str]) -> None:
        """Raise a refusal unless the caller may use the key so, by itself or by a grant token."""
        grants = []
        for token in tokens:
            if token not in self._grants:
                raise Refusal("InvalidGrantTokenException", "The grant token is not valid.")
            grants.append(self._grants[token])
        if permission not in record.denied:
            return
        if any(grant.key_arn == record.arn and permission in grant.operations for grant in grants):
            return
        raise Refusal(
            "AccessDeniedException",
            f"User: arn:{self.partition}:iam::{self.account}:user/in-memory is not authorized to perform: "
            f"kms:{permission} on resource: {record.arn} with an explicit deny in a resource-based policy",
        )

    def check_usable(self, record: KeyRecord) -> None:
        """Raise a refusal unless the state of the key allows cryptographic operations."""
        match record.state:
            case KeyState.DISABLED:
                raise Refusal("DisabledException", f"{record.arn} is disabled.")
            case KeyState.PENDING_DELETION:
                raise Refusal("KMSInvalidStateException", f"{record.arn} is pending deletion.")

    def set_enabled(self, record: KeyRecord, enabled: bool) -> None:
        """Enable or disable the key, which must not be pending deletion."""
        if record.state is KeyState.PENDING_DELETION:
            raise Refusal("KMSInvalidStateException", f"{record.arn} is pending deletion.")
        record.state = KeyState.ENABLED if enabled else KeyState.DISABLED

    def schedule_deletion(self, record: KeyRecord, days: int) -> None:
        """Make the key unusable now, and let it vanish after so many days of the clock."""
        if record.state is KeyState.PENDING_DELETION:
            raise Refusal("KMSInvalidStateException", f"{record.arn} is pending deletion.")
        record.state = KeyState.PENDING_DELETION
        record.deletion = self._clock() + days * _SECONDS_PER_DAY

    def cancel_deletion(self, record: KeyRecord) -> None:
        """Keep the key. It is disabled afterwards, as in AWS."""
        if record.state is not KeyState.PENDING_DELETION:
            raise Refusal("KMSInvalidStateException", f"{record.arn} is not pending deletion.")
        record.state = KeyState.DISABLED
        record.deletion = None


def _material(spec: KeySpec, private_key: KeyPair | bytes | None) -> KeyMaterial:
    key = spec.generate() if private_key is None else load_key_pair(private_key, spec)
    return KeyMaterial(os.urandom(32).hex(), key)


def _check_alias(name: str) -> None:
    if not _ALIAS.fullmatch(name):
        raise Refusal(
            "ValidationException", f"Invalid alias {name[:300]!r}: alias/ and letters, digits, / _ - follow"
        )
