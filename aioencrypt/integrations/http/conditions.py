"""HTTP without I/O: what a request asks for, and how a decrypted message answers it.

Specification: RFC 9110, sections 8.6, 8.8.3, 13 and 14.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from aioencrypt.runtime.arguments import check_limit

# One range. A list of several is answered with everything, as section 14.2 allows.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,30})-([0-9]{0,30})|-([0-9]{1,30}))[ \t]*", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')


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

    def unmet_condition(self, etag: str) -> int | None:
        """Return the status that answers instead of the content, None where the conditions are met."""
        if self.method not in ("GET", "HEAD"):
            return None
        if "if-match" in self.fields and not _matches(self.fields["if-match"], etag, weakly=False):
            return 412
        if "if-none-match" in self.fields and _matches(self.fields["if-none-match"], etag, weakly=True):
            return 304
        return None

    def range_of(self, etag: str) -> re.Match[str] | None:
        """Return the range, unless it is asked for under another state of the content."""
        # A date never matches: nobody tells one here.
        return self.range if self.fields.get("if-range", etag).strip() == etag else None


def _matches(value: str, etag: str, *, weakly: bool) -> bool:
    if value.strip() == "*":
        return True
    tags = _ETAG.findall(value)
    return etag in ([tag.removeprefix("W/") for tag in tags] if weakly else tags)


@attrs.frozen
class Plan:
    """How a request is answered.

    `content` says whether bytes follow: those from `start` up to `end`, or to the end for None.
    """

    status: int
    headers: list[tuple[str, str]]
    content: bool = False
    start: int = 0
    end: int | None = None


def plan_response(
    head: RequestHead,
    *,
    etag: str,
    length: int | None,
    ranges: bool,
    headers: Iterable[tuple[str, str]],
) -> Plan:
    """Plan the answer to a request for content of a length, which may not be known.

    `ranges`: whether parts of it can be had. `headers` are those of the whole content.
    """
    given = [(name, value) for name, value in headers if name.lower() != "content-length"]
    if not any(name.lower() == "etag" for name, _ in given):
        given.append(("ETag", etag))
    given.append(("Accept-Ranges", "bytes" if ranges else "none"))
    if status := head.unmet_condition(etag):
        return Plan(status, _without_content(given))
    content = head.method != "HEAD"
    wanted = head.range_of(etag) if ranges and length else None
    if wanted is None or length is None:
        if length is not None:
            given.append(("Content-Length", str(length)))
        return Plan(200, given, content, 0, length)
    start, end = _resolve(wanted, length)
    if start >= end:
        return Plan(416, [*_without_content(given), ("Content-Range", f"bytes */{length}")])
    given.append(("Content-Range", f"bytes {start}-{end - 1}/{length}"))
    given.append(("Content-Length", str(end - start)))
    return Plan(206, given, content, start, end)


def _without_content(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in headers if not name.lower().startswith("content-")]
    return [*kept, ("Content-Length", "0")]


def _resolve(wanted: re.Match[str], length: int) -> tuple[int, int]:
    first, last, suffix = wanted.groups()
    if suffix:
        return max(0, length - int(suffix)), length
    return int(first), min(int(last) + 1, length) if last else length


@attrs.frozen
class Refusal:
    """Why a body is not taken: a status, and a sentence for the client."""

    status: int
    text: str


class BodyMeter:
    """Counts the bytes of a body against a limit, and against the length that its sender announced.

    `length` is that length; None where it says nothing about the bytes that arrive here, because they
    come in chunks or are decoded on the way.
    """

    def __init__(self, fields: Mapping[str, str], max_length: int | None) -> None:
        self._max_length = check_limit("max_length", max_length)
        self.received: int = 0
        encoded = fields.get("content-encoding", "identity").strip().lower() != "identity"
        announced = fields.get("content-length", "")
        plain = not encoded and "transfer-encoding" not in fields
        self.length: int | None = int(announced) if plain and re.fullmatch("[0-9]{1,30}", announced) else None

    def start(self) -> Refusal | None:
        """Tell whether to refuse the body before anything of it is read."""
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
