"""Locks between threads that work in a forked child.

A fork copies a lock as it is. If another thread holds it then, nobody releases the copy, because that thread
does not exist in the child. So the child replaces such a lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import RLock
from types import TracebackType
from weakref import WeakMethod, WeakSet


class ThreadLock:
    """A reentrant lock between threads. A forked child never inherits it from a thread that it lacks.

    The state that the lock guards may be half changed in such a child. The child then calls `forget`, a bound
    method that makes the state anew; the lock does not keep its object alive.
    """

    __slots__ = ("__weakref__", "_forget", "_lock")

    def __init__(self, forget: Callable[[], object] | None = None) -> None:
        self._lock = RLock()
        self._forget = None if forget is None else WeakMethod(forget)
        thread_locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock if another thread holds it. Only a forked child may call this."""
        # A reentrant lock lets in the thread that forked, which may hold the lock and goes on in the child.
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return
        self._lock = RLock()
        if self._forget is not None and (forget := self._forget()) is not None:
            forget()


thread_locks: WeakSet[ThreadLock] = WeakSet()
"""All living locks of this process."""


def _renew_locks() -> None:
    for lock in list(thread_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
