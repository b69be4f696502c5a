"""The tree of errors: its shape, and what each error says and carries."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import attrs
import pytest

import aioencrypt
from aioencrypt import errors
from aioencrypt.errors import (
    Attempt,
    EncryptionContextMismatchError,
    EncryptionError,
    IncompleteReadError,
    LimitError,
    PlaintextLengthError,
    PolicyError,
    ProviderError,
    RequiredEncryptionContextError,
    ServiceError,
    describe,
    escape_text,
)
from tests.support.rows import each_row

TREE = {
    "EncryptionError": "Exception",
    "MessageError": "EncryptionError",
    "MalformedMessageError": "MessageError",
    "TruncatedMessageError": "MessageError",
    "TrailingDataError": "MessageError",
    "TagError": "MessageError",
    "SignatureError": "MessageError",
    "CommitmentError": "MessageError",
    "PolicyError": "EncryptionError",
    "CommitmentPolicyError": "PolicyError",
    "SignaturePolicyError": "PolicyError",
    "LimitError": "PolicyError",
    "PlaintextLengthError": "PolicyError",
    "EncryptionContextMismatchError": "PolicyError",
    "RequiredEncryptionContextError": "PolicyError",
    "ProviderError": "EncryptionError",
    "ServiceError": "EncryptionError",
    "StreamError": "EncryptionError",
    "UnverifiedStreamError": "StreamError",
    "StreamBusyError": "StreamError",
    "StreamClosedError": "StreamError",
    "StreamNotEnteredError": "StreamError",
    "IncompleteReadError": "StreamError",
    "ProviderClosedError": "EncryptionError",
}


def test_the_tree() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert {cls.__name__: cls.__base__ and cls.__base__.__name__ for cls in classes} == TREE


def test_the_docstring_draws_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("|--", "   ").replace("`--", "   ").replace("|", " ")
        name = words.split()[0] if words.split() else ""
        if line.startswith("    ") and name in TREE:
            indent = len(words) - len(words.lstrip())
            while path and path[-1][0] >= indent:
                path.pop()
            drawn[name] = path[-1][1] if path else "Exception"
            path.append((indent, name))
    assert drawn == TREE


@each_row("name", [*TREE, "Attempt"])
def test_all_errors_are_public(name: str) -> None:
    assert getattr(aioencrypt, name) is getattr(errors, name)
    assert name in aioencrypt.__all__


def test_no_error_is_a_wrong_argument() -> None:
    for name in TREE:
        assert not issubclass(getattr(errors, name), (ValueError, TypeError, OSError))


def limit_error() -> LimitError:
    return LimitError("max_frame_length", limit=100, actual=101, what="the frame length in the header")


def test_a_limit_error_names_the_setting_and_both_figures() -> None:
    error = limit_error()
    assert (error.parameter, error.limit, error.actual) == ("max_frame_length", 100, 101)
    assert str(error) == (
        "the frame length in the header is 101, above max_frame_length=100; "
        "raise max_frame_length if this is expected"
    )


@pytest.mark.parametrize(
    ("actual", "text"),
    [
        (11, "the source has more bytes than plaintext_length=10"),
        (9, "the source ended after 9 bytes, not at plaintext_length=10"),
        (0, "the source ended after 0 bytes, not at plaintext_length=10"),
    ],
)
def test_a_wrong_plaintext_length(actual: int, text: str) -> None:
    error = PlaintextLengthError(expected=10, actual=actual)
    assert (error.expected, error.actual, str(error)) == (10, actual, text)


def test_an_incomplete_read_keeps_the_rest_and_does_not_show_it() -> None:
    error = IncompleteReadError(b"secret", 10)
    assert isinstance(error, EOFError)
    assert (error.partial, error.expected) == (b"secret", 10)
    assert "secret" not in f"{error} {error!r}"
    assert str(error) == "the stream ends 4 bytes before the 10 asked for; .partial holds the rest"


def test_a_mismatch_names_the_keys() -> None:
    error = EncryptionContextMismatchError(["tenant", "größe"])
    assert error.keys == ("tenant", "größe")
    assert str(error) == (
        "the header has other values than the caller passed for the encryption context keys 'tenant', 'größe'"
    )


def test_missing_required_pairs_name_the_keys() -> None:
    error = RequiredEncryptionContextError(["größe", "tenant"])
    assert error.keys == ("größe", "tenant")
    assert str(error) == (
        "the encryption context lacks the required keys 'größe', 'tenant'; give them as encryption_context"
    )


ATTEMPTS = [
    Attempt(
        "decrypt", "aws-kms", "arn:1", ServiceError("no", code="AccessDeniedException", request_id="r-1")
    ),
    Attempt("decrypt", "mine", "two", ValueError("odd")),
    Attempt("decrypt", "mine", "three", TimeoutError()),
]


def test_a_provider_error_tells_all_attempts() -> None:
    error = ProviderError("no data key", ATTEMPTS)
    assert error.attempts == tuple(ATTEMPTS)
    assert error.summary == "no data key"
    assert str(error) == (
        "no data key; "
        "decrypt under aws-kms arn:1: AccessDeniedException: no (request id r-1); "
        "decrypt under mine two: ValueError: odd; "
        "decrypt under mine three: TimeoutError"
    )


THROTTLED = ServiceError("slow down", code="ThrottlingException", retryable=True)
REFUSED = ServiceError("no", code="AccessDeniedException")


@pytest.mark.parametrize(
    ("failures", "retryable"),
    [
        ([], False),
        ([REFUSED, ValueError("odd")], False),
        ([REFUSED, THROTTLED], True),
        ([REFUSED] * 25 + [THROTTLED], True),  # the last attempt is not kept
        ([ProviderError("no", [Attempt("decrypt", "mine", "inner", THROTTLED)])], True),
    ],
)
def test_trying_again_may_help_if_it_may_help_one_attempt(failures: list[Exception], retryable: bool) -> None:
    log = errors.AttemptLog()
    for failure in failures:
        log.add(Attempt("decrypt", "mine", "key", failure))
    error = ProviderError("no data key", log.kept, omitted=log.omitted, retryable=log.retryable)
    assert error.retryable is retryable
    assert pickle.loads(pickle.dumps(error)).retryable is retryable


@pytest.mark.parametrize(("count", "end"), [(20, "number 19"), (21, "and 1 more, see .attempts")])
def test_the_text_of_a_provider_error_names_twenty_attempts(count: int, end: str) -> None:
    """A stranger's header of 10,000 data keys would make a line of a megabyte in a log."""
    attempts = [Attempt("decrypt", "provider", "key", ProviderError(f"number {n}")) for n in range(count)]
    error = ProviderError("no data key", attempts)
    assert len(error.attempts) == count
    assert str(error).endswith(end)
    assert str(error).count("number ") == 20


def test_a_provider_error_without_attempts() -> None:
    error = ProviderError("no key")
    assert (error.attempts, error.summary, str(error)) == ((), "no key", "no key")


def test_later_changes_of_a_list_of_attempts_do_not_show() -> None:
    attempts = ATTEMPTS[:1]
    error = ProviderError("no data key", attempts)
    attempts.clear()
    assert len(error.attempts) == 1


def test_an_attempt_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ATTEMPTS[0].key_id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("code", "request_id", "text"),
    [
        (None, None, "no answer"),
        ("ThrottlingException", None, "ThrottlingException: no answer"),
        (None, "r-1", "no answer (request id r-1)"),
        ("ThrottlingException", "r-1", "ThrottlingException: no answer (request id r-1)"),
    ],
)
def test_what_a_service_answered(code: str | None, request_id: str | None, text: str) -> None:
    error = ServiceError("no answer", code=code, request_id=request_id, retryable=True)
    assert (error.message, error.code, error.request_id, error.retryable) == (
        "no answer",
        code,
        request_id,
        True,
    )
    assert str(error) == text


def test_a_service_error_is_not_retryable_by_default() -> None:
    error = ServiceError("no")
    assert (error.code, error.request_id, error.retryable) == (None, None, False)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("odd"), "ValueError: odd"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (TimeoutError(), "TimeoutError"),
        (PolicyError("refused"), "refused"),
        (PolicyError(), "PolicyError"),
        (ServiceError("no", code="C"), "C: no"),
    ],
)
def test_descriptions_are_never_empty(error: Exception, text: str) -> None:
    assert describe(error) == text


@pytest.mark.parametrize(
    "error",
    [
        limit_error(),
        PlaintextLengthError(expected=10, actual=9),
        IncompleteReadError(b"rest", 10),
        EncryptionContextMismatchError(["tenant"]),
        ProviderError("no data key", [Attempt("generate", "mine", "one", ServiceError("no"))]),
        ServiceError("no", code="AccessDeniedException", request_id="r-1", retryable=True),
        *(getattr(errors, name)("text") for name in TREE if "__init__" not in vars(getattr(errors, name))),
    ],
    ids=lambda error: type(error).__name__,
)
@each_row("duplicate", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_are_copied_and_pickled_whole(
    error: EncryptionError, duplicate: Callable[[EncryptionError], EncryptionError]
) -> None:
    """A `ProcessPoolExecutor` sends them from process to process."""
    other = duplicate(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert repr(other.__dict__) == repr(error.__dict__)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("größe 🔑 'a' \\", "größe 🔑 'a' \\"),
        ("a\nb\r\t\0", r"a\nb\r\t\x00"),
        ("\x1b[31m\x7f\x9b", r"\x1b[31m\x7f\x9b"),
        ("\u2028\u202e\ud800\ufeff", r"\u2028\u202e\ud800\ufeff"),
        ("x" * 501, "x" * 500 + "..."),
    ],
)
def test_text_of_strangers_is_escaped(text: str, escaped: str) -> None:
    assert escape_text(text) == escaped
    assert escape_text(text).isprintable()


def test_an_attempt_is_one_line_whatever_the_key_and_its_error_say() -> None:
    attempt = Attempt("decrypt", "a\nb", "c\x1b[31m", ValueError("d\u2028e"))
    assert str(attempt) == r"decrypt under a\nb c\x1b[31m: ValueError: d\u2028e"
    assert str(ProviderError("no", [attempt])).isprintable()
