"""What goes into the index and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from ramole.core.names import AdapterRef


@dataclass(frozen=True, slots=True)
class Row:
    """One findable adapter version.

    Attributes:
        base_model: id of the only base model that it fits.
        is_public: whether tenants other than its owner may find it.
    """

    ref: AdapterRef
    base_model: str
    is_public: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search. `similarity` is the cosine of prompt and adapter, in [-1, 1]."""

    ref: AdapterRef
    similarity: float
