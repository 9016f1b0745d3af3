"""Protobuf <-> values of the executor."""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from ramole.core.answer import Chunk
from ramole.core.bounds import check_texts
from ramole.core.composition import Expert
from ramole.core.errors import Internal
from ramole.core.names import check_digest
from ramole.executor.engine import Engine
from ramole.executor.sequence import Sequence
from ramole.executor.text import Part
from ramole.executor.worker import Done
from ramole.observability.tiers import Tier, TierCounts
from ramole.transport.values import finish_to_pb, part_end_to_pb
from ramole.transport.vectors import vector_to_pb
from ramole.v1 import common_pb2, executor_pb2


def expert_from_pb(message: executor_pb2.Expert) -> Expert:
    """One expert of a request. Raises InvalidInput for a bad digest or number."""
    digest = check_digest(message.digest, field="experts.digest")
    return Expert(digest, message.similarity, message.weight, message.scale, message.tenant)


def event_to_pb(event: Chunk | Done, tiers: Ordered[Tier]) -> executor_pb2.ExecuteResponse:
    """A piece of the answer, or its end; `tiers`: where the weights of each expert were at first."""
    if isinstance(event, Chunk):
        return executor_pb2.ExecuteResponse(chunk=chunk_to_pb(event))
    sequence = event.sequence
    total, layers = sequence.mean_weights()
    arrived_s = sequence.arrived_s
    admitted_s = sequence.admitted_s or arrived_s
    first_s = sequence.first_token_s or admitted_s
    return executor_pb2.ExecuteResponse(
        done=executor_pb2.ExecuteDone(
            finish_reason=finish_to_pb(event.finish_reason),
            prompt_tokens=len(sequence.prompt) - sequence.num_answered,
            completion_tokens=len(sequence.tokens),
            experts=[
                executor_pb2.ExpertUsage(
                    mean_weight=total[i], layer_weights=layers[:, i].tolist(), tier=tier_to_pb(tier)
                )
                for i, tier in enumerate(tiers)
            ],
            queue_s=admitted_s - arrived_s,
            prefill_s=first_s - admitted_s,
            decode_s=(sequence.last_token_s or first_s) - first_s,
            max_batch=sequence.max_batch,
            max_unique_adapters=sequence.max_unique_adapters,
            part_end=part_end_to_pb(event.part_end),
        )
    )


def part_from_pb(message: executor_pb2.ExecuteRequest) -> Part:
    """Which part of an answer is asked for. Raises InvalidInput for bad separators."""
    check_texts("composition.separators", message.part_ends)
    return Part(tuple(message.answer_token_ids), tuple(message.part_ends), message.part_at_end, message.part_tokens)


def states_to_pb(sequence: Sequence) -> executor_pb2.States:
    """What the base model has made of a sequence's prompt. Raises Internal: it was not read."""
    states = sequence.states
    if states is None:
        raise Internal("a text has no states")
    mean = states.mean(len(sequence.prompt))
    return executor_pb2.States(last=vector_to_pb(states.last).float32, mean=vector_to_pb(mean).float32)


def chunk_to_pb(chunk: Chunk) -> common_pb2.TokenChunk:
    """A piece of the answer."""
    return common_pb2.TokenChunk(
        text=chunk.text,
        token_ids=chunk.token_ids,
        logprobs=chunk.logprobs,
        token_bytes=chunk.token_bytes,
        top_tokens=[
            common_pb2.TopTokens(token_ids=top.token_ids, logprobs=top.logprobs, token_bytes=top.token_bytes)
            for top in chunk.top
        ],
    )


def tier_to_pb(tier: Tier) -> common_pb2.CacheTier.ValueType:
    """How near weights are."""
    return common_pb2.CacheTier.Value(f"CACHE_TIER_{tier.name}")


def status_to_pb(engine: Engine, *, num_slots: int) -> executor_pb2.GetStatusResponse:
    """What is loaded and how full it is. Call on the engine's thread."""
    plan = engine.fullest_plan
    fullest = common_pb2.StepSnapshot()
    if plan is not None:
        fullest = common_pb2.StepSnapshot(
            b=plan.num_requests,
            digests=engine.fullest_digests,
            mask=plan.mask.flatten().tolist(),
            tokens=plan.num_tokens,
        )
    return executor_pb2.GetStatusResponse(
        resident_digests=engine.resident,
        num_slots=num_slots,
        running=engine.num_running,
        waiting=engine.num_waiting,
        fullest_step=fullest,
        awaited_digests=engine.awaited,
        kv_usage=engine.memory.kv_share,
    )


def tier_status_to_pb(tier: Tier, counts: TierCounts) -> common_pb2.TierStatus:
    """What a tier holds and has answered."""
    return common_pb2.TierStatus(
        tier=tier_to_pb(tier),
        adapters=counts.num_entries,
        bytes=counts.num_bytes,
        hits=counts.hits,
        misses=counts.misses,
    )
