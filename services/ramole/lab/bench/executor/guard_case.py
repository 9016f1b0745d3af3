"""What it costs that no request meets what another has left behind: the engine with and without its guards."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import asdict
from typing import Any

import torch

from ramole.core.errors import RamoleError
from ramole.executor.runner import ModelRunner
from ramole.executor.sampler import SampledToken
from ramole.executor.sequence import Sequence
from ramole.lab.bench.executor.options import EngineCase
from ramole.lab.bench.executor.rig import Rig, Tokens, from_memory, make_sequence
from ramole.lab.bench.executor.world import Request, make_base, make_prompts
from ramole.lab.bench.timing import clock, ratio

GUARDED, UNGUARDED = "guarded", "unguarded"


class SwitchedRunner(ModelRunner):
    """Without its guards it leaves in blocks what their last sequence has written, and takes any logits for numbers."""

    is_guarded = True

    def wipe(self, blocks: Ordered[int]) -> None:
        """As the engine does, or nothing."""
        if self.is_guarded:
            super().wipe(blocks)

    def choose(self, logits: torch.Tensor, sequences: Ordered[Sequence]) -> list[SampledToken | RamoleError]:
        """As the engine does, or the largest logit."""
        if self.is_guarded:
            return super().choose(logits, sequences)
        return [SampledToken(token) for token in logits.argmax(-1).tolist()]


def run_guard_case(case: EngineCase, device: torch.device) -> dict[str, Any]:
    """Requests to the bare base, whose steps are the shortest: the guards' share of them is the largest.

    Every other step of one run has the guards, in the next run the others: what disturbs the one disturbs the other,
    and both work on the same memory, which makes more of a difference than the guards do.
    """
    max_len = case.prompt_tokens[1] + case.new_tokens
    rig = Rig.build(
        make_base(case.base, max_len=max_len, device=device),
        from_memory({}),
        num_slots=1,
        slot_rank=case.rank,
        max_rows=case.num_requests,
        max_len=max_len,
        router=None,
        make=SwitchedRunner,
    )
    prompts = make_prompts(case.num_requests, case.prompt_tokens, case.base.vocab_size)
    requests = [Request(str(i), prompt, (), case.preset) for i, prompt in enumerate(prompts)]
    times: dict[str, list[float]] = {GUARDED: [], UNGUARDED: []}
    answers: list[Tokens] = []
    for round_ in range(case.rounds + 1):
        seconds = {GUARDED: 0.0, UNGUARDED: 0.0}
        for first in (True, False):
            answers.append(_run(rig, requests, case.new_tokens, first, seconds))
        if round_:
            for name, value in seconds.items():
                times[name].append(value)
    return {
        "name": case.name,
        "kind": "guards",
        "case": asdict(case),
        "tokens_equal": all(answer == answers[0] for answer in answers),
        "unguarded_over_guarded": ratio(times, UNGUARDED, GUARDED),
        "times": times,
    }


def _run(rig: Rig, requests: Ordered[Request], new_tokens: int, is_guarded: bool, seconds: dict[str, float]) -> Tokens:
    """One run; adds the time of each step to the side that it was on."""
    engine, runner = rig.engine, rig.runner
    tokens: Tokens = {}
    for request in requests:
        engine.add(make_sequence(request, new_tokens))
    while engine.has_work:
        runner.is_guarded = is_guarded  # type: ignore[attr-defined]
        start_s = clock(runner.device)
        updates = engine.step()
        seconds[GUARDED if is_guarded else UNGUARDED] += clock(runner.device) - start_s
        is_guarded = not is_guarded
        for update in updates:
            if update.sampled is not None:
                tokens.setdefault(update.sequence.id, []).append(update.sampled.token)
    return tokens
