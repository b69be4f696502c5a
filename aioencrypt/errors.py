"""Every error that this library raises, in one tree.

::

    EncryptionError
    |-- MessageError                      the message is invalid
    |   |-- MalformedMessageError           it does not follow the message format
    |   |-- TruncatedMessageError           the input ends before the message
    |   |-- TrailingDataError               bytes follow the message
    |   |-- TagError                        a header, frame or body fails authentication
    |   |-- SignatureError                  the signature does not verify
    |   `-- CommitmentError                 the data key does not match the key commitment
    |-- PolicyError                       a policy or limit forbids it
    |   |-- CommitmentPolicyError           the algorithm suite is not allowed
    |   |-- SignaturePolicyError            a signed or unsigned message is not allowed
    |   |-- LimitError                      a limit is exceeded
    |   |-- PlaintextLengthError            the source does not have the announced length
    |   |-- EncryptionContextMismatchError  the header and the caller disagree
    |   `-- RequiredEncryptionContextError  the caller omitted required pairs
    |-- ProviderError                     no data key is available: see .attempts
    |-- ServiceError                      a service rejected a call, or did not answer
    |-- StreamError                       a stream is used incorrectly
    |   |-- UnverifiedStreamError           left before its end
    |   |-- StreamBusyError                 used by two tasks at once
    |   |-- StreamClosedError               used after it was closed
    |   |-- StreamNotEnteredError           used outside `async with`
    |   `-- IncompleteReadError             `readexactly` asked for more bytes than are left
    `-- ProviderClosedError               a provider is used outside `async with`

The branches correspond to what a caller can do: report bad data, change a policy, check keys and
permissions, check a service, or fix the program. `retryable` tells whether another attempt may succeed.
Wrong arguments raise `ValueError` and `TypeError`. Exceptions of the caller's own source are raised
unchanged. No error text and no attribute holds plaintext, key bytes or values of an encryption context,
except `ServiceError.message` and `IncompleteReadError.partial`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs


class EncryptionError(Exception):
    """Base class of all errors of this library. `retryable` tells whether the same call may succeed later."""

    retryable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors differ, so rebuild an error from its text and attributes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[EncryptionError], args: tuple[Any, ...], state: dict[str, Any]) -> EncryptionError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class MessageError(EncryptionError):
    """The message is invalid or was modified. Discard the plaintext that was released."""


class MalformedMessageError(MessageError):
    """The bytes do not follow the message format."""


class TruncatedMessageError(MessageError):
    """The input ended before the message was complete."""


class TrailingDataError(MessageError):
    """Bytes follow the end of the message."""


class TagError(MessageError):
    """An authentication tag does not match: the header or a frame was changed, or the key is wrong."""


class SignatureError(MessageError):
    """The signature in the footer does not verify, or there is no verification key."""


class CommitmentError(MessageError):
    """The data key does not match the key commitment of the message."""


class PolicyError(EncryptionError):
    """A setting of the caller forbids the operation; the message may be valid."""


class CommitmentPolicyError(PolicyError):
    """The commitment policy does not allow the algorithm suite."""


class SignaturePolicyError(PolicyError):
    """The signature policy does not allow the algorithm suite."""


class LimitError(PolicyError):
    """A limit is exceeded.

    `parameter` names the setting, `limit` is its value, and `actual` is the value found; both in the unit
    of the parameter (bytes or a count).
    """

    def __init__(self, parameter: str, *, limit: int, actual: int, what: str) -> None:
        super().__init__(
            f"{what} is {actual}, above {parameter}={limit}; raise {parameter} if this is expected"
        )
        self.parameter: str = parameter
        self.limit: int = limit
        self.actual: int = actual


class PlaintextLengthError(PolicyError):
    """The plaintext does not have `expected` bytes; `actual` bytes had been read when this was detected."""

    def __init__(self, *, expected: int, actual: int) -> None:
        relation = "has more bytes than" if actual > expected else f"ended after {actual} bytes, not at"
        super().__init__(f"the source {relation} plaintext_length={expected}")
        self.expected: int = expected
        self.actual: int = actual


class EncryptionContextMismatchError(PolicyError):
    """Pairs that the caller passed to decrypt differ from those in the header. `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys: tuple[str, ...] = tuple(keys)
        names = ", ".join(repr(key) for key in self.keys)
        super().__init__(
            f"the header has other values than the caller passed for the encryption context keys {names}"
        )


class RequiredEncryptionContextError(PolicyError):
    """The caller omitted pairs that a `RequiredEncryptionContextCMM` requires. `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys: tuple[str, ...] = tuple(keys)
        names = ", ".join(repr(key) for key in self.keys)
        super().__init__(
            f"the encryption context lacks the required keys {names}; give them as encryption_context"
        )


Operation = Literal["generate", "encrypt", "decrypt"]


@attrs.frozen
class Attempt:
    """One failed attempt to get a data key: the operation, the master key, and the error."""

    operation: Operation
    provider_id: str
    key_id: str
    error: Exception

    def __str__(self) -> str:
        text = f"{self.operation} under {self.provider_id} {self.key_id}: {describe(self.error)}"
        return escape_text(text, 5000)


# A header may have thousands of data keys for one master key. They must not produce an error text of a
# megabyte, or keep thousands of errors with their tracebacks in memory.
_ATTEMPTS_KEPT = 20


class AttemptLog:
    """The first failed attempts of a provider, and the number of later ones."""

    def __init__(self, kept: Sequence[Attempt] = ()) -> None:
        self.kept: list[Attempt] = [*kept]
        self.omitted: int = 0
        self.retryable: bool = False

    def add(self, attempt: Attempt) -> None:
        """Keep one of the first attempts, and count later ones."""
        self.retryable |= is_retryable(attempt.error)
        if len(self.kept) < _ATTEMPTS_KEPT:
            self.kept.append(attempt)
        else:
            self.omitted += 1


def is_retryable(error: BaseException) -> bool:
    """Tell whether the call that raised an error may succeed later."""
    return isinstance(error, EncryptionError) and error.retryable


class ProviderError(EncryptionError):
    """No data key is available. `attempts` holds the first failed attempts, with their keys and errors.

    `omitted` counts further failed attempts. `unclaimed` is True if no encrypted data key belongs to one of
    the given keys, so nothing was tried. `retryable` is True if an attempt may succeed later.
    """

    def __init__(
        self,
        message: str,
        attempts: Sequence[Attempt] = (),
        *,
        unclaimed: bool = False,
        omitted: int = 0,
        retryable: bool = False,
    ) -> None:
        self.retryable: bool = retryable or any(is_retryable(attempt.error) for attempt in attempts)
        self.unclaimed: bool = unclaimed
        self.omitted: int = omitted
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.summary: str = message
        told = [message, *map(str, self.attempts[:_ATTEMPTS_KEPT])]
        untold = len(self.attempts) - len(told) + 1
        if untold + omitted:
            told.append(f"and {untold + omitted} more" + (", see .attempts" if untold else ""))
        super().__init__("; ".join(told))


class ServiceError(EncryptionError):
    """A service, such as KMS, DynamoDB or S3, refused a call or did not answer.

    `code` is the error code of the service (``"AccessDeniedException"``), None if no answer came.
    `request_id` identifies the call for the support of the service. `retryable` tells whether the same call
    may succeed later.
    """

    def __init__(
        self, message: str, *, code: str | None = None, request_id: str | None = None, retryable: bool = False
    ) -> None:
        self.message: str = message
        self.code: str | None = code
        self.request_id: str | None = request_id
        self.retryable: bool = retryable
        text = f"{code}: {message}" if code else message
        super().__init__(f"{text} (request id {request_id})" if request_id else text)


class StreamError(EncryptionError):
    """A stream is used incorrectly."""


class UnverifiedStreamError(StreamError):
    """A stream was left before its end was verified (decrypt) or read (encrypt)."""


class StreamBusyError(StreamError):
    """Two tasks use one stream at the same time."""


class StreamClosedError(StreamError):
    """The stream is closed."""


class StreamNotEnteredError(StreamError):
    """The stream is used outside `async with`."""


class IncompleteReadError(StreamError, EOFError):
    """`readexactly` asked for `expected` bytes, and the stream has fewer before its verified end.

    `partial` holds the bytes that are left. The stream keeps them, too: the next read returns them.
    """

    def __init__(self, partial: bytes, expected: int) -> None:
        missing = expected - len(partial)
        super().__init__(
            f"the stream ends {missing} bytes before the {expected} asked for; .partial holds the rest"
        )
        self.partial: bytes = partial
        self.expected: int = expected


class ProviderClosedError(EncryptionError):
    """A provider that makes its own clients is used outside `async with`, on another loop or after a fork."""


def describe(error: BaseException) -> str:
    """Return the text of an error for use in another error; never empty."""
    text = str(error)
    name = type(error).__name__
    if isinstance(error, EncryptionError):
        return text or name
    return f"{name}: {text}" if text else name


def escape_text(text: str, limit: int = 500) -> str:
    """Escape text from a message, a service or a plug-in for use in an error, a log or a `repr`.

    Line breaks, control and direction characters become backslash escapes. Text is cut after `limit`
    characters.
    """
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)
    return cut if len(text) <= limit else f"{cut}..."
