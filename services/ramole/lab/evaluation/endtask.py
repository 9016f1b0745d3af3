"""The end task: every method in and out of domain, in an open and a closed pool, as rows of one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.answers import Outcomes
from ramole.lab.evaluation.methods import USES_K, Methods, own_k
from ramole.lab.evaluation.statistics import estimate, task_means
from ramole.lab.evaluation.views import View

CLOSED_POOL = (
    "base", "perfect", "best_of_k", "selection", "mixture", "fusion", "ramole", "ramole_prior", "similarity",
    "random_gate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the table.

    Attributes:
        retriever: whose similarities were used; "" when the method retrieves nothing.
        pool: "open" = all adapters, "closed" = those that the router was trained with.
        setting: "iid", or "ood" = each prompt's own adapter is hidden.
        k: retrieved adapters; 0 when the method does not retrieve k.
    """

    retriever: str
    pool: str
    setting: str
    method: str
    k: int


@dataclass(frozen=True, slots=True)
class Cell:
    """What one case gave, task by task.

    Attributes:
        tasks: adapter numbers, ascending, [t].
        right, nll: means over seeds and prompts, [t].
        by_seed: macro exact match of each seed.
    """

    case: Case
    tasks: npt.NDArray[np.int64]
    right: npt.NDArray[np.floating]
    nll: npt.NDArray[np.floating]
    by_seed: tuple[float, ...]


def cell(case: Case, view: View, outcomes: Sequence[Outcomes]) -> Cell:
    """Averages the seeds of one case, task by task."""
    right = np.stack([task_means(one.right, view.own) for one in outcomes])
    nll = np.stack([task_means(one.nll, view.own) for one in outcomes])
    return Cell(case, np.unique(view.own), right.mean(0), nll.mean(0), tuple(float(row.mean()) for row in right))


def measure(
    methods: Methods,
    views: Mapping[str, View],
    task_similarities: Mapping[str, npt.NDArray[np.float32]],
    *,
    names: Sequence[str],
    ks: Sequence[int],
) -> Iterator[Cell]:
    """All cells. Methods that retrieve nothing are run once, other ks under the last retriever only.

    Args:
        views: by retriever, each over the same prompts with all adapters allowed.
        task_similarities: by retriever, see `Methods.run`.
    """
    last = list(views)[-1]
    for retriever, view in views.items():
        for pool, pooled in _pools(methods, view):
            for setting, seen in (("iid", pooled), ("ood", pooled.without_own())):
                for name in names:
                    if pool == "closed" and name not in CLOSED_POOL:
                        continue
                    if not retrieves(name) and retriever != last:
                        continue
                    is_swept = name in USES_K and retriever == last and pool == "open"
                    for k in sorted({own_k(name), *ks}) if is_swept else [own_k(name)]:
                        case = Case(retriever if retrieves(name) else "", pool, setting, name, k)
                        yield cell(case, seen, methods.run(name, seen, k, task_similarities[retriever]))


def retrieves(name: str) -> bool:
    """Whether a method depends on the retriever."""
    return name in USES_K or name == "selection"


def _pools(methods: Methods, view: View) -> Iterator[tuple[str, View]]:
    yield "open", view
    closed = methods.trained
    if closed.sum() > 3:
        yield "closed", view.within(closed)


def rows(cells: Sequence[Cell], trained: npt.NDArray[np.bool_], clusters: Sequence[str]) -> list[dict[str, object]]:
    """The table: macro figures with intervals over all, seen and unseen tasks, and each cluster's mean.

    `is_main`: with the method's own k. `minus_base`, `minus_selection`: paired differences to the base alone, and to
    SELECTION by the same retriever.
    """
    known = {one.case: one for one in cells}
    table: list[dict[str, object]] = []
    for one in cells:
        for group, mask in groups(one, trained):
            row: dict[str, object] = {
                **asdict(one.case),
                "group": group,
                "is_main": one.case.k == own_k(one.case.method),
                "num_tasks": int(mask.sum()),
                "exact_match": estimate(one.right[mask]).as_dict(),
                "nll": estimate(one.nll[mask]).as_dict(),
                "seeds": [round(score, 4) for score in one.by_seed] if group == "all" else [],
            }
            for label, other in _references(one.case, known):
                row[label] = {
                    "exact_match": estimate(one.right[mask] - other.right[mask]).as_dict(),
                    "nll": estimate(one.nll[mask] - other.nll[mask]).as_dict(),
                }
            if group == "all":
                names = np.array([clusters[task] for task in one.tasks])
                row["clusters"] = {
                    name: {
                        "exact_match": round(float(one.right[names == name].mean()), 4),
                        "nll": round(float(one.nll[names == name].mean()), 4),
                    }
                    for name in sorted(set(names.tolist()))
                }
            table.append(row)
    return table


def groups(one: Cell, trained: npt.NDArray[np.bool_]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """All tasks, those of router training, the others; groups without tasks are left out."""
    seen = trained[one.tasks]
    for name, mask in (("all", np.ones_like(seen)), ("seen", seen), ("unseen", ~seen)):
        if mask.any() and (name == "all" or not mask.all()):
            yield name, mask


def _references(case: Case, known: Mapping[Case, Cell]) -> Iterator[tuple[str, Cell]]:
    base = Case("", case.pool, case.setting, "base", 0)
    selection = Case(case.retriever, case.pool, case.setting, "selection", 1)
    for label, reference in (("minus_base", base), ("minus_selection", selection)):
        if reference in known and reference != case:
            yield label, known[reference]
