"""Damaged messages, through the public calls: each is refused, with the error that its field calls for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentError,
    CommitmentPolicyError,
    DecryptStream,
    EncryptionClient,
    EncryptionContextMismatchError,
    EncryptionError,
    LimitError,
    Limits,
    MalformedMessageError,
    MessageError,
    ProviderError,
    Release,
    SignatureError,
    SignaturePolicy,
    SignaturePolicyError,
    StreamNotEnteredError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
    decrypt,
)
from tests.support.damage import (
    CONTEXT,
    FRAME_LENGTH,
    PLAINTEXT,
    READER,
    Damage,
    Kind,
    flips,
    frame_ends,
    pieces,
    released_before,
    row,
    truncations,
)
from tests.support.messages import Message

# Thousands of messages in one run of one event loop; the loops do not differ in what is tested here.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SUITES = [AlgorithmSuite(number) for number in (0x0078, 0x0178, 0x0214, 0x0378, 0x0478, 0x0578)]
KINDS = [Kind(suite, framed) for suite in SUITES for framed in (True, False)]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)

Errors = tuple[type[EncryptionError], ...]

# A changed length shifts all that follows, and chance decides how far the header then parses.
SHIFTED: Errors = (MalformedMessageError, TruncatedMessageError, TagError, CommitmentError, ProviderError)
# What a flipped bit in a field leads to, without limits.
FLIPPED: dict[str, Errors] = {
    "version": (MalformedMessageError,),
    "type": (MalformedMessageError,),
    # Some suites are one bit apart: then the signature is missing, or too much, or the key is another.
    "suite": (MalformedMessageError, SignatureError, TagError),
    "message_id": (TagError, CommitmentError),
    "context_length": (MalformedMessageError, TruncatedMessageError),
    # The data keys are encrypted with the context, and the verification key stands in it.
    "context": (MalformedMessageError, SignatureError, ProviderError, EncryptionContextMismatchError),
    "edk_count": SHIFTED,
    # The key of somebody else: nothing but the header tag sees it.
    "edk.0.id_length": SHIFTED,
    "edk.0.id": (TagError,),
    "edk.0.info_length": SHIFTED,
    "edk.0.info": (TagError,),
    "edk.0.ciphertext_length": SHIFTED,
    "edk.0.ciphertext": (TagError,),
    "edk.1.id_length": SHIFTED,
    "edk.1.id": (ProviderError,),
    "edk.1.info_length": SHIFTED,
    "edk.1.info": (ProviderError,),
    "edk.1.ciphertext_length": SHIFTED,
    "edk.1.ciphertext": (ProviderError,),
    "content_type": (MalformedMessageError,),
    "reserved": (MalformedMessageError,),
    "iv_length": (MalformedMessageError,),
    "frame_length": (MalformedMessageError, TagError),
    "commitment": (CommitmentError,),
    "header_iv": (TagError,),
    "header_tag": (TagError,),
    "frame.marker": (MalformedMessageError,),
    "frame.sequence": (MalformedMessageError,),
    "frame.iv": (TagError,),
    "frame.length": (MalformedMessageError, TruncatedMessageError, TagError),
    "frame.content": (TagError,),
    "frame.tag": (TagError,),
    "body.iv": (TagError,),
    "body.length": (MalformedMessageError, TruncatedMessageError, TagError),
    "body.content": (TagError,),
    "body.tag": (TagError,),
    "footer.length": (MalformedMessageError, SignatureError),
    "footer.signature": (SignatureError,),
}
BEHIND_HEADER = ("frame.", "body.", "footer.")


class Reading:
    """What came of a stream: what it handed out, whether it showed a header, the error that ended it."""

    def __init__(self) -> None:
        self.released = b""
        self.header_shown = False
        self.error: Exception | None = None

    async def of(self, stream: DecryptStream) -> Reading:
        try:
            async with stream:
                async for chunk in stream:
                    self.released += chunk
        except Exception as error:
            self.error = error
        with suppress(StreamNotEnteredError):
            self.header_shown = bool(stream.header)
        return self


async def error_of_decrypt(client: EncryptionClient, data: bytes) -> Exception | None:
    try:
        # The caller knows the encryption context: another value is told from another key.
        await client.decrypt(data, READER, encryption_context=CONTEXT)
    except Exception as error:
        return error
    return None


async def deviations(
    kind: Kind, message: Message, damages: Iterable[tuple[Damage, Errors]], release: Release = Release.STREAM
) -> list[str]:
    """Read damaged messages at once, frame by frame and in one piece; tell what is not as it should be."""
    client = kind.client()
    ends = frame_ends(message)
    found: list[str] = []
    for damage, errors in damages:
        behind_header = damage.field.startswith(BEHIND_HEADER)
        allowed = released_before(message, damage.field) if release is Release.STREAM else b""
        readings = {"decrypt": await error_of_decrypt(client, damage.data)}
        by_frame = await Reading().of(
            client.decrypt_stream(pieces(damage.data, ends), READER, release=release)
        )
        readings["frame by frame"] = by_frame.error
        if by_frame.released != allowed:
            found.append(f"{damage}: released {by_frame.released!r}, not {allowed!r}")
        if by_frame.header_shown is not behind_header:
            found.append(f"{damage}: the header was shown: {by_frame.header_shown}")
        if behind_header:
            at_once = await Reading().of(client.decrypt_stream(damage.data, READER, release=release))
            readings["in one piece"] = at_once.error
            if not allowed.startswith(at_once.released):
                found.append(f"{damage}: released {at_once.released!r} in one piece")
        found += [
            f"{damage}, {way}: {error!r}" for way, error in readings.items() if type(error) not in errors
        ]
    return found


@each_kind
async def test_the_table_has_every_field(kind: Kind) -> None:
    message = await kind.message()
    assert {row(field) for field in message.fields} <= FLIPPED.keys()
    result = await kind.client().decrypt(message.data, READER, encryption_context=CONTEXT)
    assert result.plaintext == PLAINTEXT
    assert len(result.header.encrypted_data_keys) == 2
    assert CONTEXT.items() <= result.header.encryption_context.items()


async def test_body_and_footer_fail_with_message_errors() -> None:
    for name, errors in FLIPPED.items():
        if name.startswith(BEHIND_HEADER):
            assert all(issubclass(error, MessageError) for error in errors), name


@each_kind
async def test_every_flipped_bit_is_refused(kind: Kind) -> None:
    message = await kind.message()
    damages = [(damage, FLIPPED[row(damage.field)]) for damage in flips(message)]
    assert len(damages) == 8 * len(message.data)
    assert await deviations(kind, message, damages) == []


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@each_kind
@pytest.mark.parametrize("release", Release, ids=lambda release: release.value)
async def test_every_truncation_is_refused(kind: Kind, release: Release) -> None:
    message = await kind.message()
    damages = [(damage, (TruncatedMessageError,)) for damage in truncations(message)]
    assert len(damages) == len(message.data)
    assert await deviations(kind, message, damages, release) == []


@each_kind
async def test_empty_plaintext_fails_the_same_ways(kind: Kind) -> None:
    message = await kind.message(b"")
    damages = [(damage, FLIPPED[row(damage.field)]) for damage in flips(message)]
    damages += [(damage, (TruncatedMessageError,)) for damage in truncations(message)]
    in_body = [pair for pair in damages if pair[0].field.startswith(("frame.", "body."))]
    assert await deviations(kind, message, in_body) == []


@each_kind
async def test_trailing_bytes_are_refused(kind: Kind) -> None:
    """client-apis/decrypt.md#behavior: consumable bytes that are left must fail the operation."""
    message = await kind.message()
    client = kind.client()
    found = []
    for tail in (b"\0", b"\xff\xff\xff\xff", message.data[:1], message.data, bytes(5000)):
        data = message.data + tail
        if type(error := await error_of_decrypt(client, data)) is not TrailingDataError:
            found.append(f"{len(tail)} bytes: decrypt: {error!r}")
        for release, released in ((Release.STREAM, PLAINTEXT), (Release.VERIFIED, b"")):
            for source in (data, pieces(data, [len(message.data)])):
                reading = await Reading().of(client.decrypt_stream(source, READER, release=release))
                if type(reading.error) is not TrailingDataError or reading.released != released:
                    found.append(f"{len(tail)} bytes: {release}: {reading.error!r}, {reading.released!r}")
    assert found == []


# What policies and limits refuse


def number_at(damage: Damage, message: Message) -> int:
    place = message.fields[damage.field]
    return int.from_bytes(damage.data[place.start : place.stop], "big")


def over_limits(message: Message, limits: dict[str, tuple[str, int]]) -> Iterator[tuple[Damage, str, int]]:
    """Flip the bits of length fields; yield what is above its limit, as far as the format allows it."""
    for damage in flips(message):
        parameter, limit = limits.get(damage.field, ("", 0))
        value = number_at(damage, message)
        if parameter and limit < value <= 2**36 - 32:
            yield damage, parameter, value


@pytest.mark.parametrize("kind", KINDS[-4:], ids=str)
async def test_flipped_lengths_above_a_limit_name_the_limit(kind: Kind) -> None:
    message = await kind.message()
    length = FRAME_LENGTH if kind.framed else len(PLAINTEXT)
    client = EncryptionClient(max_encrypted_data_keys=2, limits=Limits(max_frame_length=length))
    assert (await client.decrypt(message.data, READER)).plaintext == PLAINTEXT
    limits = {"edk_count": ("max_encrypted_data_keys", 2), "body.length": ("max_frame_length", length)}
    found, seen = [], set()
    for damage, parameter, value in over_limits(message, limits):
        seen.add(damage.field)
        for data in (damage.data, pieces(damage.data, frame_ends(message))):
            reading = await Reading().of(client.decrypt_stream(data, READER))
            match reading.error:
                case LimitError(parameter=named, actual=actual) if (named, actual) == (parameter, value):
                    pass
                case error:
                    found.append(f"{damage}: {error!r}")
            if reading.released:
                found.append(f"{damage}: released {reading.released!r}")
    assert found == []
    assert len(seen) == (1 if kind.framed else 2)


@pytest.mark.parametrize("field", ["context_length", "edk.0.id_length", "edk.1.ciphertext_length"])
async def test_a_flipped_length_above_the_header_limit_names_the_limit(field: str) -> None:
    message = await KINDS[-2].message()
    limit = message.header_length
    limits = Limits(max_header_length=limit)
    place = message.fields[field]
    assert (await decrypt(message.data, READER, limits=limits)).plaintext == PLAINTEXT
    for bit in range(limit.bit_length() - 1, 16):
        value = int.from_bytes(message[field], "big") ^ 1 << bit
        with pytest.raises(LimitError) as caught:
            await decrypt(message.replaced(field, value.to_bytes(2, "big")), READER, limits=limits)
        expected = ("max_header_length", limit, place.stop + value)
        assert (caught.value.parameter, caught.value.limit, caught.value.actual) == expected


@pytest.mark.parametrize(
    ("written", "flipped", "policy"),
    [(0x0478, 0x0578, SignaturePolicy.FORBID), (0x0578, 0x0478, SignaturePolicy.REQUIRE)],
)
async def test_a_suite_flipped_to_one_that_is_refused(
    written: int, flipped: int, policy: SignaturePolicy
) -> None:
    message = await Kind(AlgorithmSuite(written), framed=True).message()
    data = message.replaced("suite", flipped.to_bytes(2, "big"))
    assert (await decrypt(message.data, READER, signature_policy=policy)).plaintext == PLAINTEXT
    with pytest.raises(SignaturePolicyError, match=policy.name):
        await decrypt(data, READER, signature_policy=policy)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.suite.committing], ids=str)
async def test_damage_does_not_get_past_the_commitment_policy(kind: Kind) -> None:
    """framework/commitment-policy.md: what parses as version 1 is refused where commitment is required."""
    message = await kind.message()
    client = EncryptionClient(limits=Limits(max_frame_length=None))
    refused = (CommitmentPolicyError, MalformedMessageError, TruncatedMessageError)
    errors = [(damage, await error_of_decrypt(client, damage.data)) for damage in flips(message)]
    assert [f"{damage}: {error!r}" for damage, error in errors if type(error) not in refused] == []
    with pytest.raises(CommitmentPolicyError, match=kind.suite.name):
        await client.decrypt(message.data, READER)
