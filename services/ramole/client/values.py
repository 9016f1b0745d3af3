"""What the client gives back. Plain values: no protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ramole.core.answer import FinishReason, PartEnd, TopTokens
from ramole.core.composition import Composition
from ramole.core.names import AdapterRef


@dataclass(frozen=True, slots=True)
class RoutedAdapter:
    """One adapter of a routing; `similarity` is its cosine to the prompt, 0 when the request named it."""

    ref: AdapterRef
    similarity: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An adapter that an answer does without, and the error class in UPPER_SNAKE_CASE that it gives."""

    ref: AdapterRef
    reason: str


@dataclass(frozen=True, slots=True)
class Routing:
    """What a generation uses, best first.

    Attributes:
        has_fallen_back: retrieval was down, the base model answers alone.
        doubt: how likely it is that no adapter was made for the prompt, in [0, 1]; None = the repository cannot tell.
        left_out: adapters that should have been among them and cannot be used.
        part: of the answer, from 0.
    """

    request_id: str
    base_model: str
    adapters: tuple[RoutedAdapter, ...]
    composition: Composition
    has_fallen_back: bool
    embed_s: float
    search_s: float
    doubt: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    part: int = 0


@dataclass(frozen=True, slots=True)
class AdapterUsage:
    """The weight that one adapter got: mean over tokens and modules, and the same for each layer.

    `tier`: where its weights were when the request arrived at the executor: ``device``, ``host``, ``disk`` or
    ``store``; empty = not known.
    """

    ref: AdapterRef
    similarity: float
    mean_weight: float
    layer_weights: tuple[float, ...]
    tier: str = ""


@dataclass(frozen=True, slots=True)
class PartUsage:
    """What one part of an answer used, times as in `Usage`.

    Attributes:
        completion_tokens: of the answer that belong to it.
        num_chars: of the answer's text that were told in it.
        end: what ended it; None = the answer's own end.
    """

    completion_tokens: int
    num_chars: int
    adapters: tuple[AdapterUsage, ...]
    queue_s: float
    prefill_s: float
    decode_s: float
    end: PartEnd | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation used. Times in seconds, as the gateway saw them.

    `prefill_s`: from admission into the running batch to the first token, `decode_s`: from there to the last one; as
    the executor saw them. `parts`: of each part, where re-routing was asked for.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    adapters: tuple[AdapterUsage, ...]
    queue_s: float
    first_token_s: float
    total_s: float
    max_batch: int
    max_unique_adapters: int
    prefill_s: float = 0.0
    decode_s: float = 0.0
    parts: tuple[PartUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation. What is told of its tokens is as in `Chunk`.

    `later_routings`: of the parts behind the first.
    """

    text: str
    routing: Routing
    usage: Usage
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    token_bytes: tuple[bytes, ...] = ()
    top: tuple[TopTokens, ...] = ()
    later_routings: tuple[Routing, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One stored version. `samples` are empty in listings that leave them out."""

    ref: AdapterRef
    base_model: str
    is_public: bool
    modules: tuple[str, ...]
    rank: int
    num_bytes: int
    norm: float
    num_samples: int
    samples: tuple[str, ...]
    created_at: datetime
    source: str = ""
    relative_norm: float | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """One line of a history.

    Attributes:
        source: what its content came from, if not from bytes; of live versions only.
        removed_at: None while it is live.
        removal: ``deleted``, ``revoked`` or ``expired``; empty while it is live.
    """

    ref: AdapterRef
    created_at: datetime
    source: str
    removed_at: datetime | None
    removal: str
    comment: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Answer to an upload. `is_created` is false when an earlier, equal upload answered."""

    record: AdapterRecord
    is_created: bool


@dataclass(frozen=True, slots=True)
class Route:
    """What a prompt would get, and the seconds that finding it took."""

    adapters: tuple[RoutedAdapter, ...]
    embed_s: float
    search_s: float
    doubt: float | None = None


@dataclass(frozen=True, slots=True)
class Revoked:
    """Versions that are gone, and how many running requests were aborted for it."""

    refs: tuple[AdapterRef, ...]
    aborted: int


@dataclass(frozen=True, slots=True)
class ReindexProgress:
    """How many of all adapters are in the new generation of the index."""

    generation: int
    encoder_id: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """The fullest engine step so far: its mask M, one row for each request, one column for each digest."""

    digests: tuple[str, ...]
    mask: tuple[tuple[bool, ...], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold, beside the bounds that hold for every server."""

    max_prompt_chars: int
    max_len: int
    max_waiting: int
    max_batch_requests: int
    max_upload_bytes: int
    max_rank: int
    max_samples: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who the server takes the caller for; the roles are sorted."""

    tenant: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier of the adapters' caches: ``device``, ``host`` or ``disk``, of all executors together.

    Attributes:
        adapters: in it now.
        num_bytes: of these.
        hits, misses: look-ups that it could and could not answer, since the executors' start.
    """

    tier: str
    adapters: int
    num_bytes: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service behind the gateway: its replicas, and how many of them say that they serve."""

    name: str
    replicas: int
    serving: int


@dataclass(frozen=True, slots=True)
class Description:
    """The served model and its load.

    Attributes:
        router: sha256 of the RouterLoRA; '' = none.
        encoder_id: of the index that serves; '' = nothing is indexed, or the index does not answer.
        has_chat_template: whether the base model answers conversations.
        time: by the server's clock; None = of a server that does not tell it.
        max_running: requests that can get tokens at once.
        ended, tokens_out: requests that have ended, and tokens of answers, since the executors' start.
        tiers: caches of adapters, the nearest to the device first.
        services: those behind the gateway. This and the three before are told to operators only.
    """

    version: str
    base_model: str
    default_composition: Composition
    running: int
    waiting: int
    num_slots: int
    resident_adapters: int
    fullest_step: StepSnapshot
    limits: Limits
    router: str
    encoder_id: str
    has_chat_template: bool
    caller: Caller
    time: datetime | None = None
    max_running: int = 0
    ended: int = 0
    tokens_out: int = 0
    tiers: tuple[TierStatus, ...] = ()
    services: tuple[ServiceStatus, ...] = ()
