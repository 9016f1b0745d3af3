"""Whole batches through whole engines, beside their rivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ramole.executor.loading import load_model
from ramole.lab.bench.executor.floors import floor_of
from ramole.lab.bench.executor.options import EngineCase, Rival
from ramole.lab.bench.executor.rig import Job, Rig, Tokens, from_memory, lockstep
from ramole.lab.bench.executor.rivals import ContinuousBatching, GenerateBatch, OneByOne, arrow_model, peft_model
from ramole.lab.bench.executor.world import (
    Request,
    concatenated,
    make_base,
    make_prompts,
    make_router,
    round_robin,
    save_adapters,
)
from ramole.lab.bench.timing import Times, clock, ratio
from ramole.lora.files import read_folder
from ramole.lora.reader import read_adapter
from ramole.mixture.surgery import widths_of

OURS = "ramole"

# Which contestant must produce which one's tokens.
_TWINS = {
    Rival.PEFT_MIXED: OURS,
    Rival.PEFT_ONE_BY_ONE: OURS,
    Rival.PLAIN: Rival.NO_ADAPTERS,
    Rival.PLAIN_LORA: OURS,
    Rival.TRANSFORMERS_CB: Rival.NO_ADAPTERS,
    Rival.TRANSFORMERS_GENERATE: Rival.NO_ADAPTERS,
}
_NOTES = {
    Rival.PEFT_ARROW: "routes each token over all loaded adapters by its own rule: other tokens than ours by design",
    Rival.TRANSFORMERS_CB: "the base model without adapters; its time includes starting its manager, as each call does",
}


class EngineBench:
    """One case: worlds, rigs and rivals are made here; `run` measures them."""

    def __init__(self, case: EngineCase, device: torch.device, folder: Path) -> None:
        self._case = case
        self._device = device
        self._max_len = case.prompt_tokens[1] + case.new_tokens
        model = self._base()
        self._folders = save_adapters(folder, model, case.targets, count=case.num_adapters, rank=case.rank)
        self._adapters = {name: read_adapter(*read_folder(path)) for name, path in self._folders.items()}
        self._router = make_router(model, case.targets, rank=case.router_rank) if case.k > 1 else None
        vocab_size = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
        prompts = make_prompts(case.num_requests, case.prompt_tokens, vocab_size)
        names = round_robin(list(self._folders), case.k) if case.k else repeat(())
        self._requests = [Request(str(i), prompt, next(names), case.preset) for i, prompt in enumerate(prompts)]
        self._bare = [replace(request, adapters=()) for request in self._requests]
        self._rigs: dict[str, tuple[Rig, list[Request]]] = {OURS: (self._rig(), self._requests)}
        if Rival.NO_ADAPTERS in case.rivals:
            rig = self._rig()
            rig.run(self._requests, 1)  # the same modules are wrapped, the same slots are full
            self._rigs[Rival.NO_ADAPTERS] = (rig, self._bare)
        if Rival.PLAIN in case.rivals:
            self._rigs[Rival.PLAIN] = (self._rig(), self._bare)
        if Rival.PLAIN_LORA in case.rivals:
            self._rigs[Rival.PLAIN_LORA] = self._plain_lora()
        self._skipped: dict[str, str] = {}
        self._first_token_s: dict[str, float] = {}
        self._others: dict[str, Callable[[], Tokens]] = {}
        for rival in case.rivals:
            if rival not in self._rigs:
                try:
                    self._others[rival] = self._rival(rival)
                except Exception as error:
                    self._skip(rival, error)

    def run(self) -> dict[str, Any]:
        """Interleaved rounds over everybody; the tokens of the last round are compared."""
        times: Times = {name: [] for name in (*self._rigs, *self._others)}
        tokens: dict[str, Tokens] = {}
        kv_held = 0.0
        for i in range(self._case.rounds + 1):
            jobs = {
                name: Job(rig, requests, self._case.new_tokens, self._case.arrivals_per_step)
                for name, (rig, requests) in self._rigs.items()
            }
            lockstep(jobs, turn=i)
            seconds = {name: job.seconds for name, job in jobs.items()}
            kv_held = jobs[OURS].kv_bytes / max(jobs[OURS].kv_tokens, 1)
            self._first_token_s = {name: median(job.first_token_s.values()) for name, job in jobs.items()}
            tokens |= {name: job.tokens for name, job in jobs.items()}
            for name in list(self._others):
                start_s = clock(self._device)
                try:
                    tokens[name] = self._others[name]()
                except Exception as error:
                    self._skip(name, error)
                    del self._others[name], times[name]
                    continue
                seconds[name] = clock(self._device) - start_s
            if i:
                for name, value in seconds.items():
                    times[name].append(value)
        return self._report(times, tokens) | {
            "kv_bytes_per_token": self._rigs[OURS][0].runner.kv.bytes_per_token,
            "kv_bytes_per_token_held": kv_held,
        }

    def _skip(self, name: str, error: Exception) -> None:
        # Other libraries on other machines: a rival that cannot run must not take the figures of the rest.
        self._skipped[name] = f"{type(error).__name__}: {error}"

    def _base(self) -> torch.nn.Module:
        dtype = getattr(torch, self._case.dtype)
        if self._case.source:
            found = load_model(self._case.source, dtype=self._case.dtype, device=str(self._device))
            return found.eval().requires_grad_(False)
        return make_base(self._case.base, max_len=self._max_len, device=self._device, dtype=dtype)

    def _rig(self) -> Rig:
        return Rig.build(
            self._base(),
            from_memory(self._adapters),
            num_slots=self._case.num_adapters,
            slot_rank=self._case.rank,
            max_rows=self._case.num_requests,
            max_len=self._max_len,
            router=self._router,
        )

    def _plain_lora(self) -> tuple[Rig, list[Request]]:
        """For each request one adapter of rank k r: the uniform mixture of its own."""
        adapters = {r.id: concatenated([self._adapters[name] for name in r.adapters]) for r in self._requests}
        rig = Rig.build(
            self._base(),
            from_memory(adapters),
            num_slots=len(adapters),
            slot_rank=self._case.k * self._case.rank,
            max_rows=self._case.num_requests,
            max_len=self._max_len,
            router=None,
        )
        return rig, [replace(request, adapters=(request.id,), preset="selection") for request in self._requests]

    def _rival(self, rival: Rival) -> Callable[[], Tokens]:
        new_tokens = self._case.new_tokens
        match rival:
            case Rival.PEFT_MIXED:
                return GenerateBatch(peft_model(self._base(), self._folders), self._requests, new_tokens, named=True)
            case Rival.PEFT_ONE_BY_ONE:
                return OneByOne(peft_model(self._base(), self._folders), self._requests, new_tokens)
            case Rival.PEFT_ARROW:
                model = arrow_model(self._base(), self._folders, self._case.k)
                return GenerateBatch(model, self._requests, new_tokens, named=False)
            case Rival.TRANSFORMERS_GENERATE:
                return GenerateBatch(self._base(), self._bare, new_tokens, named=False)
            case Rival.TRANSFORMERS_CB:
                return ContinuousBatching(self._base(), self._requests, new_tokens)
            case _:
                raise ValueError(f"{rival} is an engine of our own")

    def _report(self, times: Times, tokens: dict[str, Tokens]) -> dict[str, Any]:
        num_tokens = self._case.num_requests * self._case.new_tokens
        contestants = {}
        for name, seconds in times.items():
            twin = _TWINS.get(Rival(name)) if name != OURS else None
            if twin == Rival.NO_ADAPTERS and twin not in tokens and not self._case.k:
                twin = OURS
            equal = tokens[name] == tokens[twin] if twin in tokens else None
            contestants[name] = {
                "median_s": median(seconds),
                "tokens_per_s": num_tokens / median(seconds),
                "ramole_is_faster_by": ratio(times, name, OURS),
                "tokens_equal": equal,
                "first_token_s": self._first_token_s.get(name),
            } | ({"note": _NOTES[Rival(name)]} if name in _NOTES else {})
        ours, rig = tokens[OURS], self._rigs[OURS][0]
        alone = self._requests[: self._case.num_alone]
        is_alone_equal = all(
            rig.run([request], self._case.new_tokens)[request.id] == ours[request.id] for request in alone
        )
        return {
            "name": self._case.name,
            "kind": "engine",
            "case": asdict(self._case),
            "tokens_equal": is_alone_equal and all(c["tokens_equal"] is not False for c in contestants.values()),
            "distinct_answers": len({tuple(answer) for answer in ours.values()}),
            "differs_from_base": ours != tokens[Rival.NO_ADAPTERS] if Rival.NO_ADAPTERS in tokens else None,
            "contestants": contestants,
            "skipped": self._skipped,
            "times": times,
            "decode_floor": None if self._case.source else self._floor(),
            "kv_bytes_per_token": self._kv_bytes_per_token(),
        }

    def _kv_bytes_per_token(self) -> float:
        """Of our cache, for each token of the longest sequences that it holds."""
        kv = self._rigs[OURS][0].runner.kv
        num_bytes = sum(tensor.nbytes for tensor in (*kv.keys, *kv.values))
        return num_bytes / (self._case.num_requests * self._max_len)

    def _floor(self) -> dict[str, Any]:
        linears = {n: widths_of(m, n) for n, m in self._base().named_modules() if isinstance(m, torch.nn.Linear)}
        case = self._case
        floor = floor_of(
            linears.values(),
            lora_widths=[w for name, w in linears.items() if name.rpartition(".")[2] in case.targets],
            num_tokens=case.num_requests,
            num_adapters=min(case.num_adapters, case.num_requests * case.k),
            k=case.k,
            rank=case.rank,
        )
        return dict(floor)


def run_engine_case(case: EngineCase, device: torch.device) -> dict[str, Any]:
    """Measures one case: seconds and ratios per contestant, whether tokens agree, and the floor of a decode step."""
    with TemporaryDirectory(prefix="ramole-bench-") as folder:
        return EngineBench(case, device, Path(folder)).run()
