"""The one cache, for whatever a service is asked for and that may be used again.

Entries have an age, and the least recently used one makes room for a new one. Whoever misses waits
for one fetch together with all others who miss; the fetch is background work, so that it does not
end with the caller that happened to come first. Entries are shared by all loops and threads of a
process; a fetch belongs to the loop in which it was started.
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
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakKeyDictionary, WeakMethod

import attrs
from anyio import get_cancelled_exc_class

from aioencrypt.errors import EncryptionError, ProviderClosedError, ProviderError
from aioencrypt.runtime.event_loops import BackgroundTask, Call, call_later, running_loop
from aioencrypt.runtime.observation import cache_answered
from aioencrypt.runtime.offload import wait_shielded

V = TypeVar("V")

_log = logging.getLogger("aioencrypt")

# Longer timers than this are set again.
_LONGEST_TIMER = 24 * 60 * 60.0
# Keys that were dropped may stay in the heap of expiries up to this many, and as many as there are entries.
_SLACK = 64


@attrs.frozen
class CacheStatistics:
    """What a cache has done since it was made.

    `hits` were answered without a fetch of their own, `misses` had to fetch, `refreshes` were fetched
    ahead of expiry, `evictions` made room for others. `size` is the number of entries now.
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
    # After a refresh that failed: when to try again.
    retry: float = -math.inf


@attrs.define(eq=False)
class _Flight(Generic[V]):
    """A fetch under way."""

    key: Hashable
    ttl: float
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
    """What belongs to one event loop: fetches that can be joined, all that run, and a timer."""

    joinable: dict[tuple[Hashable, object], _Flight[V]] = attrs.field(factory=dict)
    running: set[_Flight[V]] = attrs.field(factory=set)
    timer: float = math.inf
    stop_timer: Call = attrs.field(default=lambda: None)


class AsyncCache(Generic[V]):
    """A cache of at most `capacity` values. Reuse it as you like; `aclose` empties it.

    `clock` gives monotonic seconds. `async with` closes it at the end.
    """

    def __init__(self, *, capacity: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(capacity, int):
            raise TypeError(f"capacity is an int, not {type(capacity).__name__}")
        if capacity < 0:
            raise ValueError(f"capacity is {capacity}; it must be 0 or more")
        self._capacity = capacity
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        # A heap of when which key expires; keys that were dropped stay in it for a while.
        self._expiries: list[tuple[float, int, Hashable]] = []
        self._number = count()
        self._loops: WeakKeyDictionary[object, _Loop[V]] = WeakKeyDictionary()
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
        ttl: float,
        refresh_ahead: float = 0.0,
        usable: Callable[[V], bool] | None = None,
        owner: object = None,
        observed_as: str | None = None,
    ) -> tuple[V, bool]:
        """Return the value for a key, and whether it is there without a fetch of this call's own.

        A value is kept for `ttl` seconds. All who miss wait for one `fetch`; it goes on when they are
        cancelled, all of them too, and what it raises is raised to each and not kept. In the last
        `refresh_ahead` seconds of its life a value is returned at once and fetched anew in the
        background; where that fails, it is tried again after half of the time that is left.

        `usable` is called once for each value that is about to be returned, with the cache locked, so
        that it may check and count at once; a value that it refuses is fetched anew, but what this
        call fetched itself is returned whatever it says. Calls of one `owner` wait for one fetch;
        several owners share what is kept, but neither fetches nor errors. Observers are told of the answer
        under the name `observed_as`.
        """
        while True:
            with self._lock:
                loop = self._here()
                entry, fresh = self._find(key, ttl, refresh_ahead, usable)
                if entry is not None and fresh:
                    self._hits += 1
                    value = entry.value
                    break
                flight = loop.joinable.get((key, owner))
                mine = flight is None or flight.task.ended.is_set()
                if flight is None or mine:
                    flight = _Flight(key, ttl, None if entry else usable, owner)
                    loop.joinable[key, owner] = flight
                    loop.running.add(flight)
                self._hits += entry is not None
                self._misses += mine and entry is None
                self._refreshes += mine and entry is not None
            if mine:
                flight.task.start(partial(self._fly, loop, flight, fetch))
            if entry is not None:
                cache_answered("refresh" if mine else "hit", observed_as)
                return entry.value, True
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
        cache_answered("hit", observed_as)
        return value, True

    def drop(self, key: Hashable) -> None:
        """Forget a key. A fetch for it that is under way goes to those who wait, and is not kept."""
        with self._lock:
            self._entries.pop(key, None)
            self._part(lambda flight: flight.key == key)

    def clear(self) -> None:
        """Forget all keys, as `drop` does."""
        with self._lock:
            self._entries.clear()
            self._part(lambda flight: True)

    async def aclose(self, owner: object = None) -> None:
        """Forget all keys and end the fetches of this loop; who waits for one gets `ProviderClosedError`.

        With an `owner`, only what its calls fetched. The cache may be used again.
        """
        with self._lock:
            own = [key for key, entry in self._entries.items() if owner is None or entry.owner is owner]
            for key in own:
                del self._entries[key]
            self._part(lambda flight: owner is None or flight.owner is owner)
            loop = self._here()
            ending = [flight for flight in loop.running if owner is None or flight.owner is owner]
            if not self._entries:
                self._expiries.clear()
                loop.stop_timer()
                loop.timer = math.inf
        for flight in ending:
            flight.error = ProviderClosedError("closed while a key was being fetched")
            flight.task.cancel()
        for flight in ending:
            await wait_shielded(flight.task.ended)

    async def _fly(self, loop: _Loop[V], flight: _Flight[V], fetch: Callable[[], Awaitable[V]]) -> None:
        try:
            value = await fetch()
            with self._lock:
                self._land(loop, flight, value)
        except get_cancelled_exc_class():
            raise
        except BaseException as error:  # for those who wait
            if flight.error is None:
                flight.error, flight.traceback = error, error.__traceback__
        finally:
            with self._lock:
                self._leave(loop, flight)

    # What follows is called with the lock held.

    def _here(self) -> _Loop[V]:
        """Return the state of the running loop, and see to its timer."""
        running = running_loop()
        loop = self._loops.get(running)
        if loop is None:
            loop = self._loops[running] = _Loop()
        self._set_timer(loop)
        return loop

    def _find(
        self, key: Hashable, ttl: float, refresh_ahead: float, usable: Callable[[V], bool] | None
    ) -> tuple[_Entry[V] | None, bool]:
        """Return an entry that may be used, and whether there is no need yet to refresh it."""
        now = self._clock()
        self._sweep(now)
        entry = self._entries.get(key)
        if entry is None:
            return None, False
        # Whoever shares an entry may want younger ones than the caller that fetched it.
        expires = min(entry.expires, entry.created + ttl)
        if now >= expires or (usable is not None and not usable(entry.value)):
            return None, False
        self._entries.move_to_end(key)
        return entry, now < max(expires - refresh_ahead, entry.retry)

    def _land(self, loop: _Loop[V], flight: _Flight[V], value: V) -> None:
        """Keep what was fetched, unless it was dropped meanwhile."""
        if flight.usable is not None:
            flight.usable(value)
        flight.landed, flight.value = True, value
        if loop.joinable.get((flight.key, flight.owner)) is flight:
            self._keep(flight, value)
            self._set_timer(loop)

    def _leave(self, loop: _Loop[V], flight: _Flight[V]) -> None:
        """Take a flight off, and see when an entry that it was to refresh gets the next one."""
        loop.running.discard(flight)
        if loop.joinable.get((flight.key, flight.owner)) is flight:
            del loop.joinable[flight.key, flight.owner]
        entry = self._entries.get(flight.key)
        if entry is not None and not flight.landed:
            _log.debug("a key could not be refreshed: %s", type(flight.error).__name__)
            entry.retry = (self._clock() + entry.expires) / 2

    def _part(self, which: Callable[[_Flight[V]], bool]) -> None:
        """Let nobody join these flights any more, in no loop."""
        for loop in list(self._loops.values()):
            for key, flight in list(loop.joinable.items()):
                if which(flight):
                    del loop.joinable[key]

    def _keep(self, flight: _Flight[V], value: V) -> None:
        now = self._clock()
        expires = now + flight.ttl
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
        """Drop what has expired."""
        while self._expiries and self._expiries[0][0] <= now:
            key = heappop(self._expiries)[2]
            if (entry := self._entries.get(key)) and entry.expires <= now:
                del self._entries[key]

    def _set_timer(self, loop: _Loop[V]) -> None:
        """Make the loop drop the next entry that expires, whether or not the cache is used then."""
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
    """Return an error for one of several callers, who might all raise it at the same time."""
    if not isinstance(error, EncryptionError):
        return error
    twin = copy.copy(error)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin
