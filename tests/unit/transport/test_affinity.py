from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ramole.transport.affinity import AffinityPolicy, Candidate, Ledger, Ticket

POLICY = AffinityPolicy()
DIGESTS = st.sampled_from([f"d{i}" for i in range(6)])
SETS = st.frozensets(DIGESTS, max_size=4)
CANDIDATES = st.lists(
    st.builds(Candidate, st.uuids().map(str), st.floats(0, 30), SETS),
    min_size=1,
    max_size=6,
    unique_by=lambda c: c.replica,
)


@given(SETS, CANDIDATES, st.randoms(use_true_random=False))
def test_every_candidate_is_ranked_once_whatever_their_order(wanted, candidates, random) -> None:
    ranked = POLICY.rank(wanted, candidates)
    assert sorted(ranked) == sorted(candidate.replica for candidate in candidates)
    random.shuffle(candidates)
    assert POLICY.rank(wanted, candidates) == ranked


@given(SETS, CANDIDATES)
def test_the_first_choice_is_never_too_busy(wanted, candidates) -> None:
    loads = {candidate.replica: candidate.load for candidate in candidates}
    assert loads[POLICY.rank(wanted, candidates)[0]] - min(loads.values()) <= POLICY.max_imbalance


@given(SETS.filter(bool), st.lists(st.uuids().map(str), min_size=2, max_size=5, unique=True), st.data())
def test_at_equal_load_the_replica_that_holds_everything_wins(wanted, names, data) -> None:
    holder = data.draw(st.sampled_from(names))
    candidates = [Candidate(name, 1.0, wanted if name == holder else frozenset()) for name in names]
    assert POLICY.rank(wanted, candidates)[0] == holder


def test_cold_sets_spread_evenly() -> None:
    replicas = [Candidate(f"r{i}") for i in range(4)]
    homes = Counter(POLICY.rank(frozenset({f"a{i}", f"b{i}"}), replicas)[0] for i in range(2000))
    assert min(homes.values()) > 400
    assert max(homes.values()) < 600


def test_sets_that_share_an_adapter_do_not_pile_up_on_one_replica() -> None:
    resident: dict[str, set[str]] = {f"r{i}": set() for i in range(3)}
    sizes: Counter[str] = Counter()
    for i in range(60):
        wanted = frozenset({"common", f"a{i}", f"b{i}"})
        first = POLICY.rank(wanted, [Candidate(name, 0.0, frozenset(held)) for name, held in resident.items()])[0]
        resident[first] |= wanted
        sizes[first] += 1
    assert min(sizes.values()) > 10


def test_only_the_sets_at_home_on_a_lost_replica_move() -> None:
    replicas = [Candidate(f"r{i}") for i in range(4)]
    for i in range(200):
        wanted = frozenset({f"a{i}"})
        before = POLICY.rank(wanted, replicas)[0]
        after = POLICY.rank(wanted, replicas[:3])[0]
        assert before in (after, "r3")


def test_load_moves_a_request_away_and_back() -> None:
    wanted = frozenset({"a"})
    home = POLICY.rank(wanted, [Candidate("x"), Candidate("y")])[0]
    other = "y" if home == "x" else "x"
    warm = [Candidate(home, 0.0, wanted), Candidate(other)]
    assert POLICY.rank(wanted, warm)[0] == home
    busy = [Candidate(home, 20.0, wanted), Candidate(other)]
    assert POLICY.rank(wanted, busy)[0] == other


def test_no_candidates_no_ranking() -> None:
    assert POLICY.rank(frozenset({"a"}), []) == []


def test_the_ledger_forgets_placements_in_time_and_requests_when_they_end() -> None:
    now = [0.0]
    ledger = Ledger(10.0, lambda: now[0])
    ledger.send("r", ["a"])
    now[0] = 6.0
    ledger.send("r", ["b"])
    assert ledger.placed("r") == {"a", "b"}
    assert ledger.inflight("r") == 2
    now[0] = 10.0
    assert ledger.placed("r") == {"b"}
    ledger.finish("r")
    assert ledger.inflight("r") == 1
    ledger.keep([])
    assert ledger.placed("r") == frozenset()
    ledger.finish("r")  # of a replica that is gone
    assert ledger.inflight("r") == 0


def test_a_ticket_is_given_back_exactly_once_for_each_assignment() -> None:
    returned: list[str] = []
    ticket = Ticket(["a", "a", "b"])
    assert ticket.wanted == {"a", "b"}
    ticket.close()
    ticket.assign(lambda: returned.append("first"))
    ticket.assign(lambda: returned.append("second"))
    assert returned == ["first"]
    ticket.close()
    ticket.close()
    assert returned == ["first", "second"]
