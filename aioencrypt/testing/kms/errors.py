"""How the in-memory KMS says no, in the words and with the numbers of AWS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Everything else is 400: KMS answers even AccessDeniedException and ExpiredTokenException with it.
_SERVER_FAULTS = {
    "DependencyTimeoutException": 503,
    "InternalFailure": 500,
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
}


def http_status(code: str) -> int:
    """Return the HTTP status that AWS KMS sends along with an error code."""
    return _SERVER_FAULTS.get(code, 400)


class Refusal(Exception):
    """An error of the service that does not know yet which operation and request it belongs to."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class InMemoryKMSError(Exception):
    """What the in-memory KMS answers instead of a result; botocore's `ClientError` in shape.

    `response` is `{"Error": {"Code": str, "Message": str}, "ResponseMetadata": {"RequestId": str,
    "HTTPStatusCode": int}}`, `operation_name` is AWS's name of the operation, such as `"Decrypt"`.
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


def service_error(refusal: Refusal, operation: str, request_id: str) -> InMemoryKMSError:
    """Return the error that a caller of the operation sees."""
    return InMemoryKMSError(
        {
            "Error": {"Code": refusal.code, "Message": refusal.message},
            "ResponseMetadata": {"RequestId": request_id, "HTTPStatusCode": http_status(refusal.code)},
        },
        operation,
    )
