"""An in-memory DynamoDB for tests: tables, items, conditions and transactions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import anyio
import attrs

from aioencrypt.runtime.threads import ThreadLock
from aioencrypt.testing.dynamodb.client import InMemoryDynamoDBClient
from aioencrypt.testing.dynamodb.tables import OPERATIONS, PERMISSIONS, Cancelled, Tables
from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.faults import Faults
from aioencrypt.testing.kms.keys import check_region
from aioencrypt.testing.kms.requests import Request

__all__ = ["DynamoDBCall", "InMemoryDynamoDB", "InMemoryDynamoDBClient", "InMemoryDynamoDBError"]

_SERVER_FAULTS = {"InternalServerError": 500, "ServiceUnavailable": 503}


class InMemoryDynamoDBError(Exception):
    """An error of the in-memory DynamoDB, with the shape of botocore's `ClientError`.

    `response` is `{"Error": {"Code": str, "Message": str}, "ResponseMetadata": {"RequestId": str,
    "HTTPStatusCode": int}}`, with `CancellationReasons` for a cancelled transaction; `operation_name` is
    AWS's name of the operation, such as `"GetItem"`.
    """

    response: dict[str, Any]
    operation_name: str

    def __init__(self, error_response: Mapping[str, Any], operation_name: str) -> None:
        super().__init__(error_response, operation_name)
        self.response = dict(error_response)
        self.operation_name = operation_name

    def __str__(self) -> str:
        error = self.response["Error"]
        return (
            f"An error occurred ({error['Code']}) when calling the {self.operation_name} operation: "
            f"{error['Message']}"
        )


@attrs.frozen
class DynamoDBCall:
    """One request to the in-memory DynamoDB, including those that failed in an outage.

    `operation` is AWS's name; `table_name` (for a transaction, the table of its first write) and
    `parameters` are as the caller sent them. `error` is the error code, `"ConnectionError"` for an outage,
    None for success.
    """

    operation: str
    region: str
    table_name: str | None
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    error: str | None


class InMemoryDynamoDB:
    """DynamoDB without AWS: tables in any region, and a client for each region.

        dynamodb = InMemoryDynamoDB()
        connection = AWSConnection(dynamodb=dynamodb.clients("eu-west-1"), ...)
        await store.create_key_store()

    Conditions are evaluated, and transactions are atomic. Requests that AWS rejects are rejected. Updates,
    indexes and pages are not supported.

    The methods of this class are synchronous, take effect immediately, may be called from any thread, and
    are neither logged nor subject to faults. `latency` delays every answer, in seconds. A request takes
    effect before the delay, so a caller that is cancelled while waiting has made the call. A new table is
    active at once, or after `creating` descriptions with the status CREATING.
    """

    def __init__(
        self,
        *,
        account: str = "111122223333",
        partition: str = "aws",
        latency: float = 0.0,
        creating: int = 0,
    ) -> None:
        self._lock = ThreadLock()
        self._tables = Tables(account, partition)
        self._faults = Faults("DynamoDB")
        self._cancellations: list[tuple[str, ...]] = []
        self._calls: list[DynamoDBCall] = []
        self.latency = latency
        self._tables.creating = creating

    @property
    def latency(self) -> float:
        """Seconds between a request and its answer."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"latency must be a number of seconds, not {seconds!r}")
        self._latency = seconds

    def items(self, table_name: str, *, region: str = "us-east-1") -> list[dict[str, dict[str, Any]]]:
        """Return a copy of all items of a table, by primary key."""
        with self._lock:
            try:
                return self._tables.table(region, table_name).in_order()
            except Refusal as refusal:
                raise _service_error(refusal, "Scan") from None

    # Permissions

    def deny(self, table_name: str, *operations: str) -> None:
        """Deny operations on a table, all if none is named: AccessDeniedException.

        They are named as permissions are, without `dynamodb:`; a transaction needs those of its writes
        (`PutItem`, `DeleteItem`, `ConditionCheckItem`). Raises `ValueError` for an unknown name.
        """
        _check_names(operations, PERMISSIONS)
        with self._lock:
            self._tables.denied.setdefault(table_name, set()).update(operations or PERMISSIONS)

    def allow(self, table_name: str, *operations: str) -> None:
        """Undo denials; all of them if no operation is named."""
        _check_names(operations, PERMISSIONS)
        with self._lock:
            self._tables.denied.get(table_name, set()).difference_update(operations or PERMISSIONS)

    # Faults

    def fail_next(
        self,
        code: str,
        *,
        times: int = 1,
        operation: str | None = None,
        region: str | None = None,
        message: str = "injected by fail_next",
    ) -> None:
        """Make the next `times` requests fail with an error code, such as ThrottlingException.

        With `operation` or `region`, only such requests count. Several calls queue up.
        """
        _check_names([operation] if operation is not None else [], OPERATIONS)
        with self._lock:
            self._faults.queue(code, message, times=times, operation=operation, region=region)

    def cancel_next(self, *reasons: str) -> None:
        """Cancel the next transaction, for reasons such as `"None", "TransactionConflict"`, one a write."""
        if not reasons:
            raise ValueError("a transaction is cancelled for at least one reason")
        with self._lock:
            self._cancellations.append(reasons)

    def outage(self, region: str) -> None:
        """Make a region unreachable: `ConnectionError`."""
        check_region(region)
        with self._lock:
            self._faults.outages.add(region)

    def recover(self, region: str) -> None:
        """Undo `outage()`."""
        with self._lock:
            self._faults.outages.discard(region)

    def answer_next(self, operation: str, changes: Mapping[str, object], *, times: int = 1) -> None:
        """Change fields of the next successful answers of an operation; None removes a field."""
        _check_names([operation], OPERATIONS)
        with self._lock:
            self._faults.change(operation, changes, times=times)

    # The log

    @property
    def calls(self) -> list[DynamoDBCall]:
        """A copy of the list of requests so far, in order of arrival."""
        with self._lock:
            return list(self._calls)

    def call_count(self, operation: str | None = None) -> int:
        """Return the number of requests, of one operation or of all."""
        _check_names([operation] if operation is not None else [], OPERATIONS)
        return sum(operation in (None, call.operation) for call in self.calls)

    def reset_calls(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._calls.clear()

    # Requests

    def client(self, region: str) -> InMemoryDynamoDBClient:
        """Return a client for a region."""
        check_region(region)
        return InMemoryDynamoDBClient(region, self._invoke)

    def clients(self, *regions: str) -> dict[str, InMemoryDynamoDBClient]:
        """Return a client for each region."""
        return {region: self.client(region) for region in regions}

    async def _invoke(self, region: str, operation: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        outcome = self._arrive(Request(operation, region, parameters))
        await anyio.sleep(0 if isinstance(outcome, ConnectionError) else self.latency)
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # the traceback would keep itself alive by it

    def _arrive(self, request: Request) -> dict[str, Any] | InMemoryDynamoDBError | ConnectionError:
        outcome: dict[str, Any] | InMemoryDynamoDBError | ConnectionError
        error = None
        with self._lock:
            try:
                self._faults.check(request)
                if request.operation == "TransactWriteItems" and self._cancellations:
                    raise Cancelled(self._cancellations.pop(0))
                answer = self._tables.perform(request)
                metadata = {"RequestId": str(uuid.uuid4()), "HTTPStatusCode": 200}
                outcome = self._faults.alter(request, answer) | {"ResponseMetadata": metadata}
            except Refusal as refusal:
                error = refusal.code
                outcome = _service_error(refusal, request.operation)
            except ConnectionError as cut:
                error = "ConnectionError"
                outcome = cut.with_traceback(None)
            self._calls.append(_call(request, error))
        return outcome


def _service_error(refusal: Refusal, operation: str) -> InMemoryDynamoDBError:
    status = _SERVER_FAULTS.get(refusal.code, 400)
    response: dict[str, Any] = {
        "Error": {"Code": refusal.code, "Message": refusal.message},
        "ResponseMetadata": {"RequestId": str(uuid.uuid4()), "HTTPStatusCode": status},
    }
    if isinstance(refusal, Cancelled):
        response["CancellationReasons"] = refusal.reasons
    return InMemoryDynamoDBError(response, operation)


def _call(request: Request, error: str | None) -> DynamoDBCall:
    parameters: dict[str, Any] = {
        name: value for name, value in request.parameters.items() if value is not None
    }
    named = parameters
    if request.operation == "TransactWriteItems" and parameters["TransactItems"]:
        (named,) = parameters["TransactItems"][0].values()
    table_name = named.get("TableName")
    return DynamoDBCall(request.operation, request.region, table_name, MappingProxyType(parameters), error)


def _check_names(names: Iterable[str], known: Iterable[str]) -> None:
    # A misspelt name would match nothing, and the test that uses it would pass for the wrong reason.
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
