"""Why the body of a version 2 message is not left alone: who has both headers can change frames.

Both headers are authenticated with one key and one IV. A tag is a pad plus a polynomial in the key of the
authentication, H, whose coefficients are what is authenticated (NIST SP 800-38D, 6.4). The pads are the
same, so that the sum of the tags is a polynomial in H without secrets. Its roots are found in seconds, and
with H the tag of a frame can be moved to another content. No key is used between the comments below.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from aioencrypt import TagError, decrypt
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import RewrappedHeader, rewrap_header
from tests.support.rewrapping import NEW, OLD, message_of, rewrapped
from tests.support.streaming import UNSIGNED, on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]

# Elements of GF(2^128) as GCM writes them, and polynomials over it as lists of coefficients, lowest first.
ONE = 1 << 127
REDUCTION = 0xE1 << 120
Polynomial = list[int]


def times(x: int, y: int) -> int:
    product = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            product ^= y
        y = y >> 1 ^ REDUCTION if y & 1 else y >> 1
    return product


def inverse(x: int) -> int:
    product, power = ONE, x
    for _ in range(127):
        power = times(power, power)
        product = times(product, power)
    return product


def trimmed(p: Polynomial) -> Polynomial:
    while p and not p[-1]:
        p.pop()
    return p


def plus(p: Polynomial, q: Polynomial) -> Polynomial:
    length = max(len(p), len(q))
    padded = ([*r, *[0] * (length - len(r))] for r in (p, q))
    return trimmed([x ^ y for x, y in zip(*padded, strict=True)])


def divided(p: Polynomial, q: Polynomial) -> tuple[Polynomial, Polynomial]:
    quotient, rest, lead = [0] * max(1, len(p) - len(q) + 1), list(p), inverse(q[-1])
    while len(rest) >= len(q):
        shift = len(rest) - len(q)
        quotient[shift] = factor = times(rest[-1], lead)
        for i, coefficient in enumerate(q):
            rest[shift + i] ^= times(factor, coefficient)
        trimmed(rest)
    return quotient, rest


def squared(p: Polynomial, modulus: Polynomial) -> Polynomial:
    square = [0] * (2 * len(p) - 1)
    square[::2] = [times(x, x) for x in p]
    return divided(square, modulus)[1]


def common(p: Polynomial, q: Polynomial) -> Polynomial:
    while q:
        p, q = q, divided(p, q)[1]
    return p


def roots(p: Polynomial) -> list[int]:
    """Return the roots: what p has in common with X^(2^128) - X, split by random traces."""
    power = [0, ONE]
    for _ in range(128):
        power = squared(power, p)
    found, waiting = [], [common(p, plus(power, [0, ONE]))]
    while waiting:
        factor = waiting.pop()
        if len(factor) <= 2:
            found += [times(factor[0], inverse(factor[1]))] if len(factor) == 2 else []
            continue
        trace = power = [0, random.getrandbits(128)]
        for _ in range(127):
            power = squared(power, factor)
            trace = plus(trace, power)
        part = common(factor, trace)
        waiting += [part, divided(factor, part)[0]] if 1 < len(part) < len(factor) else [factor]
    return found


def blocks(aad: bytes, content: bytes) -> list[int]:
    cut = [part[i : i + 16] for part in (aad, content) for i in range(0, len(part), 16)]
    lengths = (len(aad) * 8).to_bytes(8, "big") + (len(content) * 8).to_bytes(8, "big")
    return [int.from_bytes(block.ljust(16, b"\0"), "big") for block in [*cut, lengths]]


def hashed(h: int, numbers: Sequence[int]) -> int:
    total = 0
    for number in numbers:
        total = times(total ^ number, h)
    return total


def authentication_keys(old: bytes, new: bytes) -> list[int]:
    """Return what H may be, from two headers with one key and one IV."""
    tags = int.from_bytes(old[-16:], "big") ^ int.from_bytes(new[-16:], "big")
    first, second = (list(reversed(blocks(header[:-16], b""))) for header in (old, new))
    return roots(plus([tags, *first], [0, *second]))


def forge(h: int, header: bytes, message_id: bytes, frame: bytes, change: bytes) -> bytes:
    """Return a message of one frame with a change in its plaintext."""
    length = int.from_bytes(frame[20:24], "big")
    content, tag = frame[24 : 24 + length], int.from_bytes(frame[24 + length :], "big")
    changed = bytes(x ^ y for x, y in zip(content, change, strict=True))
    aad = message_id + b"AWSKMSEncryptionClient Final Frame" + frame[4:8] + length.to_bytes(8, "big")
    tag ^= hashed(h, blocks(aad, content)) ^ hashed(h, blocks(aad, changed))
    return header + frame[:24] + changed + tag.to_bytes(16, "big")


BEFORE, AFTER = b"100.00 for the carpenter", b"999.99 for the carpenter"
CHANGE = bytes(x ^ y for x, y in zip(BEFORE, AFTER, strict=True))


async def test_two_headers_of_one_message_are_enough_to_change_it() -> None:
    message = await message_of(UNSIGNED, BEFORE, OLD, encryption_context={})
    rewritten: RewrappedHeader = await rewrap_header(message, OLD, new_provider=NEW, accept_iv_reuse=True)
    # From here on without keys.
    old, frame = message[: rewritten.old_length], message[rewritten.old_length :]
    message_id = (await inspect_message(message)).message_id
    forgeries = [
        forge(h, rewritten.serialized, message_id, frame, CHANGE)
        for h in authentication_keys(old, rewritten.serialized)
    ]
    # And with one again, as a reader has it.
    read = []
    for forgery in forgeries:
        try:
            read.append((await decrypt(forgery, NEW)).plaintext)
        except TagError:  # another root
            continue
    assert read == [AFTER]


async def test_two_headers_of_a_message_that_is_encrypted_anew_are_not() -> None:
    message = await message_of(UNSIGNED, BEFORE, OLD, encryption_context={})
    # The data key is the same.
    new = await rewrapped(message, UNSIGNED, keep=True)
    before, after = await inspect_message(message), await inspect_message(new)
    header, frame = new[: after.header_length], new[after.header_length :]
    for h in authentication_keys(message[: before.header_length], header):
        with pytest.raises(TagError):
            await decrypt(forge(h, header, after.message_id, frame, CHANGE), NEW)
