"""What goes wrong on purpose: queued errors, regions that are down, expired credentials, altered answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.requests import Request


@attrs.define(eq=False)
class _Failure:
    code: str
    message: str
    operation: str | None
    region: str | None
    times: int

    def concerns(self, request: Request) -> bool:
        return self.operation in (None, request.operation) and self.region in (None, request.region)


@attrs.define(eq=False)
class _Change:
    operation: str
    # It may stand in for a plaintext, so it must not be shown.
    fields: dict[str, object] = attrs.field(repr=False)
    times: int


class Faults:
    """The faults to come. Not thread-safe."""

    def __init__(self, service: str = "KMS") -> None:
        self._service = service
        self.outages: set[str] = set()
        self.credentials_expired = False
        self._failures: list[_Failure] = []
        self._changes: list[_Change] = []

    def queue(
        self, code: str, message: str, *, times: int, operation: str | None, region: str | None
    ) -> None:
        """Let the next matching requests fail."""
        self._failures.append(_Failure(code, message, operation, region, _positive(times)))

    def change(self, operation: str, fields: Mapping[str, object], *, times: int) -> None:
        """Alter the next answers of an operation."""
        self._changes.append(_Change(operation, dict(fields), _positive(times)))

    def check(self, request: Request) -> None:
        """Raise what the request meets before it is looked at: a `ConnectionError` or a `Refusal`."""
        if request.region in self.outages:
            raise ConnectionError(f"the in-memory {self._service} is out of reach in {request.region}")
        if self.credentials_expired:
            raise Refusal("ExpiredTokenException", "The security token included in the request is expired")
        for failure in self._failures:
            if failure.concerns(request):
                failure.times -= 1
                self._failures = [left for left in self._failures if left.times]
                raise Refusal(failure.code, failure.message)

    def alter(self, request: Request, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as the client shall see it."""
        for change in self._changes:
            if change.operation == request.operation:
                change.times -= 1
                self._changes = [left for left in self._changes if left.times]
                altered = answer | change.fields
                return {name: value for name, value in altered.items() if value is not None}
        return answer


def _positive(times: int) -> int:
    if times < 1:
        raise ValueError(f"times must be at least 1, not {times}")
    return times
