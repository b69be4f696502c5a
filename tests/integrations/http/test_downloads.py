"""Downloads with aiohttp and with Starlette, over real HTTP: the same rules for both."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA384

import aioencrypt
from aioencrypt import (
    EncryptionContextMismatchError,
    LimitError,
    Limits,
    MessageError,
    PlaintextLengthError,
    ProviderError,
    RawAESMasterKey,
    SignatureError,
    SignaturePolicy,
    SignaturePolicyError,
    decrypt_stream,
    open_seekable,
)
from aioencrypt.integrations.asgi import DecryptedResponse
from tests.support.http_services import Pieces, Ranges, Service
from tests.support.message_writer import (
    build_message,
    example_signing_key,
    public_key_pair,
    u16,
)
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    assert_idle,
    collected,
    flipped,
    on_asyncio,
    plaintext_of,
    sealed,
)
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(1_500_001)
on_both = pytest.mark.parametrize("kind", ["aiohttp", "asgi"])

clean = pytest.fixture(autouse=True, scope="module")(collected)


async def get(service: Service, kind: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
    """Return the response and its body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        service.on(kind) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=fields) as response,
    ):
        return response, await response.read()


async def assert_cut_off(service: Service, kind: str, error: type[Exception], **headers: str) -> None:
    """Assert that a client sees the start of a response, and an error."""
    async with (
        service.on(kind) as url,
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert [type(found) for found in service.errors] == [error]


def as_bytes(message: bytes, folder: Path) -> Any:
    return message


def as_path(message: bytes, folder: Path) -> Any:
    (folder / "message").write_bytes(message)
    return folder / "message"


def as_text_path(message: bytes, folder: Path) -> Any:
    return str(as_path(message, folder))


def as_ranges(message: bytes, folder: Path) -> Any:
    return Ranges(message)


# The whole


@on_both
@pytest.mark.parametrize(
    ("make", "suite"),
    [(as_bytes, SIGNED), (as_path, SIGNED), (as_bytes, UNSIGNED), (as_text_path, UNSIGNED)],
)
async def test_a_source_with_ranges_has_a_content_length(
    kind: str, make: Callable[[bytes, Path], Any], suite: Any, tmp_path: Path
) -> None:
    message = await sealed(PLAINTEXT, suite)
    service = Service(lambda: make(message, tmp_path), headers={"Cache-Control": "private"})
    response, body = await get(service, kind)
    assert (response.status, body) == (200, PLAINTEXT)
    assert response.headers["Content-Length"] == str(len(PLAINTEXT))
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Cache-Control"] == "private"
    assert response.headers["Accept-Ranges"] == ("none" if suite is SIGNED else "bytes")
    assert "Transfer-Encoding" not in response.headers


@on_both
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_lengths(kind: str, suite: Any) -> None:
    source: Any = b""
    service = Service(lambda: source)
    async with service.on(kind) as url, aiohttp.ClientSession() as session:
        for length in (0, 1, 4096, 8192, 300_000):
            message = await sealed(PLAINTEXT[:length], suite)
            for source in (message, Pieces(message)):  # noqa: B007 (the service takes it)
                async with session.get(url) as response:
                    assert (response.status, await response.read()) == (200, PLAINTEXT[:length])


@on_both
async def test_a_plain_source_is_sent_in_chunks_and_closed(kind: str) -> None:
    source = Pieces(await sealed(PLAINTEXT))
    response, body = await get(Service(lambda: source), kind)
    assert (response.status, body) == (200, PLAINTEXT)
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in response.headers
    assert response.headers["Accept-Ranges"] == "none"
    assert source.closed == 1


@on_both
async def test_a_plain_source_with_a_length(kind: str) -> None:
    source = Pieces(await sealed(PLAINTEXT))
    response, body = await get(Service(lambda: source, plaintext_length=len(PLAINTEXT)), kind)
    assert (response.status, body) == (200, PLAINTEXT)
    assert response.headers["Content-Length"] == str(len(PLAINTEXT))


@on_both
async def test_a_file_object_is_closed(kind: str, tmp_path: Path) -> None:
    file = as_path(await sealed(PLAINTEXT), tmp_path).open("rb")
    _, body = await get(Service(lambda: file), kind)
    assert body == PLAINTEXT
    assert file.closed


@on_both
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_a_range_source_is_asked_once_for_its_size_and_closed_once(kind: str, suite: Any) -> None:
    source = Ranges(await sealed(PLAINTEXT, suite))
    await get(Service(lambda: source), kind)
    assert (source.sizes, source.closed) == (1, 1)
    # Nothing is fetched twice but what every reader looks at: the header, and the end.
    assert source.given < len(source.data) + 20_000


# Parts


@on_both
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed, accepted", "unsigned"])
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("4095-4096", 4095, 4097), ("700000-", 700_000, None), ("-7", -7, None)],
)
async def test_ranges(kind: str, suite: Any, asked: str, start: int, end: int | None) -> None:
    source = Ranges(await sealed(PLAINTEXT, suite))
    service = Service(lambda: source, accept_unverified_signature=suite is SIGNED)
    response, body = await get(service, kind, Range=f"bytes={asked}")
    assert (response.status, body) == (206, PLAINTEXT[start:end])
    assert response.headers["Content-Length"] == str(len(body))
    first = start % len(PLAINTEXT)
    assert response.headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(PLAINTEXT)}"
    assert source.given < len(body) * 2 + 40_000
    assert source.closed == 1


@on_both
async def test_a_range_behind_the_end(kind: str) -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    response, body = await get(Service(lambda: message), kind, Range=f"bytes={len(PLAINTEXT)}-")
    assert (response.status, body) == (416, b"")
    assert response.headers["Content-Range"] == f"bytes */{len(PLAINTEXT)}"
    assert response.headers["Content-Length"] == "0"


@on_both
@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=5-1", "items=0-1"])
async def test_other_ranges_are_answered_with_everything(kind: str, asked: str) -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    response, body = await get(Service(lambda: message), kind, Range=asked)
    assert (response.status, body) == (200, PLAINTEXT)


@on_both
@pytest.mark.parametrize("plain", [True, False], ids=["plain source", "signed"])
async def test_ranges_that_cannot_be_had_are_answered_with_everything(kind: str, plain: bool) -> None:
    message = await sealed(PLAINTEXT)
    service = Service(lambda: Pieces(message) if plain else message)
    response, body = await get(service, kind, Range="bytes=0-1")
    assert (response.status, response.headers["Accept-Ranges"], body) == (200, "none", PLAINTEXT)


@on_both
async def test_the_whole_of_a_signed_message_is_verified_also_where_parts_are_not(kind: str) -> None:
    message = flipped(await sealed(PLAINTEXT), -1)
    service = Service(lambda: message, accept_unverified_signature=True)
    response, body = await get(service, kind, Range="bytes=5-9")
    assert (response.status, body) == (206, PLAINTEXT[5:10])
    await assert_cut_off(service, kind, SignatureError)


# Conditions, HEAD


@on_both
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_conditions(kind: str, suite: Any) -> None:
    source = Ranges(await sealed(PLAINTEXT, suite))
    service = Service(lambda: source)
    response, _ = await get(service, kind)
    etag = response.headers["ETag"]
    assert len(etag) == 66
    for headers, status in (
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": '"other"'}, 200),
        ({"If_Match": '"other"'}, 412),
        ({"If_Range": etag, "Range": "bytes=0-0"}, 206 if suite is UNSIGNED else 200),
        ({"If_Range": '"other"', "Range": "bytes=0-0"}, 200),
    ):
        source.closed = 0
        response, body = await get(service, kind, **headers)
        assert response.status == status
        assert response.headers["ETag"] == etag
        assert len(body) == {200: len(PLAINTEXT), 206: 1}.get(status, 0)
        assert source.closed == 1
    again = await sealed(PLAINTEXT, suite)
    response, _ = await get(Service(lambda: again), kind, If_None_Match=etag)
    assert response.status == 200


@on_both
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_head(kind: str, suite: Any) -> None:
    source = Ranges(await sealed(PLAINTEXT, suite))
    response, body = await get(Service(lambda: source), kind, "HEAD", Range="bytes=0-1")
    assert (response.status, body) == (200, b"")
    assert response.headers["Content-Length"] == str(len(PLAINTEXT))
    assert source.given < 20_000
    assert source.closed == 1


@on_both
async def test_head_of_a_plain_source(kind: str) -> None:
    source = Pieces(await sealed(PLAINTEXT))
    service = Service(lambda: source)
    response, body = await get(service, kind, "HEAD")
    assert (response.status, body, service.errors) == (200, b"", [])
    assert source.closed == 1


# Errors


@on_both
@pytest.mark.parametrize(("plain", "suite"), [(True, SIGNED), (False, SIGNED), (False, UNSIGNED)])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"encryption_context": {"name": "other"}}, EncryptionContextMismatchError),
        ({"provider": RawAESMasterKey("tests", "other", wrapping_key=bytes(32))}, ProviderError),
        ({"limits": Limits(max_header_length=10)}, LimitError),
    ],
    ids=["context", "key", "limit"],
)
async def test_what_is_wrong_with_header_or_key_comes_before_the_status_line(
    kind: str, plain: bool, suite: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    message = await sealed(PLAINTEXT, suite, encryption_context={"name": "report"})
    source: Any = Pieces(message) if plain else Ranges(message)
    service = Service(lambda: source, **options)
    response, _ = await get(service, kind)
    assert response.status == 500
    assert [type(found) for found in service.errors] == [error]
    assert source.closed == 1


@on_both
@pytest.mark.parametrize(
    ("suite", "policy"), [(SIGNED, SignaturePolicy.FORBID), (UNSIGNED, SignaturePolicy.REQUIRE)]
)
async def test_the_signature_policy_holds_for_parts_too(kind: str, suite: Any, policy: Any) -> None:
    message = await sealed(PLAINTEXT, suite)
    service = Service(lambda: message, signature_policy=policy, accept_unverified_signature=True)
    response, _ = await get(service, kind, Range="bytes=0-1")
    assert response.status == 500
    assert [type(found) for found in service.errors] == [SignaturePolicyError]


@on_both
async def test_a_message_that_must_be_signed_is_read_as_a_whole(kind: str) -> None:
    message = await sealed(PLAINTEXT)
    policy = SignaturePolicy.REQUIRE
    service = Service(lambda: message, signature_policy=policy, accept_unverified_signature=True)
    response, body = await get(service, kind, Range="bytes=0-1")
    assert (response.status, response.headers["Accept-Ranges"], body) == (200, "none", PLAINTEXT)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "in the middle": lambda message: flipped(message, len(message) * 2 // 3),
    "at the end": lambda message: flipped(message, -1),
    "cut off": lambda message: message[:-1],
    "cut off in the middle": lambda message: message[: len(message) * 2 // 3],
    "followed by more": lambda message: message + b"x",
}
broken = pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)


@on_both
@broken
@pytest.mark.parametrize(
    ("length", "suite"),
    [(None, UNSIGNED), (len(PLAINTEXT), UNSIGNED), (len(PLAINTEXT), SIGNED)],
    ids=["in chunks", "with Content-Length", "signed, with Content-Length"],
)
async def test_a_response_never_ends_as_if_a_bad_message_were_good(
    kind: str, damage: Callable[[bytes], bytes], length: int | None, suite: Any
) -> None:
    source = Pieces(damage(await sealed(PLAINTEXT, suite)))
    service = Service(lambda: source, plaintext_length=length)
    async with (
        service.on(kind) as url,
        aiohttp.ClientSession() as session,
        session.get(url) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    [error] = service.errors
    assert isinstance(error, MessageError)
    assert source.closed == 1
    assert_idle()


@on_both
@broken
async def test_a_signed_message_of_a_file_that_turns_out_bad(
    kind: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = as_path(damage(await sealed(PLAINTEXT)), tmp_path)
    service = Service(lambda: path)
    async with service.on(kind) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    [error] = service.errors
    assert isinstance(error, MessageError)


@on_both
@pytest.mark.parametrize("damage", ["at the end", "cut off", "cut off in the middle", "followed by more"])
async def test_an_unsigned_message_with_a_bad_end_is_an_error_before_the_status_line(
    kind: str, damage: str
) -> None:
    message = BROKEN[damage](await sealed(PLAINTEXT, UNSIGNED))
    service = Service(lambda: message)
    response, _ = await get(service, kind)
    assert response.status == 500
    assert isinstance(service.errors[0], MessageError)


@on_both
@broken
async def test_a_small_message_is_whole_or_an_error(kind: str, damage: Callable[[bytes], bytes]) -> None:
    message = damage(await sealed(b"quarterly figures"))
    cases: list[tuple[Any, dict[str, Any]]] = [(Pieces(message), {"plaintext_length": 17})]
    if message[-1:] != b"x":  # that could be the end of a longer signature
        cases.append((message, {}))
    for source, options in cases:
        service = Service(lambda source=source: source, **options)  # type: ignore[misc]
        response, _ = await get(service, kind)
        assert response.status == 500
        assert isinstance(service.errors[0], MessageError)


@on_both
@pytest.mark.parametrize("off", [-1, 1])
async def test_a_length_that_is_wrong_is_found_out(kind: str, off: int) -> None:
    message = await sealed(PLAINTEXT)
    service = Service(lambda: Pieces(message), plaintext_length=len(PLAINTEXT) + off)
    await assert_cut_off(service, kind, PlaintextLengthError)


@on_both
@pytest.mark.parametrize("length", [None, len(PLAINTEXT)])
async def test_an_error_of_the_source_comes_out_as_it_is(kind: str, length: int | None) -> None:
    source = Pieces((await sealed(PLAINTEXT))[:700_000], KeyError("disk"))
    service = Service(lambda: source, plaintext_length=length)
    await assert_cut_off(service, kind, KeyError)
    assert source.closed == 1


@on_both
@pytest.mark.parametrize("plain", [True, False], ids=["plain source", "odd signature"])
async def test_in_http_1_0_nothing_is_sent_before_everything_is_verified(kind: str, plain: bool) -> None:
    # Without a length, the end of the connection would be the end of the content.
    good = await sealed(PLAINTEXT)
    damaged = flipped(good, -1)
    if not plain:  # a footer that is not as long as ours
        damaged = good[:-105] + b"\x00\x66" + good[-102:]
    for message in (damaged, good):
        source: Any = Pieces(message) if plain else message
        service = Service(lambda source=source: source)  # type: ignore[misc]
        async with service.on(kind) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2][:-1]))
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        if message is good:
            assert b" 200 OK" in head.splitlines()[0]
            assert body == PLAINTEXT
        else:
            assert b" 500 " in head.splitlines()[0]
            assert isinstance(service.errors[0], MessageError)


@on_both
async def test_a_signature_of_another_length(kind: str) -> None:
    """Such a message is sent in chunks: nobody can tell how long it is."""
    key = example_signing_key(SIGNED)
    made = build_message(SIGNED, PLAINTEXT, signing_key=key, encryption_context=public_key_pair(key))
    signature = b""
    while len(signature) != 102:
        signature = key.sign(made.signed_part, ECDSA(SHA384()))
    message = made.signed_part + u16(len(signature)) + signature
    response, body = await get(Service(lambda: message, provider=CountingKey()), kind)
    assert (response.status, body) == (200, PLAINTEXT)
    assert "Content-Length" not in response.headers


@on_both
@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        (b"", {"plaintext_length": 5}, r"plaintext_length is for sources without ranges"),
        (42, {}, "int is not a source of bytes"),
        (open_seekable(b"", KEY), {}, "a SeekableDecryptStream gives plaintext, and the response decrypts"),
        (decrypt_stream(b"", KEY), {}, "a DecryptStream gives plaintext, and the response decrypts"),
        (aioencrypt.open("x", "rb", provider=KEY), {}, "a DecryptStream gives plaintext"),
        (Ranges, {}, "type is not a source of ranges"),
        (b"", {"encryption_context": {"a": 1}}, "encryption context|encryption_context"),
        (b"", {"provider": 42}, "int is neither a master key"),
    ],
)
async def test_wrong_arguments(kind: str, source: Any, options: dict[str, Any], error: str) -> None:
    service = Service(lambda: source, **options)
    response, _ = await get(service, kind)
    assert response.status == 500
    [found] = service.errors
    assert isinstance(found, TypeError | ValueError)
    if kind == "asgi":  # before the response is sent, where the mistake was made
        with pytest.raises(type(found)):
            DecryptedResponse(source, **{"provider": KEY} | options)
    assert re.search(error, str(found))
