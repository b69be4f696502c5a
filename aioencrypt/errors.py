"""Every error that this library raises, in one tree.

::

    EncryptionError
    |-- MessageError                      the bytes are wrong
    |   |-- MalformedMessageError           they do not follow the message format
    |   |-- TruncatedMessageError           they end before the message does
    |   |-- TrailingDataError               they go on after the message
    |   |-- TagError                        a header, frame or body fails authentication
    |   |-- SignatureError                  the signature does not verify
    |   `-- CommitmentError                 the data key is not the one that the message commits to
    |-- PolicyError                       we refuse
    |   |-- CommitmentPolicyError           the algorithm suite is not allowed
    |   |-- SignaturePolicyError            signed, or not signed, against the caller's wish
    |   |-- LimitError                      larger than a limit
    |   |-- PlaintextLengthError            the source is not as long as the caller said
    |   |-- EncryptionContextMismatchError  the header says otherwise than the caller
    |   `-- RequiredEncryptionContextError  the caller leaves out what a manager requires
    |-- ProviderError                     no data key: see .attempts
    |-- ServiceError                      a service refused a call, or did not answer
    |-- StreamError                       a stream is used in a way that it does not allow
    |   |-- UnverifiedStreamError           left before its end was verified or handed out
    |   |-- StreamBusyError                 used by two tasks at once
    |   |-- StreamClosedError               used after it was closed
    |   |-- StreamNotEnteredError           used outside `async with`
    |   `-- IncompleteReadError             `readexactly` asked for more than is left
    `-- ProviderClosedError               a provider is used outside `async with`

The branches follow what a caller would do: report bad data, change a policy, look at keys and permissions,
look at a service, mend the program. `retryable` tells whether trying again may help. Wrong arguments are
`ValueError` and `TypeError`. Exceptions of the caller's own source pass through as they are. No message
carries plaintext, key bytes or values of an encryption context, and neither does an attribute, apart from
`ServiceError.message` and `IncompleteReadError.partial`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs


class EncryptionError(Exception):
    """The root of every error of this library. `retryable` tells whether the same call may succeed later."""

    retryable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors differ; what they made is the text and the attributes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[EncryptionError], args: tuple[Any, ...], state: dict[str, Any]) -> EncryptionError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class MessageError(EncryptionError):
    """The bytes are not a message that can be trusted. Discard what was released of it."""


class MalformedMessageError(MessageError):
    """The bytes do not follow the message format."""


class TruncatedMessageError(MessageError):
    """The input ended before the message was complete."""


class TrailingDataError(MessageError):
    """Bytes follow the end of the message."""


class TagError(MessageError):
    """An authentication tag does not match: the header or a frame was changed, or the key is wrong."""


class SignatureError(MessageError):
    """The signature in the footer does not verify, or no verification key is there."""


class CommitmentError(MessageError):
    """The data key is not the one that the message commits to."""


class PolicyError(EncryptionError):
    """The message may be fine; a setting of the caller forbids it."""


class CommitmentPolicyError(PolicyError):
    """The commitment policy does not allow the algorithm suite."""


class SignaturePolicyError(PolicyError):
    """The signature policy does not allow the algorithm suite."""


class LimitError(PolicyError):
    """A limit is exceeded.

    `parameter` names the setting, `limit` is its value, `actual` what was met; both in the unit of
    the parameter (bytes, or a count).
    """

    def __init__(self, parameter: str, *, limit: int, actual: int, what: str) -> None:
        super().__init__(
            f"{what} is {actual}, above {parameter}={limit}; raise {parameter} if this is expected"
        )
        self.parameter: str = parameter
        self.limit: int = limit
        self.actual: int = actual


class PlaintextLengthError(PolicyError):
    """The plaintext is not `expected` bytes long; `actual` bytes had been read when that showed."""

    def __init__(self, *, expected: int, actual: int) -> None:
        relation = "has more bytes than" if actual > expected else f"ended after {actual} bytes, not at"
        super().__init__(f"the source {relation} plaintext_length={expected}")
        self.expected: int = expected
        self.actual: int = actual


class EncryptionContextMismatchError(PolicyError):
    """Pairs that the caller gave on decrypt differ from those in the header. `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys: tuple[str, ...] = tuple(keys)
        names = ", ".join(repr(key) for key in self.keys)
        super().__init__(
            f"the header has another value than the caller for the encryption context keys {names}"
        )


class RequiredEncryptionContextError(PolicyError):
    """Pairs are not given that a `RequiredEncryptionContextCMM` requires. `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys: tuple[str, ...] = tuple(keys)
        names = ", ".join(repr(key) for key in self.keys)
        super().__init__(
            f"the encryption context lacks the required keys {names}; give them as encryption_context"
        )


Operation = Literal["generate", "encrypt", "decrypt"]


@attrs.frozen
class Attempt:
    """One attempt at a data key: what was tried, under which master key, and how it failed."""

    operation: Operation
    provider_id: str
    key_id: str
    error: Exception

    def __str__(self) -> str:
        text = f"{self.operation} under {self.provider_id} {self.key_id}: {describe(self.error)}"
        return escape_text(text, 5000)


# A stranger's header may have thousands of data keys that belong to one key. They must not make a text, and a
# line in a log, of a megabyte, nor keep thousands of errors with their tracebacks in memory.
_ATTEMPTS_KEPT = 20


class AttemptLog:
    """The first failed attempts of a provider, and the number of those that came later."""

    def __init__(self, kept: Sequence[Attempt] = ()) -> None:
        self.kept: list[Attempt] = [*kept]
        self.omitted: int = 0
        self.retryable: bool = False

    def add(self, attempt: Attempt) -> None:
        """Keep an attempt while there are few, and count it otherwise."""
        self.retryable |= is_retryable(attempt.error)
        if len(self.kept) < _ATTEMPTS_KEPT:
            self.kept.append(attempt)
        else:
            self.omitted += 1


def is_retryable(error: BaseException) -> bool:
    """Tell whether the call that raised an error may succeed later."""
    return isinstance(error, EncryptionError) and error.retryable


class ProviderError(EncryptionError):
    """No data key could be had. `attempts` holds the first attempts, with their keys and errors.

    `omitted` counts the attempts that failed after those. `unclaimed` says that there was nothing to try: no
    encrypted data key belongs to a key given here. `retryable` is true if an attempt may succeed later.
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
    """A stream is used in a way that it does not allow."""


class UnverifiedStreamError(StreamError):
    """A stream was left before its end was verified (decrypt) or handed out (encrypt)."""


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
    """Return the text of an error for use inside another: never empty."""
    text = str(error)
    name = type(error).__name__
    if isinstance(error, EncryptionError):
        return text or name
    return f"{name}: {text}" if text else name


def escape_text(text: str, limit: int = 500) -> str:
    """Escape text from a message, a service or a plug-in, for use in an error, a log or a repr.

    Line breaks, control and direction characters become backslash escapes. Cuts after `limit` characters.
    """
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)
    return cut if len(text) <= limit else f"{cut}..."
