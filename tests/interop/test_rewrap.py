"""Rewrapped messages are read by the official SDK, and messages of the official SDK are rewrapped."""

from __future__ import annotations

from typing import Any

import pytest
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import AlgorithmSuite, RSAPadding, TagError
from aioencrypt.rewrap import rewrap_file, rewrap_stream
from tests.interop.test_net_4_0_0 import HKDF_V1, NO_KDF, client_of, write as write_as_net_4_0_0
from tests.support.official import (
    KINDS,
    Kind,
    SharedKey,
    aes_key,
    all_of,
    kinds,
    read,
    rsa_key,
    write,
)
from tests.support.rewrapping import UNSIGNED_SUITES, each
from tests.support.rows import each_row
from tests.support.streaming import UNSIGNED, client_for, on_asyncio, plaintext_of
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(20_000)
CONTEXT = {"größe": "ß", "tenant": "42"}
OLD, OTHER, NEW = aes_key(256, "old"), aes_key(128, "other"), rsa_key(RSAPadding.OAEP_SHA256, "new")


async def rewrapped(message: bytes, suite: AlgorithmSuite, **options: Any) -> bytes:
    changed: dict[str, Any] = {"new_provider": NEW.ours, "encryption_client": client_for(suite)} | options
    async with rewrap_stream(message, OLD.ours, **changed) as stream:
        return await stream.read()


def opened_by(key: SharedKey, kind: Kind, message: bytes, suite: AlgorithmSuite) -> bytes | None:
    """Return the plaintext, None where the official SDK does not open the message under this key."""
    try:
        plaintext, header = read(message, key.official(kind), suite)
    except AWSEncryptionSDKClientError:
        return None
    assert {name: header.encryption_context[name] for name in CONTEXT} == CONTEXT
    return plaintext


@each_row("suite", AlgorithmSuite)
@kinds
@pytest.mark.parametrize("accept_iv_reuse", [False, True])
async def test_the_official_sdk_reads_what_is_replaced(
    suite: AlgorithmSuite, kind: Kind, accept_iv_reuse: bool
) -> None:
    message = write(PLAINTEXT, all_of(kind, OLD, OTHER), suite, encryption_context=CONTEXT)
    new = await rewrapped(message, suite, accept_iv_reuse=accept_iv_reuse)
    for reader in KINDS:
        assert opened_by(NEW, reader, new, suite) == PLAINTEXT
        for key in (OLD, OTHER):
            assert opened_by(key, reader, new, suite) is None


@each(UNSIGNED_SUITES)
@kinds
@each_row("options", [{}, {"accept_iv_reuse": True}, {"verify": True}])
async def test_the_official_sdk_reads_what_is_added_and_removed(
    suite: AlgorithmSuite, kind: Kind, options: dict[str, Any]
) -> None:
    message = write(PLAINTEXT, all_of(kind, OLD, OTHER), suite, encryption_context=CONTEXT)
    added = await rewrapped(message, suite, keep=True, **options)
    removed = await rewrapped(
        added, suite, new_provider=None, keep=lambda key: not OTHER.ours.owns_data_key(key), **options
    )
    for reader in KINDS:
        for key in (OLD, OTHER, NEW):
            assert opened_by(key, reader, added, suite) == PLAINTEXT
        for key, expected in ((OLD, PLAINTEXT), (OTHER, None), (NEW, PLAINTEXT)):
            assert opened_by(key, reader, removed, suite) == expected


async def test_a_file_rewrapped_in_place_is_read_by_the_official_sdk(tmp_path: Any) -> None:
    path = tmp_path / "message"
    suite = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    path.write_bytes(write(PLAINTEXT, OLD.official("legacy"), suite, encryption_context=CONTEXT))
    inode = path.stat().st_ino
    new = aes_key(192, "new")
    await rewrap_file(
        path, OLD.ours, new_provider=new.ours, in_place=True, encryption_client=client_for(suite)
    )
    assert path.stat().st_ino == inode
    for reader in KINDS:
        assert opened_by(new, reader, path.read_bytes(), suite) == PLAINTEXT
        assert opened_by(OLD, reader, path.read_bytes(), suite) is None


@pytest.mark.parametrize("suite", [HKDF_V1, NO_KDF, UNSIGNED], ids=["hkdf", "no kdf", "v2"])
@pytest.mark.parametrize("required", [None, {"tenant": "42"}], ids=["empty", "required"])
@pytest.mark.parametrize("accept_iv_reuse", [False, True])
async def test_messages_of_net_4_0_0_are_still_read_by_those_who_read_them(
    suite: AlgorithmSuite, required: dict[str, str] | None, accept_iv_reuse: bool
) -> None:
    message = write_as_net_4_0_0(suite, required=required)
    client = client_of(suite)
    async with rewrap_stream(
        message.data,
        CountingKey(),
        new_provider=OLD.ours,
        encryption_context=required,
        accept_iv_reuse=accept_iv_reuse,
        encryption_client=client,
    ) as stream:
        new = await stream.read()
        anew = stream.reencrypted
    result = await client.decrypt(new, OLD.ours, encryption_context=required)
    assert result.plaintext == message.plaintext
    strict = client_of(suite, net_v4_0_0_retry=False)
    departs = not anew and (required is None or suite is HKDF_V1)
    if departs:
        with pytest.raises(TagError):
            await strict.decrypt(new, OLD.ours, encryption_context=required)
    else:
        assert (await strict.decrypt(new, OLD.ours, encryption_context=required)).plaintext
