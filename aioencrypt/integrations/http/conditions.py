"""HTTP semantics without I/O: decide how to answer a request with a decrypted message.

Specification: RFC 9110, sections 8.6, 8.8.3, 13 and 14.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import quote

import attrs

from aioencrypt.runtime.arguments import check_limit, check_seconds, check_type

# One range. A list of several is answered with everything, as section 14.2 allows.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,30})-([0-9]{0,30})|-([0-9]{1,30}))[ \t]*", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_OWN_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
# Section 5.6.7: the form that is written, and the two obsolete ones.
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"
    r"|[A-Z][a-z]+day, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}"
)
# Statuses whose response has no content, or that only the library can choose.
_RESERVED_STATUSES = (204, 205, 206, 304)
# What browsers read the same way in a quoted file name: no quotes, backslashes, slashes or percent signs.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&'()+,.;=@\[\]^_`{}~-]+")
# Headers that follow from the message and the request.
_COMPUTED = frozenset({"accept-ranges", "content-length", "content-range", "transfer-encoding"})
# Headers of the content itself, which a response without it does not have.
_OF_THE_CONTENT = ("disposition", "encoding", "language", "length", "location", "range", "type")


def fields_of(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return header fields by their names in lower case; repeated ones are joined as a list."""
    fields: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields


@attrs.frozen
class RequestHead:
    """The method, the version and the header fields of a request."""

    method: str
    version: tuple[int, int]
    fields: Mapping[str, str] = attrs.field(repr=False)

    @property
    def range(self) -> re.Match[str] | None:
        """The one range that is asked for; None where everything is the answer."""
        value = self.fields.get("range")
        found = _RANGE.fullmatch(value) if value and self.method == "GET" else None
        if found and found[2] and int(found[1]) > int(found[2]):
            return None
        return found

    @property
    def body_length(self) -> int | None:
        """How many bytes follow the head; None where it does not say."""
        if self.fields.keys() & {"transfer-encoding", "content-length"}:
            return _announced_length(self.fields)
        return 0 if self.version < (2, 0) or self.method in ("GET", "HEAD") else None

    def unmet_condition(self, sent: Validators) -> int | None:
        """Return the status that answers instead of the content, None where the conditions are met.

        Section 13.2.2: a date counts only where no tag is asked for.
        """
        if self.method not in ("GET", "HEAD"):
            return None
        fields = self.fields
        if "if-match" in fields:
            failed = not sent.matches(fields["if-match"], weakly=False)
        else:
            failed = sent.changed_since(fields.get("if-unmodified-since")) is True
        if failed:
            return 412
        if "if-none-match" in fields:
            known = sent.matches(fields["if-none-match"], weakly=True)
        else:
            known = sent.changed_since(fields.get("if-modified-since")) is False
        return 304 if known else None

    def range_of(self, sent: Validators) -> re.Match[str] | None:
        """Return the range, unless it is asked for under another state of the content."""
        condition = self.fields.get("if-range", "").strip()
        if "if-range" not in self.fields or (condition == sent.etag and not sent.weak):
            return self.range
        return self.range if sent.modified and http_date(condition) == sent.modified else None


@attrs.frozen
class Validators:
    """The entity tag and the modification date that a response sends."""

    etag: str
    modified: datetime | None = None

    @property
    def weak(self) -> bool:
        """Whether the same tag may stand for other bytes."""
        return self.etag.startswith("W/")

    def matches(self, value: str, *, weakly: bool) -> bool:
        """Return whether a list of tags has this one, by the weak or the strong comparison."""
        if value.strip() == "*":
            return True
        tags = _ETAG.findall(value)
        if weakly:
            return self.etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]
        return not self.weak and self.etag in tags

    def changed_since(self, value: str | None) -> bool | None:
        """Return whether the content changed after a date; None where either date is not known."""
        date = http_date(value)
        return self.modified > date if self.modified and date else None


def http_date(text: str | None) -> datetime | None:
    """Parse a date of HTTP in any of its three forms; returns None for anything else."""
    if not text or not _HTTP_DATE.fullmatch(text.strip()):
        return None
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def descriptive_headers(
    given: Mapping[str, str] | None,
    *,
    etag: str | None,
    last_modified: datetime | float | None,
    filename: str | None,
) -> list[tuple[str, str]]:
    """Return the headers that arguments stand for.

    `given`: the caller's own headers. Raises `ValueError` and `TypeError` for bad values, for a header that
    is given twice, and for one that only the library can know.
    """
    headers = []
    if etag is not None:
        headers.append(("etag", "ETag", _entity_tag(etag)))
    if last_modified is not None:
        headers.append(("last_modified", "Last-Modified", _date_text(last_modified)))
    if filename is not None:
        headers.append(("filename", "Content-Disposition", attachment(filename)))
    fields = fields_of((given or {}).items())
    for argument, name, _ in headers:
        if name.lower() in fields:
            raise ValueError(f"{name} is given twice: give {argument}= or the header")
    for name in sorted(_COMPUTED & fields.keys()):
        raise ValueError(f"headers={{{name!r}: ...}} is not supported: the response has its own")
    if not _OWN_ETAG.fullmatch(fields.get("etag", '""')):
        raise ValueError("the ETag in headers has no quotes, or a character that is not allowed: use etag=")
    if "last-modified" in fields and http_date(fields["last-modified"]) is None:
        raise ValueError("the Last-Modified in headers is no date of HTTP: use last_modified=")
    return [(name, value) for _, name, value in headers]


def _entity_tag(etag: str) -> str:
    tag = etag if check_type("etag", etag, str).startswith(('"', 'W/"')) else f'"{etag}"'
    if not _OWN_ETAG.fullmatch(tag):
        raise ValueError("etag has a character that is not allowed: use visible ASCII without quotes")
    return tag


def _date_text(moment: datetime | float) -> str:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError("last_modified has no time zone: give an aware datetime, or a timestamp")
        moment = moment.timestamp()
    # Section 8.8.2.1: never later than the response itself.
    moment = min(check_seconds("last_modified", moment), time.time())
    try:
        return formatdate(moment, usegmt=True)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"last_modified is {moment}: give a date after the year 0") from error


def attachment(filename: str) -> str:
    """Return a Content-Disposition that saves the content under a name (RFC 6266).

    Names that are not plain ASCII are sent twice: encoded, and with `_` for what old clients misread.
    """
    if not check_type("filename", filename, str):
        raise ValueError("filename is empty")
    if _PLAIN_NAME.fullmatch(filename):
        return f'attachment; filename="{filename}"'
    plain = "".join(char if _PLAIN_NAME.fullmatch(char) else "_" for char in filename)
    encoded = quote(filename.encode(errors="replace"), safe="!#$&+-.^_`|~")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def check_status(name: str, status: int) -> None:
    """Raise `ValueError` for a status that cannot be given to a response with content."""
    if not 200 <= check_type(name, status, int) <= 599 or status in _RESERVED_STATUSES:
        raise ValueError(f"{name} is {status}; it must be 200 to 599, but not 204, 205, 206 or 304")


@attrs.frozen
class Plan:
    """How a request is answered.

    `content` says whether bytes follow: those from `start` up to `end`, or to the end for None. `partial`:
    they are not all of the content.
    """

    status: int
    headers: list[tuple[str, str]]
    content: bool = False
    start: int = 0
    end: int | None = None
    partial: bool = False


def plan_response(
    head: RequestHead,
    *,
    etag: str,
    length: int | None,
    ranges: bool,
    headers: Iterable[tuple[str, str]],
    status: int = 200,
) -> Plan:
    """Plan the answer to a request for content of a length, which may not be known.

    `ranges`: whether parts of it can be had. `headers` are those of the whole content; an ETag among them
    takes the place of `etag`. Conditions apply to a `status` of success, and ranges to 200.
    """
    given = [(name, value) for name, value in headers if name.lower() not in _COMPUTED]
    ranges = ranges and status == 200
    fields = fields_of(given)
    if "etag" not in fields:
        given.append(("ETag", etag))
    sent = Validators(fields.get("etag", etag), http_date(fields.get("last-modified")))
    given.append(("Accept-Ranges", "bytes" if ranges else "none"))
    if status < 300 and (unmet := head.unmet_condition(sent)):
        return Plan(unmet, _without_content(given, unmet))
    content = head.method != "HEAD"
    wanted = head.range_of(sent) if ranges and length else None
    if wanted is None or length is None:
        if length is not None:
            given.append(("Content-Length", str(length)))
        return Plan(status, given, content, 0, length)
    start, end = _resolve(wanted, length)
    if start >= end:
        return Plan(416, [*_without_content(given, 416), ("Content-Range", f"bytes */{length}")])
    given.append(("Content-Range", f"bytes {start}-{end - 1}/{length}"))
    given.append(("Content-Length", str(end - start)))
    return Plan(206, given, content, start, end, partial=end - start < length)


def _without_content(headers: list[tuple[str, str]], status: int) -> list[tuple[str, str]]:
    """Return the headers of a response without content. RFC 9110, sections 8.6 and 15.4.5 for 304."""
    dropped = {f"content-{name}" for name in _OF_THE_CONTENT}
    if status == 304:
        dropped.remove("content-location")
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    return kept if status == 304 else [*kept, ("Content-Length", "0")]


def _resolve(wanted: re.Match[str], length: int) -> tuple[int, int]:
    first, last, suffix = wanted.groups()
    if suffix:
        return max(0, length - int(suffix)), length
    return int(first), min(int(last) + 1, length) if last else length


@attrs.frozen
class Refusal:
    """Why a body is rejected: a status, and a sentence for the client."""

    status: int
    text: str
    headers: Mapping[str, str] = attrs.Factory(dict)


def _announced_length(fields: Mapping[str, str]) -> int | None:
    announced = fields.get("content-length", "").strip()
    plain = "transfer-encoding" not in fields and re.fullmatch("[0-9]{1,30}", announced)
    return int(announced) if plain else None


class BodyMeter:
    """Check the length of a body against a limit and the announced length.

    `length` is the announced length; None if the body is chunked or decoded on the way. Encoded bodies are
    rejected unless the caller accepts them, because no framework notices a truncated compressed body.
    """

    def __init__(
        self, fields: Mapping[str, str], max_length: int | None, *, accept_content_encoding: bool = False
    ) -> None:
        self._max_length = check_limit("max_length", max_length)
        check_type("accept_content_encoding", accept_content_encoding, bool)
        self.received: int = 0
        encoded = fields.get("content-encoding", "").strip().lower() not in ("", "identity")
        self._refused = "Content-Encoding" if encoded and not accept_content_encoding else ""
        # aiohttp does not undo other codings than chunked.
        if fields.get("transfer-encoding", "chunked").strip().lower() != "chunked":
            self._refused = "Transfer-Encoding other than chunked"
        self.length: int | None = None if encoded else _announced_length(fields)

    def start(self) -> Refusal | None:
        """Tell whether to refuse the body before anything of it is read."""
        if self._refused:
            text = f"a body with a {self._refused} is not taken: send it without"
            return Refusal(415, text, {"Accept-Encoding": "identity"})
        return self._too_large(self.length or 0)

    def add(self, count: int) -> Refusal | None:
        """Count bytes that have arrived; tells whether to refuse them."""
        self.received += count
        if self.length is not None and self.received > self.length:
            return self._wrong_length()
        return self._too_large(self.received)

    def end(self) -> Refusal | None:
        """Tell whether the body was complete."""
        if self.length is not None and self.received < self.length:
            return self._wrong_length()
        return None

    def _too_large(self, count: int) -> Refusal | None:
        if self._max_length is None or count <= self._max_length:
            return None
        return Refusal(413, f"the upload is longer than {self._max_length} bytes")

    def _wrong_length(self) -> Refusal:
        return Refusal(
            400, f"the body does not have the {self.length} bytes that its Content-Length announced"
        )
