"""Every way to answer the prompts of a view: the compositions that ramole serves, reference points, and rivals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from ramole.core.composition import PRESETS, Composition, Merge, Weighting
from ramole.lab.evaluation import rivals
from ramole.lab.evaluation.answers import Answerer, MakeForm, Outcomes
from ramole.lab.evaluation.joint import JointForm, JointSpaces
from ramole.lab.evaluation.lorahub import NUM_SHOTS, search_weights
from ramole.lab.evaluation.views import View, pool_request, request
from ramole.lab.training.lm import PaddedBatch
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan

ALONE = PRESETS["selection"]
COMPOSITIONS: dict[str, Composition] = {
    **PRESETS,
    "mixture_8": replace(PRESETS["mixture"], k=8),
    "similarity_parameters": Composition(Weighting.SIMILARITY, Merge.PARAMETERS, k=3, tau=0.02),
}
REFERENCES = ("base", "perfect", "best_of_k")
RIVALS = ("arrow", "moe_top1", "moe_top3", "moe_soft", "smear")
PER_TASK = ("adapter_soup", "lorahub")
SUBSPACE = ("subspace", "subspace_nearest")
"""`similarity`, and the nearest adapter alone, inside the joint space of the k nearest; see `joint`."""
METHODS: tuple[str, ...] = (*REFERENCES, *COMPOSITIONS, "random_gate", *PER_TASK, *SUBSPACE, *RIVALS)
USES_K: frozenset[str] = frozenset(
    {*COMPOSITIONS, "best_of_k", "random_gate", "adapter_soup", *SUBSPACE} - {"selection"}
)
"""Methods whose result depends on the number of retrieved adapters."""


def own_k(name: str) -> int:
    """How many adapters a method retrieves unless told otherwise; 0 = it retrieves none."""
    if name in COMPOSITIONS:
        return COMPOSITIONS[name].k
    return 3 if name in USES_K else 0


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the methods that search or train may spend."""

    seeds: int = 3
    gate_steps: int = 150
    hub_rounds: int = 5
    hub_population: int = 8


@dataclass(slots=True)
class Methods:
    """Runs methods by name.

    Attributes:
        routers: trained RouterLoRAs, one for each seed of router training; may be empty.
        shots: example numbers of some solved training examples of each task, by adapter number.
        trained: adapters whose tasks the routers and the rivals' gates are trained on, [N].
    """

    answerer: Answerer
    routers: Mapping[str, AdapterWeights]
    shots: Sequence[Sequence[int]]
    trained: npt.NDArray[np.bool_]
    budget: Budget = field(default_factory=Budget)
    _gates: dict[tuple[str, int], rivals.Gate] = field(default_factory=dict)
    _probes: dict[int, torch.Tensor] | None = None
    _spaces: JointSpaces = field(default_factory=JointSpaces)

    def names(self) -> list[str]:
        """What can run here: without a router nothing is routed, without training examples nothing is trained."""
        has_shots = all(self.shots)
        return [
            name
            for name in METHODS
            if not (name in COMPOSITIONS and COMPOSITIONS[name].weighting.is_routed and not self.routers)
            and (has_shots or name not in ("lorahub", "moe_top1", "moe_top3", "moe_soft", "smear"))
        ]

    def run(self, name: str, view: View, k: int, task_similarities: npt.NDArray[np.float32]) -> list[Outcomes]:
        """The outcomes of each seed; one when there is nothing random about the method.

        Args:
            k: adapters to retrieve.
            task_similarities: of each task's samples to each adapter, [N, N], for what works task by task.
        """
        match name:
            case "base":
                found = [self._outcomes(view, [RequestMixture()] * len(view.questions))]
            case "perfect":
                found = [self._outcomes(view, [request(ALONE, [own]) for own in view.own.tolist()])]
            case "best_of_k":
                found = [self._best_of(view, k)]
            case "random_gate":
                found = self._routed(view, replace(PRESETS["ramole"], k=k), self.random_routers())
            case "adapter_soup":
                found = [self._soup(view, k, task_similarities)]
            case "lorahub":
                found = [self._hub(view, seed) for seed in range(self.budget.seeds)]
            case _ if name in SUBSPACE:
                found = [self._joint(name, view, k)]
            case _ if name in RIVALS:
                found = self._rival(name, view)
            case _:
                composition = COMPOSITIONS[name] if name not in USES_K else replace(COMPOSITIONS[name], k=k)
                if composition.weighting.is_routed:
                    found = self._routed(view, composition, self.routers)
                else:
                    found = [self._outcomes(view, view.compose(composition))]
        return found

    def _outcomes(self, view: View, requests: Sequence[RequestMixture]) -> Outcomes:
        return self.answerer.outcomes(view.questions.tolist(), requests)

    def _routed(self, view: View, composition: Composition, routers: Mapping[str, AdapterWeights]) -> list[Outcomes]:
        found = []
        for name, router in routers.items():
            self.answerer.use_router(name, router)
            found.append(self._outcomes(view, view.compose(composition)))
        return found

    def _best_of(self, view: View, k: int) -> Outcomes:
        """The oracle: each prompt gets the one of its k nearest adapters that serves it best."""
        nearest = view.nearest(k)
        questions = [q for q, row in zip(view.questions.tolist(), nearest, strict=True) for _ in row]
        found = self.answerer.outcomes(questions, [request(ALONE, [i]) for row in nearest for i in row])
        starts = np.cumsum([0, *(len(row) for row in nearest[:-1])])
        return Outcomes(np.logical_or.reduceat(found.right, starts), np.minimum.reduceat(found.nll, starts))

    def _soup(self, view: View, k: int, task_similarities: npt.NDArray[np.float32]) -> Outcomes:
        """AdapterSoup: one average of parameters for all prompts of a task."""
        whole = replace(view, similarities=task_similarities[view.own])
        return self._outcomes(view, whole.compose(replace(PRESETS["fusion"], k=k)))

    def _hub(self, view: View, seed: int) -> Outcomes:
        tasks, first = np.unique(view.own, return_index=True)
        pools = view.pools()
        found = search_weights(
            self.answerer,
            [self.shots[task][:NUM_SHOTS] for task in tasks],
            [pools[row] for row in first],
            seed=seed,
            rounds=self.budget.hub_rounds,
            population=self.budget.hub_population,
        )
        by_task = {int(task): pool_request(*pair) for task, pair in zip(tasks, found, strict=True)}
        return self._outcomes(view, [by_task[own] for own in view.own.tolist()])

    def _joint(self, name: str, view: View, k: int) -> Outcomes:
        requests = view.compose(replace(PRESETS["similarity"], k=k))
        if name == "subspace_nearest":
            requests = [replace(one, gates=(1.0, *(0.0,) * (len(one.slots) - 1))[: len(one.slots)]) for one in requests]
        return self.answerer.rival_outcomes(
            view.questions.tolist(), requests, lambda plan, batch: JointForm(plan, batch, self._spaces)
        )

    def _rival(self, name: str, view: View) -> list[Outcomes]:
        if name == "arrow":
            return [self._rival_outcomes(view, view.pools(), self._arrow)]
        pools = [[i for i in pool if self.trained[i]] for pool in view.pools()]
        found = []
        for seed in range(self.budget.seeds):
            gate = self._gate("smear" if name == "smear" else "moe", seed)
            found.append(self._rival_outcomes(view, pools, _gate_form(name, gate)))
        return found

    def _rival_outcomes(self, view: View, pools: list[list[int]], make_form: MakeForm) -> Outcomes:
        return self.answerer.rival_outcomes(view.questions.tolist(), [pool_request(pool) for pool in pools], make_form)

    def _arrow(self, plan: StepPlan, batch: PaddedBatch) -> rivals.ArrowForm:
        if self._probes is None:
            self._probes = rivals.arrow_probes(self.answerer.mixture)
        return rivals.ArrowForm(plan, batch, self._probes, 3)

    def _gate(self, kind: str, seed: int) -> rivals.Gate:
        if (kind, seed) not in self._gates:
            answerer = self.answerer
            seen = np.flatnonzero(self.trained).tolist()
            self._gates[kind, seed] = rivals.train_gate(
                answerer.model,
                answerer.mixture,
                [[answerer.examples[q] for q in self.shots[task]] for task in seen],
                [task + 1 for task in seen],
                rivals.SmearForm if kind == "smear" else rivals.MoeForm,
                pad=answerer.pad,
                seed=seed,
                steps=self.budget.gate_steps,
            )
        return self._gates[kind, seed]

    def random_routers(self) -> dict[str, AdapterWeights]:
        """Routers that nobody trained, one for each seed."""
        return {f"random {seed}": random_router(self.answerer.mixture, seed) for seed in range(self.budget.seeds)}


def random_router(mixture: Mixture, seed: int) -> AdapterWeights:
    """A RouterLoRA that was never trained: A_r and B_r at random, so loud that its weights are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in mixture.modules.items():
        (q, d), o = module.router_a.shape, module.router_b.shape[0]
        a = torch.randn(q, d, generator=generator) / math.sqrt(d)
        b = torch.randn(o, q, generator=generator)
        pairs[name] = LoraPair(a, b)
    return AdapterWeights(pairs)


def _gate_form(name: str, gate: rivals.Gate) -> MakeForm:
    if name == "smear":
        return lambda plan, batch: rivals.SmearForm(plan, batch, gate)
    k = {"moe_top1": 1, "moe_top3": 3, "moe_soft": 0}[name]
    return lambda plan, batch: rivals.MoeForm(plan, batch, gate, k)
