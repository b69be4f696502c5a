"""An async LRU cache with TTL, refresh ahead and single-flight loading.

Callers that miss on the same key share one fetch. The fetch runs as a background task, so cancelling the
caller that started it does not fail the others. All threads and event loops of a process share the entries;
each fetch belongs to the loop that started it.

The caching CMM and hierarchical keys call `get` in tasks of any event loop. AWS connections and KMS ECDH keys
use a cache of capacity 0, for single flight only.

Thread safety: `_lock` guards everything that a cache holds: entries, expiries, counts, and the fetches and
timers of all loops. Nobody awaits while holding it, and `usable` and `clock` are called while it is held.
Background tasks and timers of other loops may run in other threads at any time. A forked child that lost
the lock to another thread starts with an empty cache.

Specification: framework/cryptographic-materials-cache.md, local-cryptographic-materials-cache.md.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakMethod

import attrs
from anyio import get_cancelled_exc_class

from aioencrypt.errors import EncryptionError, ProviderClosedError, ProviderError
from aioencrypt.runtime.arguments import check_int
from aioencrypt.runtime.event_loops import BackgroundTask, Call, LoopLocal, call_later
from aioencrypt.runtime.observation import cache_answered
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.runtime.threads import ThreadLock

V = TypeVar("V")

_log = logging.getLogger("aioencrypt")
_CLOSED = "closed while a key was being fetched"

# A longer timer is set in steps of this many seconds.
_LONGEST_TIMER = 24 * 60 * 60.0
# The heap of expiries may hold as many dropped keys as there are entries, and this many more.
_SLACK = 64


@attrs.frozen
class CacheStatistics:
    """What a cache has done since it was made.

    `hits` needed no fetch of their own, `misses` started a fetch, `refreshes` started one ahead of expiry,
    `evictions` made room for other keys. `size` is the number of entries now.
    """

    hits: int = 0
    misses: int = 0
    refreshes: int = 0
    evictions: int = 0
    size: int = 0


@attrs.define(eq=False)
class _Entry(Generic[V]):
    value: V = attrs.field(repr=False)
    created: float
    expires: float
    owner: object
    # When to try again after a failed refresh.
    retry: float = -math.inf


@attrs.define(eq=False)
class _Flight(Generic[V]):
    """A fetch under way. Its loop reads and writes it; `aclose` of the same loop sets `error` to end it.

    Whoever fetches or waits reads `value` and `error` after `task.ended` is set.
    """

    loop: _Loop[V]
    key: Hashable
    max_age: float
    usable: Callable[[V], bool] | None
    owner: object
    landed: bool = False
    value: V | None = attrs.field(default=None, repr=False)
    error: BaseException | None = None
    traceback: TracebackType | None = None
    task: BackgroundTask = attrs.field(factory=BackgroundTask)

    def outcome(self) -> V:
        """Return the value, or raise the error: each caller its own."""
        if not self.landed and self.error is None:
            self.error = ProviderError("the fetch was cancelled, and not by its caller")
        if self.error is not None:
            raise _own(self.error).with_traceback(self.traceback)
        return cast(V, self.value)


@attrs.define(eq=False)
class _Loop(Generic[V]):
    """What a cache keeps for one event loop: fetches to join, all running fetches, and a timer."""

    joinable: dict[tuple[Hashable, object], _Flight[V]] = attrs.field(factory=dict)
    running: set[_Flight[V]] = attrs.field(factory=set)
    timer: float = math.inf
    stop_timer: Call = attrs.field(default=lambda: None)


@attrs.define(eq=False)
class _Waiter:
    """A call that waits for a fetch. A closing marks it, so that it does not fetch again."""

    owner: object
    closed: bool = False


class AsyncCache(Generic[V]):
    """Keep at most `capacity` values. `aclose` empties the cache, which may be used again.

    `clock` returns monotonic seconds. `async with` closes the cache at the end.
    """

    def __init__(self, *, capacity: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = check_int("capacity", capacity, 0)
        self._clock = clock
        self._lock = ThreadLock(forget=self._forget)
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        # A heap of expiry times and their keys. Dropped keys stay in it for a while.
        self._expiries: list[tuple[float, int, Hashable]] = []
        self._number = count()
        self._loops: LoopLocal[_Loop[V]] = LoopLocal(_Loop)
        self._waiters: set[_Waiter] = set()
        self._hits = self._misses = self._refreshes = self._evictions = 0

    def __repr__(self) -> str:
        return f"AsyncCache(capacity={self._capacity}, size={len(self._entries)})"

    def __reduce__(self) -> Any:
        raise TypeError("a cache cannot be pickled or copied: each process has its own")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def statistics(self) -> CacheStatistics:
        """Counts of what happened so far."""
        with self._lock:
            return CacheStatistics(
                self._hits, self._misses, self._refreshes, self._evictions, len(self._entries)
            )

    async def get(
        self,
        key: Hashable,
        fetch: Callable[[], Awaitable[V]],
        *,
        max_age: float,
        refresh_ahead: float = 0.0,
        usable: Callable[[V], bool] | None = None,
        owner: object = None,
        observed_as: str | None = None,
    ) -> tuple[V, bool]:
        """Return the value for a key, and whether this call got it without a fetch of its own.

        A value lives for `max_age` seconds. Calls of one `owner` that miss share one `fetch`. The fetch
        continues when the calls are cancelled, and its error is raised to each of them and not kept. In the
        last `refresh_ahead` seconds of its life a value is returned at once and fetched again in the
        background. After a failed refresh, half of the remaining time passes before the next.

        `usable` is called once for each value that is about to be returned, while the cache is locked, so
        it may check and count in one step. A value that it refuses is fetched again; a value that this call
        fetched is returned anyway. Owners share values, but neither fetches nor errors. Observers see the
        answer under the name `observed_as`.
        """
        waiter: _Waiter | None = None
        try:
            while True:
                with self._lock:
                    if waiter is not None and waiter.closed:
                        raise ProviderClosedError(_CLOSED)
                    entry, flight, mine = self._look_up(key, max_age, refresh_ahead, usable, owner)
                    if entry is None and waiter is None:
                        waiter = _Waiter(owner)
                        self._waiters.add(waiter)
                if flight is not None and mine:
                    flight.task.start(partial(self._fly, flight, fetch))
                if entry is not None:
                    cache_answered("refresh" if mine else "hit", observed_as)
                    return entry.value, True
                assert flight is not None
                if mine:
                    cache_answered("miss", observed_as)
                await flight.task.ended.wait()
                value = flight.outcome()
                if mine:
                    return value, False
                with self._lock:
                    if usable is None or usable(value):
                        self._hits += 1
                        break
        finally:
            if waiter is not None:
                with self._lock:
                    self._waiters.discard(waiter)
        cache_answered("hit", observed_as)
        return value, True

    def drop(self, key: Hashable) -> None:
        """Forget a key. Callers that wait for it get the value of the running fetch, which is not kept."""
        with self._lock:
            self._entries.pop(key, None)
            self._detach(lambda flight: flight.key == key)

    def clear(self) -> None:
        """Forget all keys, as `drop` does."""
        with self._lock:
            self._entries.clear()
            self._detach(lambda flight: True)

    async def aclose(self, owner: object = None) -> None:
        """Forget all keys and end the fetches of this loop: their callers get `ProviderClosedError`.

        With an `owner`, only what its calls fetched. Fetches of other loops end by themselves, and are not
        kept.
        """
        with self._lock:
            own = [key for key, entry in self._entries.items() if owner is None or entry.owner is owner]
            for key in own:
                del self._entries[key]
            self._detach(lambda flight: owner is None or flight.owner is owner)
            for waiter in self._waiters:
                waiter.closed = waiter.closed or owner is None or waiter.owner is owner
            loop = self._loops.find()
            running = loop.running if loop else ()
            ending = [flight for flight in running if owner is None or flight.owner is owner]
            if not self._entries:
                self._expiries.clear()
            if loop and not self._entries:
                loop.stop_timer()
                loop.timer = math.inf
        for flight in ending:
            flight.error = ProviderClosedError(_CLOSED)
            flight.task.cancel()
        await wait_shielded(*(flight.task.ended for flight in ending))

    async def _fly(self, flight: _Flight[V], fetch: Callable[[], Awaitable[V]]) -> None:
        try:
            value = await fetch()
            with self._lock:
                self._land(flight, value)
        except get_cancelled_exc_class():
            raise
        except BaseException as error:  # raised to the callers that wait
            if flight.error is None:
                flight.error, flight.traceback = error, error.__traceback__
        finally:
            with self._lock:
                self._leave(flight)

    def _forget(self) -> None:
        """Start anew in a forked child that lost the lock while another thread was changing the cache."""
        self._entries = OrderedDict()
        self._expiries = []
        self._loops = LoopLocal(_Loop)
        self._waiters = set()

    # The lock is held in all methods below, except `_expire`, which takes it.

    def _here(self) -> _Loop[V]:
        """Return the state of the running loop, and set its timer."""
        loop = self._loops.get()
        self._set_timer(loop)
        return loop

    def _look_up(
        self,
        key: Hashable,
        max_age: float,
        refresh_ahead: float,
        usable: Callable[[V], bool] | None,
        owner: object,
    ) -> tuple[_Entry[V] | None, _Flight[V] | None, bool]:
        """Return a usable entry, the fetch for a missing or old one, and whether the caller must start it."""
        loop = self._here()
        entry, fresh = self._find(key, max_age, refresh_ahead, usable)
        self._hits += entry is not None
        if entry is not None and fresh:
            return entry, None, False
        flight = loop.joinable.get((key, owner))
        mine = flight is None or flight.task.ended.is_set()
        if flight is None or mine:
            flight = _Flight(loop, key, max_age, None if entry else usable, owner)
            loop.joinable[key, owner] = flight
            loop.running.add(flight)
        self._misses += mine and entry is None
        self._refreshes += mine and entry is not None
        return entry, flight, mine

    def _find(
        self, key: Hashable, max_age: float, refresh_ahead: float, usable: Callable[[V], bool] | None
    ) -> tuple[_Entry[V] | None, bool]:
        """Return an entry that may be used, and whether it needs no refresh yet."""
        now = self._clock()
        self._sweep(now)
        entry = self._entries.get(key)
        if entry is None:
            return None, False
        # The caller may accept less age than the caller that fetched the entry.
        expires = min(entry.expires, entry.created + max_age)
        if now >= expires or (usable is not None and not usable(entry.value)):
            return None, False
        self._entries.move_to_end(key)
        return entry, now < max(expires - refresh_ahead, entry.retry)

    def _land(self, flight: _Flight[V], value: V) -> None:
        """Keep a fetched value, unless its key was dropped in the meantime."""
        if flight.usable is not None:
            flight.usable(value)
        flight.landed, flight.value = True, value
        if flight.loop.joinable.get((flight.key, flight.owner)) is flight:
            self._keep(flight, value)
            self._set_timer(flight.loop)

    def _leave(self, flight: _Flight[V]) -> None:
        """Take a flight off its loop. If a refresh failed, set the time of the next one."""
        loop = flight.loop
        loop.running.discard(flight)
        if loop.joinable.get((flight.key, flight.owner)) is flight:
            del loop.joinable[flight.key, flight.owner]
        entry = self._entries.get(flight.key)
        if entry is not None and not flight.landed:
            _log.debug("a key could not be refreshed: %s", type(flight.error).__name__)
            entry.retry = (self._clock() + entry.expires) / 2

    def _detach(self, which: Callable[[_Flight[V]], bool]) -> None:
        """Let no caller join these fetches any more. They continue, but their values are not kept."""
        for loop in self._loops.all():
            for key, flight in list(loop.joinable.items()):
                if which(flight):
                    del loop.joinable[key]

    def _keep(self, flight: _Flight[V], value: V) -> None:
        now = self._clock()
        expires = now + flight.max_age
        self._entries[flight.key] = _Entry(value, now, expires, flight.owner)
        self._entries.move_to_end(flight.key)
        heappush(self._expiries, (expires, next(self._number), flight.key))
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
            self._evictions += 1
        if len(self._expiries) > 2 * len(self._entries) + _SLACK:
            self._expiries = [(kept.expires, next(self._number), key) for key, kept in self._entries.items()]
            heapify(self._expiries)

    def _sweep(self, now: float) -> None:
        """Drop expired entries."""
        while self._expiries and self._expiries[0][0] <= now:
            key = heappop(self._expiries)[2]
            if (entry := self._entries.get(key)) and entry.expires <= now:
                del self._entries[key]

    def _set_timer(self, loop: _Loop[V]) -> None:
        """Make the loop drop the next entry that expires, even if nobody uses the cache then."""
        earliest = self._expiries[0][0] if self._expiries else math.inf
        if earliest >= loop.timer:
            return
        loop.stop_timer()
        loop.timer = earliest
        method = WeakMethod(self._expire)

        def expire() -> None:
            if (living := method()) is not None:
                living(loop)

        seconds = max(0.0, earliest - self._clock())
        loop.stop_timer = call_later(min(seconds, _LONGEST_TIMER), expire)

    def _expire(self, loop: _Loop[V]) -> None:
        with self._lock:
            loop.timer = math.inf
            self._sweep(self._clock())
            self._set_timer(loop)


def _own(error: BaseException) -> BaseException:
    """Return a copy of an error for one of several callers: each raises it, and adds to its traceback."""
    if not isinstance(error, EncryptionError):
        return error
    twin = copy.copy(error)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin
