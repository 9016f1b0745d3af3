"""One load for many waiters; never more bytes than allowed; what is dropped is really freed."""

from __future__ import annotations

import gc
from concurrent.futures import Future
from dataclasses import dataclass, field

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ramole.core.errors import AdapterRefused, Corrupt, NotFound, RamoleError, Unavailable
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
        return HostTier(self.load, max_bytes, negative_s=5.0, missing_s=1.0, clock=lambda: self.now_s)


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


@pytest.mark.parametrize(
    ("error", "life_s"),
    [
        (Corrupt("broken"), 5.0),
        (AdapterRefused("too large"), 5.0),
        (NotFound("missing"), 1.0),
        (Unavailable("down"), 0.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_remembered_as_long_as_its_cause_may_last(error: RamoleError, life_s: float) -> None:
    source = Source(errors={"a": error})
    tier = source.tier()
    for _ in range(3):
        with pytest.raises(type(error)):
            tier.get("a").result()
    assert len(source.loads) == (1 if life_s else 3)
    source.errors.clear()  # restored, uploaded again, up again
    if life_s:
        source.now_s = life_s - 0.1
        with pytest.raises(type(error)):
            tier.get("a").result()
        source.now_s = life_s
    assert tier.get("a").result().digest == "a"


def test_nothing_is_remembered_for_no_time() -> None:
    source = Source(errors={"a": NotFound("missing"), "b": Corrupt("broken")})
    tier = HostTier(source.load, 100, negative_s=0.0, missing_s=0.0, clock=lambda: 0.0)
    for digest in "aabb":
        assert tier.get(digest).exception() is not None
    assert source.loads == ["a", "a", "b", "b"]


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

    tier = HostTier(load, 100, negative_s=5.0, missing_s=1.0)
    with pytest.raises(RuntimeError):
        tier.get("a").result()
    is_down = False
    assert tier.get("a").result().digest == "a"


@pytest.mark.parametrize("error", [Corrupt("broken"), NotFound("missing")])
def test_a_drop_forgets_a_failure(error: RamoleError) -> None:
    source = Source(errors={"a": error})
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

    tier = HostTier(load, 2**40, negative_s=1.0, missing_s=1.0)
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


@dataclass(frozen=True)
class Load:
    """One that is under way: what it found is as old as its start."""

    digest: str
    started_at: int
    future: Future[Value]


class DropMachine(RuleBasedStateMachine):
    """Loads end in any order, long after drops and later loads: nothing from before a drop may stay."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.loads: list[Load] = []
        self.waiters: list[tuple[Load, Future[Value]]] = []
        self.dropped_at = dict.fromkeys("abc", -1)
        self.answers: list[Value | NotFound] = []  # alive, so that none gets the id of another
        self.found_at: dict[int, int] = {}
        self.tier = HostTier[Value](self.load, 25, negative_s=5.0, missing_s=1.0, clock=lambda: 0.0)

    def load(self, digest: str) -> Future[Value]:
        self.now += 1
        self.loads.append(Load(digest, self.now, Future()))
        return self.loads[-1].future

    @rule(digest=st.sampled_from("abc"))
    def get(self, digest: str) -> None:
        before = len(self.loads)
        waiter = self.tier.get(digest)
        if len(self.loads) > before:
            self.waiters.append((self.loads[-1], waiter))
        elif waiter.done():
            error = waiter.exception()
            answer = waiter.result() if error is None else error
            assert self.found_at[id(answer)] > self.dropped_at[digest]

    @rule(digest=st.sampled_from("abc"))
    def prefetch(self, digest: str) -> None:
        self.tier.prefetch(digest)

    @rule(digest=st.sampled_from("abc"))
    def drop(self, digest: str) -> None:
        self.tier.drop(digest)
        self.dropped_at[digest] = self.now

    @precondition(lambda self: any(not load.future.done() for load in self.loads))
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, *, fails: bool) -> None:
        load = data.draw(st.sampled_from([load for load in self.loads if not load.future.done()]))
        answer = NotFound("missing") if fails else Value(load.digest)
        self.answers.append(answer)
        self.found_at[id(answer)] = load.started_at
        if isinstance(answer, Value):
            load.future.set_result(answer)
        else:
            load.future.set_exception(answer)

    @invariant()
    def nothing_from_before_a_drop_is_kept(self) -> None:
        for digest, value in self.tier._values.items():
            assert self.found_at[id(value)] > self.dropped_at[digest]

    @invariant()
    def who_waits_for_a_load_gets_what_it_found(self) -> None:
        for load, waiter in self.waiters:
            assert waiter.done() == load.future.done()


TestDrops = DropMachine.TestCase
TestDrops.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
