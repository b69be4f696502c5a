"""The annotated message of docs/message-format.md: its bytes, its offsets, and what is said of them."""

from __future__ import annotations

import re

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import AlgorithmSuite, RawAESMasterKey, decrypt
from aioencrypt.format import MessageEncryptor
from aioencrypt.format.context import serialize_context
from aioencrypt.materials import EncryptedDataKey
from tests.support.docs_names import documented_message
from tests.support.messages import drive_encryptor
from tests.support.pages import ROOT, rows, section, snippets
from tests.support.rows import each_row

PAGE = ROOT / "docs/message-format.md"
PLAINTEXT = b"a plaintext in two frames"
SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384


@attrs.frozen
class Row:
    """A field: where it begins, its bytes (of several lines, if need be) and what is said of it."""

    offset: int
    data: bytes
    meaning: str


def fields() -> list[Row]:
    found: list[Row] = []
    offset = 0
    for line in snippets(PAGE, "hexdump")[0].text.splitlines():
        data, meaning = bytes.fromhex(line[7:54]), line[54:].strip()
        assert int(line[:5]) == offset, line
        if meaning and not (found and meaning.startswith("and its tag")):
            found.append(Row(offset, data, meaning))
        else:
            found[-1] = attrs.evolve(found[-1], data=found[-1].data + data)
        offset += len(data)
    return found


FIELDS = fields()


def field(meaning: str) -> bytes:
    [row] = [row for row in FIELDS if row.meaning.startswith(meaning)]
    return row.data


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_decrypts_as_the_page_says() -> None:
    plaintext, header = await decrypt(
        documented_message(), RawAESMasterKey("docs", "key-1", wrapping_key=bytes(32))
    )
    assert plaintext == PLAINTEXT
    assert header.encryption_context["purpose"] == "docs"
    assert (header.algorithm_suite, header.frame_length) == (SUITE, 16)


def test_our_writer_makes_the_same_message() -> None:
    sealed, iv = field("encrypted data key: 32 bytes"), documented_message()[170:182]
    pairs = {"purpose": "docs", "aws-crypto-public-key": field("the public key").decode()}
    context = serialize_context(pairs)
    data_key = AESGCM(bytes(32)).decrypt(iv, sealed, context)
    info = b"key-1" + (128).to_bytes(4, "big") + (12).to_bytes(4, "big") + iv
    machine = MessageEncryptor(
        SUITE,
        data_key,
        message_id=field("message id"),
        encryption_context=pairs,
        encrypted_data_keys=[EncryptedDataKey("docs", info, sealed)],
        frame_length=16,
        # ECDSA draws a random number, so that the signature itself comes from the page.
        signer=lambda digest: field("signature: "),
    )
    assert drive_encryptor(machine, PLAINTEXT) == documented_message()


def test_the_official_sdk_reads_it() -> None:
    from aws_encryption_sdk import EncryptionSDKClient
    from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKey

    key = RawMasterKey(
        provider_id="docs",
        key_id="key-1",
        wrapping_key=WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=bytes(32),
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        ),
    )
    plaintext, _ = EncryptionSDKClient().decrypt(source=documented_message(), key_provider=key)
    assert plaintext == PLAINTEXT


def test_what_is_said_of_numbers_and_text_is_so() -> None:
    for row in FIELDS:
        if text := re.search(r'"([^"]+)"', row.meaning):
            assert row.data == text[1].encode(), row
        elif number := re.search(r": (\d+)$", row.meaning):
            assert int.from_bytes(row.data, "big") == int(number[1]), row
        elif suite := re.match(r"algorithm suite (0x\w+)", row.meaning):
            assert int.from_bytes(row.data, "big") == int(suite[1], 16), row
        elif number := re.match(r"(?:frame|version|content type) (\d+)", row.meaning):
            assert int.from_bytes(row.data, "big") == int(number[1]), row


@each_row("index", range(len(FIELDS) - 1))
def test_a_length_is_that_of_what_follows(index: int) -> None:
    row, following = FIELDS[index], FIELDS[index + 1]
    length = int.from_bytes(row.data, "big")
    if row.meaning.startswith("length of the encryption context"):
        end = next(r.offset for r in FIELDS if r.meaning.startswith("number of encrypted data keys"))
        assert length == end - following.offset
    elif row.meaning.startswith("length of the provider info"):
        end = next(r.offset for r in FIELDS if r.meaning.startswith("length of the ciphertext"))
        assert length == end - following.offset
    elif row.meaning.startswith("length of"):
        assert length == len(following.data)


def test_the_lengths_of_fields_are_those_of_the_tables() -> None:
    assert len(field("message id")) == SUITE.message_id_length
    assert len(field("key commitment")) == SUITE.suite_data_length == 32
    assert len(field("header tag")) == 16
    assert [len(row.data) for row in FIELDS if row.meaning.startswith("tag")][:1] == [4]  # its length in bits
    assert [len(row.data) for row in FIELDS if row.meaning == "tag"] == [16, 16]


def test_the_table_of_suites_is_that_of_the_code() -> None:
    shown = [row for row in rows(section(PAGE, "## Algorithm suites")) if row[0].startswith("`0x")]
    assert shown == [
        [
            f"`{suite.value:#06x}`",
            f"`{suite.name}`",
            str(suite.version),
            str(suite.data_key_length * 8),
            f"HKDF, {suite.kdf_hash.upper().replace('SHA', 'SHA-')}" if suite.kdf_hash else "none",
            "yes" if suite.committing else "no",
            suite.signature.name.removeprefix("ECDSA_").replace("P", "P-") if suite.signature else "no",
        ]
        for suite in AlgorithmSuite
    ]
