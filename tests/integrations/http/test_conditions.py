"""What the HTTP integrations decide without I/O: ranges, conditions, lengths of bodies."""

from __future__ import annotations

import pytest

from aioencrypt.integrations.http.conditions import (
    BodyMeter,
    Plan,
    Refusal,
    RequestHead,
    fields_of,
    plan_response,
)

ETAG = '"abc"'
GIVEN = [("Content-Type", "text/plain"), ("Cache-Control", "private")]


def head(method: str = "GET", **fields: str) -> RequestHead:
    return RequestHead(method, (1, 1), {name.replace("_", "-"): value for name, value in fields.items()})


def plan(asked: RequestHead, length: int | None = 1000, ranges: bool = True) -> Plan:
    return plan_response(asked, etag=ETAG, length=length, ranges=ranges, headers=GIVEN)


def header(found: Plan, name: str) -> str | None:
    values = [value for key, value in found.headers if key == name]
    assert len(values) <= 1
    return values[0] if values else None


def test_fields_have_lower_names_and_repeated_ones_are_a_list() -> None:
    assert fields_of([("If-Match", '"a"'), ("X", "1"), ("if-match", '"b"')]) == {
        "if-match": '"a", "b"',
        "x": "1",
    }


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-999", 0, 1000),
        ("bytes=0-1000", 0, 1000),
        ("bytes=999-", 999, 1000),
        ("bytes=10-19", 10, 20),
        ("bytes=-1", 999, 1000),
        ("bytes=-1000", 0, 1000),
        ("bytes=-5000", 0, 1000),
        ("BYTES= 5-6 ", 5, 7),
        (f"bytes=0-{10**29}", 0, 1000),
    ],
)
def test_one_range_is_answered_with_that_part(asked: str, start: int, end: int) -> None:
    found = plan(head(range=asked))
    assert (found.status, found.content, found.start, found.end) == (206, True, start, end)
    assert header(found, "Content-Range") == f"bytes {start}-{end - 1}/1000"
    assert header(found, "Content-Length") == str(end - start)
    assert header(found, "Content-Type") == "text/plain"


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", f"bytes={10**29}-"])
def test_a_range_behind_the_end_is_not_satisfiable(asked: str) -> None:
    found = plan(head(range=asked))
    assert (found.status, found.content) == (416, False)
    assert header(found, "Content-Range") == "bytes */1000"
    assert header(found, "Content-Length") == "0"
    assert header(found, "Content-Type") is None
    assert header(found, "Cache-Control") == "private"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6",
        "bytes=0-1, ",
        "items=0-1",
        "bytes=6-5",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes 0-1",
        "bytes=\u0660-\u0661",
        "bytes=0-1x",
        f"bytes={10**30}-",
    ],
)
def test_what_is_no_single_range_is_answered_with_everything(asked: str) -> None:
    found = plan(head(range=asked))
    assert (found.status, found.content, found.start, found.end) == (200, True, 0, 1000)
    assert header(found, "Content-Length") == "1000"
    assert header(found, "Content-Range") is None


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_ranges_are_for_get_alone(method: str) -> None:
    found = plan(head(method, range="bytes=0-1"))
    assert (found.status, header(found, "Content-Length")) == (200, "1000")
    assert found.content is (method != "HEAD")


def test_ranges_where_there_are_none() -> None:
    found = plan(head(range="bytes=0-1"), ranges=False)
    assert (found.status, header(found, "Accept-Ranges")) == (200, "none")
    assert header(plan(head()), "Accept-Ranges") == "bytes"


def test_an_empty_content_has_no_ranges() -> None:
    found = plan(head(range="bytes=0-1"), length=0)
    assert (found.status, found.content, header(found, "Content-Length")) == (200, True, "0")


def test_a_length_that_is_not_known_is_not_announced() -> None:
    found = plan(head(), length=None, ranges=False)
    assert (found.status, found.start, found.end, header(found, "Content-Length")) == (200, 0, None, None)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": f'"x", W/{ETAG}'}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_none_match": "abc"}, 200),
        ({"if_match": ETAG}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": f'"x",{ETAG}'}, 200),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f"W/{ETAG}"}, 412),
        ({"if_match": '"x"', "if_none_match": ETAG}, 412),
        ({"if_none_match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if_range": ETAG, "range": "bytes=0-1"}, 206),
        ({"if_range": '"x"', "range": "bytes=0-1"}, 200),
        ({"if_range": f"W/{ETAG}", "range": "bytes=0-1"}, 200),
        ({"if_range": "Wed, 25 Nov 2026 08:00:00 GMT", "range": "bytes=0-1"}, 200),
        ({"if_range": '"x"', "range": "bytes=5000-"}, 200),
        ({"if_range": ETAG}, 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions(fields: dict[str, str], status: int, method: str) -> None:
    found = plan(head(method, **fields))
    assert found.status == (200 if method == "HEAD" and status == 206 else status)
    assert header(found, "ETag") == ETAG
    assert found.content is (method == "GET" and status in (200, 206))


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
        ({"if_modified_since": "Sun Nov  6 08:49:37 1994"}, 304),
        ({"if_modified_since": "Sun, 06 Nov 1994 08:49:36 GMT"}, 200),
        ({"if_modified_since": f"{DATE}, {DATE}"}, 200),
        ({"if_modified_since": "06 Nov 1994 08:49:37 +0000"}, 200),
        ({"if_modified_since": "Sun, 99 Nov 1994 08:49:37 GMT"}, 200),
        ({"if_modified_since": "tomorrow"}, 200),
        ({"if_modified_since": DATE, "if_none_match": '"x"'}, 200),
        ({"if_modified_since": "Sun, 06 Nov 1994 08:49:36 GMT", "if_none_match": ETAG}, 304),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": "Sun, 06 Nov 1994 08:49:36 GMT"}, 412),
        ({"if_unmodified_since": "yesterday"}, 200),
        ({"if_unmodified_since": "Sun, 06 Nov 1994 08:49:36 GMT", "if_match": ETAG}, 200),
        ({"if_unmodified_since": DATE, "if_match": '"x"'}, 412),
        ({"if_unmodified_since": DATE, "if_modified_since": DATE}, 304),
        ({"if_range": DATE, "range": "bytes=0-1"}, 206),
        ({"if_range": "Sun Nov  6 08:49:37 1994", "range": "bytes=0-1"}, 206),
        ({"if_range": "Sun, 06 Nov 1994 08:49:38 GMT", "range": "bytes=0-1"}, 200),
    ],
)
def test_conditions_with_dates(fields: dict[str, str], status: int) -> None:
    dated = [*GIVEN, ("last-modified", DATE)]
    found = plan_response(head(**fields), etag=ETAG, length=1000, ranges=True, headers=dated)
    assert found.status == status
    # Without a date of the content, dates say nothing.
    if not {"if_match", "if_none_match"} & set(fields):
        assert plan(head(**fields)).status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": '"v"'}, 304),
        ({"if_none_match": 'W/"v"'}, 304),
        ({"if_match": 'W/"v"'}, 412),
        ({"if_match": "*"}, 200),
        ({"if_range": 'W/"v"', "range": "bytes=0-1"}, 200),
    ],
)
def test_a_weak_tag_names_no_bytes(fields: dict[str, str], status: int) -> None:
    weak = [*GIVEN, ("ETag", 'W/"v"')]
    found = plan_response(head(**fields), etag=ETAG, length=1000, ranges=True, headers=weak)
    assert found.status == status


def test_conditions_are_for_get_and_head() -> None:
    assert plan(head("POST", if_match='"x"')).status == 200


@pytest.mark.parametrize("name", ["Content-Length", "accept-ranges", "Content-range", "Transfer-Encoding"])
def test_an_etag_of_the_caller_stays_and_what_only_we_can_know_goes(name: str) -> None:
    """The arguments of a response have none of these; a program may add them to it later."""
    given = [("etag", '"mine"'), (name, "5")]
    found = plan_response(head(), etag=ETAG, length=7, ranges=True, headers=given)
    assert found.headers == [("etag", '"mine"'), ("Accept-Ranges", "bytes"), ("Content-Length", "7")]


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({}, None),
        ({"content-length": "0"}, 0),
        ({"content-length": "12"}, 12),
        ({"content-length": "12", "content-encoding": "identity"}, 12),
        ({"content-length": "12", "content-encoding": " Identity "}, 12),
        ({"content-length": "12", "content-encoding": "gzip"}, None),
        ({"content-length": "12", "transfer-encoding": "chunked"}, None),
        ({"content-length": "-1"}, None),
        ({"content-length": "+1"}, None),
        ({"content-length": "1_0"}, None),
        ({"content-length": "\u0663"}, None),
        ({"content-length": "12, 12"}, None),
    ],
)
def test_the_length_that_a_request_announces(fields: dict[str, str], length: int | None) -> None:
    assert BodyMeter(fields, None).length == length


def test_a_body_above_the_limit_is_refused_as_soon_as_that_shows() -> None:
    too_large = Refusal(413, "the upload is longer than 10 bytes")
    assert BodyMeter({"content-length": "11"}, 10).start() == too_large
    assert BodyMeter({"content-length": "10"}, 10).start() is None
    assert BodyMeter({}, 10).start() is None
    meter = BodyMeter({}, 10)
    assert [meter.add(4), meter.add(6), meter.end()] == [None, None, None]
    assert meter.add(1) == too_large
    assert meter.received == 11
    assert BodyMeter({}, 0).add(1) == Refusal(413, "the upload is longer than 0 bytes")
    assert BodyMeter({}, None).add(10**12) is None


def test_a_body_of_another_length_than_announced_is_refused() -> None:
    wrong = Refusal(400, "the body does not have the 5 bytes that its Content-Length announced")
    meter = BodyMeter({"content-length": "5"}, 10)
    assert meter.add(4) is None
    assert meter.end() == wrong
    assert meter.add(1) is None
    assert meter.end() is None
    assert meter.add(1) == wrong


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize(
    ("coding", "taken"), [("chunked", True), (" Chunked", True), ("gzip, chunked", False), ("gzip", False)]
)
def test_a_transfer_coding_that_nobody_undoes_is_refused(coding: str, taken: bool, accepted: bool) -> None:
    meter = BodyMeter({"transfer-encoding": coding}, None, accept_content_encoding=accepted)
    text = "a body with a Transfer-Encoding other than chunked is not taken: send it without"
    refusal = Refusal(415, text, {"Accept-Encoding": "identity"})
    assert meter.start() == (None if taken else refusal)


def test_a_limit_below_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^max_length is -1; it must be 0 or more, or None for no limit$"):
        BodyMeter({}, -1)
