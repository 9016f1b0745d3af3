"""What a benchmark of the front door measures: how many streams, requests and rounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamCase:
    """Answers of a null engine, over gRPC and over HTTP, beside bare servers that send the same.

    Attributes:
        num_streams: answers at once.
        new_tokens: of each answer.
        rounds: interleaved over all contestants.
    """

    num_streams: int = 64
    new_tokens: int = 128
    rounds: int = 7


@dataclass(frozen=True, slots=True)
class OverheadCase:
    """One-token answers one after the other, beside the engine called directly.

    Attributes:
        num_adapters: shipped ones that are uploaded; requests take them in turn.
        rounds: each asks every contestant once.
    """

    num_adapters: int = 8
    rounds: int = 80


@dataclass(frozen=True, slots=True)
class EncoderCase:
    """The shipped retriever's encoder by torch and by ONNX Runtime.

    Attributes:
        sizes: texts of one call; 20 are those of an upload.
        num_prompts: test prompts of each shipped adapter, for the ranking.
    """

    sizes: tuple[int, ...] = (1, 4, 20)
    num_prompts: int = 6
    rounds: int = 15


@dataclass(frozen=True, slots=True)
class LoadCase:
    """Routed requests of the default composition, closed loop for the capacity, then open loop below it.

    Attributes:
        concurrency: of the closed loop.
        num_closed, num_open: requests of each.
        new_tokens: of each answer at most.
        share: of the capacity that the open loop's random arrivals ask for.
    """

    concurrency: int = 16
    num_closed: int = 200
    num_open: int = 400
    new_tokens: int = 16
    share: float = 0.8


@dataclass(frozen=True, slots=True)
class FairnessCase:
    """Two tenants in closed loops, of which one has `times` as many clients.

    Attributes:
        clients: of the small tenant. 16 take half of the engine's rows, which is what two equal tenants may have each.
        num_requests: of the small tenant in each part of a round.
        rounds: each without the crowd, beside it, and beside it as a part of the small tenant, in turn.
    """

    clients: int = 16
    times: int = 10
    num_requests: int = 64
    new_tokens: int = 16
    rounds: int = 7


@dataclass(frozen=True, slots=True)
class RefusalCase:
    """Requests of a tenant that has used up its minute, one after the other, on an idle server."""

    num_requests: int = 200


@dataclass(frozen=True, slots=True)
class TracingCase:
    """Answers of one token from null engines in one process, which trace no call, a share of them, or all.

    Attributes:
        num_requests: at once.
        rounds: interleaved over the engines.
    """

    share: float = 0.01
    num_requests: int = 64
    rounds: int = 60


@dataclass(frozen=True, slots=True)
class SoakCase:
    """Two tenants for a while, with uploads and with clients that go away.

    Attributes:
        clients: of each tenant, in closed loops.
        num_adapters: asked for by Zipf's law with this exponent.
        named: share of requests that name their adapter; the others are routed.
        cancels: share of clients that leave after the first event.
        num_churning: uploaded adapters that are there at once; the oldest is deleted.
        warm_up: share of the run that no slope is taken of.
    """

    minutes: float = 15.0
    clients: int = 4
    num_adapters: int = 16
    zipf: float = 1.1
    named: float = 0.5
    cancels: float = 0.1
    new_tokens: int = 16
    num_churning: int = 8
    upload_pause_s: float = 2.0
    warm_up: float = 0.2


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """One run."""

    streams: StreamCase = StreamCase()
    encoder: EncoderCase = EncoderCase()
    overhead: OverheadCase = OverheadCase()
    load: LoadCase = LoadCase()
    fairness: FairnessCase = FairnessCase()
    refusal: RefusalCase = RefusalCase()
    tracing: TracingCase = TracingCase()


def full_serve_options() -> ServeOptions:
    """Enough rounds for figures that stand."""
    return ServeOptions()


def quick_serve_options() -> ServeOptions:
    """The same cases with fewer rounds, in under three minutes."""
    return ServeOptions(
        streams=StreamCase(rounds=3),
        encoder=EncoderCase(num_prompts=2, rounds=5),
        overhead=OverheadCase(num_adapters=4, rounds=30),
        load=LoadCase(num_closed=80, num_open=120),
        fairness=FairnessCase(rounds=3, num_requests=48),
        refusal=RefusalCase(num_requests=50),
        tracing=TracingCase(rounds=20),
    )
