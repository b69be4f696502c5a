"""An observer that remembers what it is told, and what was current when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

from aioencrypt.runtime.observation import CacheAnswer, Message, MessageEnd, ServiceCall, ServiceEnd, observe

_current: ContextVar[tuple[str, ...]] = ContextVar("current", default=())


@attrs.define(eq=False)
class Note:
    """A message or call that began; `within` names what was current then, from the outside in."""

    name: str
    within: tuple[str, ...]
    ends: list[MessageEnd | ServiceEnd] = attrs.field(factory=list)

    @contextmanager
    def current(self) -> Iterator[None]:
        token = _current.set((*_current.get(), self.name))
        yield
        _current.reset(token)

    def ended(self, end: MessageEnd | ServiceEnd) -> None:
        self.ends.append(end)

    @property
    def message(self) -> MessageEnd:
        """The end of a message, which must have been told once."""
        [end] = self.ends
        assert isinstance(end, MessageEnd)
        return end

    @property
    def call(self) -> ServiceEnd:
        """The end of a call, which must have been told once."""
        [end] = self.ends
        assert isinstance(end, ServiceEnd)
        return end


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.began: list[Note] = []
        self.activities: list[Message | ServiceCall] = []
        self.answers: list[tuple[str, str]] = []

    def message_began(self, message: Message) -> Note:
        return self._note(message, f"{message.operation} {message.mode}")

    def call_began(self, call: ServiceCall) -> Note:
        return self._note(call, call.operation)

    def _note(self, activity: Message | ServiceCall, name: str) -> Note:
        self.activities.append(activity)
        self.began.append(Note(name, _current.get()))
        return self.began[-1]

    def cache_answered(self, answer: CacheAnswer) -> None:
        self.answers.append((answer.answer, answer.content))

    @property
    def only(self) -> Note:
        """The only thing that began."""
        [note] = self.began
        return note


@contextmanager
def observed() -> Iterator[Notes]:
    """Observe what happens in a block; nothing stays current after it."""
    notes = Notes()
    stop = observe(notes)
    try:
        yield notes
    finally:
        stop()
    assert _current.get() == ()
