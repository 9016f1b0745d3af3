"""One evaluation from folders to figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.core.composition import REROUTED_PRESET
from ramole.core.errors import InvalidInput
from ramole.core.settings import GatewaySettings
from ramole.executor.loading import load_model
from ramole.lab.evaluation import endtask, extras
from ramole.lab.evaluation.answers import Answerer
from ramole.lab.evaluation.few import few_adapters, few_summary
from ramole.lab.evaluation.in_parts import InParts, vocabulary_of
from ramole.lab.evaluation.methods import COMPOSITIONS, Budget, Methods
from ramole.lab.evaluation.retrieval import retrieval_figures
from ramole.lab.evaluation.subject import Subject
from ramole.lab.evaluation.views import View
from ramole.lab.evaluation.wordings import asked, judge
from ramole.lab.memory_index import MemoryIndex
from ramole.lab.training.experts import with_slots
from ramole.lab.training.lm import Encoded, encode
from ramole.lora.files import read_folder
from ramole.lora.reader import read_adapter
from ramole.mixture.router import load_router
from ramole.retrieval.doubt import Doubt
from ramole.zoo.catalog import SEPARATOR

MIN_UNSEEN = 8
NUM_SHOTS = 24


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        ks: retrieved adapters, beside the paper's 3.
        prompts_per_task: test prompts of each task.
        methods: names to run; empty = all that can run.
    """

    ks: tuple[int, ...] = (1, 3, 5, 8)
    prompts_per_task: int = 16
    methods: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    throughput_width: int = 1024
    throughput_rounds: int = 7

    def only(self, methods: Sequence[str]) -> Plan:
        """The same for some methods only; all when none is named."""
        return replace(self, methods=tuple(methods))


FULL = Plan()
QUICK = Plan(
    ks=(),
    prompts_per_task=8,
    throughput_width=256,
    throughput_rounds=3,
    budget=Budget(seeds=3, gate_steps=40, hub_rounds=3, hub_population=6),
)


@dataclass(slots=True)
class Bench:
    """A subject loaded: the model with every adapter in a slot, and the prompts as tokens.

    Attributes:
        prompts, own: the test prompts and the number of each one's own adapter. They are the first examples, prompts
            that need two adapters follow.
    """

    subject: Subject
    methods: Methods
    prompts: list[str]
    own: npt.NDArray[np.int64]
    num_tests: int

    @classmethod
    def load(cls, subject: Subject, plan: Plan) -> Bench:
        """Reads everything.

        Raises:
            InvalidInput: there is nothing to ask.
            RamoleError: an adapter or a router does not fit the base model.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(subject.base, local_files_only=True)
        model = load_model(str(subject.base), dtype="float32", device="cpu").eval().requires_grad_(False)
        weights = [read_adapter(*read_folder(entry.path)) for entry in subject.entries]
        routers = {path.name + f" #{i}": load_router(path) for i, path in enumerate(subject.routers)}
        ranks = {router.rank for router in routers.values()} or {8}
        if len(ranks) > 1:
            raise InvalidInput(f"routers of ranks {sorted(ranks)}", field="--router", remedy="give routers of one rank")
        mixture = with_slots(model, weights, router_rank=ranks.pop())
        examples: list[Encoded] = []
        prompts: list[str] = []
        own: list[int] = []
        for number, entry in enumerate(subject.entries):
            for test in entry.tests[: plan.prompts_per_task]:
                examples.append(encode(tokenizer, test.prompt, test.answer))
                prompts.append(test.prompt)
                own.append(number)
        if not prompts:
            raise InvalidInput("there are no test prompts", field="--tests", remedy="give prompts with their answers")
        shots = []
        num_tests = len(examples)
        for pair in subject.two_skill:
            examples.append(encode(tokenizer, pair.example.prompt, pair.example.answer))
        for entry in subject.entries:
            start = len(examples)
            examples += [encode(tokenizer, one.prompt, one.answer) for one in entry.train[:NUM_SHOTS]]
            shots.append(list(range(start, len(examples))))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        methods = Methods(
            Answerer(model, mixture, examples, pad),
            routers,
            shots,
            np.array([entry.is_trained for entry in subject.entries]),
            plan.budget,
        )
        return cls(subject, methods, prompts, np.array(own), num_tests)

    def view(self, retriever: MemoryIndex) -> View:
        """All test prompts with all adapters."""
        similarities = retriever.similarities(self.prompts)
        everything = np.ones(similarities.shape, np.bool_)
        doubt = retriever.doubt(everything[0])
        return View(
            np.arange(self.num_tests),
            self.own,
            similarities,
            everything,
            retriever.doubt,
            doubt,
            retriever.own_scores(),
        )

    def in_other_words(
        self, retrievers: Mapping[str, MemoryIndex], is_seen: npt.NDArray[np.bool_]
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """See `wordings.judge`; of tasks that no retriever was trained on, where there are some."""
        chosen = ~is_seen if not is_seen.all() else np.ones_like(is_seen)
        kinds = asked([entry.samples for entry in self.subject.entries], self.prompts, self.own)
        kinds = {kind: one.of_rows(chosen[one.own]) for kind, one in kinds.items() if chosen[one.own].any()}
        return judge(
            kinds,
            {
                name: {kind: retriever.embed(one.texts) for kind, one in kinds.items()}
                for name, retriever in retrievers.items()
            },
            {name: retriever.samples for name, retriever in retrievers.items()},
            clusters=[entry.cluster for entry in self.subject.entries],
            reference=next(iter(retrievers)),
        )

    def map(self, retriever: MemoryIndex, view: View, *, per_task: int = 4) -> dict[str, Any]:
        """Adapters and some test prompts of each in two dimensions."""
        rows = [row for i in range(view.similarities.shape[1]) for row in np.flatnonzero(self.own == i)[:per_task]]
        adapters, queries = extras.adapter_map(retriever.means, retriever.embed([self.prompts[r] for r in rows]))
        entries = self.subject.entries
        hits = view.similarities.argmax(1) == self.own
        return {
            "adapters": [
                {"name": entry.name, "cluster": entry.cluster, "xy": [round(float(v), 3) for v in xy]}
                for entry, xy in zip(entries, adapters, strict=True)
            ],
            "queries": [
                {
                    "cluster": entries[self.own[r]].cluster,
                    "is_hit": bool(hits[r]),
                    "xy": [round(float(v), 3) for v in xy],
                }
                for r, xy in zip(rows, queries, strict=True)
            ],
        }

    def two_skill(self, retriever: MemoryIndex, doubt: Doubt | None) -> dict[str, Any]:
        """See `extras.two_skill`; empty when there are no such prompts."""
        pairs = self.subject.two_skill
        if not pairs:
            return {}
        questions = list(range(self.num_tests, self.num_tests + len(pairs)))
        prompts = [pair.example.prompt for pair in pairs]
        in_parts = InParts(
            self.methods.answerer,
            questions,
            prompts,
            retriever,
            vocabulary_of(self.subject.base),
            doubt,
            (SEPARATOR.strip(),),
        )
        similarities, owners = retriever.similarities(prompts), [pair.adapters for pair in pairs]
        return extras.two_skill(self.methods, questions, owners, similarities, in_parts, doubt)


def evaluate_subject(
    subject: Subject,
    retrievers: Mapping[str, MemoryIndex],
    plan: Plan,
    *,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measures everything there is to measure.

    Args:
        retrievers: "zero_shot", and "trained" if there is one, in this order.
        progress: is told what is being done.

    Returns:
        The figures, ready for JSON; "summary" comes last.
    """
    started = time.monotonic()
    progress("reading")
    bench = Bench.load(subject, plan)
    methods = bench.methods
    trained = methods.trained
    progress("embedding")
    views = {name: bench.view(retriever) for name, retriever in retrievers.items()}
    task_similarities = {name: retriever.task_similarities() for name, retriever in retrievers.items()}
    retriever, view = list(retrievers.values())[-1], list(views.values())[-1]
    names = [name for name in methods.names() if not plan.methods or name in plan.methods]
    is_seen = np.array([entry.is_retriever_trained for entry in subject.entries])
    is_seen = is_seen if is_seen.any() else trained
    retrieval = retrieval_figures(
        {name: (one.embed(bench.prompts), one.samples) for name, one in retrievers.items()},
        bench.prompts,
        [entry.samples for entry in subject.entries],
        bench.own,
        is_seen=is_seen,
        clusters=[entry.cluster for entry in subject.entries],
    )
    cells = []
    for one in endtask.measure(methods, views, task_similarities, names=names, ks=plan.ks):
        cells.append(one)
        progress(f"{one.case.setting} {one.case.pool} pool: {one.case.method}")
    table = endtask.rows(cells, trained, [entry.cluster for entry in subject.entries])
    default = GatewaySettings().preset
    progress("few adapters")
    few = few_adapters(methods, view, is_seen, default)
    progress("two skills, growth, gates, throughput")
    two_skill = bench.two_skill(retriever, view.doubt)
    return {
        "subject": {
            "name": subject.name,
            "num_adapters": len(subject.entries),
            "num_trained": int(trained.sum()),
            "num_prompts": bench.num_tests,
            "routers": len(subject.routers),
        },
        "plan": asdict(plan),
        "retrieval": retrieval,
        "wordings": bench.in_other_words(retrievers, is_seen),
        "end_task": table,
        "two_skill": two_skill,
        "growth": extras.growth(methods, view, default, extras.growth_sizes(len(subject.entries))),
        "gates": {
            name: extras.gate_weights(methods, view, COMPOSITIONS[name])
            for name in dict.fromkeys(("ramole", "ramole_prior", default))
            if name in names
        },
        "small": few,
        "map": bench.map(retriever, view),
        "throughput": extras.throughput(width=plan.throughput_width, rounds=plan.throughput_rounds),
        "seconds": round(time.monotonic() - started, 1),
        "summary": summary(retrieval, views, table, trained) | {"small": few_summary(few)} | _in_parts(two_skill),
    }


def summary(
    retrieval: Mapping[str, Any], views: Mapping[str, View], table: list[dict[str, Any]], trained: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """The figures that count, by method, under the last retriever; of unseen tasks where there are enough of them.

    SELECTION under the other retriever is there as well, by the name "selection_zero_shot".
    """
    last = list(views)[-1]
    group = "unseen" if trained.any() and (~trained).sum() >= MIN_UNSEEN else "all"
    figures: dict[str, dict[str, Any]] = {"iid": {}, "ood": {}}
    for row in table:
        if row["pool"] != "open" or row["group"] != group or not row["is_main"]:
            continue
        if row["retriever"] in ("", last):
            figures[row["setting"]][row["method"]] = row["exact_match"]
        elif row["method"] == "selection":
            figures[row["setting"]][f"selection_{row['retriever']}"] = row["exact_match"]
    return {
        "retriever": {name: _tops(retrieval[name]) for name in views},
        **figures,
        "default": GatewaySettings().preset,
        "group": group,
    }


def _in_parts(two_skill: Mapping[str, Any]) -> dict[str, Any]:
    """Exact match of prompts that need two adapters, by what a request without a composition gets."""
    if not two_skill:
        return {}
    names = {
        "once": f"retrieved, {GatewaySettings().preset}",
        "rerouted": f"{extras.REROUTED}, {REROUTED_PRESET}",
        "named_rerouted": extras.NAMED_REROUTED,
        "bound": extras.BOUND,
    }
    found = two_skill["methods"]
    return {"two_skill": {key: found[name]["score"] for key, name in names.items() if name in found}}


def _tops(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        group: {name: figures[name] for name in ("top1", "top3", "top5", "top8")} for group, figures in groups.items()
    }
