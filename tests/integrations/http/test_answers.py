"""What a request decides, once: parts or the whole, and by which validators. Over real HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from aioencrypt import MessageError, Release, SignatureError, encrypt
from tests.support.http_services import Pieces, Service
from tests.support.rows import each_row
from tests.support.streaming import (
    SIGNED,
    UNSIGNED,
    collected,
    flipped,
    on_asyncio,
    plaintext_of,
    sealed,
)
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(3000)
LENGTH = len(PLAINTEXT)
MODIFIED = datetime(2026, 11, 25, 8, 0, 0, 700_000, tzinfo=UTC)
DATE = "Wed, 25 Nov 2026 08:00:00 GMT"
BEFORE, AFTER = "Wed, 25 Nov 2026 07:59:59 GMT", "Wed, 25 Nov 2026 08:00:01 GMT"
on_both = pytest.mark.parametrize("kind", ["aiohttp", "asgi"])

clean = pytest.fixture(autouse=True, scope="module")(collected)

# Requests that are answered with the whole message.
WHOLE: dict[str, tuple[int, dict[str, str]]] = {
    "no range": (200, {}),
    "from the start": (206, {"Range": "bytes=0-"}),
    "to the last byte": (206, {"Range": f"bytes=0-{LENGTH - 1}"}),
    "beyond the end": (206, {"Range": f"bytes=0-{LENGTH * 2}"}),
    "the last bytes, all of them": (206, {"Range": f"bytes=-{LENGTH}"}),
    "the last bytes, and more": (206, {"Range": f"bytes=-{LENGTH + 1}"}),
    "several ranges": (200, {"Range": "bytes=0-1,5-6"}),
    "no range of bytes": (200, {"Range": "items=0-1"}),
    "a malformed range": (200, {"Range": "bytes=5-1"}),
    "another tag": (200, {"Range": "bytes=5-9", "If-Range": '"another"'}),
    "another tag and everything": (200, {"Range": "bytes=0-", "If-Range": '"another"'}),
    "a weak tag": (200, {"Range": "bytes=5-9", "If-Range": 'W/"v7"'}),
    "no date is known": (200, {"Range": "bytes=5-9", "If-Range": DATE}),
}


async def get(service: Service, kind: str, headers: dict[str, str], method: str = "GET") -> tuple[Any, bytes]:
    async with (
        service.on(kind) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers) as response,
    ):
        return response, await response.read()


@on_both
@pytest.mark.parametrize(("status", "headers"), WHOLE.values(), ids=WHOLE)
async def test_the_whole_of_a_signed_message_is_verified_however_it_is_asked_for(
    kind: str, status: int, headers: dict[str, str]
) -> None:
    key = CountingKey()
    message = (await encrypt(PLAINTEXT, key)).ciphertext
    for forged in (False, True):
        key.calls.clear()
        source = flipped(message, -1) if forged else message
        service = Service(lambda source=source: source, provider=key, accept_unverified_signature=True)  # type: ignore[misc]
        response, body = await get(service, kind, headers)
        assert len(key.calls) == 1
        if forged:
            assert (response.status, PLAINTEXT in body) == (500, False)
            assert [type(error) for error in service.errors] == [SignatureError]
        else:
            assert (response.status, body) == (status, PLAINTEXT)
            assert response.headers["Content-Length"] == str(LENGTH)
            assert response.headers.get("Content-Range") == (
                f"bytes 0-{LENGTH - 1}/{LENGTH}" if status == 206 else None
            )


@on_both
@pytest.mark.parametrize("asked", ["bytes=0-2998", "bytes=1-", "bytes=-2999", "bytes=5-9"])
async def test_a_proper_part_of_a_signed_message_is_read_alone_where_the_caller_accepts_it(
    kind: str, asked: str
) -> None:
    key = CountingKey()
    message = flipped((await encrypt(PLAINTEXT, key)).ciphertext, -1)
    key.calls.clear()
    service = Service(lambda: message, provider=key, accept_unverified_signature=True)
    response, body = await get(service, kind, {"Range": asked})
    assert (response.status, len(key.calls)) == (206, 1)
    assert body in PLAINTEXT
    assert len(body) == int(response.headers["Content-Length"]) < LENGTH


@on_both
@each_row("given", ["argument", "header"])
@each_row("suite", [SIGNED, UNSIGNED])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": '"v7"'}, 304),
        ({"If-None-Match": 'W/"v7"'}, 304),
        ({"If-None-Match": '"v8"'}, 200),
        ({"If-Match": '"v7"'}, 200),
        ({"If-Match": '"v8"'}, 412),
        ({"If-Range": '"v7"', "Range": "bytes=0-0"}, 206),
        ({"If-Range": '"v8"', "Range": "bytes=0-0"}, 200),
        ({"If-Modified-Since": DATE}, 304),
        ({"If-Modified-Since": BEFORE}, 200),
        ({"If-Unmodified-Since": DATE}, 200),
        ({"If-Unmodified-Since": BEFORE}, 412),
        ({"If-Range": DATE, "Range": "bytes=0-0"}, 206),
        ({"If-Range": BEFORE, "Range": "bytes=0-0"}, 200),
    ],
)
async def test_conditions_follow_the_validators_that_are_sent(
    kind: str, given: str, suite: Any, headers: dict[str, str], status: int
) -> None:
    message = await sealed(PLAINTEXT, suite)
    options: dict[str, Any] = {"headers": {"eTag": '"v7"', "last-modified": DATE}}
    if given == "argument":
        options = {"etag": "v7", "last_modified": MODIFIED}
    service = Service(lambda: message, accept_unverified_signature=True, **options)
    response, body = await get(service, kind, headers)
    assert response.status == status
    assert len(body) == {200: LENGTH, 206: 1}.get(status, 0)
    assert response.headers.getall("ETag") == ['"v7"']
    assert response.headers.getall("Last-Modified") == [DATE]


@on_both
@pytest.mark.parametrize("plain", [True, False], ids=["plain source", "ranges"])
async def test_a_304_has_no_content_length_and_keeps_where_the_content_is(kind: str, plain: bool) -> None:
    message = await sealed(PLAINTEXT)
    headers = {
        "Content-Location": "/v7",
        "Content-Security-Policy": "default-src 'none'",
        "Content-Language": "de",
        "Cache-Control": "private",
        "Vary": "Accept",
    }
    service = Service(lambda: Pieces(message) if plain else message, headers=headers, etag="v7")
    response, body = await get(service, kind, {"If-None-Match": '"v7"'})
    assert (response.status, body) == (304, b"")
    names = {name.lower() for name in response.headers} - {"date", "server"}
    assert names == {
        "etag",
        "accept-ranges",
        "content-location",
        "content-security-policy",
        "cache-control",
        "vary",
    }


def status_option(kind: str, status: Any) -> dict[str, Any]:
    return {"status" if kind == "aiohttp" else "status_code": status}


@on_both
async def test_a_response_with_a_status_of_the_caller_is_no_part_of_a_message(kind: str) -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    service = Service(lambda: message, **status_option(kind, 403))
    for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
        response, body = await get(service, kind, headers)
        assert (response.status, body, response.headers["Accept-Ranges"]) == (403, PLAINTEXT, "none")
    service = Service(lambda: message, **status_option(kind, 203))
    response, _ = await get(service, kind, {"If-None-Match": "*"})
    assert response.status == 304


@on_both
@each_row("status", [100, 199, 204, 205, 206, 304, 600, "200"])
async def test_a_status_without_content_is_refused(kind: str, status: Any) -> None:
    service = Service(lambda: b"", **status_option(kind, status))
    await get(service, kind, {})
    [error] = service.errors
    assert isinstance(error, TypeError if status == "200" else ValueError)
    assert str(error).startswith("status " if kind == "aiohttp" else "status_code ")


@on_both
@pytest.mark.parametrize("plain", [True, False], ids=["plain source", "ranges"])
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_release_verified_sends_nothing_of_a_bad_message(kind: str, plain: bool, suite: Any) -> None:
    plaintext = plaintext_of(1_000_000)
    message = await sealed(plaintext, suite)
    for bad in (False, True):
        data = flipped(message, 900_000) if bad else message
        service = Service(lambda data=data: Pieces(data) if plain else data, release=Release.VERIFIED)  # type: ignore[misc]
        response, body = await get(service, kind, {"Range": "bytes=5-9"})
        if bad:
            assert response.status == 500
            assert isinstance(service.errors[0], MessageError)
        else:
            assert (response.status, body, response.headers["Accept-Ranges"]) == (200, plaintext, "none")


@on_both
@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("annual report (1).pdf", 'attachment; filename="annual report (1).pdf"'),
        ("Übersicht.pdf", "attachment; filename=\"_bersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"),
        (
            'a"; filename="b',
            "attachment; filename=\"a_; filename=_b\"; filename*=UTF-8''a%22%3B%20filename%3D%22b",
        ),
        (
            "a\r\nSet-Cookie: x",
            "attachment; filename=\"a__Set-Cookie_ x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x",
        ),
        ("a\\b/c%41", "attachment; filename=\"a_b_c_41\"; filename*=UTF-8''a%5Cb%2Fc%2541"),
        ("\udcff.txt", "attachment; filename=\"_.txt\"; filename*=UTF-8''%3F.txt"),
        ("日本.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt"),
    ],
)
async def test_a_file_name(kind: str, name: str, disposition: str) -> None:
    message = await sealed(b"abc")
    response, body = await get(Service(lambda: message, filename=name), kind, {})
    assert (response.status, body) == (200, b"abc")
    assert response.headers.getall("Content-Disposition") == [disposition]
    assert "Set-Cookie" not in response.headers


@on_both
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"filename": 5}, "filename must be a str, not int"),
        ({"etag": b"a"}, "etag must be a str, not bytes"),
        ({"last_modified": DATE}, "last_modified must be a number of seconds, not str"),
        ({"accept_unverified_signature": "no"}, "accept_unverified_signature must be a bool, not str"),
    ],
)
async def test_arguments_of_the_wrong_type(kind: str, options: dict[str, Any], text: str) -> None:
    service = Service(lambda: b"", **options)
    assert (await get(service, kind, {}))[0].status == 500
    [error] = service.errors
    assert isinstance(error, TypeError)
    assert text in str(error)


@on_both
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"filename": ""}, "filename is empty"),
        ({"etag": "a b"}, "etag has a character that is not allowed"),
        ({"etag": '"a'}, "etag has a character that is not allowed"),
        ({"etag": "a\r\nb"}, "etag has a character that is not allowed"),
        ({"last_modified": datetime(2026, 1, 1)}, "last_modified has no time zone"),
        ({"etag": "a", "headers": {"etag": '"b"'}}, "ETag is given twice: give etag= or the header"),
        ({"last_modified": 5, "headers": {"Last-Modified": DATE}}, "Last-Modified is given twice"),
        (
            {"filename": "a", "headers": {"Content-disposition": "inline"}},
            "Content-Disposition is given twice",
        ),
        ({"accept_unverified_signature": True, "release": Release.VERIFIED}, "give one of them"),
        ({"headers": {"Accept-Ranges": "none"}}, "headers={'accept-ranges': ...} is not supported"),
        ({"headers": {"content-length": "5"}}, "headers={'content-length': ...} is not supported"),
        ({"headers": {"Content-Range": "bytes 0-1/2"}}, "headers={'content-range': ...} is not supported"),
        (
            {"headers": {"Transfer-Encoding": "chunked"}},
            "headers={'transfer-encoding': ...} is not",
        ),
        ({"headers": {"ETag": "v7"}}, "the ETag in headers has no quotes"),
        ({"headers": {"etag": '"a", "b"'}}, "the ETag in headers has no quotes"),
        ({"headers": {"Last-Modified": "2026-11-25T08:00:00Z"}}, "is no date of HTTP: use last_modified="),
        ({"last_modified": float("nan")}, "last_modified is nan"),
        ({"last_modified": float("-inf")}, "last_modified is -inf"),
        ({"last_modified": -(10**300)}, "last_modified is -1"),
    ],
)
async def test_arguments_that_make_no_response(kind: str, options: dict[str, Any], text: str) -> None:
    service = Service(lambda: b"", **options)
    response, _ = await get(service, kind, {})
    assert response.status == 500
    [error] = service.errors
    assert isinstance(error, ValueError)
    assert text in str(error)


async def test_a_content_type_that_is_given_twice() -> None:
    """Starlette itself prefers the header; aiohttp refuses it."""
    service = Service(lambda: b"", content_type="text/csv", headers={"content-type": "text/html"})
    assert (await get(service, "aiohttp", {}))[0].status == 500
    assert [str(error) for error in service.errors] == [
        "Content-Type is given twice: give content_type= or the header"
    ]
