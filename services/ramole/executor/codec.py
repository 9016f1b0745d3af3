"""Protobuf <-> values of the executor."""

from __future__ import annotations

from ramole.core.composition import Expert
from ramole.core.names import check_digest
from ramole.executor.engine import Engine
from ramole.executor.sequence import FinishReason
from ramole.executor.worker import Chunk, Done
from ramole.v1 import common_pb2, executor_pb2

_FINISH = {
    FinishReason.STOP: common_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: common_pb2.FINISH_REASON_LENGTH,
}


def expert_from_pb(message: executor_pb2.Expert) -> Expert:
    """One expert of a request. Raises InvalidInput for a bad digest or number."""
    digest = check_digest(message.digest, field="experts.digest")
    return Expert(digest, message.similarity, message.weight, message.scale)


def event_to_pb(event: Chunk | Done) -> executor_pb2.ExecuteEvent:
    """A piece of the answer, or its end."""
    if isinstance(event, Chunk):
        return executor_pb2.ExecuteEvent(
            chunk=common_pb2.TokenChunk(text=event.text, token_ids=event.token_ids, logprobs=event.logprobs)
        )
    sequence = event.sequence
    total, layers = sequence.mean_weights()
    arrived_s = sequence.arrived_s
    return executor_pb2.ExecuteEvent(
        done=executor_pb2.ExecuteDone(
            finish_reason=_FINISH[event.finish_reason],
            prompt_tokens=len(sequence.prompt),
            completion_tokens=len(sequence.tokens),
            experts=[
                common_pb2.ExpertUsage(digest=expert.digest, mean_weight=total[i], layer_weights=layers[:, i].tolist())
                for i, expert in enumerate(sequence.experts)
            ],
            queue_s=(sequence.admitted_s or arrived_s) - arrived_s,
            first_token_s=(sequence.first_token_s or arrived_s) - arrived_s,
            total_s=event.ended_s - arrived_s,
            max_batch=sequence.max_batch,
            max_unique_adapters=sequence.max_unique_adapters,
        )
    )


def status_to_pb(engine: Engine, *, base_model: str, num_slots: int) -> executor_pb2.GetStatusResponse:
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
        base_model=base_model,
        resident_digests=engine.resident,
        num_slots=num_slots,
        running=engine.num_running,
        waiting=engine.num_waiting,
        steps=engine.num_steps,
        fullest_step=fullest,
    )
