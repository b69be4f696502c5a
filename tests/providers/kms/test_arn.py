"""Names of KMS keys, as tables.

Specification: framework/aws-kms/aws-kms-key-arn.md, aws-kms-mrk-match-for-decrypt.md,
aws-kms-mrk-are-unique.md.
"""

from __future__ import annotations

import re

import attrs
import pytest

from aioencrypt import (
    KMSDiscoveryMasterKeyProvider,
    KMSECDHMasterKey,
    KMSEncryptionAlgorithm,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    ProviderError,
)
from aioencrypt.branch_keys import KMSKeyArn, KMSMRKeyArn
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.providers.kms.arn import (
    KeyArn,
    check_identifier,
    check_unrelated,
    is_multi_region,
    matches_for_decrypt,
    parse_arn,
    parse_key_arn,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.providers import asking
from tests.support.rows import each_row

US, EU = "us-east-1", "eu-west-1"
ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"


def arn(
    resource: str = f"key/{ID}", region: str = US, account: str = "111122223333", partition: str = "aws"
) -> str:
    return f"arn:{partition}:kms:{region}:{account}:{resource}"


VALID = {
    arn(): KeyArn("aws", US, "111122223333", "key", ID),
    arn(f"key/{MRK}", EU): KeyArn("aws", EU, "111122223333", "key", MRK),
    arn("alias/test-key"): KeyArn("aws", US, "111122223333", "alias", "test-key"),
    arn("alias/aws/s3"): KeyArn("aws", US, "111122223333", "alias", "aws/s3"),
    arn("alias/mrk-x"): KeyArn("aws", US, "111122223333", "alias", "mrk-x"),
    arn("key/a/b/c"): KeyArn("aws", US, "111122223333", "key", "a/b/c"),
    arn("key/a", "cn-north-1", "1", "aws-cn"): KeyArn("aws-cn", "cn-north-1", "1", "key", "a"),
    arn("key/a", "anywhere", "anybody", "any"): KeyArn("any", "anywhere", "anybody", "key", "a"),
}
INVALID = [
    "",
    "arn",
    ":::::",
    "arn:aws:kms:us-east-1:111122223333",
    f"arn:aws:kms:us-east-1:111122223333:{ID}",
    f"arn:aws:kms:us-east-1:key/{ID}",
    f"arn:aws:kms:us-east-1:111122223333:key:{ID}",
    "arn:aws:kms:us-east-1:111122223333:",
    "arn:aws:kms:us-east-1:111122223333:key",
    "arn:aws:kms:us-east-1:111122223333:key/",
    "arn:aws:kms:us-east-1:111122223333:alias/",
    "arn:aws:kms:us-east-1:111122223333:/a",
    "arn:aws:kms:us-east-1:111122223333:grant/a",
    "arn:aws:kms:us-east-1:111122223333:Key/a",
    "arn:aws:kms:us-east-1:111122223333:keys/a",
    "arn:aws:kms:us-east-1::key/a",
    "arn:aws:kms::111122223333:key/a",
    "arn::kms:us-east-1:111122223333:key/a",
    "arn:aws::us-east-1:111122223333:key/a",
    "arn:aws:KMS:us-east-1:111122223333:key/a",
    "arn:aws:sqs:us-east-1:111122223333:key/a",
    "arn-not:aws:kms:us-east-1:111122223333:key/a",
    "ARN:aws:kms:us-east-1:111122223333:key/a",
    " arn:aws:kms:us-east-1:111122223333:key/a",
    ":aws:kms:us-east-1:111122223333:key/a",
]


# aws-kms-key-arn.md#a-valid-aws-kms-arn


@pytest.mark.spec("framework/aws-kms/aws-kms-key-arn.md#a-valid-aws-kms-arn")
@pytest.mark.parametrize(("text", "parts"), VALID.items())
def test_valid_arns(text: str, parts: KeyArn) -> None:
    assert parse_arn(text) == parts
    assert str(parts) == text
    assert parse_key_arn(text) == (parts if parts.resource_type == "key" else None)


@pytest.mark.spec("framework/aws-kms/aws-kms-key-arn.md#a-valid-aws-kms-arn")
@each_row("text", INVALID)
def test_invalid_arns(text: str) -> None:
    assert parse_arn(text) is None
    assert parse_key_arn(text) is None


@pytest.mark.parametrize("text", [ID, MRK, "alias/test-key"])
def test_other_names_are_no_arns(text: str) -> None:
    assert parse_arn(text) is None


def test_an_arn_in_another_region() -> None:
    assert str(attrs.evolve(VALID[arn()], region=EU)) == arn(region=EU)


# aws-kms-key-arn.md#a-valid-aws-kms-identifier


@pytest.mark.parametrize("text", VALID)
def test_arns_are_identifiers(text: str) -> None:
    assert check_identifier(text) == VALID[text]


@pytest.mark.parametrize("text", [ID, MRK, "alias/test-key", "alias/aws/s3", "alias/mrk-x", "a", "mrk-"])
def test_ids_and_alias_names_are_identifiers(text: str) -> None:
    assert check_identifier(text) is None


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-arn",
    "framework/aws-kms/aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-identifier",
)
@each_row("text", [text for text in INVALID if text.startswith("arn:")])
def test_invalid_arns_are_no_identifiers(text: str) -> None:
    with pytest.raises(ValueError, match="is not the ARN of a KMS key or alias") as caught:
        check_identifier(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "alias/", "/", f"key/{ID}", "Alias/a", "a:b", "alias/a:b", "aws:kms", INVALID[-1]]
)
def test_what_is_no_identifier(text: str) -> None:
    with pytest.raises(ValueError, match="is not a KMS key id, key ARN, alias name") as caught:
        check_identifier(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("value", [None, b"alias/a", 5, ["alias/a"]])
def test_identifiers_are_text(value: object) -> None:
    with pytest.raises(TypeError, match=rf"^a KMS key id must be a str, not {type(value).__name__}$"):
        check_identifier(value)  # type: ignore[arg-type]


# aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-identifier


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-arn",
    "framework/aws-kms/aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-identifier",
)
@pytest.mark.parametrize(
    ("identifier", "multi_region"),
    [
        (arn(f"key/{MRK}"), True),
        (arn("key/mrk-"), True),
        (arn("key/mrk-a/b"), True),
        (MRK, True),
        ("mrk-", True),
        (arn(), False),
        (arn("key/MRK-1"), False),
        (arn("key/xmrk-1"), False),
        (arn("alias/mrk-1"), False),
        (arn("alias/mrk-1/mrk-2"), False),
        (ID, False),
        ("alias/mrk-1", False),
        ("alias/test-key", False),
        ("mrk", False),
        ("Mrk-1", False),
    ],
)
def test_which_keys_are_multi_region_keys(identifier: str, multi_region: bool) -> None:
    assert is_multi_region(identifier) is multi_region
    parsed = parse_arn(identifier)
    if parsed:
        assert parsed.multi_region is multi_region


# aws-kms-mrk-match-for-decrypt.md


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-match-for-decrypt.md#implementation")
@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        (arn(), arn(), True),
        (ID, ID, True),
        (MRK, MRK, True),
        ("alias/a", "alias/a", True),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}"), True),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}", EU), True),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}", EU, "999988887777"), False),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}", EU, partition="aws-cn"), False),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}x", EU), False),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}x"), False),
        (arn("key/mrk-a/b"), arn("key/mrk-c/b", EU), False),
        (arn(), arn(region=EU), False),
        (arn(), arn(account="999988887777"), False),
        (arn(), arn(f"key/{MRK}"), False),
        (arn("alias/mrk-a"), arn("alias/mrk-a", EU), False),
        (arn("alias/mrk-a"), arn("key/mrk-a", EU), False),
        (arn("key/mrk-a"), "mrk-a", False),
        (arn(), ID, False),
        ("alias/a", arn("alias/a"), False),
        (arn("key/mrk-a"), "arn:aws:kms:us-east-1:111122223333:mrk-a", False),
        (arn("key/mrk-a"), "", False),
    ],
)
def test_matches_for_decrypt(first: str, second: str, match: bool) -> None:
    assert matches_for_decrypt(first, second) is match
    assert matches_for_decrypt(second, first) is match


# aws-kms-mrk-are-unique.md


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-are-unique.md#implementation")
@pytest.mark.parametrize(
    "key_ids",
    [
        [],
        [arn()],
        [MRK],
        [arn(f"key/{MRK}")],
        [arn(f"key/{MRK}"), arn(), arn(f"key/{MRK}x", EU)],
        # no multi-Region keys
        [arn(), arn(region=EU)],
        [arn(), arn()],
        [ID, arn()],
        ["alias/mrk-a", "mrk-a"],
        [arn("alias/mrk-a"), arn("key/mrk-a")],
        [arn("alias/mrk-a"), arn("alias/mrk-a", EU)],
        # another resource id, whatever is behind its last slash
        [arn("key/mrk-a/b"), arn("key/mrk-c/b", EU)],
        [arn("key/mrk-a/b"), "b"],
    ],
)
def test_unrelated_keys_pass(key_ids: list[str]) -> None:
    check_unrelated(key_ids)


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-are-unique.md#implementation")
@pytest.mark.parametrize(
    ("related", "others"),
    [
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", EU)], []),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", EU)], [arn(), "alias/a", arn("key/mrk-other")]),
        ([arn(f"key/{MRK}"), MRK], [ID]),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", account="999988887777")], []),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", partition="aws-cn")], []),
        # all of them are told, not the first pair alone
        ([arn("key/mrk-a"), arn("key/mrk-a", EU), arn("key/mrk-b"), "mrk-b", "mrk-a"], [arn("key/mrk-c")]),
        # the same one twice
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}")], [arn()]),
        ([MRK, MRK], []),
    ],
)
def test_related_keys_are_refused(related: list[str], others: list[str]) -> None:
    for key_ids in (related + others, others + related):
        with pytest.raises(ValueError, match=r"give only one of them, or use MultiRegion\.EXACT") as caught:
            check_unrelated(key_ids)
        named = re.search(r": (.*); give", str(caught.value))
        assert named
        assert named[1].split(", ") == related


# Texts of a stranger


STRANGE = ["\n", "\r", "\t", " ", "\x00", "\x1b[31m", "\x7f", "\x85", "\xa0", "\u2028", "\u202e", "\ufeff"]


@each_row("text", STRANGE)
@each_row("place", ["{0}{1}", "{1}{0}", "{1}{0}x"])
def test_spaces_and_control_characters_make_no_name(text: str, place: str) -> None:
    for name in (arn(), "alias/app", ID):
        spoiled = place.format(text, name)
        assert parse_arn(spoiled) is None
        for make in (
            check_identifier,
            lambda name: KMSMasterKeyProvider([name]),
            KMSKeyArn,
            KMSMRKeyArn,
            lambda name: KMSRSAMasterKey(name, encryption_algorithm="RSAES_OAEP_SHA_256"),  # type: ignore[arg-type]
            KMSECDHMasterKey.discovery,
        ):
            with pytest.raises(ValueError, match=r"is not (a|the ARN of a) KMS key") as caught:
                make(spoiled)
            assert str(caught.value).isprintable()


@pytest.mark.anyio
@pytest.mark.parametrize("text", STRANGE, ids=ascii)
async def test_a_strange_name_in_a_header_is_neither_called_nor_shown(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "aioencrypt")
    kms = InMemoryKMS()
    forged = f"{arn()}{text}2026-11-30 ERROR forged"
    for provider_id, provider in (
        ("aws-kms", KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=kms.connection(US))),
        ("aws-kms", KMSMasterKeyProvider([arn()], connection=kms.connection(US))),
        (
            "aws-kms-rsa",
            KMSRSAMasterKey(
                arn(),
                encryption_algorithm=KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256,
                connection=kms.connection(US),
            ),
        ),
    ):
        stored = EncryptedDataKey(provider_id, forged.encode(), b"blob")
        with pytest.raises(ProviderError) as caught:
            await provider.decrypt_data_key(asking(stored))
        assert str(caught.value).isprintable()
    assert kms.calls == []
    assert all(record.getMessage().isprintable() for record in caplog.records)
