"""The slot table: no leak, no overlap, no negative count, whatever the order of calls."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ramole.executor.slots import SlotTable

NUM_SLOTS = 6
digests = st.lists(st.sampled_from("abcdefghij"), max_size=4, unique=True)


class SlotMachine(RuleBasedStateMachine):
    """Acquires, releases and drops against a plain model: the list of requests that hold slots."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(NUM_SLOTS)
        self.held: list[list[str]] = []

    @rule(wanted=digests)
    def acquire(self, wanted: list[str]) -> None:
        in_use = {d for group in self.held for d in group}
        fits = len(in_use | set(wanted)) <= NUM_SLOTS - 1
        assert self.table.can_acquire(wanted) == fits
        if not fits:
            return
        before = set(self.table.resident)
        placed = self.table.acquire(wanted)
        assert {d for d, _ in placed} == set(wanted) - before
        self.held.append(wanted)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.table.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule(digest=st.sampled_from("abcdefghij"))
    def drop(self, digest: str) -> None:
        may = digest in self.table.resident and not any(digest in group for group in self.held)
        assert (self.table.drop(digest) is not None) == may

    @invariant()
    def holds_what_runs(self) -> None:
        for digest in "abcdefghij":
            assert self.table.refs(digest) == sum(digest in group for group in self.held)
        for group in self.held:
            assert all(digest in self.table for digest in group)

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        used = [self.table.slot(d) for d in self.table.resident]
        assert sorted(used + self.table._free) == list(range(1, NUM_SLOTS))


TestSlots = SlotMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_least_recently_used_idle_adapter_is_evicted() -> None:
    table = SlotTable(4)
    for digest in "abc":
        table.acquire([digest])
    table.release(["a"])
    table.release(["b"])
    table.acquire(["a"])
    table.release(["a"])  # a was used after b
    assert [d for d, _ in table.acquire(["d"])] == ["d"]
    assert set(table.resident) == {"a", "c", "d"}
