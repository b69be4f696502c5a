"""The states of the reading machine: what ends each of them, what is refused in it, and its end."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from aioencrypt.errors import (
    CommitmentError,
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
    HeaderVerified,
    MessageDecryptor,
    NeedData,
    OpenWork,
    Plaintext,
    State,
    VerifyWork,
)
from tests.support.messages import (
    Message,
    build_message,
    sorted_context,
)
from tests.support.reading import do, locked, opened, released_by, unlock, work_of

NO_KDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF
COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
PLAINTEXT = b"three frames in all"

UNSIGNED_MESSAGE = build_message(COMMITTING, PLAINTEXT, frame_length=8)
SIGNED_MESSAGE = build_message(SIGNED, PLAINTEXT, frame_length=8)
MESSAGES = {
    "unsigned": UNSIGNED_MESSAGE,
    "signed": SIGNED_MESSAGE,
    "non-framed": build_message(COMMITTING, PLAINTEXT, frame_length=None),
    "signed non-framed": build_message(SIGNED, PLAINTEXT, frame_length=None),
}
each_message = pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)


def in_state(state: State) -> MessageDecryptor:
    """Return a machine of the signed message that has come to a state."""
    machine = MessageDecryptor()
    machine.receive(SIGNED_MESSAGE.data)
    machine.receive(b"")
    while machine.state is not state:
        match machine.next_event():
            case HeaderParsed():
                if state is not State.LOCKED:
                    unlock(machine, SIGNED_MESSAGE)
            case OpenWork() | VerifyWork() as work:
                do(machine, work)
    return machine


STATES = [state for state in State if state is not State.FAILED]


@pytest.mark.spec("client-apis/decrypt.md#behavior", "client-apis/decrypt.md#verify-the-signature")
def test_a_signed_message_passes_through_every_state() -> None:
    seen: list[tuple[str, str, str]] = []
    machine = MessageDecryptor()
    machine.receive(SIGNED_MESSAGE.data)
    machine.receive(b"")
    while not seen or seen[-1][1] != "EndOfMessage":
        before, event = machine.state, machine.next_event()
        seen.append((before.name, type(event).__name__, machine.state.name))
        if isinstance(event, HeaderParsed):
            unlock(machine, SIGNED_MESSAGE)
            assert machine.state is State.BODY
        elif isinstance(event, (OpenWork, VerifyWork)):
            do(machine, event)
    assert seen == [
        ("HEADER", "HeaderParsed", "LOCKED"),
        ("BODY", "HeaderVerified", "BODY"),
        ("BODY", "OpenWork", "BODY"),
        ("BODY", "Plaintext", "BODY"),
        ("BODY", "OpenWork", "FOOTER"),
        ("FOOTER", "VerifyWork", "END"),
        ("END", "Plaintext", "END"),
        ("END", "EndOfMessage", "DONE"),
    ]


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@pytest.mark.parametrize("name", ["unsigned", "non-framed"])
def test_an_unsigned_message_has_no_footer(name: str) -> None:
    message = MESSAGES[name]
    machine = opened(message)
    machine.receive(message.data[message.header_length :])
    assert released_by(machine) == PLAINTEXT
    assert machine.state.name == "END"
    machine.receive(b"")
    assert isinstance(machine.next_event(), EndOfMessage)
    assert machine.state.name == "DONE"


@pytest.mark.spec("client-apis/decrypt.md#parse-the-header")
@each_message
def test_it_asks_for_bytes_until_a_field_is_there(message: Message) -> None:
    machine = MessageDecryptor()
    for byte in message.data[: message.header_length]:
        assert isinstance(machine.next_event(), NeedData)
        assert isinstance(machine.next_event(), NeedData)
        assert machine.state is State.HEADER
        machine.receive(bytes([byte]))
    assert isinstance(machine.next_event(), HeaderParsed)


def test_bytes_may_come_as_views_and_before_they_are_asked_for() -> None:
    machine = MessageDecryptor()
    view = memoryview(UNSIGNED_MESSAGE.data)
    for start in range(0, len(view), 10):
        machine.receive(view[start : start + 10])
    machine.receive(view[:0])
    machine.next_event()
    unlock(machine, UNSIGNED_MESSAGE)
    assert released_by(machine) == PLAINTEXT
    assert machine.state is State.DONE


@pytest.mark.parametrize("length", [100, 10_000])
def test_a_buffer_may_be_used_again(length: int) -> None:
    message = build_message(COMMITTING, bytes(length), frame_length=4096)
    buffer = bytearray(message.data)
    machine = MessageDecryptor()
    machine.receive(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert isinstance(machine.next_event(), HeaderParsed)
    unlock(machine, message)
    assert released_by(machine) == bytes(length)


def test_a_view_of_numbers_is_its_bytes() -> None:
    made = (build_message(COMMITTING, bytes(10_000 + odd), frame_length=4096) for odd in range(4))
    message = next(message for message in made if len(message.data) % 4 == 0)
    machine = MessageDecryptor()
    machine.receive(memoryview(array("I", message.data)))
    assert isinstance(machine.next_event(), HeaderParsed)
    unlock(machine, message)
    assert released_by(machine) == message.plaintext


@pytest.mark.parametrize("data", ["text", None, 7, [1]])
def test_what_is_no_bytes_is_a_type_error(data: Any) -> None:
    machine = MessageDecryptor()
    with pytest.raises(TypeError):
        machine.receive(data)
    assert isinstance(machine.next_event(), NeedData)


# The end of input


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@pytest.mark.parametrize(
    ("stop", "state"),
    [
        (None, "header"),
        ("version", "header"),
        ("context_length", "header"),
        ("commitment", "header"),
        ("header_tag", "body"),
        ("frame.1.iv", "body"),
        ("frame.2.tag", "body"),
        ("frame.3.marker", "body"),
        ("frame.3.length", "body"),
        ("frame.3.content", "body"),
        ("frame.3.tag", "footer"),
        ("footer.length", "footer"),
    ],
)
def test_the_end_of_input_before_the_end_of_the_message(stop: str | None, state: str) -> None:
    """client-apis/decrypt.md#behavior: unable to complete the steps with all bytes is a failure."""
    data = SIGNED_MESSAGE.data[: SIGNED_MESSAGE.fields[stop].stop] if stop else b""
    machine = MessageDecryptor() if state == "header" else opened(SIGNED_MESSAGE, data)
    if state == "header" and data:
        machine.receive(data)
    machine.receive(b"")
    with pytest.raises(TruncatedMessageError, match=f"ended in the {state} of"):
        released_by(machine)
    assert machine.state is State.FAILED


def test_the_end_of_input_while_the_key_is_fetched() -> None:
    """It is not an error of the header, which is complete."""
    machine = MessageDecryptor()
    machine.receive(UNSIGNED_MESSAGE.data[: UNSIGNED_MESSAGE.header_length])
    machine.next_event()
    machine.receive(b"")
    unlock(machine, UNSIGNED_MESSAGE)
    assert isinstance(machine.next_event(), HeaderVerified)
    with pytest.raises(TruncatedMessageError, match="in the body"):
        machine.next_event()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("data", [b"", b"more"])
def test_nothing_is_received_after_the_end_of_input(state: State, data: bytes) -> None:
    machine = in_state(state)
    with pytest.raises(ValueError, match="after the end of input"):
        machine.receive(data)
    assert machine.state is state


def test_the_end_is_said_again_and_again() -> None:
    machine = in_state(State.DONE)
    assert [machine.next_event() for _ in range(3)] == [EndOfMessage()] * 3


# Unlocking


def test_nothing_comes_before_unlock() -> None:
    machine = locked(UNSIGNED_MESSAGE.data)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"before unlock\(\)"):
            machine.next_event()
    unlock(machine, UNSIGNED_MESSAGE)
    assert isinstance(machine.next_event(), HeaderVerified)


@pytest.mark.parametrize("state", [state for state in STATES if state is not State.LOCKED])
def test_unlock_belongs_to_one_state(state: State) -> None:
    machine = in_state(state)
    with pytest.raises(ValueError, match=rf"unlock\(\) in state {state.name}"):
        unlock(machine, SIGNED_MESSAGE)
    assert machine.state is state


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_of_the_wrong_length_is_an_argument_that_may_be_mended(length: int) -> None:
    machine = locked(UNSIGNED_MESSAGE.data)
    with pytest.raises(ValueError, match="needs 32"):
        machine.unlock(bytes(length))
    assert machine.state.name == "LOCKED"
    unlock(machine, UNSIGNED_MESSAGE)
    assert machine.state.name == "BODY"


HKDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256


@pytest.mark.spec("client-apis/decrypt.md#verify-the-header")
@pytest.mark.parametrize(
    ("suite", "error", "text"),
    [
        (NO_KDF, TagError, "the header fails authentication"),
        (HKDF, TagError, "the header fails authentication"),
        (COMMITTING, CommitmentError, "commits to"),
        (SIGNED, CommitmentError, "commits to"),
    ],
)
def test_another_data_key(suite: AlgorithmSuite, error: type[MessageError], text: str) -> None:
    """client-apis/decrypt.md#get-the-decryption-materials (commit keys are equal), #verify-the-header."""
    message = build_message(suite, PLAINTEXT)
    machine = locked(message.data)
    with pytest.raises(error, match=text) as caught:
        machine.unlock(bytes(32), verification_key=message.verification_key)
    assert machine.state is State.FAILED
    with pytest.raises(error) as again:
        machine.next_event()
    assert again.value.__cause__ is caught.value
    with pytest.raises(ValueError, match="in state FAILED"):
        unlock(machine, message)


def test_a_signed_message_needs_a_verification_key() -> None:
    machine = locked(SIGNED_MESSAGE.data)
    with pytest.raises(SignatureError, match="no verification key"):
        machine.unlock(SIGNED_MESSAGE.data_key)
    assert machine.state is State.FAILED


def test_an_unsigned_message_does_not_look_at_a_verification_key() -> None:
    machine = locked(UNSIGNED_MESSAGE.data)
    machine.unlock(UNSIGNED_MESSAGE.data_key, verification_key=b"no point")
    assert isinstance(machine.next_event(), HeaderVerified)


@pytest.mark.parametrize("suite", [HKDF, COMMITTING])
def test_pairs_that_are_authenticated_only(suite: AlgorithmSuite) -> None:
    """client-apis/decrypt.md#verify-the-header: the AAD goes on with the pairs that are not stored."""
    absent = sorted_context({"tenant": "42"})
    message = build_message(suite, PLAINTEXT, authenticated_context=absent)
    machine = locked(message.data)
    machine.unlock(message.data_key, authenticated_context=absent)
    assert isinstance(machine.next_event(), HeaderVerified)
    for wrong in (b"", absent[:-1], sorted_context({"tenant": "43"})):
        with pytest.raises(TagError, match="encryption context is not the one"):
            locked(message.data).unlock(message.data_key, authenticated_context=wrong)


# Settling, failing, closing


def two_works(message: Message) -> tuple[MessageDecryptor, OpenWork | VerifyWork, OpenWork | VerifyWork]:
    """Return a machine with two works of a message of three frames: the regular ones, and the final one."""
    machine = opened(message, message.data)
    return machine, work_of(machine), work_of(machine)


def test_work_is_done_in_any_order_and_settled_in_the_order_of_the_message() -> None:
    machine, first, second = two_works(UNSIGNED_MESSAGE)
    late = second.crypt()
    with pytest.raises(ValueError, match="in the order"):
        machine.settle(second, late)
    machine.settle(first, first.crypt())
    assert machine.next_event() == Plaintext(PLAINTEXT[:16])
    machine.settle(second, late)
    assert machine.next_event() == Plaintext(PLAINTEXT[16:])


def test_a_work_is_settled_once_and_by_its_own_machine() -> None:
    machine, first, second = two_works(UNSIGNED_MESSAGE)
    _, foreign, _ = two_works(UNSIGNED_MESSAGE)
    with pytest.raises(ValueError, match="in the order"):
        machine.settle(foreign, foreign.crypt())
    for work in (first, second):
        machine.settle(work, work.crypt())
        with pytest.raises(ValueError, match="in the order"):
            machine.settle(work, work.crypt())
    assert released_by(machine) == PLAINTEXT


def test_the_end_waits_for_work_that_is_not_settled() -> None:
    machine, first, second = two_works(UNSIGNED_MESSAGE)
    machine.receive(b"")
    assert isinstance(machine.next_event(), NeedData)
    machine.settle(first, first.crypt())
    assert machine.next_event() == Plaintext(PLAINTEXT[:16])
    assert isinstance(machine.next_event(), NeedData)
    machine.settle(second, second.crypt())
    assert machine.next_event() == Plaintext(PLAINTEXT[16:])
    assert isinstance(machine.next_event(), EndOfMessage)


@pytest.mark.parametrize("message", [UNSIGNED_MESSAGE, SIGNED_MESSAGE], ids=["unsigned", "signed"])
def test_a_machine_that_failed_releases_nothing(message: Message) -> None:
    machine, first, second = two_works(message)
    for work in (first, second):
        assert isinstance(work, OpenWork)
        work.digest()
    machine.settle(first, first.crypt())
    error = TagError("of a work")
    machine.fail(error)
    machine.settle(second, second.crypt())
    machine.fail(TagError("another"))
    for _ in range(2):
        with pytest.raises(TagError) as caught:
            machine.next_event()
        assert caught.value.__cause__ is error
    assert machine.state is State.FAILED


def test_what_waits_for_its_turn_is_dropped_with_the_failure() -> None:
    machine, first, second = two_works(UNSIGNED_MESSAGE)
    machine.settle(first, first.crypt())
    machine.settle(second, second.crypt())
    machine.fail(TagError("late"))
    with pytest.raises(TagError, match="late"):
        machine.next_event()


def test_a_closed_machine_releases_nothing_and_says_so() -> None:
    machine, first, _ = two_works(UNSIGNED_MESSAGE)
    machine.settle(first, first.crypt())
    machine.close()
    machine.close()
    with pytest.raises(ValueError, match="closed machine"):
        machine.next_event()
    assert machine.state is State.FAILED


def test_closing_keeps_the_error() -> None:
    machine = opened(UNSIGNED_MESSAGE, UNSIGNED_MESSAGE.data + b"more")
    with pytest.raises(TrailingDataError) as caught:
        released_by(machine)
    machine.close()
    with pytest.raises(TrailingDataError) as again:
        machine.next_event()
    assert again.value.__cause__ is caught.value


@pytest.mark.parametrize("state", STATES)
def test_closing_in_any_state(state: State) -> None:
    machine = in_state(state)
    machine.close()
    assert machine.state is State.FAILED
    with pytest.raises(ValueError, match="closed machine"):
        machine.next_event()
    with pytest.raises(ValueError, match="in state FAILED"):
        unlock(machine, SIGNED_MESSAGE)
