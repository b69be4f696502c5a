"""Pairs of the encryption context that are authenticated and not stored: the MPL's required context CMM."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from aws_cryptographic_material_providers.mpl.models import (
    CreateDefaultCryptographicMaterialsManagerInput,
    CreateRequiredEncryptionContextCMMInput,
)
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    DefaultCMM,
    EncryptionContextMismatchError,
    EncryptionError,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    MasterKey,
    ProviderError,
    RSAPadding,
    TagError,
)
from aioencrypt.format import AlgorithmSuite
from tests.support.official import SharedKey, aes_key, mpl, read, rsa_key, suites, write
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


class RequiringCMM:
    """A CMM of a user: some pairs are not stored."""

    def __init__(self, key: MasterKey, required: list[str]) -> None:
        self._default = DefaultCMM(key)
        self._required = frozenset(required)

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        return await self._default.get_encryption_materials(
            attrs.evolve(request, required_encryption_context_keys=self._required)
        )

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        return await self._default.decrypt_materials(request)


def only(*names: str) -> dict[str, str]:
    return {name: CONTEXT[name] for name in names}


@keys
@requirements
@suites
async def test_absent_pairs_are_given_back(
    key: SharedKey, required: list[str], suite: AlgorithmSuite
) -> None:
    message = write(PLAINTEXT, official_manager(key, required), suite, encryption_context=CONTEXT)
    client = client_for(suite)
    # the absent pairs alone, or all
    for given in (only(*required), CONTEXT):
        opened, header = await client.decrypt(message, key.ours, encryption_context=given)
        assert opened == PLAINTEXT
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
@suites
async def test_the_official_sdk_reads_ours_with_absent_pairs(
    key: SharedKey, required: list[str], suite: AlgorithmSuite
) -> None:
    message, header = await client_for(suite).encrypt(
        PLAINTEXT, RequiringCMM(key.ours, required), algorithm_suite=suite, encryption_context=CONTEXT
    )
    assert not header.encryption_context.keys() & set(required)
    manager = official_manager(key, required)
    assert read(message, manager, suite, encryption_context=only(*required))[0] == PLAINTEXT
    assert read(message, key.official("mpl"), suite, encryption_context=CONTEXT)[0] == PLAINTEXT
    with pytest.raises(AWSEncryptionSDKClientError):
        read(message, key.official("mpl"), suite)
