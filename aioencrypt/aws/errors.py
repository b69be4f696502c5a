"""Call an AWS service within a time limit, translate its errors, and read its answers.

Errors are recognised by their shape, so that clients other than botocore's work too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, TypeVar

import anyio

from aioencrypt.errors import EncryptionError, ProviderError, ServiceError, describe, escape_text
from aioencrypt.runtime.observation import ServiceCall, watching_call
from aioencrypt.runtime.secrets import SecretFields, forget_locals

T = TypeVar("T")

_logger = logging.getLogger("aioencrypt")

_RETRYABLE = {
    "ConditionalRequestConflict",
    "DependencyTimeoutException",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ResourceInUseException",
    "ServiceUnavailableException",
    "TooManyRequestsException",
    "TransactionInProgressException",
}
_ADVICE = {
    "AccessDenied": "check the policies of the bucket and of the caller",
    "AccessDeniedException": "allow the caller to use the key or the table, in its policy or by a grant",
    "DisabledException": "enable the key",
    "ExpiredTokenException": "renew the credentials",
    "IncorrectKeyException": "the data key was encrypted under another key",
    "InvalidCiphertextException": "the encrypted data key or the encryption context was changed",
    "KMSInvalidStateException": "check the state of the key; it may be pending deletion",
    "NoCredentialsError": "set up AWS credentials, or name a profile= of the connection",
    "NoRegionError": "set AWS_DEFAULT_REGION, or give the key ARN",
    "NoSuchBucket": "check the name of the bucket",
    "NoSuchKey": "check the key of the object",
    "NotFoundException": "check the key id, account and region",
    "PreconditionFailed": "the object has changed in the meantime; open it again",
    "ResourceInUseException": "the table is being created or deleted; wait, and call again",
    "ResourceNotFoundException": "check the table name and region, or call create_key_store()",
    "UnrecognizedClientException": "check the credentials",
}


def service_error(error: Exception) -> ServiceError:
    """Translate an exception of a client."""
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping) or not isinstance(response.get("Error"), Mapping):
        message = escape_text(describe(error), 2000)
        if type(error).__name__ in _ADVICE:
            message = f"{message}; {_ADVICE[type(error).__name__]}"
        return ServiceError(message, retryable=_is_connection_error(error))
    code = escape_text(str(response["Error"].get("Code") or "unknown"))
    message = escape_text(str(response["Error"].get("Message") or "no message"), 2000)
    if code in _ADVICE:
        message = f"{message}; {_ADVICE[code]}"
    status, request_id = _metadata(response).get("HTTPStatusCode"), _request_id(response)
    retryable = code in _RETRYABLE or "Throttl" in code or (isinstance(status, int) and status >= 500)
    return ServiceError(
        message, code=code, request_id=request_id and escape_text(request_id), retryable=retryable
    )


def _metadata(response: object) -> Mapping[str, Any]:
    metadata = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
    return metadata if isinstance(metadata, Mapping) else {}


def _request_id(response: object) -> str | None:
    request_id = _metadata(response).get("RequestId")
    return None if request_id is None else str(request_id)


def _is_connection_error(error: Exception) -> bool:
    # botocore's own family of connection errors does not derive from OSError.
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, OSError) or not names.isdisjoint({"HTTPClientError", "ConnectionError"})


async def call_service(what: ServiceCall | str, call: Callable[[], Awaitable[T]], timeout: float | None) -> T:
    """Await a call to a service, with a time limit in seconds that includes the client's retries.

    `what` names the call in the log; observers hear of a `ServiceCall`. Raises `ServiceError` with the cause.
    """
    if isinstance(what, str):
        return await _within(timeout, escape_text(what), call)
    with watching_call(what) as watch:
        answer = await _within(timeout, what, call)
        watch.request_id = _request_id(answer)
        return answer


async def _within(timeout: float | None, what: object, function: Callable[[], Awaitable[T]]) -> T:
    start, handled = perf_counter(), sys.exception()
    try:
        with anyio.fail_after(timeout) as scope:
            answer = await function()
            if isinstance(answer, dict):
                answer = SecretFields(answer)  # type: ignore[assignment]
    except EncryptionError:
        raise
    except Exception as error:
        failure = service_error(error)
        if isinstance(error, TimeoutError) and scope.cancelled_caught:
            failure = ServiceError(f"no answer within {timeout} seconds", retryable=True)
        _logger.debug("%s failed after %.3f s: %s", what, perf_counter() - start, failure)
        # The client's frames hold the request, with encryption contexts and data keys.
        forget_locals(error, handled)
        raise failure from error
    _logger.debug("%s took %.3f s", what, perf_counter() - start)
    return answer


def bytes_of(answer: Mapping[str, Any], field: str) -> bytes:
    """Return a bytes field of an answer; raises `ProviderError` if it is missing or empty."""
    value = answer.get(field)
    if isinstance(value, bytes) and value:
        return value
    del value  # it may be a secret of another type
    raise ProviderError(f"the answer of KMS has no {field}")


def text_of(answer: Mapping[str, Any], field: str) -> str:
    """Return a text field of an answer; raises `ProviderError` if it is missing."""
    value = answer.get(field)
    if not isinstance(value, str):
        raise ProviderError(f"the answer of KMS has no {field}")
    return value
