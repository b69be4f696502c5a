"""The published test vectors decrypt, or fail, as their manifests say."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from aioencrypt import CommitmentError, EncryptionError, MultiMasterKeyProvider, TagError
from tests.support.streaming import in_chunks, on_asyncio
from tests.support.vectors import FOLDER, Vector, sets, take_apart, vectors

pytestmark = pytest.mark.skipif(
    not (FOLDER / "keys.json").is_file(),
    reason="the published test vectors are not here (AIOENCRYPT_VECTORS says where they are)",
)

Group = tuple[str, str, str]

# What each set holds: kinds of keys, and what is expected of the entries.
CONTENTS = {
    "commitment-kat": {
        ("raw-aes", "error"): 1,
        ("raw-aes", "plaintext"): 1,
        ("static-data-key", "error"): 5,
        ("static-data-key", "plaintext"): 41,
    },
    "js-hierarchy": {("hierarchical", "plaintext"): 4, ("static-data-key", "plaintext"): 4},
    "net-4.0.0-invalid": {("raw-aes", "error, or plaintext by the .NET 4.0.0 retry"): 28},
    "net-4.0.0-valid": {("raw-aes", "plaintext"): 5},
    "net-old-net4.0.0": {
        ("kms-real", "parse-only"): 33,
        ("raw-aes", "error, or plaintext by the .NET 4.0.0 retry"): 28,
        ("raw-aes", "plaintext"): 5,
        ("raw-rsa", "error, or plaintext by the .NET 4.0.0 retry"): 28,
        ("raw-rsa", "plaintext"): 5,
        ("raw-rsa+raw-rsa", "error, or plaintext by the .NET 4.0.0 retry"): 28,
        ("raw-rsa+raw-rsa", "plaintext"): 5,
    },
    "net-old-net400a": {
        ("kms-real", "parse-only"): 22,
        ("raw-aes", "error, or plaintext by the .NET 4.0.0 retry"): 17,
        ("raw-aes", "plaintext"): 5,
        ("raw-rsa", "error, or plaintext by the .NET 4.0.0 retry"): 17,
        ("raw-rsa", "plaintext"): 5,
        ("raw-rsa+raw-rsa", "error, or plaintext by the .NET 4.0.0 retry"): 17,
        ("raw-rsa+raw-rsa", "plaintext"): 5,
    },
    "net-v4.0.1": {
        ("kms-real", "parse-only"): 33,
        ("raw-aes", "plaintext"): 33,
        ("raw-rsa", "plaintext"): 33,
        ("raw-rsa+raw-rsa", "plaintext"): 33,
    },
    "python-1.3.0-legacy": {("raw-aes", "plaintext"): 360, ("raw-rsa", "plaintext"): 540},
    "python-1.3.5-kms": {("kms-real", "parse-only"): 180, ("kms-real+kms-real", "parse-only"): 180},
}
# What the reasons in the manifests are here.
WHY: dict[str, type[EncryptionError]] = {
    "Invalid commitment": CommitmentError,
    "header authentication fails": TagError,
}
# Of the real AWS KMS, entries with a signature that can be verified all the same.
FOOTERS = {"net-old-net4.0.0": 12, "net-old-net400a": 8, "net-v4.0.1": 12, "python-1.3.5-kms": 120}


def expectation(vector: Vector) -> str:
    result = str(vector.expected["result"])
    if result == "error" and vector.plaintext:
        return f"{result}, or plaintext by the .NET 4.0.0 retry"
    return result


def decryptable(vector: Vector) -> bool:
    return bool(vector.expected["result"] != "parse-only")


def groups() -> dict[Group, list[Vector]]:
    """Group what can be decrypted by set, suite and kinds of keys."""
    grouped = defaultdict(list)
    for name in sets():
        for vector in vectors(name):
            if decryptable(vector):
                grouped[name, f"{vector.suite.value:04x}", vector.key_kinds].append(vector)
    return grouped


# Without the folder, one group that is skipped.
GROUPS = groups() or {("none", "none", "none"): []}


async def check(vector: Vector, expected: Mapping[str, Any]) -> None:
    """Decrypt whole and in chunks, with all keys and with each alone, and compare."""
    keys = vector.master_keys()
    providers = [*keys, MultiMasterKeyProvider(None, *keys)] if len(keys) > 1 else keys
    for provider in providers:
        opened, header = await vector.client.decrypt(
            vector.message,
            provider,
            encryption_context=vector.reproduced_context,
            signature_policy=vector.signature_policy,
        )
        vector.check_header(header)
        stream = vector.client.decrypt_stream(
            in_chunks(vector.message, 1999),
            provider,
            encryption_context=vector.reproduced_context,
            signature_policy=vector.signature_policy,
        )
        async with stream:
            assert stream.header == header
            assert await stream.read() == opened
        assert len(opened) == expected["length"]
        assert hashlib.sha256(opened).hexdigest() == expected["sha256"]


async def check_error(vector: Vector) -> None:
    """Assert that every key opens the data key, and that the header then fails by the specification."""
    why = vector.expected["why"]
    expected = next(error for text, error in WHY.items() if text in why)
    for key in vector.master_keys():
        for source in (vector.message, in_chunks(vector.message, 1999)):
            with pytest.raises(expected) as caught:
                await vector.strict_client.decrypt(source, key, encryption_context=vector.reproduced_context)
            assert type(caught.value) is expected


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
@pytest.mark.anyio
@on_asyncio
async def test_vectors(group: Group) -> None:
    failures = {}
    for vector in GROUPS[group]:
        try:
            if vector.expected["result"] == "error":
                await check_error(vector)
            if plaintext := vector.plaintext:
                await check(vector, plaintext)
        except (Exception, pytest.fail.Exception) as error:
            failures[vector.id] = error
    assert failures == {}


@pytest.mark.parametrize("name", CONTENTS)
def test_messages_have_the_parts_that_the_manifest_names(name: str) -> None:
    for vector in vectors(name):
        if "header" not in vector.entry:
            continue
        parts = take_apart(vector.message)
        vector.check_header(parts.header)
        assert parts.frames == vector.entry["header"]["frames"], vector.id
        assert parts.trailing == vector.entry["header"]["trailing"], vector.id
        if vector.expected["result"] == "parse-only":
            arns = {key["arn"] for key in vector.keys}
            for edk in parts.header.encrypted_data_keys:
                assert edk.provider_id == "aws-kms"
                assert edk.provider_info.decode() in arns


@pytest.mark.parametrize("name", FOOTERS)
def test_signatures_of_the_real_kms_verify(name: str) -> None:
    signed = [vector for vector in vectors(name) if vector.entry.get("footer_valid")]
    assert len(signed) == FOOTERS[name]
    assert all(take_apart(vector.message).signature_valid for vector in signed)


def test_no_set_is_forgotten() -> None:
    assert sets() == sorted(CONTENTS)
    for name, contents in CONTENTS.items():
        assert Counter((vector.key_kinds, expectation(vector)) for vector in vectors(name)) == contents


def test_every_entry_is_decrypted_or_looked_at() -> None:
    every = [vector for name in CONTENTS for vector in vectors(name)]
    parsed = sum(not decryptable(vector) for vector in every)
    assert sum(map(len, GROUPS.values())) + parsed == len(every) == 1701
