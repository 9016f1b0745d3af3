"""Protobuf <-> values that more than one service exchanges. The only maps between wire enums and ours."""

from __future__ import annotations

from ramole.core.composition import PRESETS, Composition, Merge, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterRef
from ramole.core.sampling import Sampling
from ramole.v1 import common_pb2

_WEIGHTINGS = {
    common_pb2.WEIGHTING_UNIFORM: Weighting.UNIFORM,
    common_pb2.WEIGHTING_SIMILARITY: Weighting.SIMILARITY,
    common_pb2.WEIGHTING_ROUTER: Weighting.ROUTER,
    common_pb2.WEIGHTING_ROUTER_WITH_PRIOR: Weighting.ROUTER_WITH_PRIOR,
    common_pb2.WEIGHTING_EXPLICIT: Weighting.EXPLICIT,
}
_WEIGHTINGS_OUT = {value: key for key, value in _WEIGHTINGS.items()}
_MERGES = {common_pb2.MERGE_OUTPUTS: Merge.OUTPUTS, common_pb2.MERGE_PARAMETERS: Merge.PARAMETERS}
_MERGES_OUT = {value: key for key, value in _MERGES.items()}
_PRESETS = {
    common_pb2.PRESET_SELECTION: "selection",
    common_pb2.PRESET_MIXTURE: "mixture",
    common_pb2.PRESET_FUSION: "fusion",
    common_pb2.PRESET_RAMOLE: "ramole",
    common_pb2.PRESET_RAMOLE_PRIOR: "ramole_prior",
    common_pb2.PRESET_SIMILARITY: "similarity",
    common_pb2.PRESET_HEDGED: "hedged",
    common_pb2.PRESET_CALIBRATED: "calibrated",
}


def composition_from_pb(message: common_pb2.Composition, default: Composition) -> Composition:
    """Resolves a preset and its overrides against the server's default.

    Raises:
        InvalidInput: an unknown enum value, or an axis out of its range.
    """
    base = default
    if message.preset:
        name = _PRESETS.get(message.preset)
        if name is None:
            raise InvalidInput(f"unknown preset {message.preset}", field="composition.preset", remedy="see Preset")
        base = PRESETS[name]
    weighting, merge = base.weighting, base.merge
    if message.weighting:
        if message.weighting not in _WEIGHTINGS:
            raise InvalidInput(
                f"unknown weighting {message.weighting}", field="composition.weighting", remedy="see Weighting"
            )
        weighting = _WEIGHTINGS[message.weighting]
    if message.merge:
        if message.merge not in _MERGES:
            raise InvalidInput(f"unknown merge {message.merge}", field="composition.merge", remedy="see Merge")
        merge = _MERGES[message.merge]
    return Composition(
        weighting=weighting,
        merge=merge,
        k=message.k if message.HasField("k") else base.k,
        tau=message.tau if message.HasField("tau") else base.tau,
        spread=message.spread if message.HasField("spread") else base.spread,
        scale=message.scale if message.HasField("scale") else base.scale,
        # Who gives a spread means it.
        is_adaptive=message.adaptive_spread
        if message.HasField("adaptive_spread")
        else base.is_adaptive and not message.HasField("spread"),
    )


def composition_to_pb(composition: Composition) -> common_pb2.Composition:
    """Every axis set, no preset."""
    return common_pb2.Composition(
        weighting=_WEIGHTINGS_OUT[composition.weighting],
        merge=_MERGES_OUT[composition.merge],
        k=composition.k,
        tau=composition.tau,
        spread=composition.spread,
        scale=composition.scale,
        adaptive_spread=composition.is_adaptive,
    )


def sampling_from_pb(message: common_pb2.Sampling) -> Sampling:
    """Decoding parameters; 0 where 0 says "off" or "default". Raises InvalidInput when out of range."""
    return Sampling(
        max_tokens=message.max_tokens or None,
        stop=tuple(message.stop),
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p or 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty or 1.0,
        seed=message.seed if message.HasField("seed") else None,
        logprobs=message.logprobs,
        stop_tokens=tuple(message.stop_token_ids),
    )


def sampling_to_pb(sampling: Sampling) -> common_pb2.Sampling:
    """The same, for the wire."""
    return common_pb2.Sampling(
        max_tokens=sampling.max_tokens or 0,
        stop=sampling.stop,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
        stop_token_ids=sampling.stop_tokens,
    )


def ref_from_pb(message: common_pb2.AdapterRef) -> AdapterRef:
    """One stored version."""
    return AdapterRef(message.tenant, message.name, message.version, message.digest)


def ref_to_pb(ref: AdapterRef) -> common_pb2.AdapterRef:
    """The same, for the wire."""
    return common_pb2.AdapterRef(tenant=ref.tenant, name=ref.name, version=ref.version, digest=ref.digest)
