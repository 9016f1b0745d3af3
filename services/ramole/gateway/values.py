"""What the gateway's flows work on. No protobuf, no network."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ramole.core.composition import Composition, Expert
from ramole.core.names import AdapterName, AdapterRef
from ramole.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter that a request names itself."""

    name: AdapterName
    weight: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """One validated Generate request.

    Attributes:
        named: adapters to use instead of retrieval; empty = retrieve `composition.k` of them.
        may_fall_back: whether the bare base model may answer when retrieval is down.
    """

    prompt: str
    named: tuple[NamedAdapter, ...]
    composition: Composition
    sampling: Sampling
    may_fall_back: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One adapter that a request will use; `similarity` is 0 when the request named it."""

    ref: AdapterRef
    similarity: float = 0.0
    weight: float = 1.0
    scale: float = 1.0

    @property
    def expert(self) -> Expert:
        """The same for the executor."""
        return Expert(self.ref.digest, self.similarity, self.weight, self.scale)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The nearest adapters of one prompt, best first, and the seconds that the two steps took.

    `doubt`: how likely it is that no adapter was made for the prompt; None = the repository cannot tell.
    """

    choices: tuple[Choice, ...]
    embed_s: float
    search_s: float
    doubt: float | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """What a request will use, best first. `has_fallen_back`: retrieval was down, the base model answers alone.

    `doubt`: see `Retrieved`; `composition` has heeded it already.
    """

    choices: tuple[Choice, ...]
    composition: Composition
    has_fallen_back: bool = False
    embed_s: float = 0.0
    search_s: float = 0.0
    doubt: float | None = None


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer. `logprobs` belong to the tokens, when the request asked for them."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpertUsage:
    """The weight that one expert got: mean over everything, and for each layer."""

    mean_weight: float
    layer_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the executor ended one sequence. `experts` are in the order of the request's; times in seconds."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    experts: tuple[ExpertUsage, ...]
    queue_s: float
    max_batch: int
    max_unique_adapters: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The end of a generation, as seen by the gateway: times in seconds from the arrival of the request."""

    routing: Routing
    outcome: Outcome
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What admission found."""

    modules: tuple[str, ...]
    rank: int
    num_bytes: int
    norm: float
    num_samples: int
    relative_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One stored version of an adapter."""

    ref: AdapterRef
    base_model: str
    is_live: bool
    is_public: bool
    report: Report
    samples: tuple[str, ...]
    created_at: datetime
    source: str = ""

    @property
    def name(self) -> AdapterName:
        """``tenant/name``, without the version."""
        return AdapterName(self.ref.tenant, self.ref.name)


@dataclass(frozen=True, slots=True)
class Stored:
    """Answer to an upload. `is_created` is false when an earlier, equal upload answered."""

    record: Record
    is_created: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors, one for each text, and the identity of the encoder that made them."""

    vectors: tuple[tuple[float, ...], ...]
    encoder_id: str


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of the index: vectors of one encoder."""

    number: int
    encoder_id: str


@dataclass(frozen=True, slots=True)
class Reindexed:
    """How far a rebuild is: `done` of `total` adapters are in the generation; `changed` in the running round."""

    generation: int
    encoder_id: str
    done: int
    total: int
    changed: int


REVOKED = "revoked"
"""What the history says of a version that was revoked."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """Versions that the store has removed, and those of their contents that no version has any more."""

    refs: tuple[AdapterRef, ...]
    freed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """Versions that are gone, and how many running requests were aborted for it."""

    refs: tuple[AdapterRef, ...]
    aborted: int
