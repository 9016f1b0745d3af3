"""One load for many waiters; never more bytes than allowed; what is dropped is really freed."""

from __future__ import annotations

import gc
from concurrent.futures import Future
from dataclasses import dataclass, field

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import Corrupt, NotFound, RamoleError, Unavailable
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.tiers.host import HostTier


@dataclass(frozen=True)
class Value:
    digest: str
    num_bytes: int = 10


@dataclass
class Source:
    """Loads are done at once unless `holds`; `errors` fail."""

    holds: bool = False
    errors: dict[str, RamoleError] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    pending: dict[str, Future[Value]] = field(default_factory=dict)
    now_s: float = 0.0

    def load(self, digest: str) -> Future[Value]:
        self.loads.append(digest)
        self.pending[digest] = Future()
        future = self.pending[digest]
        if not self.holds:
            self.finish(digest)
        return future

    def finish(self, digest: str) -> None:
        if digest in self.errors:
            self.pending[digest].set_exception(self.errors[digest])
        else:
            self.pending[digest].set_result(Value(digest))

    def tier(self, max_bytes: int = 100) -> HostTier[Value]:
        return HostTier(self.load, max_bytes, negative_s=5.0, clock=lambda: self.now_s)


def test_least_recently_used_goes_first() -> None:
    source = Source()
    tier = source.tier(25)
    for digest in ("a", "b", "a", "c", "a"):
        assert tier.get(digest).result().digest == digest
    assert source.loads == ["a", "b", "c"]
    assert ("a" in tier, "b" in tier, "c" in tier) == (True, False, True)
    counts = tier.counts
    assert (counts.hits, counts.misses, counts.evictions, counts.num_bytes, counts.num_entries) == (2, 3, 1, 20, 2)


def test_what_does_not_fit_is_handed_out_and_not_kept() -> None:
    source = Source()
    tier = source.tier(9)
    assert [tier.get("a").result().digest for _ in range(2)] == ["a", "a"]
    assert (source.loads, tier.counts.num_bytes) == (["a", "a"], 0)


def test_many_waiters_one_load_that_nobody_can_cancel() -> None:
    source = Source(holds=True)
    tier = source.tier()
    waiters = [tier.get("a") for _ in range(20)]
    assert not waiters[0].cancel()
    source.finish("a")
    assert len({id(waiter.result()) for waiter in waiters}) == 1
    assert source.loads == ["a"]


def test_pinned_values_stay_until_the_last_pin_is_gone() -> None:
    source = Source()
    tier = source.tier(10)
    tier.get("a", pin=True)
    tier.get("a", pin=True)
    tier.get("b")
    assert ("a" in tier, "b" in tier) == (True, False)
    tier.unpin("a")
    tier.get("b", pin=True)
    assert tier.counts.num_bytes == 20
    tier.unpin("a")
    assert ("a" in tier, "b" in tier, tier.counts.num_bytes) == (False, True, 10)


def test_a_broken_content_is_remembered_for_a_moment_and_a_missing_one_is_not() -> None:
    source = Source(errors={"broken": Corrupt("broken"), "missing": NotFound("missing")})
    tier = source.tier()
    for digest, kind in (("broken", Corrupt), ("missing", NotFound)):
        for _ in range(3):
            with pytest.raises(kind):
                tier.get(digest).result()
    assert source.loads == ["broken", *["missing"] * 3]
    source.now_s = 4.9
    with pytest.raises(Corrupt):
        tier.get("broken").result()
    source.errors.clear()
    source.now_s = 5.1
    assert tier.get("broken").result().digest == "broken"
    assert source.loads.count("broken") == 2


def test_a_prefetch_makes_the_next_look_up_a_hit_and_counts_as_none() -> None:
    source = Source(holds=True, errors={"bad": Corrupt("broken")})
    tier = source.tier()
    for digest in ("a", "a", "b", "bad"):
        tier.prefetch(digest)
    late = tier.get("b")
    for digest in ("a", "b", "bad"):
        source.finish(digest)
    tier.prefetch("a")
    assert (tier.get("a").result().digest, late.result().digest) == ("a", "b")
    assert source.loads == ["a", "b", "bad"]
    assert (tier.counts.hits, tier.counts.misses, tier.counts.failures) == (1, 1, 1)


def test_a_load_that_is_cancelled_leaves_nobody_waiting() -> None:
    source = Source(holds=True)
    tier = source.tier()
    waiter = tier.get("a")
    source.pending["a"].cancel()
    with pytest.raises(Unavailable):
        waiter.result(timeout=5)


def test_a_load_that_cannot_even_start_is_tried_again() -> None:
    source = Source()
    is_down = True

    def load(digest: str) -> Future[Value]:
        if is_down:
            raise RuntimeError("the event loop is closed")
        return source.load(digest)

    tier = HostTier(load, 100, negative_s=5.0)
    with pytest.raises(RuntimeError):
        tier.get("a").result()
    is_down = False
    assert tier.get("a").result().digest == "a"


def test_a_drop_forgets_a_failure() -> None:
    source = Source(errors={"a": Corrupt("broken")})
    tier = source.tier()
    tier.get("a").exception()
    tier.drop("a")
    source.errors.clear()
    assert tier.get("a").result().digest == "a"


def test_dropped_while_loading_is_not_kept() -> None:
    source = Source(holds=True)
    tier = source.tier()
    waiter = tier.get("a")
    tier.drop("a")
    again = tier.get("a")
    old = source.pending["a"]
    assert source.loads == ["a", "a"]
    source.finish("a")
    assert again.result().digest == "a"
    assert not waiter.done()
    assert old.done()
    assert "a" in tier


def test_a_drop_frees_the_memory() -> None:
    mebibytes = 256

    def load(digest: str) -> Future[AdapterWeights]:
        half = torch.ones(mebibytes // 8, 2**20)
        future: Future[AdapterWeights] = Future()
        future.set_result(AdapterWeights({"m": LoraPair(half, half.clone())}))
        return future

    tier = HostTier(load, 2**40, negative_s=1.0)
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    tier.get("a")
    loaded = process.memory_info().rss
    assert tier.counts.num_bytes == mebibytes * 2**20
    assert loaded - before > 0.9 * mebibytes * 2**20
    tier.drop("a")
    gc.collect()
    assert loaded - process.memory_info().rss > 0.9 * mebibytes * 2**20
    assert (tier.counts.num_bytes, tier.counts.num_entries) == (0, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["get", "prefetch", "pin", "unpin", "drop", "finish"]), st.sampled_from("abcde"))
)


@given(STEPS, st.integers(0, 40))
def test_whatever_happens_the_books_are_right(steps: list[tuple[str, str]], max_bytes: int) -> None:
    source = Source(holds=True)
    tier = source.tier(max_bytes)
    pins: list[str] = []
    for step, digest in steps:
        if step in ("get", "pin"):
            tier.get(digest, pin=step == "pin")
            pins += [digest] if step == "pin" else []
        elif step == "prefetch":
            tier.prefetch(digest)
        elif step == "unpin" and digest in pins:
            pins.remove(digest)
            tier.unpin(digest)
        elif step == "drop":
            tier.drop(digest)
        elif step == "finish" and digest in source.pending and not source.pending[digest].done():
            source.finish(digest)
        kept = [digest for digest in "abcde" if digest in tier]
        assert tier.counts.num_entries == len(kept)
        assert tier.counts.num_bytes == 10 * len(kept)
        assert tier.counts.num_bytes <= max_bytes or set(kept) <= set(pins)
