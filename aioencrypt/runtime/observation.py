"""How others watch what goes on here: messages, calls of services, answers of caches.

Observers are called in the event loop and must not wait. They are told names, counts and types, and
never a message, a key, an encryption context, or the text of an error, into which services and callers
write what they like. What an observer raises is logged and changes nothing.
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
from aioencrypt.materials import Provenance
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
    """A message that is written, read, or put under other keys, and how.

    As a whole, as a stream, into a file, at random, or of a rewrap its header alone.
    """

    operation: MessageOperation
    mode: Mode


def _escaped(name: str) -> str:
    # Most names need no call of another file.
    return name if len(name) <= 100 and name.isprintable() else escape_text(name)


@attrs.frozen
class ServiceCall:
    """An operation of a service on `target`, a KMS key or the name of a table.

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
    """What was done of a message: lengths in bytes. `algorithm_suite` is None before its header is there.

    `cached` says that a cache gave its data key.
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
        """Return a tally; nothing else of the header and the provenance is kept."""
        return cls(
            algorithm_suite=header.algorithm_suite if header else None,
            cached=bool(provenance and provenance.cached),
            plaintext_length=plaintext_length,
            ciphertext_length=ciphertext_length,
            frames=frames,
        )


@attrs.frozen
class MessageEnd:
    """How a message ended, after how many seconds. `error` is the type of what was raised.

    `abandoned` was left before its end, because its caller said so; `cancelled` stands for everything
    that is raised from outside: the cancellation of a task, Ctrl-C, the closing of a generator.
    """

    seconds: float
    outcome: Outcome
    error: type[BaseException] | None
    tally: Tally


@attrs.frozen
class ServiceEnd:
    """How a call ended, after how many seconds, with all retries of the client.

    `error` is the type of what the client raised, `code` the code of what the service answered then.
    """

    seconds: float
    error: type[BaseException] | None
    code: str | None = attrs.field(converter=attrs.converters.optional(_escaped))
    request_id: str | None = attrs.field(converter=attrs.converters.optional(_escaped))


@attrs.frozen
class CacheAnswer:
    """How a cache answered; `refresh` is a hit that is fetched anew for those to come.

    `content` says of what: ``"data keys"`` or ``"branch keys"``.
    """

    answer: Answer
    content: str


class Observation(Protocol[E_contra]):
    """What an observer keeps of one message or call."""

    def current(self) -> AbstractContextManager[object]:
        """Return what is entered while others are called for it, and left in the same call and context."""
        ...

    def ended(self, end: E_contra, /) -> None:
        """Take note of the end; called once."""
        ...


class Observer(Protocol):
    """Who watches."""

    def message_began(self, message: Message, /) -> Observation[MessageEnd]:
        """Take note of the beginning of a message."""
        ...

    def call_began(self, call: ServiceCall, /) -> Observation[ServiceEnd]:
        """Take note of the beginning of a call."""
        ...

    def cache_answered(self, answer: CacheAnswer, /) -> None:
        """Take note of an answer."""
        ...


_observers: tuple[Observer, ...] = ()
_changing = ThreadLock()


def observe(observer: Observer) -> Callable[[], None]:
    """Tell an observer of everything that begins from now on, in all threads.

    Returns a function that ends this. Raises `ValueError` if an equal observer is told already.
    """
    global _observers
    with _changing:
        if observer in _observers:
            raise ValueError("an equal observer is told already; end that one first")
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
    """A message or a call, and what each observer keeps of it. It ends once."""

    def __init__(self, began: Sequence[Observation[E] | None]) -> None:
        self._start = perf_counter()
        self._observations = [observation for observation in began if observation is not None]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the current one for what is awaited inside."""
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
    """A message that is watched. `tally` is what is known of it when it ends."""

    def __init__(self, message: Message) -> None:
        super().__init__([_safely(observer.message_began, message) for observer in _observers])
        self.tally: Tally = Tally()

    def end(self, error: type[BaseException] | None = None, *, abandoned: bool = False) -> None:
        """End it: complete, unless something was raised or it was abandoned."""
        outcome: Outcome = "complete"
        if error is not None:
            outcome = "failed" if issubclass(error, Exception) else "cancelled"
        elif abandoned:
            outcome = "abandoned"
        self._end(MessageEnd(self._seconds, outcome, error, self.tally))

    @contextmanager
    def observe_call(self) -> Iterator[None]:
        """Watch what is done with the message in one call."""
        try:
            with self.current():
                yield
        except BaseException as error:
            self.end(type(error))
            raise
        self.end()


def watch_message(operation: MessageOperation, mode: Mode) -> MessageWatch | None:
    """Begin to watch a message; None where nobody observes, which costs next to nothing."""
    return MessageWatch(Message(operation, mode)) if _observers else None


_NOTHING = nullcontext()


def current(watch: MessageWatch | None) -> AbstractContextManager[None]:
    """Make a message the current one, if it is watched."""
    return _NOTHING if watch is None else watch.current()


class ServiceWatch(_Watch[ServiceEnd]):
    """A call that is watched. `request_id` is that of the answer."""

    def __init__(self, call: ServiceCall) -> None:
        super().__init__([_safely(observer.call_began, call) for observer in _observers])
        self.request_id: str | None = None

    def end(self, error: BaseException | None = None) -> None:
        """End it: answered, unless something was raised."""
        code, request_id, raised = None, self.request_id, error
        if isinstance(error, ServiceError):
            code, request_id, raised = error.code, error.request_id, error.__cause__ or error
        self._end(ServiceEnd(self._seconds, None if raised is None else type(raised), code, request_id))


@contextmanager
def watching_call(call: ServiceCall) -> Iterator[ServiceWatch]:
    """Watch a call of a service."""
    watch = ServiceWatch(call)
    try:
        with watch.current():
            yield watch
    except BaseException as error:
        watch.end(error)
        raise
    watch.end()


def cache_answered(answer: Answer, content: str | None) -> None:
    """Tell what a cache answered, unless what it holds has no name."""
    if content is not None:
        for observer in _observers:
            _safely(observer.cache_answered, CacheAnswer(answer, content))
