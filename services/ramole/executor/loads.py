"""Loads under way: the weights of adapters that are on their way to the device, one future for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future

from ramole.core.errors import RamoleError, Unavailable, WrongState, told
from ramole.lora.weights import AdapterWeights

LoadAdapter = Callable[[str], "Future[AdapterWeights]"]


class Loads:
    """By digest. Each that was started is taken once, which releases what it holds.

    Args:
        load: starts loading an adapter's weights by digest, off this thread.
        release: told once for each `load`, when its weights are in a slot or no longer wanted.
    """

    def __init__(self, load: LoadAdapter, release: Callable[[str], None]) -> None:
        self._load = load
        self._release = release
        self._loads: dict[str, Future[AdapterWeights]] = {}

    def __len__(self) -> int:
        return len(self._loads)

    def __contains__(self, digest: str) -> bool:
        return digest in self._loads

    @property
    def digests(self) -> Collection[str]:
        """Of all that were started and not taken."""
        return self._loads.keys()

    @property
    def pending(self) -> tuple[Future[AdapterWeights], ...]:
        """Those that are not done."""
        return tuple(load for load in self._loads.values() if not load.done())

    def start(self, digest: str) -> None:
        """Starts one, unless it was. What cannot be started is a load that has failed."""
        if digest in self._loads:
            return
        try:
            self._loads[digest] = self._load(digest)
        except Exception as error:
            failed: Future[AdapterWeights] = Future()
            failed.set_exception(error)
            self._loads[digest] = failed

    def take(self, digest: str) -> None:
        """Ends one: its weights are in a slot, or nobody wants them."""
        self._release(digest)
        del self._loads[digest]

    def is_done(self, digest: str) -> bool:
        """Whether one is over, well or not."""
        load = self._loads.get(digest)
        return load is not None and load.done()

    def weights(self, digest: str) -> AdapterWeights:
        """Of one that ended well."""
        return self._loads[digest].result()

    def ended(self) -> Iterator[tuple[str, AdapterWeights | RamoleError]]:
        """Those that are over, with what came of them. Any may be taken meanwhile."""
        for digest, load in list(self._loads.items()):
            if load.done():
                yield digest, _failure(load) or load.result()


def _failure(load: Future[AdapterWeights]) -> RamoleError | None:
    if load.cancelled():
        return Unavailable("an adapter's load was broken off", field="adapters", remedy="retry")
    error = load.exception()
    if error is None or isinstance(error, RamoleError):
        return error
    return WrongState(f"an adapter could not be loaded: {told(error)}", field="adapters")
