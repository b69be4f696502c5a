"""Pairs of the encryption context that are authenticated and not stored: the MPL's required context CMM."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cryptographic_material_providers.mpl.models import (
    CreateDefaultCryptographicMaterialsManagerInput,
    CreateRequiredEncryptionContextCMMInput,
)
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import (
    EncryptionContextMismatchError,
    EncryptionError,
    ProviderError,
    RequiredEncryptionContextCMM,
    RequiredEncryptionContextError,
    RSAPadding,
    TagError,
)
from aioencrypt.format import AlgorithmSuite
from tests.support.official import SharedKey, aes_key, mpl, read, rsa_key, write
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, UNSIGNED, client_for, in_chunks, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

CONTEXT = {"größe": "ß", "tenant": "42", "zone": "7"}
PLAINTEXT = plaintext_of(1000)
AES, RSA = aes_key(256), rsa_key(RSAPadding.OAEP_SHA256)

# An AES key binds the context itself; with an RSA key only the header tag does.
keys = pytest.mark.parametrize("key", [AES, RSA], ids=["aes", "rsa"])
requirements = pytest.mark.parametrize(
    "required",
    [["tenant"], ["größe", "zone"], ["zone", "tenant", "größe"]],
    ids=["one", "two", "all"],
)


def official_manager(key: SharedKey, required: list[str]) -> dict[str, Any]:
    default = mpl().create_default_cryptographic_materials_manager(
        CreateDefaultCryptographicMaterialsManagerInput(keyring=key.keyring)
    )
    return {
        "materials_manager": mpl().create_required_encryption_context_cmm(
            CreateRequiredEncryptionContextCMMInput(
                underlying_cmm=default, required_encryption_context_keys=required
            )
        )
    }


def only(*names: str) -> dict[str, str]:
    return {name: CONTEXT[name] for name in names}


@keys
@requirements
@each_row("suite", AlgorithmSuite)
async def test_absent_pairs_are_given_back(
    key: SharedKey, required: list[str], suite: AlgorithmSuite
) -> None:
    message = write(PLAINTEXT, official_manager(key, required), suite, encryption_context=CONTEXT)
    client = client_for(suite)
    # the absent pairs alone, or all
    cmm = RequiredEncryptionContextCMM(key.ours, required)
    for given in (only(*required), CONTEXT):
        opened, header = await client.decrypt(message, key.ours, encryption_context=given)
        assert opened == PLAINTEXT
        assert (await client.decrypt(message, cmm, encryption_context=given)) == (opened, header)
        stored = {name for name in header.encryption_context if not name.startswith("aws-crypto-")}
        assert stored == CONTEXT.keys() - required
        source = in_chunks(message, 101)
        async with client.decrypt_stream(source, key.ours, encryption_context=given) as stream:
            assert await stream.read() == PLAINTEXT
            assert stream.header == header


@keys
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        (only("tenant"), ["tenant"]),
        ({"tenant": "43", "zone": "7"}, ["tenant", "zone"]),
        ({"tenant": "42", "zone": "7", "more": ""}, ["tenant", "zone", "more"]),
        ({"tenant": "7", "zone": "42"}, ["tenant", "zone"]),
    ],
    ids=["none", "one too few", "another value", "one too many", "swapped"],
)
async def test_other_pairs_than_the_absent_ones_fail(
    key: SharedKey, given: dict[str, str], named: list[str]
) -> None:
    expected: type[EncryptionError] = ProviderError if key is AES else TagError
    for suite in (SIGNED, UNSIGNED, AlgorithmSuite(0x0178)):
        message = write(
            PLAINTEXT, official_manager(key, ["tenant", "zone"]), suite, encryption_context=CONTEXT
        )
        with pytest.raises(expected) as caught:
            await client_for(suite).decrypt(message, key.ours, encryption_context=given)
        assert type(caught.value) is expected
        # the names of the pairs that may be the reason, and no values
        text = str(caught.value)
        assert ("encryption context keys " + ", ".join(map(repr, named)) in text) is bool(named)
        assert "'42'" not in text
        if named:
            assert type(caught.value.__cause__) is expected


async def test_a_stored_pair_must_have_the_value_that_is_given() -> None:
    message = write(PLAINTEXT, official_manager(RSA, ["tenant"]), SIGNED, encryption_context=CONTEXT)
    with pytest.raises(EncryptionContextMismatchError) as caught:
        await client_for(SIGNED).decrypt(
            message, RSA.ours, encryption_context=only("tenant") | {"größe": "SS"}
        )
    assert caught.value.keys == ("größe",)


@keys
@requirements
@each_row("suite", AlgorithmSuite)
async def test_the_official_sdk_reads_ours_with_absent_pairs(
    key: SharedKey, required: list[str], suite: AlgorithmSuite
) -> None:
    message, header = await client_for(suite).encrypt(
        PLAINTEXT,
        RequiredEncryptionContextCMM(key.ours, required),
        algorithm_suite=suite,
        encryption_context=CONTEXT,
    )
    assert not header.encryption_context.keys() & set(required)
    manager = official_manager(key, required)
    assert read(message, manager, suite, encryption_context=only(*required))[0] == PLAINTEXT
    assert read(message, key.official("mpl"), suite, encryption_context=CONTEXT)[0] == PLAINTEXT
    with pytest.raises(AWSEncryptionSDKClientError):
        read(message, key.official("mpl"), suite)


@keys
@requirements
async def test_both_managers_refuse_what_lacks_a_required_pair(key: SharedKey, required: list[str]) -> None:
    ours, theirs = RequiredEncryptionContextCMM(key.ours, required), official_manager(key, required)
    client, missing = client_for(SIGNED), required[-1:]
    too_few = {name: value for name, value in CONTEXT.items() if name not in missing}
    with pytest.raises(RequiredEncryptionContextError) as caught:
        await client.encrypt(PLAINTEXT, ours, encryption_context=too_few)
    assert list(caught.value.keys) == missing
    with pytest.raises(AWSEncryptionSDKClientError):
        write(PLAINTEXT, theirs, SIGNED, encryption_context=too_few)
    # also where the message stores the pair
    message = write(PLAINTEXT, key.official("mpl"), SIGNED, encryption_context=CONTEXT)
    with pytest.raises(RequiredEncryptionContextError):
        await client.decrypt(message, ours, encryption_context=too_few)
    with pytest.raises(AWSEncryptionSDKClientError):
        read(message, theirs, SIGNED, encryption_context=too_few)
    assert (await client.decrypt(message, ours, encryption_context=CONTEXT)).plaintext == PLAINTEXT
    assert read(message, theirs, SIGNED, encryption_context=CONTEXT)[0] == PLAINTEXT


@keys
@each_row("suite", AlgorithmSuite)
async def test_both_managers_make_the_same_header(key: SharedKey, suite: AlgorithmSuite) -> None:
    required = ["größe", "zone"]
    message, header = await client_for(suite).encrypt(
        PLAINTEXT,
        RequiredEncryptionContextCMM(key.ours, required),
        algorithm_suite=suite,
        encryption_context=CONTEXT,
    )
    theirs = write(PLAINTEXT, official_manager(key, required), suite, encryption_context=CONTEXT)
    assert len(theirs) == len(message)
    read_back = (await client_for(suite).decrypt(theirs, key.ours, encryption_context=CONTEXT)).header
    stored = [
        {name: value for name, value in each.encryption_context.items() if name in CONTEXT}
        for each in (header, read_back)
    ]
    assert stored == [only("tenant")] * 2
    assert read_back.encryption_context.keys() == header.encryption_context.keys()
