"""Values in host memory: least recently used first out, by bytes; one load per digest, however many wait."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, Protocol, TypeVar

from cachetools import TLRUCache

from ramole.core.errors import AdapterRefused, Corrupt, NotFound, Unavailable
from ramole.observability.tiers import TierCounts

_MAX_FAILURES = 4096


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


V = TypeVar("V", bound=_Sized)


class HostTier(Generic[V]):
    """Safe in any thread; `get` never blocks.

    Args:
        load: starts to load one value. An error reaches all who wait. Corrupt, AdapterRefused and NotFound are also the
            answer to everybody who asks for a while. Others are not remembered: what was unreachable may answer the
            next moment.
        max_bytes: of all values kept. Pinned ones are never evicted, and may exceed it alone. What does not fit is
            handed out and not kept; 0 keeps nothing.
        negative_s: how long a bad content is not tried again.
        missing_s: the same for one that was not found; short, because it may come at any moment. 0 = not remembered.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        load: Callable[[str], Future[V]],
        max_bytes: int,
        *,
        negative_s: float,
        missing_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._values: OrderedDict[str, V] = OrderedDict()  # least recently used first
        self._pins: Counter[str] = Counter()
        self._loading: dict[str, Future[V]] = {}
        self._bad: TLRUCache[str, BaseException] = TLRUCache(
            _MAX_FAILURES,
            lambda _, error, now_s: now_s + (missing_s if isinstance(error, NotFound) else negative_s),
            timer=clock,
        )
        self.counts = TierCounts()

    def __contains__(self, digest: str) -> bool:
        return digest in self._values

    def get(self, digest: str, *, pin: bool = False) -> Future[V]:
        """The value, from memory or through `load`. The future cannot be cancelled: others may wait for it.

        Args:
            pin: keep it until `unpin` is called as often as it was pinned. To be undone after a failure as well.
        """
        with self._lock:
            if pin:
                self._pins[digest] += 1
            value = self._values.get(digest)
            if value is not None:
                self.counts.hits += 1
                self._values.move_to_end(digest)
                return _done(value)
            self.counts.misses += 1
        return self._start(digest)

    def prefetch(self, digest: str) -> Future[V] | None:
        """Starts to load a value that is not here. Gives the load, which nobody has to wait for; None = it is here."""
        return None if digest in self else self._start(digest)

    def unpin(self, digest: str) -> None:
        """Takes one pin back."""
        with self._lock:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
                self._evict()

    def drop(self, digest: str) -> None:
        """Frees a value. One that is being loaded still reaches those who wait, but is not kept."""
        with self._lock:
            self._loading.pop(digest, None)
            self._bad.pop(digest, None)
            if digest in self._values:
                self._discard(digest)

    def _start(self, digest: str) -> Future[V]:
        """The load under way, or a new one. A value that arrived in between is simply loaded again."""
        with self._lock:
            error = self._bad.get(digest)
            future = self._loading.get(digest)
            if error is None and future is not None:
                return future
            future = Future()
            future.set_running_or_notify_cancel()
            if error is None:
                self._loading[digest] = future
        if error is not None:
            future.set_exception(error)
            return future
        try:
            loading = self._load(digest)
        except Exception as failure:  # whatever it is, it must not be met by everybody who asks from now on
            loading = Future()
            loading.set_exception(failure)
        loading.add_done_callback(lambda loaded: self._loaded(digest, future, loaded))
        return future

    def _loaded(self, digest: str, future: Future[V], loaded: Future[V]) -> None:
        is_cancelled = loaded.cancelled()  # by an event loop that ends
        error = Unavailable("the load was given up", remedy="retry") if is_cancelled else loaded.exception()
        with self._lock:
            is_wanted = self._loading.get(digest) is future
            if is_wanted:
                del self._loading[digest]
            if error is not None:
                self.counts.failures += 1
                if is_wanted and isinstance(error, Corrupt | AdapterRefused | NotFound):
                    self._bad[digest] = error
            elif is_wanted:
                value = loaded.result()
                if digest in self._values:
                    self._discard(digest)
                self._values[digest] = value
                self.counts.num_bytes += value.num_bytes
                self.counts.num_entries += 1
                self._evict()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(loaded.result())

    def _evict(self) -> None:
        while self.counts.num_bytes > self._max_bytes:
            digest = next((digest for digest in self._values if digest not in self._pins), None)
            if digest is None:
                return
            self.counts.evictions += 1
            self._discard(digest)

    def _discard(self, digest: str) -> None:
        self.counts.num_bytes -= self._values.pop(digest).num_bytes
        self.counts.num_entries -= 1


def _done(value: V) -> Future[V]:
    future: Future[V] = Future()
    future.set_result(value)
    return future
