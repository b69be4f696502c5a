"""Inspecting a message without keys."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSMasterKeyProvider,
    LimitError,
    Limits,
    MalformedMessageError,
    RawRSAMasterKey,
    RSAPadding,
    TruncatedMessageError,
    encrypt,
)
from aioencrypt.inspection import InspectedKey, MessageInspection, inspect_message
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.messages import build_message, example_message_id
from tests.support.official import suites
from tests.support.ranges import Recorded
from tests.support.rows import each_row
from tests.support.rsa_keys import public_pem, rsa_key
from tests.support.streaming import KEY, SIGNED, UNSIGNED, Feed, in_chunks, on_asyncio, plaintext_of, sealed

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(10_000)
US = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@suites
@each_row("frame_length", [1, 1000, 4096, None])
async def test_everything_in_the_header_is_told(suite: AlgorithmSuite, frame_length: int | None) -> None:
    plaintext = PLAINTEXT[:100] if frame_length == 1 else PLAINTEXT
    message = build_message(
        suite, plaintext, frame_length=frame_length, encryption_context={"tenant": "42", "a": ""}
    )
    inspection = await inspect_message(message.data)
    assert inspection.algorithm_suite is suite
    assert inspection.message_id == example_message_id(suite)
    assert dict(inspection.unauthenticated_context) == {"tenant": "42", "a": ""}
    assert inspection.encrypted_data_keys == (EncryptedDataKey("test", b"key", b"wrapped"),)
    assert inspection.keys == (InspectedKey("test", "key"),)
    assert inspection.key_arns == ()
    assert inspection.frame_length == (frame_length or 0)
    assert inspection.header_length == message.header_length
    assert inspection.message_length == len(message.data)
    assert inspection.plaintext_length == len(plaintext)
    assert inspection.signed is suite.signed


@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@each_row("length", [0, 1, 999, 1000, 1001, 2000, 10_000])
async def test_the_plaintext_length_follows_from_the_length_of_the_message(
    suite: AlgorithmSuite, length: int
) -> None:
    message = await sealed(PLAINTEXT[:length], suite, frame_length=1000)
    assert (await inspect_message(message)).plaintext_length == length


async def test_a_full_final_frame_is_no_difference() -> None:
    message = build_message(UNSIGNED, PLAINTEXT[:3000], frame_length=1000, full_final_frame=True)
    assert (await inspect_message(message.data)).plaintext_length == 3000


async def test_a_length_that_no_message_has_gives_none() -> None:
    message = await sealed(PLAINTEXT[:3000], UNSIGNED, frame_length=1000)
    inspection = await inspect_message(message[:-5])
    assert (inspection.plaintext_length, inspection.message_length) == (None, len(message) - 5)


# Sources


async def every_source(message: bytes, path: Path) -> list[tuple[Any, int | None]]:
    """Return sources of a message with the length that they know."""
    path.write_bytes(message)
    return [
        (message, len(message)),
        (bytearray(message), len(message)),
        (memoryview(message), len(message)),
        (path, len(message)),
        (str(path), len(message)),
        (Recorded(message), len(message)),
        (Feed(message[:100], message[100:]), None),
        (in_chunks(message, len(message)), None),
        (path.open("rb"), None),
    ]


async def test_every_source_is_inspected_alike(tmp_path: Path) -> None:
    message = await sealed(PLAINTEXT, frame_length=1000)
    whole = await inspect_message(message)
    for source, length in await every_source(message, tmp_path / "message"):
        inspection = await inspect_message(source)
        assert inspection.message_length == length
        assert inspection.plaintext_length == (None if length is None else len(PLAINTEXT))
        assert attrs.evolve(inspection, message_length=None, plaintext_length=None) == attrs.evolve(
            whole, message_length=None, plaintext_length=None
        )
        if hasattr(source, "close"):
            # It is the caller's, and still open.
            source.read(1)
            source.close()
        elif hasattr(source, "aclose"):
            await source.aclose()


async def test_the_length_of_a_message_may_be_given_with_its_start() -> None:
    message = await sealed(PLAINTEXT, frame_length=1000)
    for source in (message[:1000], Feed(message[:1000])):
        inspection = await inspect_message(source, message_length=len(message))
        assert inspection.message_length == len(message)
        assert inspection.plaintext_length == len(PLAINTEXT)


async def test_of_ranges_the_start_is_read_and_they_are_closed() -> None:
    source = Recorded(await sealed(PLAINTEXT))
    await inspect_message(source)
    assert source.reads == [(0, 8192)]
    assert source.closed == 1
    broken = Recorded(b"x" * 100)
    with pytest.raises(MalformedMessageError):
        await inspect_message(broken)
    assert broken.closed == 1


async def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="int is not a source of bytes"):
        await inspect_message(5)  # type: ignore[arg-type]


# Keys


@on_asyncio
async def test_arns_of_kms_keys_are_told() -> None:
    kms = InMemoryKMS()
    kms.create_key(region="us-east-1", key_id=US.rpartition("/")[2])
    provider = KMSMasterKeyProvider(
        [US], connection=AWSConnection(kms={"us-east-1": kms.client("us-east-1")})
    )
    message, _ = await encrypt(b"", provider)
    inspection = await inspect_message(message)
    assert inspection.keys == (InspectedKey("aws-kms", US),)
    assert inspection.key_arns == (US,)
    assert inspection.keys[0].arn == US


async def test_names_of_raw_keys_are_told() -> None:
    message, _ = await encrypt(b"", KEY)
    assert (await inspect_message(message)).keys == (InspectedKey("tests", "streams"),)
    assert (await inspect_message(message)).key_arns == ()
    rsa = RawRSAMasterKey("hsm", "größe", padding=RSAPadding.OAEP_SHA256, public_key=public_pem(rsa_key()))
    message, _ = await encrypt(b"", rsa, algorithm_suite=UNSIGNED)
    assert (await inspect_message(message)).keys == (InspectedKey("hsm", "größe"),)


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (b"", ""),
        (b"branch-key", "branch-key"),
        (b"\xff\xfe", None),
        (b"\x01\0\0\0!" + bytes([2]) * 33, None),
        (b"a\nb", None),
        # Not as raw AES keys write it: the length of the IV is another.
        (b"name\0\0\0\x80\0\0\0\x0d" + b"i" * 12, None),
        (b"\0\0\0\x80\0\0\0\x0c" + b"i" * 12, ""),
        (b"name\0\0\0\x80\0\0\0\x0c" + b"\xff" * 12, "name"),
    ],
)
async def test_a_name_is_told_where_it_is_text(info: bytes, name: str | None) -> None:
    keys = [EncryptedDataKey("some", info, b"")]
    message = build_message(UNSIGNED, b"", encrypted_data_keys=keys).data
    [key] = (await inspect_message(message)).keys
    assert key == InspectedKey("some", name)
    assert key.arn is None


# What is no message


@pytest.mark.parametrize("length", [0, 1, 50, 100])
async def test_a_header_that_is_cut_off_is_an_error(length: int) -> None:
    message = await sealed(PLAINTEXT)
    with pytest.raises(TruncatedMessageError, match="the input ended in the header"):
        await inspect_message(message[:length])


async def test_base64_is_recognized() -> None:
    message = base64.b64encode(await sealed(PLAINTEXT))
    with pytest.raises(MalformedMessageError, match="this looks like a message encoded in base64"):
        await inspect_message(message)


async def test_other_bytes_are_an_error() -> None:
    with pytest.raises(MalformedMessageError, match="this is not a message: it starts with 0x51"):
        await inspect_message(b"Q" + bytes(100))


async def test_limits_hold() -> None:
    keys = [EncryptedDataKey("some", b"", b"")] * 3
    message = build_message(UNSIGNED, b"", encrypted_data_keys=keys).data
    with pytest.raises(LimitError) as caught:
        await inspect_message(message, max_encrypted_data_keys=2)
    assert (caught.value.parameter, caught.value.actual) == ("max_encrypted_data_keys", 3)
    await inspect_message(message, max_encrypted_data_keys=3)
    with pytest.raises(LimitError) as caught:
        await inspect_message(message, limits=Limits(max_header_length=60))
    assert caught.value.parameter == "max_header_length"
    long = build_message(UNSIGNED, b"", encryption_context={"a": "b" * 60_000}).data
    with pytest.raises(LimitError):
        await inspect_message(long, limits=Limits(max_header_length=50_000))
    assert (await inspect_message(long)).header_length > 60_000


async def test_no_value_of_the_context_shows() -> None:
    message = await sealed(PLAINTEXT, encryption_context={"tenant": "geheim"})
    inspection: MessageInspection = await inspect_message(message)
    assert "geheim" not in repr(inspection)
    with pytest.raises(TypeError):
        inspection.unauthenticated_context["tenant"] = "43"  # type: ignore[index]
