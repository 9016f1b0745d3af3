"""Admission: every check that stands between an upload and the batch that it will share with strangers.

Cheap checks come first: config, header and shapes are judged before a tensor is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ramole.core.errors import AdapterRefused, WrongState
from ramole.lora.base import BaseShapes
from ramole.lora.copies import check_copies, resized
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.lora.foreign import about_module
from ramole.lora.reader import AdapterLayout, read_layout, shown
from ramole.lora.weights import AdapterWeights, LoraPair

# Products of float64 Gram matrices cancel to about 1e-16 of |A|^2 |B|^2; below this share a product counts as zero.
_ZERO_SHARE = 1e-13

# Smaller than what float32 can resolve next to the base weight: no output would change.
_ZERO_RELATIVE = 1e-7

# Only the product B A matters, so a trained pair can always be balanced far below this. Above it, A x of one request
# could overflow, and 0 * inf is NaN in forms of the mixture that compute more than they use.
MAX_ENTRY = 1e4


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What this server takes.

    Attributes:
        max_rank: largest rank of any module.
        max_norm: largest Frobenius norm of the whole update. Trained adapters lie far below the default.
        max_relative_norm: the same of one module's update, relative to its base weight. Where that is not known, it is
            taken to be as large as a weight that keeps the size of its input, with entries of variance 1 / d: sqrt(o).
        base_revision: commit of the served base model; empty = any.
        max_rank_setting: the one that `max_rank` comes from, which whoever runs the server may raise; empty = none.
    """

    max_rank: int
    max_norm: float = 1e4
    max_relative_norm: float = math.inf
    base_revision: str = ""
    max_rank_setting: str = ""


@dataclass(frozen=True, slots=True)
class AdmissionReport:
    """What admission found.

    Attributes:
        modules: full names of the modules that it changes, sorted; pairs whose product is zero are left out.
        rank: largest rank over the modules.
        num_bytes: size of the weights.
        norm: Frobenius norm of the whole update, scaling folded in.
        relative_norm: the largest, over these modules, of the update's norm over the base weight's; None = not known,
            as one of these weights is not on this machine, is quantised or is no safetensors file.
    """

    modules: tuple[str, ...]
    rank: int
    num_bytes: int
    norm: float
    relative_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted adapter."""

    weights: AdapterWeights
    report: AdmissionReport


def admit(
    config_json: bytes,
    tensors: bytes | memoryview,
    base: BaseShapes,
    limits: AdmissionLimits,
    *,
    base_model: str = "",
) -> Admission:
    """Reads and judges one adapter.

    Args:
        base_model: the base that the upload names; when empty, base_model_name_or_path of the config counts.

    Raises:
        AdapterRefused: malformed, not plain LoRA, not fitting the base, incomplete, not finite, too large, or without
            any effect.
        WrongState: made for another base model.
    """
    layout = read_layout(config_json, tensors)
    _check_base(base_model or layout.config.base_model, base, is_named=bool(base_model))
    _check_revision(layout.config.revision, limits.base_revision)
    _check_fit(layout, base, limits)
    _check_selection(layout, base)
    check_copies(layout.base_weights, tensors, base)
    weights = layout.load(tensors)
    _check_entries(weights)
    norms = {module: update_norm(pair) for module, pair in weights.pairs.items()}
    _check_norms(norms, base, limits)
    modules = _effective(norms, base)
    is_measured = all(module in base.norms for module in modules)
    report = AdmissionReport(
        modules=modules,
        rank=weights.rank,
        num_bytes=weights.num_bytes,
        norm=math.hypot(*norms.values()),
        relative_norm=max(norms[module] / base.norms[module] for module in modules) if is_measured else None,
    )
    return Admission(weights, report)


def update_norm(pair: LoraPair) -> float:
    """Frobenius norm of B A, in float64 and through r x r matrices: |B A|^2 = sum(B^T B * A A^T). 0 if it is noise."""
    a, b = pair.a.double(), pair.b.double()
    gram_a, gram_b = a @ a.T, b.T @ b
    square = float((gram_a * gram_b).sum())
    bound = float(gram_a.trace() * gram_b.trace())
    return math.sqrt(square) if square > _ZERO_SHARE * bound else 0.0


def _check_base(named: str, base: BaseShapes, *, is_named: bool) -> None:
    if named != base.base_id:
        what = f"made for base model {named[:160]!r}" if named else "does not say which base model it is made for"
        raise WrongState(
            f"the adapter is {what}; this server runs {base.base_id!r}" if named else f"the adapter {what}",
            field="base_model" if is_named else f"{CONFIG_FILE}:base_model_name_or_path",
            remedy=f"name base_model {base.base_id!r} in the upload if it was trained on exactly that model",
        )


def _check_revision(named: str, served: str) -> None:
    if served and named not in ("", served):
        raise WrongState(
            f"the adapter is made for revision {named[:80]!r} of the base model; this server runs {served!r}",
            field=f"{CONFIG_FILE}:revision",
            remedy="train on that revision, or leave the key out if the weights are the same",
        )


def _check_fit(layout: AdapterLayout, base: BaseShapes, limits: AdmissionLimits) -> None:
    for module, pair in layout.pairs.items():
        widths = base.modules.get(module)
        if widths is None:
            found = about_module(module, base.modules)
            raise AdapterRefused(
                f"{module} is no Linear or Conv1D module of base model {base.base_id!r}"
                f"{f'; it is {found.what}' if found else ''}",
                field=TENSORS_FILE,
                remedy=found.remedy if found else "train on this base model and target only such modules",
            )
        if module == base.head and pair.widths[0] == widths[0] and pair.widths[1] != widths[1]:
            raise resized(module, pair.widths[1], widths[1])
        if pair.widths != widths:
            raise AdapterRefused(
                f"{module} maps {widths[0]} to {widths[1]} in the base model, the adapter's pair maps "
                f"{pair.widths[0]} to {pair.widths[1]}",
                field=TENSORS_FILE,
                remedy="train on exactly this base model",
            )
        if pair.rank > limits.max_rank:
            raise AdapterRefused(
                f"{module} has rank {pair.rank}, this server takes up to {limits.max_rank}",
                field=f"{CONFIG_FILE}:r",
                remedy="train with a smaller rank, or compress the adapter by SVD"
                + (
                    f"; whoever runs the server may set {limits.max_rank_setting} to {pair.rank} and start it anew"
                    if limits.max_rank_setting
                    else ""
                ),
            )


def _check_selection(layout: AdapterLayout, base: BaseShapes) -> None:
    selected = layout.config.targets.selected(base.modules.keys(), base.head)
    layout.check_selected(selected)
    if missing := sorted(selected - layout.pairs.keys()):
        raise AdapterRefused(
            f"the file lacks modules that target_modules selects in base model {base.base_id!r}: {shown(missing)}",
            field=TENSORS_FILE,
            remedy="upload the whole file, or have target_modules name only the modules that it holds",
        )


def _check_entries(weights: AdapterWeights) -> None:
    for module, pair in weights.pairs.items():
        # One such value would poison every request of a batch: 0 * NaN is NaN.
        if not (torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()):
            raise AdapterRefused(
                f"{module} holds values that are not finite, or that overflow when alpha is applied",
                field=TENSORS_FILE,
                remedy="look for a diverged training run",
            )
        largest = max(float(pair.a.abs().max()), float(pair.b.abs().max()))
        if largest > MAX_ENTRY:
            raise AdapterRefused(
                f"{module} holds the value {largest:.3g}, alpha included; the limit is {MAX_ENTRY:g}",
                field=TENSORS_FILE,
                remedy="balance the pair: only the product B A matters",
            )


def _check_norms(norms: Mapping[str, float], base: BaseShapes, limits: AdmissionLimits) -> None:
    for module, norm in norms.items():
        known = base.norms.get(module)
        relative = norm / (math.sqrt(base.modules[module][1]) if known is None else known)
        if relative > limits.max_relative_norm:
            weight = "the base weight" if known is not None else "a base weight of its shape (its own is not known)"
            raise AdapterRefused(
                f"the update of {module} is {relative:.3g} times as large as {weight}, the limit is "
                f"{limits.max_relative_norm:g}",
                field=TENSORS_FILE,
                remedy="look for a diverged training run or a wrong lora_alpha",
            )
    norm = math.hypot(*norms.values())
    if not norm <= limits.max_norm:
        raise AdapterRefused(
            f"the update has Frobenius norm {norm:.3g}, the limit is {limits.max_norm:g}",
            field=TENSORS_FILE,
            remedy="look for a diverged training run or a wrong lora_alpha",
        )


def _effective(norms: Mapping[str, float], base: BaseShapes) -> tuple[str, ...]:
    """The modules whose update is more than zero, next to the base weight where that is known."""
    smallest = {module: _ZERO_RELATIVE * base.norms.get(module, 0.0) for module in norms}
    modules = tuple(module for module, norm in norms.items() if norm > 0 and norm >= smallest[module])
    if not modules:
        raise AdapterRefused(
            "the adapter changes nothing: B A is zero, or next to the base weight as good as zero, in every module",
            field=TENSORS_FILE,
            remedy="upload it after training; PEFT starts with B = 0",
        )
    return modules
