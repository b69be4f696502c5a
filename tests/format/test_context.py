"""The encryption context: what it may hold, its bytes, and what is refused of others' bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import MalformedMessageError
from aioencrypt.format.context import parse_context, serialize_context, validate_context
from tests.support.messages import context_bytes, sized, sorted_context, u16

# UTF-8 puts U+FF01 before U+10000; UTF-16 code units, as JavaScript compares them, the other way round.
UTF16_ORDER = [("\U00010000", "supplementary"), ("\uff01", "fullwidth")]


@pytest.mark.spec("framework/structures.md#serialization")
def test_no_pairs_are_no_bytes() -> None:
    assert serialize_context({}) == b""
    assert parse_context(b"") == {}


@pytest.mark.spec("framework/structures.md#serialization")
def test_serialization() -> None:
    assert serialize_context({"b": "2", "a": "1"}) == bytes.fromhex("0002 0001 61 0001 31 0001 62 0001 32")


@pytest.mark.spec("framework/structures.md#key-value-pair-entries")
def test_keys_are_sorted_by_their_utf8_bytes() -> None:
    context = dict(UTF16_ORDER)
    assert list(parse_context(serialize_context(context))) == ["\uff01", "\U00010000"]
    assert serialize_context(context) == sorted_context(context)


def test_another_order_is_read() -> None:
    assert list(parse_context(context_bytes(UTF16_ORDER)).items()) == UTF16_ORDER


def test_empty_keys_and_values_are_pairs() -> None:
    assert parse_context(serialize_context({"": ""})) == {"": ""}


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(deadline=None, max_examples=100)
@given(context=st.dictionaries(TEXT, TEXT, max_size=5))
def test_parse_after_serialize_is_identity(context: dict[str, str]) -> None:
    serialized = serialize_context(context)
    assert serialized == sorted_context(context)
    assert parse_context(serialized) == context


@settings(deadline=None, max_examples=200)
@given(data=st.one_of(st.binary(max_size=40), st.binary(max_size=30).map(lambda data: b"\x00\x01" + data)))
def test_any_bytes_are_a_context_or_malformed(data: bytes) -> None:
    try:
        context = parse_context(data)
    except MalformedMessageError:
        return
    assert context_bytes(list(context.items())) == data


@pytest.mark.spec(
    "framework/structures.md#key-value-pair-count", "framework/structures.md#key-value-pair-entries"
)
@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(u16(0), "counts no pairs", id="count 0"),
        pytest.param(b"\x00", "counts no pairs", id="one byte"),
        pytest.param(u16(0) + sized(b"k") + sized(b"v"), "counts no pairs", id="count 0 with a pair"),
        pytest.param(u16(1), "passes its end", id="count without a pair"),
        pytest.param(u16(1) + b"\x00", "passes its end", id="half a length"),
        pytest.param(u16(1) + u16(2) + b"k", "passes its end", id="key cut"),
        pytest.param(u16(1) + sized(b"k"), "passes its end", id="no value"),
        pytest.param(u16(1) + sized(b"k") + u16(1), "passes its end", id="value cut"),
        pytest.param(u16(2) + sized(b"k") + sized(b"v"), "passes its end", id="a pair too few"),
        pytest.param(context_bytes([("k", "v")]) + b"\x00", "1 bytes after", id="trailing byte"),
        pytest.param(u16(1) + (sized(b"k") + sized(b"v")) * 2, "6 bytes after", id="a pair too many"),
        pytest.param(context_bytes([("k", "v"), ("k", "v")]), "key 'k' twice", id="same pair twice"),
        pytest.param(context_bytes([("k", "v"), ("k", "w")]), "key 'k' twice", id="same key twice"),
        pytest.param(u16(1) + sized(b"\xff") + sized(b"v"), "not valid UTF-8", id="key not UTF-8"),
        pytest.param(u16(1) + sized(b"k") + sized(b"\xc3"), "not valid UTF-8", id="value not UTF-8"),
        pytest.param(u16(1) + sized(b"k") + sized(b"\xed\xa0\x80"), "not valid UTF-8", id="surrogate"),
        pytest.param(u16(1) + sized(b"\xc0\xaf") + sized(b"v"), "not valid UTF-8", id="overlong"),
    ],
)
def test_malformed(data: bytes, text: str) -> None:
    with pytest.raises(MalformedMessageError, match=text):
        parse_context(data)


def test_no_value_is_in_an_error() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        parse_context(context_bytes([("k", "secret"), ("k", "secret")]))
    assert "secret" not in str(caught.value)


# 2 bytes of count and 4 of lengths are left of 65,535.
FULL = 65535 - 2 - 4 - 1


@pytest.mark.parametrize(
    ("context", "text"),
    [
        pytest.param({"k": "v" * (FULL + 1)}, "65536 bytes long", id="whole"),
        pytest.param({"k": "v" * 65536}, "at 'k' is 65536 bytes long", id="value"),
        pytest.param({"k" * 65536: "v"}, "is 65536 bytes long", id="key"),
        pytest.param({"k": "ß" * 32768}, "65536 bytes long", id="bytes, not characters"),
        pytest.param({str(i): "" for i in range(65536)}, "above the 65535", id="pairs"),
        pytest.param({"k": "\ud800"}, "not valid Unicode", id="surrogate in a value"),
        pytest.param({"\ud800": "v"}, "not valid Unicode", id="surrogate in a key"),
    ],
)
def test_what_the_format_cannot_hold(context: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        serialize_context(context)
    with pytest.raises(ValueError, match=text):
        validate_context(context)


def test_the_longest_context() -> None:
    context = {"k": "v" * FULL}
    serialized = serialize_context(context)
    assert len(serialized) == 65535
    assert parse_context(serialized) == context


def test_validate_returns_a_copy() -> None:
    context = {"k": "v"}
    copy = validate_context(context)
    context["k"] = "changed"
    assert copy == {"k": "v"}


@pytest.mark.parametrize("context", [{"k": 1}, {1: "v"}, {b"k": "v"}, {"k": None}])
def test_keys_and_values_are_text(context: Any) -> None:
    with pytest.raises(TypeError, match="must be str"):
        validate_context(context)


@pytest.mark.spec("client-apis/encrypt.md#encryption-context")
@pytest.mark.parametrize("key", ["aws-crypto-public-key", "aws-crypto-", "aws-crypto-mine"])
def test_the_reserved_prefix(key: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        validate_context({"fine": "1", key: "v"})
    assert validate_context({key: "v"}, reserved=True) == {key: "v"}


def test_what_only_looks_reserved() -> None:
    context = {"aws-crypt": "1", "AWS-CRYPTO-x": "2", " aws-crypto-": "3"}
    assert validate_context(context) == context
