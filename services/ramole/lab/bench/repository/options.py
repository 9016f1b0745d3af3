"""What a benchmark of the adapter repository measures: how many adapters, rows, searches and requests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Ask(StrEnum):
    """A request names its adapter, or is routed to some, or is only routed and generates nothing."""

    BY_NAME = "by name"
    BY_RETRIEVAL = "by retrieval"
    ROUTE_ONLY = "route only"


@dataclass(frozen=True, slots=True)
class SearchCase:
    """Searches among `num_rows` random vectors, of one adapter each, spread evenly over `num_bases` base models.

    Attributes:
        on_lite, on_server: which engines take part; numpy and faiss always do, on the rows of one base model.
        is_hnsw: search a graph instead of every row.
        num_queries: searches of each contestant, in turn.
    """

    name: str
    num_rows: int
    num_bases: int = 1
    on_lite: bool = False
    on_server: bool = True
    is_hnsw: bool = False
    num_queries: int = 200
    k: int = 3


@dataclass(frozen=True, slots=True)
class FleetCase:
    """Whole servers in local mode with many small random adapters of the shipped base model.

    Attributes:
        num_few, num_many: the two fleets whose throughput is compared, at equal slots, rows and cache bytes, once each
            adapter has been used.
        num_all: the fleet of the start, the memory and the uploads.
        num_rebuilt: adapters of one more server, which finds no index and must build it; 0 = there is none.
        asks: kinds of traffic. The first one is the summary's.
        rank: of every adapter, on the query and value projections of all layers.
        num_starts: starts of each fleet.
        rounds: of traffic, interleaved.
        num_requests: of one round; each names one adapter, rank r of them with popularity 1 / r.
        concurrency: requests that are under way at once.
        num_uploads: of random adapters with as many samples as the shipped ones.
        upload_concurrency: uploads that are under way at once.
        num_answers: shipped adapters that are uploaded and then asked for.
    """

    num_few: int
    num_many: int
    num_all: int
    num_rebuilt: int
    asks: tuple[Ask, ...] = tuple(Ask)
    rank: int = 2
    num_starts: int = 1
    rounds: int = 3
    num_requests: int = 200
    concurrency: int = 16
    new_tokens: int = 8
    num_uploads: int = 24
    upload_concurrency: int = 4
    num_answers: int = 4


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """One run. The searches' names are those of the summary."""

    lite_1k: SearchCase
    rows_10k: SearchCase
    rows_200k: SearchCase
    fleet: FleetCase
    more_searches: tuple[SearchCase, ...] = ()


def full_repository_options() -> RepositoryOptions:
    """The sizes that the summary's keys name."""
    return RepositoryOptions(
        lite_1k=SearchCase("rows_1k", 1000, on_lite=True),
        rows_10k=SearchCase("rows_10k", 10_000, on_lite=True),
        rows_200k=SearchCase("rows_200k_of_20_bases", 200_000, num_bases=20),
        more_searches=(
            SearchCase("rows_10", 10),  # what a search costs whatever the size
            SearchCase("rows_50k_of_1_base", 50_000),
            SearchCase("rows_50k_of_1_base_hnsw", 50_000, is_hnsw=True),
        ),
        fleet=FleetCase(
            num_few=100,
            num_many=2000,
            num_all=10_000,
            num_rebuilt=500,
            num_starts=3,
            rounds=15,
            num_requests=150,
            num_uploads=48,
            num_answers=8,
        ),
    )


def quick_repository_options() -> RepositoryOptions:
    """The same figures from smaller fleets, in minutes."""
    return RepositoryOptions(
        lite_1k=SearchCase("rows_1k", 1000, on_lite=True, num_queries=100),
        rows_10k=SearchCase("rows_10k", 10_000, num_queries=100),
        rows_200k=SearchCase("rows_20k_of_20_bases", 20_000, num_bases=20, num_queries=100),
        fleet=FleetCase(
            num_few=100,
            num_many=500,
            num_all=500,
            num_rebuilt=0,
            asks=(Ask.BY_NAME,),
            rounds=11,
            num_requests=100,
            num_uploads=12,
        ),
    )
