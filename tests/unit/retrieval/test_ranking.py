from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ramole.core.names import AdapterRef
from ramole.retrieval.ranking import SampleHit, best, best_of
from ramole.retrieval.values import Hit


def hit(name: str, version: int, similarity: float) -> Hit:
    return Hit(AdapterRef("acme", name, version, f"{version:064x}"), similarity)


def test_an_old_version_never_stands_for_its_name_even_if_it_is_nearer() -> None:
    hits = [hit("mail", 9, 0.9), hit("mail", 10, 0.1), hit("code", 1, 0.5)]
    assert best(hits, 3) == [hits[2], hits[1]]


@given(
    st.lists(
        st.builds(hit, st.sampled_from("abcdef"), st.integers(1, 12), st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
        unique_by=lambda made: made.ref,
    ),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_the_answer_does_not_depend_on_the_order_of_rows(hits: list[Hit], k: int, chance: random.Random) -> None:
    shuffled = hits.copy()
    chance.shuffle(shuffled)
    answer = best(hits, k)
    assert answer == best(shuffled, k)
    assert len(answer) == min(k, len({made.ref.name for made in hits}))
    assert [made.similarity for made in answer] == sorted((made.similarity for made in answer), reverse=True)
    for made in answer:
        assert made.ref.version == max(other.ref.version for other in hits if other.ref.name == made.ref.name)


SIMILARITIES = st.lists(st.sampled_from([i / 16 for i in range(-16, 17)]), min_size=1, max_size=5)


@given(st.lists(SIMILARITIES, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 4), st.integers(1, 45))
def test_what_is_certain_equals_the_exact_score_of_everything(
    adapters: list[list[float]], j: int, k: int, limit: int
) -> None:
    refs = [AdapterRef("acme", f"n{i}", 1, f"{i:064x}") for i in range(len(adapters))]
    exact = [
        Hit(ref, sum(own[:j]) / len(own[:j]))
        for ref, own in ((ref, sorted(own, reverse=True)) for ref, own in zip(refs, adapters, strict=True))
    ]
    exact.sort(key=lambda made: (-made.similarity, str(made.ref)))
    everything = [SampleHit(ref, s, len(own)) for ref, own in zip(refs, adapters, strict=True) for s in own]
    everything.sort(key=lambda sample: -sample.similarity)
    found = everything[:limit]
    hits, is_certain = best_of(found, j, k, is_all=limit >= len(everything))
    assert is_certain or limit < len(everything)
    if is_certain:
        assert hits == exact[:k]
    else:  # nothing that was seen is scored below its true score
        true = {made.ref: made.similarity for made in exact}
        assert all(made.similarity >= true[made.ref] - 1e-12 for made in hits)
