"""Whole servers with few and with many adapters: start, memory, throughput, uploads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from ramole.core.settings import EmbeddingSettings
from ramole.embedding.encoder import identify, locate
from ramole.lab.bench.repository.fleet import Maker, fill_index, fill_store, random_vectors
from ramole.lab.bench.repository.local_server import LocalServer
from ramole.lab.bench.repository.options import Ask, FleetCase
from ramole.lab.bench.repository.search_cases import DIM
from ramole.lab.bench.repository.traffic import serve_requests, upload_all, upload_and_ask, zipf_numbers
from ramole.lab.bench.timing import Times, ratio
from ramole.lora.base import read_base_shapes
from ramole.retrieval.lite import LiteServer
from ramole.zoo.catalog import load_zoo

Progress = Callable[[str], None]

FEW, MANY = "few", "many"


class FleetBench:
    """One case. Fleets of the same size share one server.

    Args:
        folder: for stores and indexes; emptied by whoever owns it.
    """

    def __init__(self, case: FleetCase, folder: Path, progress: Progress) -> None:
        self._case = case
        self._folder = folder
        self._progress = progress
        self._zoo = load_zoo()
        self._maker = Maker(read_base_shapes(str(self._zoo.base_path), self._zoo.base_id), case.rank)
        embedding = EmbeddingSettings()
        self._encoder_id = identify(embedding.encoder, locate(embedding.encoder), embedding.instruction)
        self._num_uploaded = 0

    def run(self) -> dict[str, Any]:
        """Fills the fleets, starts their servers, then measures."""
        case = self._case
        sizes = sorted({case.num_few, case.num_many, case.num_all})
        with ExitStack() as stack:
            servers = {size: LocalServer(self._fleet(size)) for size in sizes}
            for server in servers.values():
                stack.callback(server.stop)
            starts, rss = self._start(servers)
            first_use = {name: self._first_use(servers[size], size) for name, size in self._fleets.items()}
            traffic = [self._traffic(servers, ask) for ask in case.asks]
            uploads = [self._uploads(servers[size], size) for size in (case.num_few, case.num_all)]
            self._progress("upload, then ask")
            # The random uploads came with the first adapter's samples and crowd its cluster.
            others = [one for one in self._zoo.adapters if one.cluster != self._zoo.adapters[0].cluster]
            answers = upload_and_ask(servers[case.num_all].address, others[: case.num_answers])
            rebuild = self._rebuild() if case.num_rebuilt else None
        added = sizes[-1] - sizes[0]
        return {
            "name": "fleet",
            "kind": "fleet",
            "case": asdict(case),
            "start_s": {size: median(seconds) for size, seconds in starts.items()},
            "starts_s": starts,
            "rss_bytes": rss,
            "bytes_per_adapter": (rss[sizes[-1]] - rss[sizes[0]]) / added if added else None,
            "rebuild": rebuild,
            "first_use_requests_per_s": first_use,
            "traffic": traffic,
            "uploads": uploads,
            "answers": [asdict(answer) for answer in answers],
            "upload_to_answer_s": median(answer.answered_s for answer in answers),
        }

    def _fleet(self, size: int, *, has_index: bool = True) -> Path:
        self._progress(f"store of {size} adapters")
        data_dir = self._folder / f"fleet-{size}{'' if has_index else '-without-index'}"
        data_dir.mkdir()
        refs = fill_store(data_dir / "store", self._maker, size)
        if has_index:
            lite = LiteServer.open(data_dir / "index.db")
            try:
                vectors = random_vectors(size, DIM, seed=3)
                fill_index(lite.uri, refs, [self._maker.base.base_id], vectors, self._encoder_id)
            finally:
                lite.close()
        return data_dir

    def _start(self, servers: dict[int, LocalServer]) -> tuple[dict[int, list[float]], dict[int, int]]:
        """Seconds of every start, and the memory after the last; leaves all of them running."""
        starts: dict[int, list[float]] = {size: [] for size in servers}
        for _ in range(self._case.num_starts):
            for size, server in servers.items():
                server.stop()
                self._progress(f"start with {size} adapters")
                starts[size].append(server.start())
        return starts, {size: server.rss_bytes for size, server in servers.items()}

    @property
    def _fleets(self) -> dict[str, int]:
        return {FEW: self._case.num_few, MANY: self._case.num_many}

    def _first_use(self, server: LocalServer, size: int) -> float:
        """Asks for every adapter once. Afterwards all lie in the host's memory, as S-LoRA's comparison has them.

        The popular ones come last: then the slots hold what traffic leaves in them, and no round has to warm them up.

        Returns:
            Requests per second, each of which had to fetch its adapter from the store.
        """
        case = self._case
        self._progress(f"first use of {size} adapters")
        seconds, _ = serve_requests(
            server.address, range(size)[::-1], Ask.BY_NAME, concurrency=case.concurrency, new_tokens=case.new_tokens
        )
        return size / seconds

    def _traffic(self, servers: dict[int, LocalServer], ask: Ask) -> dict[str, Any]:
        """Interleaved rounds over the two fleets, the order turned each time."""
        case = self._case
        fleets = self._fleets
        times: Times = {name: [] for name in fleets}
        tokens = dict.fromkeys(fleets, 0)
        distinct: dict[str, set[int]] = {name: set() for name in fleets}
        for i in range(case.rounds):
            for name in sorted(fleets, reverse=bool(i % 2)):
                self._progress(f"traffic {ask}, {fleets[name]} adapters")
                numbers = zipf_numbers(case.num_requests, fleets[name], seed=i)
                seconds, num_tokens = serve_requests(
                    servers[fleets[name]].address,
                    numbers,
                    ask,
                    concurrency=case.concurrency,
                    new_tokens=case.new_tokens,
                )
                times[name].append(seconds)
                tokens[name] += num_tokens
                distinct[name] |= set(numbers)
        return {
            "ask": ask,
            "fleets": fleets,
            "requests_per_s": {name: case.num_requests / median(seconds) for name, seconds in times.items()},
            "tokens": tokens,
            "distinct_adapters": {name: len(numbers) for name, numbers in distinct.items()},
            "many_vs_few": ratio(times, FEW, MANY),
            "times": times,
        }

    def _uploads(self, server: LocalServer, size: int) -> dict[str, Any]:
        case = self._case
        self._progress(f"uploads beside {size} adapters")
        samples = self._zoo.adapters[0].samples
        first = 1_000_000 + self._num_uploaded
        self._num_uploaded += case.num_uploads
        root = self._folder / f"uploads-{first}"
        folders = [self._maker.folder(root, number) for number in range(first, first + case.num_uploads)]
        seconds = upload_all(server.address, folders, samples, concurrency=case.upload_concurrency)
        return {
            "registered": size,
            "samples_each": len(samples),
            "samples_per_s": case.num_uploads * len(samples) / seconds,
            "uploads_per_s": case.num_uploads / seconds,
        }

    def _rebuild(self) -> dict[str, Any]:
        """A start that finds adapters and no index, and the next one, which finds both."""
        count = self._case.num_rebuilt
        server = LocalServer(self._fleet(count, has_index=False))
        seconds = []
        for what in ("no index", "an index"):
            self._progress(f"start with {count} adapters and {what}")
            try:
                seconds.append(server.start())
            finally:
                server.stop()
        return {"adapters": count, "start_s": seconds[0], "next_start_s": seconds[1]}


def run_fleet_case(case: FleetCase, progress: Progress) -> dict[str, Any]:
    """Measures one case."""
    with TemporaryDirectory(prefix="ramole-bench-") as folder:
        return FleetBench(case, Path(folder), progress).run()
