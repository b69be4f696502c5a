"""The items of a branch key store, and the encryption context that binds them.

An item holds a wrapped key and its attributes. KMS binds the two: the encryption context of the wrapped key
consists of all other attributes and the logical name of the store.

Specification: framework/branch-key-store.md#record-format and #encryption-context.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

import attrs

from aioencrypt.errors import ProviderError
from aioencrypt.format.context import EncryptionContext, read_only
from aioencrypt.providers.kms.arn import parse_key_arn
from aioencrypt.providers.raw.names import not_copied
from aioencrypt.runtime.secrets import hides_locals, secret_bytes

ID, TYPE = "branch-key-id", "type"
WRAPPED_KEY = "enc"
KMS_ARN = "kms-arn"
ACTIVE, BEACON, VERSION_PREFIX = "branch:ACTIVE", "beacon:ACTIVE", "branch:version:"

KEY_LENGTH = 32

_VERSION = "version"
_CREATED = "create-time"
_HIERARCHY = "hierarchy-version"
_HIERARCHY_VERSION = "1"
_TABLE = "tablename"
_CUSTOM_PREFIX = "aws-crypto-ec:"
# Limits of KMS.
_MAX_WRAPPED_KEY = 6144
_MAX_KEY_ID = 2048


@attrs.frozen
class BranchKeyMaterials:
    """A branch key that KMS has authenticated. Its `repr` never shows the key bytes.

    `version` is a UUID as text. `encryption_context` is the custom context given when the key was created.
    """

    branch_key_id: str
    version: str
    encryption_context: Mapping[str, str] = attrs.field(converter=read_only)
    key: bytes = attrs.field(repr=False, converter=secret_bytes)

    def __reduce__(self) -> NoReturn:
        raise not_copied(self)


@attrs.frozen
class BeaconKeyMaterials:
    """A beacon key that KMS has authenticated. Its `repr` never shows the key bytes."""

    beacon_key_id: str
    encryption_context: Mapping[str, str] = attrs.field(converter=read_only)
    key: bytes = attrs.field(repr=False, converter=secret_bytes)

    def __reduce__(self) -> NoReturn:
        raise not_copied(self)


@attrs.frozen
class BranchKeyItem:
    """One item of the table: the attributes as text, and the wrapped key."""

    attributes: Mapping[str, str] = attrs.field(converter=read_only)
    wrapped_key: bytes = attrs.field(repr=False)

    @property
    def version(self) -> str:
        """The version of a branch key; beacon keys have none."""
        return self.attributes.get(_VERSION, self.attributes[TYPE]).removeprefix(VERSION_PREFIX)

    @property
    def custom_context(self) -> EncryptionContext:
        """The custom encryption context given when the key was created."""
        return read_only(
            {
                name.removeprefix(_CUSTOM_PREFIX): value
                for name, value in self.attributes.items()
                if name.startswith(_CUSTOM_PREFIX)
            }
        )

    def stored(self) -> dict[str, dict[str, Any]]:
        """Return the item in DynamoDB's format."""
        texts = {name: {"S": value} for name, value in self.attributes.items()}
        return {
            **texts,
            _HIERARCHY: {"N": self.attributes[_HIERARCHY]},
            WRAPPED_KEY: {"B": self.wrapped_key},
        }


def kms_context(attributes: Mapping[str, str], logical_name: str) -> dict[str, str]:
    """Return the encryption context that binds a wrapped key to its attributes."""
    return {**attributes, _TABLE: logical_name}


# New items


def _new_version() -> Mapping[str, str]:
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {TYPE: f"{VERSION_PREFIX}{uuid.uuid4()}", _CREATED: created}


def first_version(branch_key_id: str, kms_arn: str, context: Mapping[str, str]) -> EncryptionContext:
    """Return the attributes of the first version of a branch key."""
    return EncryptionContext(
        {
            ID: branch_key_id,
            **_new_version(),
            KMS_ARN: kms_arn,
            _HIERARCHY: _HIERARCHY_VERSION,
            **{f"{_CUSTOM_PREFIX}{name}": value for name, value in context.items()},
        }
    )


def next_version(active: BranchKeyItem) -> EncryptionContext:
    """Return the attributes of a new version of an active branch key; the other attributes stay the same."""
    kept = {name: value for name, value in active.attributes.items() if name != _VERSION}
    return EncryptionContext({**kept, **_new_version()})


def active_copy(version: Mapping[str, str]) -> EncryptionContext:
    """Return the attributes of the active copy of a version."""
    return EncryptionContext({**version, TYPE: ACTIVE, _VERSION: version[TYPE]})


def beacon_beside(version: Mapping[str, str]) -> EncryptionContext:
    """Return the attributes of the beacon key created with a branch key."""
    return EncryptionContext({**version, TYPE: BEACON})


# Reading items


@hides_locals
def parse_item(stored: Mapping[str, Any], branch_key_id: str, item_type: str) -> BranchKeyItem:
    """Check an item that was read by its primary key.

    Raises `ProviderError` if no branch key store would write such an item, before KMS is called.
    """
    name = f"the item {item_type!r} of the branch key {branch_key_id!r}"
    wrapped_key = _wrapped_key(stored, name)
    attributes = {
        attribute: _text(attribute, value, name)
        for attribute, value in stored.items()
        if attribute != WRAPPED_KEY
    }
    for attribute in (ID, TYPE, _CREATED, KMS_ARN, _HIERARCHY):
        if not attributes.get(attribute):
            raise ProviderError(f"{name} has no {attribute!r}")
    if (attributes[ID], attributes[TYPE]) != (branch_key_id, item_type):
        raise ProviderError(f"the table returned a different item than {name}")
    if attributes[_HIERARCHY] != _HIERARCHY_VERSION:
        raise ProviderError(
            f"{name} has the {_HIERARCHY} {attributes[_HIERARCHY]}; only {_HIERARCHY_VERSION} is supported"
        )
    arn = attributes[KMS_ARN]
    if len(arn) > _MAX_KEY_ID or parse_key_arn(arn) is None:
        raise ProviderError(f"{name} names {arn[:200]!r}, which is not the ARN of a KMS key")
    _check_versions(attributes, name)
    return BranchKeyItem(attributes, wrapped_key)


def _text(attribute: str, value: Any, name: str) -> str:
    content = value.get("N" if attribute == _HIERARCHY else "S") if isinstance(value, Mapping) else None
    if attribute == _TABLE or not isinstance(content, str):
        raise ProviderError(f"{name} has an attribute {attribute!r} that no branch key store writes")
    return content


def _wrapped_key(stored: Mapping[str, Any], name: str) -> bytes:
    value = stored.get(WRAPPED_KEY)
    content = value.get("B") if isinstance(value, Mapping) else None
    if not isinstance(content, bytes) or not 0 < len(content) <= _MAX_WRAPPED_KEY:
        raise ProviderError(f"{name} has no {WRAPPED_KEY!r} of 1 to {_MAX_WRAPPED_KEY} bytes")
    return content


def _check_versions(attributes: Mapping[str, str], name: str) -> None:
    item_type, version = attributes[TYPE], attributes.get(_VERSION)
    if (version is not None) != (item_type == ACTIVE):
        raise ProviderError(f"{name} has {'no' if version is None else 'a'} {_VERSION!r}")
    if item_type == BEACON:
        return
    text = version if version is not None else item_type
    if not (text.startswith(VERSION_PREFIX) and is_version(text.removeprefix(VERSION_PREFIX))):
        raise ProviderError(f"{name} has a version that is not {VERSION_PREFIX!r} and a version 4 UUID")


def is_version(text: str) -> bool:
    """Tell whether a text is a version 4 UUID in its canonical form."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return str(parsed) == text and parsed.version == 4
