"""Work as values: outputs without a copy, wiping, costs, and sealing, opening and verifying."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from functools import partial

import attrs
import pytest

from aioencrypt.errors import SignatureError, TagError
from aioencrypt.format import AlgorithmSuite, OpenWork, SealWork, SignatureAlgorithm, VerifyWork
from aioencrypt.format.batches import frame_cost
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.derivation import derive_message_key
from aioencrypt.format.signing import RunningDigest
from aioencrypt.format.work import SIGN_COST, VERIFY_COST, Output
from tests.support.messages import MessageWriter, build_message, example_data_key, example_message_id
from tests.support.rows import each_row
from tests.support.streaming import plaintext_of

SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
P384 = SignatureAlgorithm.ECDSA_P384
LAST = 2**32 - 1
MIB = 1 << 20
# What the lane of an event loop takes in one turn, in microseconds.
LANE = 250


def cipher_of(frame_length: int) -> BodyCipher:
    message_id = example_message_id(SUITE)
    return BodyCipher(
        derive_message_key(SUITE, example_data_key(SUITE), message_id), message_id, frame_length
    )


def writer_of() -> MessageWriter:
    return MessageWriter(SUITE, example_data_key(SUITE))


def pieces_of(data: bytes) -> tuple[memoryview, ...]:
    return (memoryview(data),) if data else ()


def test_an_output_is_what_was_written_part_after_part() -> None:
    output = Output(9)
    parts = [b"abc", b"", b"defg", b"hi"]
    for part in parts:
        output.reserve(len(part))[:] = part
    assert output.used == 9
    made = output.finish()
    assert type(made) is bytes
    assert made == b"abcdefghi"


@pytest.mark.parametrize("length", [0, 1, 2, 5000])
@pytest.mark.parametrize("rest", [0, 1, 5000])
def test_an_output_ends_where_it_is_used(length: int, rest: int) -> None:
    output = Output(length + rest)
    output.reserve(length)[:] = plaintext_of(length)
    assert output.finish() == plaintext_of(length)


def test_what_is_not_written_is_zero() -> None:
    output = Output(6)
    output.reserve(6)[2:4] = b"ab"
    assert output.finish() == b"\0\0ab\0\0"


def finishing_costs(output: Output) -> int:
    """Return how many bytes are needed beside the output to finish it."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    made = output.finish()
    assert made.startswith(b"written")
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("used", [4 * MIB, 4 * MIB - 1, 3 * MIB, 1000])
def test_an_output_becomes_bytes_without_a_copy(used: int) -> None:
    tracemalloc.start()
    try:
        output = Output(4 * MIB)
        output.reserve(used)[:7] = b"written"
        assert finishing_costs(output) < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["finish", "leave", "fail"])
def test_no_view_outlives_an_output(ending: str) -> None:
    parts = []
    try:
        with Output(8) as output:
            parts += [output.reserve(3), output.reserve(5)]
            if ending == "finish":
                output.finish()
            if ending == "fail":
                raise ValueError(ending)
    except ValueError:
        pass
    for part in parts:
        with pytest.raises(ValueError, match="released"):
            bytes(part)


def test_bytes_are_wiped() -> None:
    output = Output(8)
    parts = [output.reserve(3), output.reserve(2)]
    for part in parts:
        part[:] = b"x" * len(part)
    output.wipe()
    assert [bytes(part) for part in parts] == [bytes(3), bytes(2)]


class Watched:
    """An `open_into` that writes, keeps a view of its own, and ends as it is told."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.out = memoryview(b"")

    def __call__(self, out: memoryview) -> None:
        out[:] = b"plaintext"
        if self.error:
            self.out = memoryview(out)
            raise self.error


def opening(open_into: Callable[[memoryview], None], length: int = 9, count: int = 1) -> OpenWork:
    return OpenWork((memoryview(b"frame"),), length, count, False, open_into, None, ())


@pytest.mark.parametrize("error", [TagError("bad"), ValueError(), MemoryError(), KeyboardInterrupt()])
def test_plaintext_of_a_failed_work_is_wiped(error: BaseException) -> None:
    watched = Watched(error)
    with pytest.raises(type(error)) as caught:
        opening(watched).crypt()
    assert caught.value is error
    assert bytes(watched.out) == bytes(9)


def test_plaintext_of_a_work_that_succeeds_is_not() -> None:
    assert opening(Watched()).crypt() == b"plaintext"


@pytest.mark.parametrize("count", [2, 8])
def test_a_bad_frame_releases_nothing_of_the_frames_before_it(count: int) -> None:
    """What AES-GCM left in the buffer before it knew is there, and then is not."""
    writer = writer_of()
    for i in range(count):
        writer.regular_frame(i + 1, b"plain" * 4)
    writer.data[-1] ^= 1
    seen: list[memoryview] = []
    left: list[bytes] = []

    def open_into(out: memoryview) -> None:
        seen.append(memoryview(out))
        try:
            cipher_of(20).open_regular(1, pieces_of(bytes(writer.data)), out)
        finally:
            left.append(bytes(out))

    with pytest.raises(TagError, match=f"frame {count} fails"):
        opening(open_into, 20 * count, count).crypt()
    assert left[0].startswith(b"plain" * 4 * (count - 1))
    assert bytes(seen[0]) == bytes(20 * count)


def sealing(
    regular_count: int,
    final_length: int | None,
    *,
    frame_length: int = 20,
    sequence: int = 1,
    running: RunningDigest | None = None,
    undigested: tuple[bytes, ...] = (),
) -> SealWork:
    """Return work over plaintext that starts the same every time."""
    regular = plaintext_of(regular_count * frame_length)
    final = plaintext_of(regular_count * frame_length + (final_length or 0))[len(regular) :]
    return SealWork(
        cipher_of(frame_length),
        sequence,
        pieces_of(regular),
        regular_count,
        pieces_of(final),
        final_length,
        running,
        undigested,
    )


FRAMES = [(0, None), (1, None), (9, None), (0, 0), (0, 1), (0, 20), (3, 0), (9, 7), (4, 20)]


@pytest.mark.parametrize(("regular_count", "final_length"), FRAMES)
@each_row("sequence", [1, 300, LAST - 9])
def test_seal_work(regular_count: int, final_length: int | None, sequence: int) -> None:
    writer = writer_of()
    for i in range(regular_count):
        writer.regular_frame(sequence + i, plaintext_of(200)[i * 20 : i * 20 + 20])
    if final_length is not None:
        start = regular_count * 20
        writer.final_frame(sequence + regular_count, plaintext_of(200)[start : start + final_length])
    work = sealing(regular_count, final_length, sequence=sequence)
    assert work.output_length == len(writer.data)
    out = bytearray(work.output_length)
    work.crypt_into(memoryview(out))
    assert out == writer.data
    # Nothing is used up.
    for _ in range(2):
        sealed = work.crypt()
        assert type(sealed) is bytes
        assert sealed == writer.data


@pytest.mark.parametrize(
    ("regular_count", "final_length", "frame_length", "output_length"),
    [
        (0, None, 4096, 0),
        (2, None, 4096, 2 * 4128),
        (2, 0, 4096, 2 * 4128 + 40),
        (0, 4096, 4096, 4136),
        (0, None, LAST, 0),
        (0, LAST, LAST, LAST + 40),
        (LAST - 1, LAST, LAST, (LAST - 1) * (LAST + 32) + LAST + 40),
    ],
)
def test_lengths_and_costs_of_sealing(
    regular_count: int, final_length: int | None, frame_length: int, output_length: int
) -> None:
    work = SealWork(cipher_of(frame_length), 1, (), regular_count, (), final_length, None, ())
    assert work.output_length == output_length
    final_cost = 0 if final_length is None else frame_cost(final_length)
    assert work.cost == regular_count * frame_cost(frame_length) + final_cost


@pytest.mark.parametrize(
    ("output_length", "count", "cost"),
    [
        (0, 1, frame_cost(0)),
        (4096, 1, frame_cost(4096)),
        (40960, 10, 10 * frame_cost(4096)),
        (LAST * 2, 2, 2 * frame_cost(LAST)),
    ],
)
def test_the_cost_of_opening(output_length: int, count: int, cost: float) -> None:
    assert opening(Watched(), output_length, count).cost == cost


def test_signing_fits_into_a_turn_of_the_loop_and_verifying_does_not() -> None:
    verify = VerifyWork(P384, b"", b"", RunningDigest(P384))
    assert verify.cost == VERIFY_COST > LANE
    assert SIGN_COST < LANE


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-a-frame", "client-apis/encrypt.md#construct-the-signature"
)
def test_the_digest_of_what_was_sealed() -> None:
    running = RunningDigest(P384)
    works = [
        sealing(0, None, running=running),
        sealing(3, None, running=running, undigested=(b"header", b" rest")),
        sealing(1, 5, running=running, sequence=4),
    ]
    # Later work first: cryptography has no order, digests do.
    sealed = [work.crypt() for work in reversed(works)][::-1]
    works[0].digest(sealed[0])
    works[1].digest(memoryview(sealed[1]))
    works[2].digest(sealed[2])
    expected = b"header rest" + b"".join(sealed)
    assert running.finish() == hashlib.sha384(expected).digest()


def test_the_digest_of_what_is_opened_needs_no_plaintext() -> None:
    running = RunningDigest(P384)
    pieces = (memoryview(b"frame 1, "), memoryview(b"frame 2"))
    opened = Watched()
    for undigested in ((b"header, ",), ()):
        OpenWork(pieces, 9, 2, False, opened, running, undigested).digest()
    assert len(opened.out) == 0
    expected = b"header, frame 1, frame 2frame 1, frame 2"
    assert running.finish() == hashlib.sha384(expected).digest()


def test_the_length_of_a_digest() -> None:
    pieces = (memoryview(b"frame 1, "), memoryview(b"frame 2"))
    assert OpenWork(pieces, 9, 2, False, Watched(), None, ()).input_length == 16


def test_unsigned_work_has_no_digest() -> None:
    sealing(1, None, undigested=(b"header",)).digest(b"sealed")
    opening(Watched()).digest()


def test_verify_work() -> None:
    message = build_message(SIGNED, b"text")
    assert message.verification_key

    def verification(signed: bytes) -> VerifyWork:
        assert message.verification_key
        running = RunningDigest(P384)
        running.update([signed])
        return VerifyWork(P384, message.verification_key, message["footer.signature"], running)

    assert verification(message.signed_part).crypt() == b""
    assert verification(message.signed_part).crypt() == b""
    with pytest.raises(SignatureError, match="does not match"):
        verification(message.signed_part + b"\0").crypt()
    # What is verified is what was in the digest when the work is done, not when it was made.
    late = verification(message.signed_part[:-3])
    late.running.update([message.signed_part[-3:]])
    assert late.crypt() == b""


def every_work() -> list[SealWork | OpenWork | VerifyWork]:
    secret = memoryview(b"secret")
    running = RunningDigest(P384)
    return [
        SealWork(cipher_of(6), 1, (secret,), 1, (secret,), 6, running, (b"secret",)),
        OpenWork((secret,), 6, 1, True, partial(Watched(), secret), running, (b"secret",)),
        VerifyWork(P384, b"point", b"secret", running),
    ]


@pytest.mark.parametrize("index", range(3))
def test_work_cannot_be_changed_and_shows_no_data(index: int) -> None:
    work = every_work()[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        work.running = None  # type: ignore[misc]
    assert "secret" not in repr(work)
    assert "memory" not in repr(work)
