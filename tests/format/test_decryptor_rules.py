"""What the reading machine releases, and when: rules 1 to 5 and 7 of release."""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from aioencrypt.errors import (
    CommitmentError,
    MalformedMessageError,
    MessageError,
    SignatureError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
)
from aioencrypt.format import (
    AlgorithmSuite,
    EndOfMessage,
    HeaderParsed,
    MessageDecryptor,
    NeedData,
    Plaintext,
    State,
    VerifyWork,
)
from tests.support.messages import (
    Message,
    build_message,
    decrypt_message,
)
from tests.support.reading import do, locked, opened, released_by, unlock, work_of
from tests.support.rows import each_row

HKDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
SIGNED_V1 = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256
PLAINTEXT = b"three frames in all"
FRAME = 8

each_suite = pytest.mark.parametrize(
    "suite", [HKDF, COMMITTING, SIGNED_V1, SIGNED], ids=lambda suite: f"{suite.value:04x}"
)
signed_suites = pytest.mark.parametrize("suite", [SIGNED_V1, SIGNED], ids=["v1", "v2"])


def message_of(suite: AlgorithmSuite, *, framed: bool = True) -> Message:
    return build_message(suite, PLAINTEXT, frame_length=FRAME if framed else None)


# Rule 1


@pytest.mark.spec(
    "client-apis/decrypt.md#authenticated-data",
    "client-apis/decrypt.md#parse-the-header",
    "client-apis/decrypt.md#verify-the-header",
)
@each_suite
def test_nothing_of_the_header_is_released_before_its_tag_is_verified(suite: AlgorithmSuite) -> None:
    """client-apis/decrypt.md#parse-the-header: no parsed information until the header is verified."""
    message = message_of(suite)
    for field in ("message_id", "edk.0.ciphertext", "commitment", "header_iv", "header_tag"):
        if not message.fields.get(field):
            assert field == ("commitment" if suite.version == 1 else "header_iv")
            continue
        data = message.replaced(field, b"\xff" * len(message[field]))
        machine = locked(data)
        with pytest.raises((TagError, CommitmentError)) as caught:
            unlock(machine, message)
        with pytest.raises(MessageError) as again:
            machine.next_event()
        assert again.value.__cause__ is caught.value
        assert decrypt_message(message, data).kinds == ["HeaderParsed"]


# Rule 2


@pytest.mark.spec(
    "client-apis/decrypt.md#authenticated-data",
    "client-apis/decrypt.md#decrypt-the-message-body",
    "client-apis/streaming.md#release",
)
@each_suite
def test_no_frame_is_released_before_its_tag(suite: AlgorithmSuite) -> None:
    """client-apis/decrypt.md#decrypt-the-message-body: no unauthenticated plaintext."""
    message = message_of(suite)
    end = message.fields["frame.1.tag"].stop
    machine = opened(message, message.data[: end - 1])
    assert isinstance(machine.next_event(), NeedData)
    machine.receive(message.data[end - 1 : end])
    work = work_of(machine)
    assert isinstance(machine.next_event(), NeedData)
    do(machine, work)
    assert machine.next_event() == Plaintext(PLAINTEXT[:FRAME])
    assert isinstance(machine.next_event(), NeedData)


@pytest.mark.spec(
    "client-apis/decrypt.md#authenticated-data", "client-apis/decrypt.md#decrypt-the-message-body"
)
@each_suite
@each_row("field", ["frame.1.tag", "frame.2.content", "frame.3.tag", "body.content", "body.tag"])
def test_a_frame_with_a_bad_tag_has_no_plaintext(suite: AlgorithmSuite, field: str) -> None:
    message = message_of(suite, framed=field.startswith("frame"))
    data = message.replaced(field, bytes(len(message[field])))
    outcome = decrypt_message(message, data, chunks=1)
    assert type(outcome.error) is TagError
    frames = int(field.split(".")[1]) - 1 if field.startswith("frame") else 0
    assert outcome.plaintext == PLAINTEXT[: frames * FRAME]


# Rule 3


@pytest.mark.spec(
    "client-apis/decrypt.md#decrypt-the-message-body", "client-apis/decrypt.md#verify-the-signature"
)
@signed_suites
@pytest.mark.parametrize("framed", [True, False])
def test_the_last_frame_of_a_signed_message_waits_for_the_signature(
    suite: AlgorithmSuite, framed: bool
) -> None:
    """client-apis/decrypt.md#decrypt-the-message-body: final frame and unframed data after the signature."""
    message = message_of(suite, framed=framed)
    machine = opened(message, message.signed_part)
    before = PLAINTEXT[: 2 * FRAME] if framed else b""
    assert released_by(machine) == before
    footer = message.data[len(message.signed_part) :]
    machine.receive(footer[:-1])
    assert isinstance(machine.next_event(), NeedData)
    machine.receive(footer[-1:])
    work = work_of(machine)
    assert isinstance(work, VerifyWork)
    assert isinstance(machine.next_event(), NeedData)
    do(machine, work)
    assert machine.next_event() == Plaintext(PLAINTEXT[len(before) :])
    assert isinstance(machine.next_event(), NeedData)


@pytest.mark.parametrize("framed", [True, False])
def test_the_last_frame_of_an_unsigned_message_waits_for_nothing_more(framed: bool) -> None:
    message = message_of(COMMITTING, framed=framed)
    machine = opened(message, message.data)
    assert released_by(machine) == PLAINTEXT


@signed_suites
@pytest.mark.parametrize("frame_length", [FRAME, None])
def test_nothing_waits_for_the_signature_of_an_empty_message(
    suite: AlgorithmSuite, frame_length: int | None
) -> None:
    message = build_message(suite, b"", frame_length=frame_length)
    machine = opened(message, message.data)
    machine.receive(b"")
    do(machine, work_of(machine))
    do(machine, work_of(machine))
    assert isinstance(machine.next_event(), EndOfMessage)


OTHER_MESSAGE = build_message(SIGNED, b"another message", message_id=bytes(32))
BAD_FOOTERS: dict[str, tuple[Callable[[bytes], bytes], type[MessageError], str]] = {
    "another message's": (lambda _: OTHER_MESSAGE["footer.signature"], SignatureError, "does not match"),
    "numbers of nothing": (lambda _: encode_dss_signature(1, 1), SignatureError, "does not match"),
    "not DER": (lambda signature: bytes(len(signature)), SignatureError, "cannot be parsed"),
    "one byte": (lambda _: b"\x30", SignatureError, "cannot be parsed"),
    "cut": (lambda signature: signature[:-1], SignatureError, "cannot be parsed"),
    "bytes after it": (lambda signature: signature + b"\0", SignatureError, "cannot be parsed"),
    "none": (lambda _: b"", MalformedMessageError, "has 0 bytes"),
    "too long": (lambda _: bytes(105), MalformedMessageError, "has 105 bytes; .* at most 104"),
}


@pytest.mark.spec("client-apis/decrypt.md#verify-the-signature")
@pytest.mark.parametrize("footer", BAD_FOOTERS)
@pytest.mark.parametrize("framed", [True, False])
def test_a_bad_signature_drops_what_waited_for_it(footer: str, framed: bool) -> None:
    """client-apis/decrypt.md#verify-the-signature: halt and fail."""
    change, error, text = BAD_FOOTERS[footer]
    message = message_of(SIGNED, framed=framed)
    signature = change(message["footer.signature"])
    data = message.signed_part + len(signature).to_bytes(2, "big") + signature
    for chunks in (None, 1):
        outcome = decrypt_message(message, data, chunks=chunks)
        with pytest.raises(error, match=text):
            raise outcome.error or AssertionError
        assert outcome.plaintext == (PLAINTEXT[: 2 * FRAME] if framed else b"")
        assert "EndOfMessage" not in outcome.kinds


# Rules 4 and 5


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@each_suite
@pytest.mark.parametrize("framed", [True, False])
def test_bytes_after_the_message_are_an_error(suite: AlgorithmSuite, framed: bool) -> None:
    """client-apis/decrypt.md#behavior: consumable bytes that are left."""
    message = message_of(suite, framed=framed)
    machine = opened(message, message.data)
    assert released_by(machine) == PLAINTEXT
    machine.receive(b"\0")
    with pytest.raises(TrailingDataError, match="at least 1 bytes follow"):
        machine.next_event()
    machine = opened(message, message.data + bytes(20))
    with pytest.raises(TrailingDataError, match="at least 20 bytes follow"):
        released_by(machine)


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@each_suite
@pytest.mark.parametrize("framed", [True, False])
def test_the_end_of_the_message_is_the_end_of_input(suite: AlgorithmSuite, framed: bool) -> None:
    """client-apis/decrypt.md#behavior: complete the steps, then succeed; no byte less will do."""
    message = message_of(suite, framed=framed)
    machine = opened(message, message.data[:-1])
    released = released_by(machine)
    machine.receive(b"")
    with pytest.raises(TruncatedMessageError):
        machine.next_event()
    assert released == (PLAINTEXT[: 2 * FRAME] if framed else b"")
    machine = opened(message, message.data)
    assert released_by(machine) == PLAINTEXT
    assert isinstance(machine.next_event(), NeedData)
    machine.receive(b"")
    assert isinstance(machine.next_event(), EndOfMessage)


# Rule 7

FAILING: dict[str, tuple[bytes, type[MessageError]]] = {
    "header": (b"\x03", MalformedMessageError),
    "empty": (b"", TruncatedMessageError),
    "body": (message_of(COMMITTING).replaced("frame.2.sequence", bytes(4)), MalformedMessageError),
    "end": (message_of(COMMITTING).data + b"\0", TrailingDataError),
    "cut": (message_of(COMMITTING).data[:-1], TruncatedMessageError),
}


@pytest.mark.parametrize(("data", "error"), FAILING.values(), ids=FAILING)
def test_errors_stay_whatever_comes_after_them(data: bytes, error: type[MessageError]) -> None:
    message = message_of(COMMITTING)
    machine = MessageDecryptor()
    if data:
        machine.receive(data)
    if error is TruncatedMessageError:
        machine.receive(b"")
    with pytest.raises(error) as first:
        run(machine, message)
    if error is not TruncatedMessageError:
        machine.receive(message.data)
        machine.receive(b"")
    for _ in range(3):
        with pytest.raises(error) as again:
            run(machine, message)
        assert again.value.__cause__ is first.value


def run(machine: MessageDecryptor, message: Message) -> bytes:
    if machine.state is State.HEADER and isinstance(machine.next_event(), HeaderParsed):
        unlock(machine, message)
    return released_by(machine)


@pytest.mark.parametrize("failing", [True, False], ids=["fail", "close"])
def test_a_machine_that_failed_or_closed_holds_nothing(failing: bool) -> None:
    message = build_message(SIGNED, bytes(10_000), frame_length=6_000)
    data = message.signed_part
    received = getrefcount(data)
    machine = opened(message, data)
    first, last = work_of(machine), work_of(machine)
    released, withheld = first.crypt(), last.crypt()
    held = getrefcount(released), getrefcount(withheld)
    machine.receive(data)
    machine.settle(first, released)
    machine.settle(last, withheld)
    assert getrefcount(withheld) > held[1]
    machine.fail(TagError("of a work")) if failing else machine.close()
    del first, last
    assert getrefcount(data) == received
    assert (getrefcount(released), getrefcount(withheld)) == held


def test_a_machine_that_failed_keeps_no_result() -> None:
    message = message_of(COMMITTING)
    machine = opened(message, message.data)
    work = work_of(machine)
    result = work.crypt()
    held = getrefcount(result)
    machine.close()
    machine.settle(work, result)
    assert getrefcount(result) == held
