"""Observers: report messages, calls to services and cache answers to tracing and metrics.

Observers are called in the event loop and must not block. They receive names, counts and types, but never a
message, a key, an encryption context or the text of an error, because services and users may put secrets into
it. Exceptions of an observer are logged and change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from time import perf_counter
from typing import Any, Generic, Literal, Protocol, TypeVar

import attrs

from aioencrypt.errors import ServiceError, escape_text
from aioencrypt.format import AlgorithmSuite, MessageHeader
from aioencrypt.providers.values import Provenance
from aioencrypt.runtime.threads import ThreadLock

T = TypeVar("T")
E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

MessageOperation = Literal["encrypt", "decrypt", "rewrap"]
Mode = Literal["whole", "stream", "file", "seekable", "header"]
Outcome = Literal["complete", "abandoned", "failed", "cancelled"]
Answer = Literal["hit", "miss", "refresh"]

_logger = logging.getLogger("aioencrypt")


@attrs.frozen
class Message:
    """An operation on a message, and its mode.

    The mode is ``"header"`` if a rewrap reads the header alone.
    """

    operation: MessageOperation
    mode: Mode


def _escaped(name: str) -> str:
    # Fast path: most names need no escaping.
    return name if len(name) <= 100 and name.isprintable() else escape_text(name)


@attrs.frozen
class ServiceCall:
    """A call of a service `operation` on `target`, a KMS key or a table name.

    `region` is None if the client chooses it. Texts are escaped, because the target may come from a message.
    """

    service: Literal["KMS", "DynamoDB"]
    operation: str
    target: str = attrs.field(converter=_escaped)
    region: str | None = attrs.field(converter=attrs.converters.optional(_escaped))

    def __str__(self) -> str:
        return f"{self.service} {self.operation} {'under' if self.service == 'KMS' else 'on'} {self.target}"


@attrs.frozen(kw_only=True)
class Tally:
    """How much of a message was processed. Lengths are in bytes.

    `algorithm_suite` is None before the header is known. `cached` tells whether the data key came from a
    cache.
    """

    algorithm_suite: AlgorithmSuite | None = None
    cached: bool = False
    plaintext_length: int = 0
    ciphertext_length: int = 0
    frames: int = 0

    @classmethod
    def of(
        cls,
        header: MessageHeader | None,
        provenance: Provenance | None,
        *,
        plaintext_length: int,
        ciphertext_length: int,
        frames: int,
    ) -> Tally:
        """Return a tally, which keeps nothing else of the header and the provenance."""
        return cls(
            algorithm_suite=header.algorithm_suite if header else None,
            cached=bool(provenance and provenance.cached),
            plaintext_length=plaintext_length,
            ciphertext_length=ciphertext_length,
            frames=frames,
        )


@attrs.frozen
class MessageEnd:
    """The end of a message, after `seconds`. `error` is the type of the exception.

    ``"abandoned"`` means that the caller called `abandon`. ``"cancelled"`` covers everything raised from
    outside: cancellation of a task, Ctrl-C, closing of a generator.
    """

    seconds: float
    outcome: Outcome
    error: type[BaseException] | None
    tally: Tally


@attrs.frozen
class ServiceEnd:
    """The end of a call, after `seconds`, including all retries of the client.

    `error` is the type of the client's exception, `code` the error code of the service.
    """

    seconds: float
    error: type[BaseException] | None
    code: str | None = attrs.field(converter=attrs.converters.optional(_escaped))
    request_id: str | None = attrs.field(converter=attrs.converters.optional(_escaped))


@attrs.frozen
class CacheAnswer:
    """An answer of a cache; ``"refresh"`` is a hit that also started a refresh in the background.

    `content` is ``"data keys"`` or ``"branch keys"``.
    """

    answer: Answer
    content: str


class Observation(Protocol[E_contra]):
    """What an observer returns for one message or call."""

    def current(self) -> AbstractContextManager[object]:
        """Return a context manager that is active while other code is awaited for the message or call."""
        ...

    def ended(self, end: E_contra, /) -> None:
        """Handle the end; called once."""
        ...


class Observer(Protocol):
    """The interface of an observer."""

    def message_began(self, message: Message, /) -> Observation[MessageEnd]:
        """Handle the start of a message."""
        ...

    def call_began(self, call: ServiceCall, /) -> Observation[ServiceEnd]:
        """Handle the start of a call."""
        ...

    def cache_answered(self, answer: CacheAnswer, /) -> None:
        """Handle an answer of a cache."""
        ...


_observers: tuple[Observer, ...] = ()
_changing = ThreadLock()


def observe(observer: Observer) -> Callable[[], None]:
    """Register an observer for everything that starts from now on, in all threads.

    Returns a function that unregisters it. Raises `ValueError` if an equal observer is registered.
    """
    global _observers
    with _changing:
        if observer in _observers:
            raise ValueError("an equal observer is registered already; unregister it first")
        _observers = (*_observers, observer)

    def stop() -> None:
        global _observers
        with _changing:
            _observers = tuple(other for other in _observers if other is not observer)

    return stop


def _safely(function: Callable[..., T], *arguments: object) -> T | None:
    try:
        return function(*arguments)
    except Exception as error:
        _logger.debug("an observer raised %s", type(error).__name__)
        return None


class _Watch(Generic[E]):
    """A message or call under observation. It ends once."""

    def __init__(self, began: Sequence[Observation[E] | None]) -> None:
        self._start = perf_counter()
        self._observations = [observation for observation in began if observation is not None]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the current message or call for everything awaited inside."""
        with ExitStack() as stack:
            for observation in self._observations:
                _safely(_enter, observation, stack)
            yield

    @property
    def _seconds(self) -> float:
        return perf_counter() - self._start

    def _end(self, end: E) -> None:
        observations, self._observations = self._observations, []
        for observation in observations:
            _safely(observation.ended, end)


def _enter(observation: Observation[Any], stack: ExitStack) -> None:
    context = observation.current()
    context.__enter__()
    stack.callback(_safely, context.__exit__, None, None, None)


class MessageWatch(_Watch[MessageEnd]):
    """A message under observation. Set `tally` before it ends."""

    def __init__(self, message: Message) -> None:
        super().__init__([_safely(observer.message_began, message) for observer in _observers])
        self.tally: Tally = Tally()

    def end(self, error: type[BaseException] | None = None, *, abandoned: bool = False) -> None:
        """Report the end: complete, unless there was an error or the message was abandoned."""
        outcome: Outcome = "complete"
        if error is not None:
            outcome = "failed" if issubclass(error, Exception) else "cancelled"
        elif abandoned:
            outcome = "abandoned"
        self._end(MessageEnd(self._seconds, outcome, error, self.tally))

    @contextmanager
    def observe_call(self) -> Iterator[None]:
        """Observe a message that is processed in one call."""
        try:
            with self.current():
                yield
        except BaseException as error:
            self.end(type(error))
            raise
        self.end()


def watch_message(operation: MessageOperation, mode: Mode) -> MessageWatch | None:
    """Start to observe a message; return None if there are no observers, at almost no cost."""
    return MessageWatch(Message(operation, mode)) if _observers else None


_NOTHING = nullcontext()


def current(watch: MessageWatch | None) -> AbstractContextManager[None]:
    """Make a message the current one, if it is observed."""
    return _NOTHING if watch is None else watch.current()


class ServiceWatch(_Watch[ServiceEnd]):
    """A call under observation. Set `request_id` from the answer."""

    def __init__(self, call: ServiceCall) -> None:
        super().__init__([_safely(observer.call_began, call) for observer in _observers])
        self.request_id: str | None = None

    def end(self, error: BaseException | None = None) -> None:
        """Report the end: answered, unless there was an error."""
        code, request_id, raised = None, self.request_id, error
        if isinstance(error, ServiceError):
            code, request_id, raised = error.code, error.request_id, error.__cause__ or error
        self._end(ServiceEnd(self._seconds, None if raised is None else type(raised), code, request_id))


@contextmanager
def watching_call(call: ServiceCall) -> Iterator[ServiceWatch]:
    """Observe a call of a service."""
    watch = ServiceWatch(call)
    try:
        with watch.current():
            yield watch
    except BaseException as error:
        watch.end(error)
        raise
    watch.end()


def cache_answered(answer: Answer, content: str | None) -> None:
    """Report an answer of a cache, unless its content has no name."""
    if content is not None:
        for observer in _observers:
            _safely(observer.cache_answered, CacheAnswer(answer, content))
