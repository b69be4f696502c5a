"""The writing machine: every suite byte for byte, however the plaintext comes, and what it writes when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt.format import AlgorithmSuite, MessageEncryptor, MessageHeader, SealWork
from aioencrypt.format.batches import batch_frames
from tests.support.headers import CONTEXT, KEYS, each_suite, parsed
from tests.support.messages import Message, build_message, context_bytes, drive_encryptor, encrypt_as
from tests.support.rows import each_row
from tests.support.streaming import plaintext_of

UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
LAST = 2**32 - 1


def lengths_around(frame: int) -> list[int]:
    edges = {0, 1, frame - 1, frame, frame + 1, 2 * frame - 1, 2 * frame, 2 * frame + 1, 3 * frame}
    return sorted(edges | {9 * frame + 1, 10 * frame})


def message_of(suite: AlgorithmSuite, length: int, frame_length: int) -> Message:
    return build_message(
        suite,
        plaintext_of(length),
        encryption_context=CONTEXT,
        encrypted_data_keys=KEYS,
        frame_length=frame_length,
    )


def encryptor_of(message: Message, **options: Any) -> MessageEncryptor:
    """Return a machine that is to write this message, with a recorded signer."""
    assert message.frame_length
    return MessageEncryptor(
        message.suite,
        message.data_key,
        message_id=message.message_id,
        encryption_context=CONTEXT,
        encrypted_data_keys=KEYS,
        frame_length=message.frame_length,
        signer=message.sign if message.suite.signed else None,
        **options,
    )


def done(machine: MessageEncryptor, work: SealWork) -> bytes:
    sealed = work.crypt()
    work.digest(sealed)
    machine.settle(work)
    return sealed


def written(machine: MessageEncryptor, pieces: Sequence[bytes | memoryview]) -> bytes:
    """Write a message, the last piece being said to be the last."""
    parts = [machine.start()]
    parts += [done(machine, machine.seal(piece, i == len(pieces))) for i, piece in enumerate(pieces, 1)]
    return b"".join((*parts, machine.finish()))


@pytest.mark.spec(
    "client-apis/encrypt.md#behavior",
    "client-apis/encrypt.md#construct-the-header",
    "client-apis/encrypt.md#construct-the-body",
    "data-format/message-body.md#final-frame",
    "data-format/message.md#structure",
    "data-format/message-footer.md#overview",
    "data-format/message-footer.md#signature",
)
@each_suite
@each_row("frame_length", [1, 16, 64, 4096])
def test_messages_are_those_of_the_specification(suite: AlgorithmSuite, frame_length: int) -> None:
    for length in lengths_around(frame_length):
        message = message_of(suite, length, frame_length)
        machine = encryptor_of(message, plaintext_length=length)
        assert machine.ciphertext_length == len(message.data)
        assert machine.header == parsed(message.data).header
        assert written(machine, [message.plaintext]) == message.data
        # Without a length that was said, and with an end that comes on its own.
        machine = encryptor_of(message)
        assert machine.ciphertext_length is None
        assert drive_encryptor(machine, message.plaintext) == message.data


@each_suite
def test_a_message_is_written_again_from_its_header(suite: AlgorithmSuite) -> None:
    message = message_of(suite, 1000, 64)
    assert encrypt_as(message, parsed(message.data).header, chunks=100) == message.data


@pytest.mark.spec("client-apis/encrypt.md#construct-the-body")
@each_row("chunk", [1, 2, 15, 16, 17, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 48, 160, 161])
def test_chunks_of_any_length_make_the_same_message(length: int, chunk: int) -> None:
    message = message_of(SIGNED, length, 16)
    assert drive_encryptor(encryptor_of(message), message.plaintext, chunks=chunk) == message.data
    pieces = [message.plaintext[i : i + chunk] for i in range(0, length, chunk)] or [b""]
    assert written(encryptor_of(message), pieces) == message.data


LONG = message_of(UNSIGNED, 40_000, 999)


@settings(deadline=None, max_examples=100)
@given(places=st.lists(st.integers(0, 40_000), max_size=20).map(sorted), data=st.data())
def test_pieces_small_and_large_make_the_same_message(places: list[int], data: st.DataObject) -> None:
    """Small ones are gathered, large ones are not copied; views and bytes may come in turn."""
    pieces: list[bytes | memoryview] = []
    for start, stop in zip([0, *places], [*places, 40_000], strict=True):
        view = memoryview(LONG.plaintext)[start:stop]
        pieces.append(view if data.draw(st.booleans()) else bytes(view))
    assert written(encryptor_of(LONG), pieces) == LONG.data


@pytest.mark.parametrize("suite", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("chunk", [1, 16, 17, 100])
def test_plaintext_may_be_received_piece_by_piece_and_sealed_at_once(
    suite: AlgorithmSuite, chunk: int
) -> None:
    message = message_of(suite, 161, 16)
    machine = encryptor_of(message, plaintext_length=161)
    for start in range(0, 150, chunk):
        machine.receive(message.plaintext[start : min(start + chunk, 150)])
    machine.receive(b"")
    work = machine.seal()
    assert (work.sequence, work.regular_count, work.final_length) == (1, 9, None)
    parts = [machine.start(), done(machine, work)]
    machine.receive(memoryview(message.plaintext)[150:160])
    parts += [done(machine, machine.seal(message.plaintext[160:], last=True)), machine.finish()]
    assert b"".join(parts) == message.data


@pytest.mark.spec("client-apis/encrypt.md#construct-the-body", "data-format/message-body.md#final-frame")
@pytest.mark.parametrize("frames", [1, 2, 3, 10])
@pytest.mark.parametrize("frame_length", [1, 16, 4096])
def test_an_empty_final_frame_follows_the_last_full_one(frames: int, frame_length: int) -> None:
    plaintext = plaintext_of(frames * frame_length)
    message = message_of(UNSIGNED, len(plaintext), frame_length)
    data = drive_encryptor(encryptor_of(message), plaintext)
    final = data[-40:]
    assert final[:8] == b"\xff" * 4 + (frames + 1).to_bytes(4, "big")
    assert final[20:24] == bytes(4)
    assert len(data) == message.header_length + frames * (frame_length + 32) + 40


@pytest.mark.spec("client-apis/encrypt.md#construct-the-body")
def test_a_full_frame_leaves_at_once() -> None:
    machine = encryptor_of(message_of(UNSIGNED, 49, 16))
    steps = [(15, False, 0), (1, False, 1), (0, False, 0), (1, False, 0), (31, False, 2), (0, True, 0)]
    sequence = 1
    for length, last, regular in steps:
        work = machine.seal(plaintext_of(length), last)
        assert (work.sequence, work.regular_count) == (sequence, regular)
        assert work.final_length == (0 if last else None)
        sealed = done(machine, work)
        assert len(sealed) == work.output_length == regular * 48 + 40 * last
        assert bool(work.cost) is bool(regular or last)
        sequence += regular


@pytest.mark.spec("client-apis/encrypt.md#construct-the-body", "data-format/message-body.md#final-frame")
def test_no_plaintext_is_an_empty_final_frame() -> None:
    machine = encryptor_of(message_of(UNSIGNED, 0, 16))
    assert done(machine, machine.seal(b"")) == b""
    final = done(machine, machine.seal(b"", last=True))
    assert len(final) == 40
    assert final[20:24] == bytes(4)


@each_row("suite", AlgorithmSuite)
@pytest.mark.parametrize(
    ("length", "frame_length", "body"),
    [
        (0, 1, 40),
        (LAST - 1, 1, LAST - 1 + 32 * (LAST - 1) + 40),
        (LAST, LAST, LAST + 32 + 40),
        (LAST * LAST - 1, LAST, LAST * LAST - 1 + 32 * (LAST - 1) + 40),
    ],
)
def test_the_length_of_the_longest_messages(
    suite: AlgorithmSuite, length: int, frame_length: int, body: int
) -> None:
    message = message_of(suite, 0, frame_length)
    machine = encryptor_of(message, plaintext_length=length)
    header_and_footer = len(message.data) - 40
    assert machine.ciphertext_length == header_and_footer + body


@pytest.mark.spec("client-apis/encrypt.md#construct-the-header")
@each_suite
def test_pairs_that_are_not_stored_are_in_the_tag_of_the_header(suite: AlgorithmSuite) -> None:
    authenticated = context_bytes([("not", "stored")])
    message = build_message(
        suite,
        b"text",
        encryption_context=CONTEXT,
        encrypted_data_keys=KEYS,
        authenticated_context=authenticated,
    )
    machine = encryptor_of(message, authenticated_context=authenticated)
    assert drive_encryptor(machine, b"text") == message.data
    assert encryptor_of(message_of(suite, 4, 4096)).start() != machine.start()


def test_the_header_may_be_had_at_any_time() -> None:
    message = message_of(SIGNED, 100, 16)
    machine = encryptor_of(message)
    body = done(machine, machine.seal(message.plaintext[:50]))
    assert machine.start() == machine.start() == message.data[: message.header_length]
    body += done(machine, machine.seal(message.plaintext[50:], last=True))
    assert machine.start() + body + machine.finish() == message.data


def test_the_header_is_the_machines_own() -> None:
    message = message_of(UNSIGNED, 1, 16)
    context, keys = dict(CONTEXT), list(KEYS)
    machine = MessageEncryptor(
        UNSIGNED,
        message.data_key,
        message_id=message.message_id,
        encryption_context=context,
        encrypted_data_keys=keys,
        frame_length=16,
    )
    context.clear()
    keys.clear()
    assert isinstance(machine.header, MessageHeader)
    assert machine.header.encryption_context == CONTEXT
    assert machine.header.encrypted_data_keys == KEYS


@pytest.mark.spec("client-apis/encrypt.md#construct-the-signature")
@pytest.mark.parametrize("suite", [suite for suite in AlgorithmSuite if suite.signed])
def test_cryptography_has_no_order_and_digests_have_one(suite: AlgorithmSuite) -> None:
    message = message_of(suite, 500, 16)
    machine = encryptor_of(message)
    pieces = [message.plaintext[i : i + 50] for i in range(0, 500, 50)]
    works = [machine.seal(b""), *map(machine.seal, pieces), machine.seal(b"", last=True)]
    sealed = [work.crypt() for work in reversed(works)][::-1]
    for work, part in zip(works, sealed, strict=True):
        work.digest(part)
        machine.settle(work)
    # The recorded signer compares the digest with that of the message.
    assert machine.start() + b"".join(sealed) + machine.finish() == message.data


def test_work_without_a_result_need_not_be_digested() -> None:
    message = message_of(SIGNED, 40, 64)
    machine = encryptor_of(message)
    for piece in (b"", message.plaintext[:30], message.plaintext[30:]):
        work = machine.seal(piece)
        assert work.output_length == 0
        machine.settle(work)
    assert machine.start() + done(machine, machine.seal(b"", last=True)) + machine.finish() == message.data


def test_work_keeps_its_plaintext_whatever_comes_later() -> None:
    message = message_of(UNSIGNED, 5 * 16, 16)
    machine = encryptor_of(message)
    works = [machine.seal(message.plaintext[i : i + 8]) for i in range(0, 80, 8)]
    works.append(machine.seal(b"", last=True))
    assert machine.start() + b"".join(work.crypt() for work in works) == message.data


def test_a_large_piece_is_not_copied() -> None:
    message = message_of(UNSIGNED, 100_000, 4096)
    for piece in (message.plaintext, memoryview(message.plaintext)):
        work = encryptor_of(message).seal(piece, last=True)
        assert all(view.obj is message.plaintext for view in (*work.regular, *work.final))


@pytest.mark.parametrize("length", [100, 100_000])
def test_a_buffer_may_be_used_again_at_once(length: int) -> None:
    message = message_of(UNSIGNED, length, 64)
    machine = encryptor_of(message)
    buffer = bytearray(message.plaintext)
    machine.receive(memoryview(buffer)[:10])
    buffer[:10] = bytes(10)
    works = [machine.seal(memoryview(buffer)[10:50])]
    buffer[:50] = bytes(50)
    works.append(machine.seal(memoryview(buffer)[50:], last=True))
    buffer[:] = bytes(length)
    assert machine.start() + b"".join(work.crypt() for work in works) == message.data


@pytest.mark.parametrize("frame_length", [1, 16, 4096, 1 << 20, LAST])
def test_a_batch_is_whole_frames_or_all_there_is(frame_length: int) -> None:
    machine = encryptor_of(message_of(UNSIGNED, 0, frame_length))
    assert machine.batch_length(0) == 0
    assert machine.batch_length(1) == 1
    assert machine.batch_length(frame_length) == frame_length
    for available in (3 * frame_length + 1, 10**6, 2**32, LAST * LAST):
        length = machine.batch_length(available)
        assert 0 < length <= available
        assert length == available or length == batch_frames(frame_length, LAST) * frame_length


@pytest.mark.parametrize("frame_length", [1, 100, 4096, 300_000])
def test_batches_make_the_same_message(frame_length: int) -> None:
    message = message_of(UNSIGNED, 700 * min(frame_length, 1000), frame_length)
    machine = encryptor_of(message)
    pieces, rest = [], memoryview(message.plaintext)
    while rest:
        length = machine.batch_length(len(rest))
        pieces.append(rest[:length])
        rest = rest[length:]
    assert len(pieces) > 1 or frame_length == 300_000
    assert written(machine, pieces) == message.data


@pytest.mark.spec(
    "client-apis/encrypt.md#behavior",
    "data-format/message.md#structure",
    "data-format/message-footer.md#overview",
    "framework/algorithm-suites.md#asymmetric-signature-algorithm",
)
def test_unsigned_messages_have_no_footer() -> None:
    machine = encryptor_of(message_of(UNSIGNED, 1, 16))
    done(machine, machine.seal(b"x", last=True))
    assert machine.finish() == b""


@pytest.mark.spec("client-apis/encrypt.md#construct-the-signature", "data-format/message-footer.md#signature")
@pytest.mark.parametrize("suite", [suite for suite in AlgorithmSuite if suite.signed])
def test_the_footer_is_the_signature_behind_its_length(suite: AlgorithmSuite) -> None:
    message = message_of(suite, 40, 16)
    machine = encryptor_of(message)
    body = done(machine, machine.seal(message.plaintext, last=True))
    footer = machine.finish()
    length = {"secp256r1": 71, "secp384r1": 103}[suite.signature.curve] if suite.signature else 0
    assert footer == length.to_bytes(2, "big") + message["footer.signature"]
    assert machine.start() + body == message.signed_part
