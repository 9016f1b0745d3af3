"""The benchmark of the repository itself, on sizes where figures mean nothing but answers must be right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ramole.adapters.store.store import Store
from ramole.lab.bench.repository.fleet import Maker, fill_store
from ramole.lab.bench.repository.options import (
    FleetCase,
    RepositoryOptions,
    SearchCase,
)
from ramole.lab.bench.repository.run import run_repository
from ramole.lab.bench.repository.traffic import zipf_numbers
from ramole.lora.base import BaseShapes

KEYS = {
    "search_p50_ms_server_10k",
    "search_p50_ms_server_200k",
    "search_p50_ms_lite_1k",
    "search_p50_ms_numpy_10k",
    "uploads_per_s",
    "upload_to_answer_s",
    "throughput_2000_vs_100",
    "startup_s_10k",
}
SERVER_KEYS = {"search_p50_ms_server_10k", "search_p50_ms_server_200k"}
TINY = RepositoryOptions(
    lite_1k=SearchCase("a", 30, on_lite=True, num_queries=5),
    rows_10k=SearchCase("b", 60, num_bases=3, on_lite=True, num_queries=5),
    rows_200k=SearchCase("c", 60, num_queries=5),
    # One fleet in every role: each more would start a server of its own.
    fleet=FleetCase(
        num_few=12, num_many=12, num_all=12, num_rebuilt=0, rounds=1, num_requests=8, num_uploads=2, num_answers=1
    ),
)


@pytest.mark.slow  # many starts for figures that mean nothing; exact searches: contract/retrieval, many adapters: below
def test_the_whole_bench_gives_every_figure_and_says_what_it_could_not_measure() -> None:
    parts: list[str] = []
    result = json.loads(json.dumps(run_repository(TINY, progress=parts.append, has_server=False)))
    assert list(result)[-1] == "summary"
    summary = result["summary"]
    assert set(summary) == KEYS
    assert {key for key, value in summary.items() if value is None} == SERVER_KEYS == set(result["not_measured"])
    assert all(result["not_measured"].values())
    *searches, fleet = result["cases"]
    assert summary["search_p50_ms_lite_1k"] == searches[0]["contestants"]["lite"]["p50_ms"]
    assert summary["search_p50_ms_numpy_10k"] == searches[1]["contestants"]["numpy"]["p50_ms"]
    assert summary["uploads_per_s"] == fleet["uploads"][-1]["uploads_per_s"]
    assert summary["startup_s_10k"] == fleet["start_s"]["12"]
    for case in searches:
        for contestant in case["contestants"].values():
            assert contestant["recall"] == 1
    assert [set(case["contestants"]) for case in searches] == [
        {"lite", "lite_bare", "numpy", "faiss_flat"},
        {"lite", "lite_bare", "numpy", "faiss_flat"},
        {"numpy", "faiss_flat"},
    ]
    assert [traffic["ask"] for traffic in fleet["traffic"]] == ["by name", "by retrieval", "route only"]
    assert all(traffic["tokens"]["many"] == traffic["tokens"]["few"] for traffic in fleet["traffic"])
    assert [traffic["tokens"]["few"] > 0 for traffic in fleet["traffic"]] == [True, True, False]
    assert summary["upload_to_answer_s"] >= fleet["answers"][0]["uploaded_s"]
    assert result["sizes"]["fleet"]["num_all"] == 12
    assert parts


def test_a_filled_store_holds_different_adapters_that_start_quickly(tmp_path: Path) -> None:
    maker = Maker(BaseShapes("base", {"m.q_proj": (16, 8), "m.up_proj": (16, 32)}), rank=2)
    refs = fill_store(tmp_path, maker, 7)
    store = Store.open(tmp_path)
    assert [record.ref for record in store.page(None, 100, lambda _: True)] == refs
    assert len({ref.digest for ref in refs}) == 7
    assert store.opened.num_live == 7
    assert store.opened.num_read == 0  # the catalog was written
    store.close()


def test_requests_follow_their_popularity() -> None:
    drawn = Counter(zipf_numbers(20_000, 50, seed=0))
    assert set(drawn) <= set(range(50))
    assert 1.8 < drawn[0] / drawn[1] < 2.2
    assert zipf_numbers(20, 50, seed=0) == zipf_numbers(20, 50, seed=0) != zipf_numbers(20, 50, seed=1)
