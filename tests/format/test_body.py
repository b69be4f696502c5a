"""Frames sealed and opened along every path, against plain AES-GCM frame by frame."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import TagError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.derivation import derive_message_key
from tests.support.messages import MessageWriter, example_data_key, example_message_id
from tests.support.rows import each_row
from tests.support.streaming import plaintext_of

SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
# The three lengths of keys and the two of message ids.
SUITES = [
    AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_NO_KDF,
    AlgorithmSuite.ALG_AES_192_GCM_IV12_TAG16_HKDF_SHA256,
    AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256,
    SUITE,
]
LAST = 2**32 - 1
# Straddling frames up to this length are put together, longer ones go piece by piece.
JOINED = 512 * 1024
# Frames in pieces are put together up to this length, together.
COPIED = 1024 * 1024
# A frame up to this length in one piece is one call, a longer one goes in steps.
STEP = 16 * 1024 * 1024
GUARD = b"\xa5" * 16


def cipher_of(frame_length: int, suite: AlgorithmSuite = SUITE) -> BodyCipher:
    message_id = example_message_id(suite)
    return BodyCipher(
        derive_message_key(suite, example_data_key(suite), message_id), message_id, frame_length
    )


def writer_of(suite: AlgorithmSuite = SUITE, **options: Any) -> MessageWriter:
    return MessageWriter(suite, example_data_key(suite), **options)


def frames_of(
    frame_length: int, plaintext: bytes, first: int = 1, writer: MessageWriter | None = None
) -> bytes:
    """Write regular frames as the specification says, numbered from `first`."""
    writer = writer or writer_of()
    for number, start in enumerate(range(0, len(plaintext), frame_length), first):
        writer.regular_frame(number, plaintext[start : start + frame_length])
    return bytes(writer.data)


def views(data: bytes, cuts: Sequence[int] = ()) -> list[memoryview]:
    """Cut data at these places, the same place twice giving an empty piece."""
    return [memoryview(data)[start:stop] for start, stop in pairwise([0, *sorted(cuts), len(data)])]


def written(length: int, write: Callable[[memoryview], None], held: bytes = b"\0") -> bytes:
    """Return what is written into a buffer, beside which nothing may be written, whatever happens."""
    store = bytearray(GUARD + held * length + GUARD)
    try:
        write(memoryview(store)[16:-16])
    finally:
        assert store[:16] == store[-16:] == GUARD
    return bytes(store[16:-16])


def seal(cipher: BodyCipher, first: int, plaintext: bytes, cuts: Sequence[int] = ()) -> bytes:
    length = len(plaintext) + len(plaintext) // cipher.frame_length * 32
    return written(length, partial(cipher.seal_regular, first, views(plaintext, cuts)))


def open_(cipher: BodyCipher, first: int, frames: bytes, cuts: Sequence[int] = ()) -> bytes:
    length = len(frames) // (cipher.frame_length + 32) * cipher.frame_length
    return written(length, partial(cipher.open_regular, first, views(frames, cuts)))


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-a-frame",
    "data-format/message-body-aad.md#body-aad-content",
    "data-format/message-body-aad.md#sequence-number",
    "data-format/message-body-aad.md#content-length",
    "data-format/message-body.md#sequence-number",
    "data-format/message-body.md#iv-1",
    "data-format/message-body.md#encrypted-content-1",
    "data-format/message-body.md#authentication-tag-1",
    "framework/algorithm-suites.md#gcm",
)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.value:04x}")
@each_row("count", [0, 1, 3, 4, 5, 20])
@each_row("frame_length", [1, 16, 1000])
def test_regular_frames_are_those_of_the_specification(
    suite: AlgorithmSuite, frame_length: int, count: int
) -> None:
    """One by one, and from four on all at once."""
    cipher = cipher_of(frame_length, suite)
    plaintext = plaintext_of(count * frame_length)
    for first in (1, 255, 65534, 2**24 - 2, LAST - count):
        expected = frames_of(frame_length, plaintext, first, writer_of(suite))
        assert seal(cipher, first, plaintext) == expected
        assert open_(cipher, first, expected) == plaintext


def test_frames_may_be_cut_anywhere() -> None:
    """Nine frames in three pieces: runs of many, of few, and frames that straddle, in every order."""
    cipher = cipher_of(5)
    plaintext = plaintext_of(45)
    frames = frames_of(5, plaintext)
    for cuts in combinations(range(46), 2):
        assert seal(cipher, 1, plaintext, cuts) == frames
    for cuts in combinations(range(0, len(frames) + 1, 3), 2):
        assert open_(cipher, 1, frames, cuts) == plaintext


@settings(deadline=None, max_examples=150)
@given(
    frame_length=st.sampled_from([1, 2, 15, 16, 17, 64]),
    count=st.integers(1, 12),
    first=st.sampled_from([1, 254, LAST - 12]),
    places=st.lists(st.floats(0, 1), max_size=30),
)
def test_pieces_do_not_matter(frame_length: int, count: int, first: int, places: list[float]) -> None:
    cipher = cipher_of(frame_length)
    plaintext = plaintext_of(count * frame_length)
    frames = frames_of(frame_length, plaintext, first)
    assert seal(cipher, first, plaintext, [int(place * len(plaintext)) for place in places]) == frames
    assert open_(cipher, first, frames, [int(place * len(frames)) for place in places]) == plaintext


def test_single_bytes() -> None:
    cipher, plaintext = cipher_of(7), plaintext_of(28)
    frames = frames_of(7, plaintext)
    assert seal(cipher, 1, plaintext, range(28)) == frames
    assert open_(cipher, 1, frames, range(len(frames))) == plaintext


@pytest.mark.parametrize("frame_length", [4096 - 32, 4096, 65536 - 32, 65536])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_many_frames_in_pieces(frame_length: int, more: int) -> None:
    """A frame less than what is put together, as much, and a frame more; then fewer frames in its place."""
    cipher = cipher_of(frame_length)
    for count in (COPIED // frame_length + more, COPIED // (frame_length + 32) + more, 5, 4, 3):
        plaintext = plaintext_of(count * frame_length)
        frames = frames_of(frame_length, plaintext, 9)
        for cuts in ([777], range(0, len(plaintext), frame_length), range(777, len(plaintext), 65536)):
            assert seal(cipher, 9, plaintext, cuts) == frames
            assert open_(cipher, 9, frames, cuts) == plaintext


# Pieces of fewer bytes than a block, of a block, and of more; cuts in header and tag.
LONG_CUTS = [
    (1,),
    (14, 15, 16, 17, 32, 33, 48, 63),
    (JOINED - 1, JOINED),
    (3, 20, 20, JOINED + 20, JOINED + 30),
    tuple(range(0, JOINED, 100_003)),
]


@each_row("cuts", LONG_CUTS)
@pytest.mark.parametrize("frame_length", [JOINED, JOINED + 1, JOINED + 15, JOINED + 16])
def test_long_frames_that_straddle(frame_length: int, cuts: tuple[int, ...]) -> None:
    cipher, plaintext = cipher_of(frame_length), plaintext_of(2 * frame_length)
    frames = frames_of(frame_length, plaintext, 7)
    # Cuts in the first frame, and the same in the second.
    again = [frame_length + cut for cut in cuts if cut < frame_length]
    assert seal(cipher, 7, plaintext, [*cuts, *again]) == frames
    again = [frame_length + 32 + cut for cut in cuts]
    assert open_(cipher, 7, frames, [*cuts, *again]) == plaintext


@pytest.mark.parametrize("tag_bytes", [0, 1, 15, 16])
def test_the_tag_of_a_long_frame_may_be_cut(tag_bytes: int) -> None:
    length = JOINED + 1
    plaintext = plaintext_of(length)
    frames = frames_of(length, plaintext)
    cut = len(frames) - tag_bytes
    assert open_(cipher_of(length), 1, frames, [17, cut]) == plaintext
    assert open_(cipher_of(length), 1, frames, [17, *range(len(frames) - 20, len(frames))]) == plaintext


@pytest.mark.parametrize("frame_length", [STEP, STEP + 1, STEP + 16])
@pytest.mark.parametrize("cuts", [(), (5, 5 + STEP)], ids=["whole", "in pieces"])
def test_frames_longer_than_a_step(frame_length: int, cuts: tuple[int, ...]) -> None:
    cipher, plaintext = cipher_of(frame_length), plaintext_of(1 << 20) * 17
    plaintext = plaintext[:frame_length]
    frames = frames_of(frame_length, plaintext)
    assert seal(cipher, 1, plaintext, [cut for cut in cuts if cut < frame_length]) == frames
    assert open_(cipher, 1, frames, cuts) == plaintext


def test_a_long_frame_that_straddles_is_not_put_together() -> None:
    length = 8 * JOINED
    cipher = cipher_of(length)
    plaintext, frame = bytes(length), bytearray(length + 32)
    tracemalloc.start()
    try:
        cipher.seal_regular(1, views(plaintext, [JOINED - 5]), memoryview(frame))
        assert tracemalloc.get_traced_memory()[1] < 100_000
        sealed = bytes(frame)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        cipher.open_regular(1, views(sealed, [1000, JOINED]), memoryview(frame)[:length])
        assert tracemalloc.get_traced_memory()[1] - before < 100_000
    finally:
        tracemalloc.stop()
    assert frame[:length] == plaintext


LENGTHS = [0, 1, 15, 16, 17, 4096, JOINED, JOINED + 1, STEP + 1]
CUTS = [(), (0, 0), (1,), (1, 9, 25, 26)]


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-a-frame",
    "data-format/message-body-aad.md#body-aad-content",
    "data-format/message-body-aad.md#sequence-number",
    "data-format/message-body-aad.md#content-length",
    "data-format/message-body.md#sequence-number-end",
    "data-format/message-body.md#sequence-number-1",
    "data-format/message-body.md#iv-2",
    "data-format/message-body.md#authentication-tag-2",
)
@each_row("cuts", CUTS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_final_frame(length: int, cuts: tuple[int, ...]) -> None:
    cipher, plaintext = cipher_of(LAST), (plaintext_of(1 << 20) * 17)[:length]
    inside = [cut for cut in cuts if cut <= length]
    for sequence in (1, 65536, LAST):
        writer = writer_of()
        writer.final_frame(sequence, plaintext)
        pieces = views(plaintext, inside) if plaintext else []
        fill = partial(cipher.seal_final, sequence, pieces, length)
        assert written(40 + length, fill) == writer.data
        sealed = views(bytes(writer.data[24:]), [cut for cut in cuts if cut <= 16 + length])
        fill = partial(cipher.open_final, sequence, sequence.to_bytes(12, "big"), sealed)
        assert written(length, fill) == plaintext


@pytest.mark.spec(
    "data-format/message-body-aad.md#body-aad-content",
    "data-format/message-body-aad.md#sequence-number",
    "data-format/message-body-aad.md#content-length",
    "client-apis/decrypt.md#decrypt-the-message-body",
)
@each_row("cuts", CUTS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_non_framed_body(length: int, cuts: tuple[int, ...]) -> None:
    plaintext = (plaintext_of(1 << 20) * 17)[:length]
    writer = writer_of(random_ivs=True)
    writer.non_framed_body(plaintext)
    sealed = views(bytes(writer.data[20:]), [cut for cut in cuts if cut <= 16 + length])
    fill = partial(cipher_of(0).open_non_framed, bytes(writer.data[:12]), sealed)
    assert written(length, fill) == plaintext


@pytest.mark.parametrize("cuts", [(), (1,), (3, 9), (16,), tuple(range(20))])
def test_a_frame_with_another_iv_is_opened_on_its_own(cuts: tuple[int, ...]) -> None:
    """As writers before 2015 made them; `count_regular` tells them apart."""
    frame = frames_of(20, plaintext_of(20), 3, writer_of(random_ivs=True))
    assert frame[4:16] != (3).to_bytes(12, "big")
    assert open_(cipher_of(20), 3, frame, cuts) == plaintext_of(20)


def changed(data: bytes, *positions: int) -> bytes:
    copy = bytearray(data)
    for position in positions:
        copy[position] ^= 1
    return bytes(copy)


def assert_refused(what: str, fill: Callable[[], bytes]) -> None:
    with pytest.raises(TagError) as caught:
        fill()
    assert str(caught.value) == f"the {what} fails authentication: it was changed, or is out of place"
    assert isinstance(caught.value.__cause__, InvalidTag)


@pytest.mark.spec("client-apis/decrypt.md#decrypt-the-message-body")
@each_row("cuts", [(), (0, 100, 101, 250), (63, 96, 160)])
@each_row("count", [1, 3, 4, 9])
@pytest.mark.parametrize("first", [1, 65530, LAST - 9])
def test_a_bad_frame_is_named(first: int, count: int, cuts: tuple[int, ...]) -> None:
    """Opened one by one, all at once, or straddling; of two bad ones the first."""
    cipher, stride = cipher_of(16), 48
    frames = frames_of(16, plaintext_of(16 * count), first)
    inside = [cut for cut in cuts if cut < len(frames)]
    for bad in range(count):
        for position in (16, 31, 32, 47):  # content and tag
            data = changed(frames, bad * stride + position, len(frames) - 1 - (position == 47))
            assert_refused(f"frame {first + bad}", partial(open_, cipher, first, data, inside))


def test_frames_before_a_bad_one_do_not_hide_it() -> None:
    """The bad one is the last, in the last of several runs."""
    frames = frames_of(16, plaintext_of(16 * 20))
    assert_refused("frame 20", partial(open_, cipher_of(16), 1, changed(frames, len(frames) - 1), [240, 500]))


@pytest.mark.parametrize(
    ("length", "cuts"),
    [(JOINED, [9]), (JOINED + 1, [9, 600]), (STEP + 1, [])],
    ids=["joined", "piece by piece", "in steps"],
)
def test_a_bad_long_frame_is_named(length: int, cuts: list[int]) -> None:
    frames = frames_of(length, (plaintext_of(1 << 20) * 17)[:length], 8)
    for position in (16, length, len(frames) - 1):
        assert_refused("frame 8", partial(open_, cipher_of(length), 8, changed(frames, position), cuts))


def kinds(length: int) -> Iterator[tuple[str, bytes]]:
    """Name each kind of body, and give content and tag of number 1 of it."""
    plaintext = plaintext_of(length)
    writer = writer_of()
    writer.regular_frame(1, plaintext)
    writer.final_frame(1, plaintext)
    writer.non_framed_body(plaintext)
    fields = writer.message().fields
    for name, field in (("frame 1", "frame.1"), ("final frame 1", "frame.2"), ("body", "body")):
        yield name, bytes(writer.data[fields[f"{field}.content"].start : fields[f"{field}.tag"].stop])


@pytest.mark.spec("data-format/message-body-aad.md#body-aad-content")
@pytest.mark.parametrize("length", [0, 1, 40])
def test_no_kind_passes_for_another(length: int) -> None:
    iv = (1).to_bytes(12, "big")
    cipher = cipher_of(length)
    openers: dict[str, Callable[[bytes, memoryview], None]] = {
        "frame 1": lambda sealed, out: cipher.open_regular(1, views(iv[-4:] + iv + sealed), out),
        "final frame 1": lambda sealed, out: cipher.open_final(1, iv, views(sealed), out),
        "body": lambda sealed, out: cipher.open_non_framed(iv, views(sealed), out),
    }
    if not length:
        del openers["frame 1"]
    for name, opener in openers.items():
        for kind, sealed in kinds(length):
            fill = partial(written, length, partial(opener, sealed))
            if kind == name:
                assert fill() == plaintext_of(length)
            else:
                assert_refused(name, fill)


@pytest.mark.spec(
    "data-format/message-body-aad.md#sequence-number", "data-format/message-body-aad.md#content-length"
)
def test_a_frame_authenticates_its_number_its_length_and_its_message() -> None:
    frame = frames_of(16, plaintext_of(16), 5)
    other = cipher_of(16, AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256)
    same_key = BodyCipher(cipher_of(16).key, bytes(32), 16)
    assert_refused("frame 6", partial(open_, cipher_of(16), 6, frame))
    assert_refused("frame 5", partial(open_, cipher_of(15), 5, frame[:-1]))
    assert_refused("frame 5", partial(open_, other, 5, frame))
    assert_refused("frame 5", partial(open_, same_key, 5, frame))
    assert_refused("frame 5", partial(open_, cipher_of(16), 5, changed(frame, 15)))


@pytest.mark.parametrize("cuts", [(), (1, 30)])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_what_a_buffer_held_before_does_not_matter(count: int, cuts: tuple[int, ...]) -> None:
    cipher, plaintext = cipher_of(64), plaintext_of(64 * count)
    frames = frames_of(64, plaintext)
    writer = writer_of()
    writer.final_frame(9, plaintext[:10])
    fill = partial(cipher.open_regular, 1, views(frames, cuts))
    assert written(len(plaintext), fill, held=b"\xee") == plaintext
    fill = partial(cipher.seal_final, 9, views(plaintext[:10]), 10)
    assert written(50, fill, held=b"\xee") == writer.data
    fill = partial(cipher.seal_regular, 1, views(plaintext, cuts))
    assert written(len(frames), fill, held=b"\xee") == frames


@pytest.mark.parametrize("cuts", [(), range(1000, 4096 * 40, 30_000)], ids=["whole", "in pieces"])
def test_one_cipher_serves_several_threads(cuts: Sequence[int]) -> None:
    cipher, plaintext = cipher_of(4096), plaintext_of(4096 * 40)
    frames = frames_of(4096, plaintext)
    with ThreadPoolExecutor(3) as pool:
        sealed = [pool.submit(seal, cipher, 1, plaintext, cuts) for _ in range(20)]
        opened = [pool.submit(open_, cipher, 1, frames, cuts) for _ in range(20)]
        assert {future.result() for future in sealed} == {frames}
        assert {future.result() for future in opened} == {plaintext}


def test_no_key_is_in_a_repr() -> None:
    key = derive_message_key(SUITES[0], b"secret-secret-16", bytes(16))
    assert repr(BodyCipher(key, b"secret", 64)).count("secret") == 0
