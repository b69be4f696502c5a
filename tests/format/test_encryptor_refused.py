"""The writing machine: lengths and bounds, too many frames, signers, and calls out of order."""

from __future__ import annotations

import array
import hashlib
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from aioencrypt.errors import EncryptionError, LimitError, PlaintextLengthError, PolicyError
from aioencrypt.format import AlgorithmSuite, MessageEncryptor, SealWork
from tests.support.messages import (
    DEFAULT_KEYS,
    Message,
    MessageWriter,
    build_message,
    drive_encryptor,
    example_data_key,
    example_message_id,
)
from tests.support.streaming import plaintext_of

V1 = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF
UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
LAST = 2**32 - 1


def encryptor(suite: AlgorithmSuite = UNSIGNED, **options: Any) -> MessageEncryptor:
    arguments: dict[str, Any] = {
        "data_key": example_data_key(suite),
        "message_id": example_message_id(suite),
        "encryption_context": {},
        "encrypted_data_keys": DEFAULT_KEYS,
        "frame_length": 16,
        "signer": (lambda digest: digest) if suite.signed else None,
    }
    return MessageEncryptor(suite, **(arguments | options))


def done(machine: MessageEncryptor, work: SealWork) -> bytes:
    sealed = work.crypt()
    work.digest(sealed)
    machine.settle(work)
    return sealed


@pytest.mark.parametrize(
    ("suite", "options", "text"),
    [
        (UNSIGNED, {"frame_length": 0}, "frame_length is 0; it must be 1 to 4294967295"),
        (UNSIGNED, {"frame_length": -1}, "frame_length is -1; it must be 1 to 4294967295"),
        (UNSIGNED, {"frame_length": 2**32}, "frame_length is 4294967296; it must be 1 to 4294967295"),
        (UNSIGNED, {"message_id": bytes(16)}, "message_id has 16 bytes, not 32"),
        (V1, {"message_id": bytes(32)}, "message_id has 32 bytes, not 16"),
        (V1, {"message_id": b""}, "message_id has 0 bytes, not 16"),
        (
            UNSIGNED,
            {"signer": lambda digest: digest},
            f"{UNSIGNED.name} and the signer do not fit: a signed suite has one, others none",
        ),
        (
            SIGNED,
            {"signer": None},
            f"{SIGNED.name} and the signer do not fit: a signed suite has one, others none",
        ),
        (V1, {"data_key": bytes(31)}, f"the data key has 31 bytes; {V1.name} needs 32"),
        (V1, {"encrypted_data_keys": ()}, "a message has 1 to 65,535 encrypted data keys, not 0"),
    ],
)
def test_arguments_that_make_no_message(suite: AlgorithmSuite, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        encryptor(suite, **options)
    assert str(caught.value) == text


@pytest.mark.parametrize("frame_length", [1, LAST])
def test_the_shortest_and_the_longest_frames(frame_length: int) -> None:
    message = build_message(UNSIGNED, b"abc", frame_length=frame_length)
    assert drive_encryptor(encryptor(frame_length=frame_length), b"abc") == message.data


TOO_LONG = "the source has more bytes than plaintext_length=40"


@pytest.mark.parametrize(
    ("pieces", "actual", "text"),
    [
        ([(41, False)], 41, TOO_LONG),
        ([(41, True)], 41, TOO_LONG),
        ([(20, False), (20, False), (1, False)], 41, TOO_LONG),
        ([(40, False), (1000, True)], 1040, TOO_LONG),
        ([(0, True)], 0, "the source ended after 0 bytes, not at plaintext_length=40"),
        ([(39, True)], 39, "the source ended after 39 bytes, not at plaintext_length=40"),
        (
            [(20, False), (19, False), (0, True)],
            39,
            "the source ended after 39 bytes, not at plaintext_length=40",
        ),
    ],
)
def test_the_plaintext_is_as_long_as_was_said(pieces: list[tuple[int, bool]], actual: int, text: str) -> None:
    machine = encryptor(plaintext_length=40)
    *fine, (length, last) = pieces
    for fine_length, fine_last in fine:
        done(machine, machine.seal(bytes(fine_length), fine_last))
    with pytest.raises(PlaintextLengthError) as caught:
        machine.seal(bytes(length), last)
    assert (caught.value.expected, caught.value.actual) == (40, actual)
    assert str(caught.value) == text


@pytest.mark.parametrize("length", [0, 1, 16, 40])
def test_a_plaintext_of_exactly_that_length(length: int) -> None:
    message = build_message(UNSIGNED, plaintext_of(length), frame_length=16)
    for machine in (encryptor(plaintext_length=length), encryptor(plaintext_length_bound=length)):
        assert drive_encryptor(machine, message.plaintext, chunks=7) == message.data
    # The end may come with the last byte, or after it.
    machine = encryptor(plaintext_length=length)
    assert machine.start() + done(machine, machine.seal(message.plaintext, last=True)) == message.data


@pytest.mark.spec(
    "client-apis/encrypt.md#plaintext-length-bound", "client-apis/encrypt.md#construct-the-body"
)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("before", [0, 10])
def test_the_bound_is_met_before_anything_above_it_is_sealed(before: int, last: bool) -> None:
    machine = encryptor(plaintext_length_bound=20)
    done(machine, machine.seal(bytes(before)))
    with pytest.raises(LimitError) as caught:
        machine.seal(bytes(21 - before), last)
    error = caught.value
    assert (error.parameter, error.limit, error.actual) == ("plaintext_length_bound", 20, 21)
    assert str(error) == (
        "the length of the plaintext is 21, above plaintext_length_bound=20; "
        "raise plaintext_length_bound if this is expected"
    )


def test_a_bound_is_no_length() -> None:
    message = build_message(UNSIGNED, b"abc", frame_length=16)
    machine = encryptor(plaintext_length_bound=20)
    assert machine.ciphertext_length is None
    assert drive_encryptor(machine, b"abc") == message.data


def test_a_bound_beside_a_length_is_ignored() -> None:
    message = build_message(UNSIGNED, b"abc", frame_length=16)
    machine = encryptor(plaintext_length=3, plaintext_length_bound=1)
    assert machine.ciphertext_length == len(message.data)
    assert drive_encryptor(machine, b"abc") == message.data
    with pytest.raises(PlaintextLengthError):
        encryptor(plaintext_length=3, plaintext_length_bound=100).seal(b"abcd")


@pytest.mark.spec("client-apis/encrypt.md#behavior")
@pytest.mark.parametrize(
    ("options", "length", "error"),
    [
        ({"plaintext_length": 0}, 1, PlaintextLengthError),
        ({"plaintext_length": 5}, 6, PlaintextLengthError),
        ({"plaintext_length_bound": 5}, 6, LimitError),
    ],
)
@pytest.mark.parametrize("method", ["seal", "receive"])
def test_after_an_error_there_is_no_message(
    options: dict[str, Any], length: int, error: type[EncryptionError], method: str
) -> None:
    """A caller that ends his message whatever happened must not get one that looks whole."""
    machine = encryptor(UNSIGNED, **options)
    with pytest.raises(error) as first:
        getattr(machine, method)(bytes(length))
    fitting = bytes(options.get("plaintext_length", 0))
    calls = [
        lambda: machine.seal(fitting, last=True),
        machine.seal,
        lambda: machine.receive(b""),
        machine.finish,
    ]
    for call in calls:
        with pytest.raises(error) as again:
            call()
        assert again.value.__cause__ is first.value


@pytest.mark.parametrize("frame_length", [1, 4096, LAST])
def test_too_many_frames_are_refused_at_once_where_the_length_is_known(frame_length: int) -> None:
    most = LAST * frame_length - 1
    length = encryptor(frame_length=frame_length, plaintext_length=most).ciphertext_length
    assert length
    assert length > most
    with pytest.raises(PolicyError) as caught:
        encryptor(frame_length=frame_length, plaintext_length=most + 1)
    assert type(caught.value) is PolicyError
    assert str(caught.value) == (
        f"the plaintext needs 4294967296 frames of {frame_length} bytes, above the 4294967295 "
        "of the message format; raise frame_length"
    )


CHUNK = bytes(1 << 24)


def nearly_full(rest: int) -> MessageEncryptor:
    """Return a machine that took plaintext for all but `rest` regular frames; nothing of it is sealed."""
    machine = encryptor(frame_length=1)
    taken, most = 0, LAST - 1  # the final frame is empty
    while taken < most - rest:
        piece = memoryview(CHUNK)[: most - rest - taken]
        machine.settle(machine.seal(piece))
        taken += len(piece)
    return machine


@pytest.mark.spec("data-format/message-body.md#framed-data")
def test_the_last_frame_that_there_can_be() -> None:
    machine = nearly_full(9)
    work = machine.seal(b"last ones", last=True)
    assert work.sequence + work.regular_count == LAST
    writer = MessageWriter(UNSIGNED, example_data_key(UNSIGNED), frame_length=1)
    for number, byte in enumerate(b"last ones", LAST - 9):
        writer.regular_frame(number, bytes([byte]))
    writer.final_frame(LAST, b"")
    assert done(machine, work) == writer.data
    assert machine.finish() == b""


@pytest.mark.spec("data-format/message-body.md#framed-data")
@pytest.mark.parametrize("rest", [0, 9])
@pytest.mark.parametrize("method", ["seal", "receive"])
def test_too_many_frames_are_refused_before_any_is_sealed(rest: int, method: str) -> None:
    machine = nearly_full(rest)
    machine.receive(bytes(rest))
    for call in (lambda: getattr(machine, method)(b"x"), lambda: machine.seal(last=True)):
        with pytest.raises(PolicyError, match="needs 4294967296 frames of 1 bytes") as caught:
            call()
        assert type(caught.value) is PolicyError


def test_too_many_frames_are_refused_also_with_the_last_plaintext() -> None:
    with pytest.raises(PolicyError, match="needs 4294967305 frames of 1 bytes"):
        nearly_full(1).seal(bytes(11), last=True)


def test_work_is_settled_in_order() -> None:
    machine, other = encryptor(), encryptor()
    first, second = machine.seal(bytes(40)), machine.seal(bytes(40), last=True)
    foreign = other.seal(bytes(40))
    for work in (second, foreign, attrs.evolve(first)):
        with pytest.raises(ValueError, match="in the order in which the machine returned them"):
            machine.settle(work)
    machine.settle(first)
    with pytest.raises(ValueError, match="in the order"):
        machine.settle(first)
    machine.settle(second)
    with pytest.raises(ValueError, match="in the order"):
        machine.settle(second)
    assert machine.finish() == b""


@pytest.mark.parametrize("suite", [UNSIGNED, SIGNED])
def test_the_end_comes_after_all_work(suite: AlgorithmSuite) -> None:
    machine = encryptor(suite)
    too_early = pytest.raises(ValueError, match=r"^finish\(\) before the last work is settled$")
    with too_early:
        machine.finish()
    first = machine.seal(bytes(40))
    machine.settle(first)
    with too_early:
        machine.finish()
    last = machine.seal(b"", last=True)
    with too_early:
        machine.finish()
    for more in (b"", b"x"):
        for again in (False, True):
            with pytest.raises(ValueError, match=r"^seal\(\) after the last plaintext$"):
                machine.seal(more, again)
        with pytest.raises(ValueError, match=r"after the last plaintext$"):
            machine.receive(more)
    machine.settle(last)
    if suite is UNSIGNED:
        assert machine.finish() == b""


SIGNED_SUITES = [suite for suite in AlgorithmSuite if suite.signed]
each_signed = pytest.mark.parametrize("suite", SIGNED_SUITES, ids=lambda suite: f"{suite.value:04x}")


class RecordedSigner:
    """Gives recorded answers and keeps what it was asked."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def __call__(self, digest: bytes) -> bytes:
        self.asked.append(digest)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def digest_of(message: Message) -> bytes:
    name = "sha256" if message.suite.value == 0x0214 else "sha384"
    return hashlib.new(name, message.signed_part).digest()


@pytest.mark.spec("client-apis/encrypt.md#construct-the-signature")
@each_signed
def test_the_signer_is_asked_at_the_end_and_once(suite: AlgorithmSuite) -> None:
    message = build_message(suite, plaintext_of(100), frame_length=16)
    signer = RecordedSigner(message["footer.signature"])
    machine = encryptor(suite, signer=signer)
    body = done(machine, machine.seal(message.plaintext, last=True))
    assert signer.asked == []
    assert machine.start() + body + machine.finish() == message.data
    assert signer.asked == [digest_of(message)]


@each_signed
def test_the_signer_is_asked_again_until_the_length_fits(suite: AlgorithmSuite) -> None:
    message = build_message(suite, plaintext_of(100), frame_length=16)
    # An r that is far too short fits neither way.
    s = 2 ** (8 * len(digest_of(message)) - 2)
    short = [encode_dss_signature(1, s), encode_dss_signature(2**100, s)]
    signer = RecordedSigner(*short, message["footer.signature"])
    machine = encryptor(suite, signer=signer, plaintext_length=100)
    assert drive_encryptor(machine, message.plaintext, chunks=30) == message.data
    assert signer.asked == [digest_of(message)] * 3
    assert machine.ciphertext_length == len(message.data)


def test_an_error_of_the_signer_passes_through() -> None:
    error = RuntimeError("no signing today")
    machine = encryptor(SIGNED, signer=RecordedSigner(error))
    done(machine, machine.seal(b"x", last=True))
    with pytest.raises(RuntimeError) as caught:
        machine.finish()
    assert caught.value is error


NUMBERS = memoryview(array.array("I", range(20_000)))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(NUMBERS[:4], id="few numbers"),
        pytest.param(NUMBERS, id="many numbers"),
        pytest.param(NUMBERS[:0], id="no numbers"),
        pytest.param(NUMBERS[::3], id="every third number"),
        pytest.param(memoryview(CHUNK)[: 1 << 15 : 2], id="every second byte"),
        pytest.param(memoryview(plaintext_of(6000))[::-1], id="backwards"),
        pytest.param(memoryview(plaintext_of(6000)).cast("B", [60, 100]), id="two dimensions"),
        pytest.param(memoryview(plaintext_of(60)).cast("c"), id="characters"),
        pytest.param(memoryview(plaintext_of(60)).cast("b"), id="signed bytes"),
    ],
)
def test_a_view_of_anything_is_its_bytes(view: memoryview[Any]) -> None:
    data = view.tobytes()
    message = build_message(UNSIGNED, data, frame_length=16)
    for options in ({}, {"plaintext_length": len(data)}):
        machine = encryptor(UNSIGNED, **options)
        sealed = done(machine, machine.seal(view, last=True))
        assert machine.start() + sealed == message.data
