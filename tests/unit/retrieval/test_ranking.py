from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ramole.core.names import AdapterRef
from ramole.retrieval.ranking import best
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
