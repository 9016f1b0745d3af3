"""A batch: sequences that run together, laid out once for all the steps until one of them leaves or another joins."""

from __future__ import annotations

from dataclasses import dataclass

from ramole.executor.block_tables import BlockTables
from ramole.executor.scheduler import Schedule
from ramole.executor.sequence import Sequence
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.step import Step


@dataclass(slots=True, eq=False)
class Batch:
    """What a schedule says about adapters. While the same sequences decode, each step would say the same.

    Attributes:
        sequences: in packed order.
        tables: the blocks of those that have one token.
        is_counted: of each sequence, whether these steps compute tokens of it for the first time.
        is_read: whether hidden states of some of them are wanted.
        step: the plan as the forms compute it; None when nobody uses adapters, or before it was laid out.
        num_steps: how often it ran.
    """

    sequences: list[Sequence]
    plan: StepPlan
    tables: BlockTables
    is_counted: list[bool]
    is_read: bool
    step: Step | None = None
    num_steps: int = 0

    @classmethod
    def of(cls, schedule: Schedule) -> Batch:
        """Plans a schedule."""
        mixtures = [sequence.mixture or RequestMixture() for sequence in schedule.sequences]
        plan = build_step_plan(mixtures, schedule.chunks)
        return cls(
            schedule.sequences,
            plan,
            BlockTables(schedule.sequences[: plan.num_decode]),
            [not sequence.is_computed_again for sequence in schedule.sequences],
            any(sequence.layers for sequence in schedule.sequences),
        )

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one token."""
        return self.plan.num_decode == self.plan.num_requests

    def fits(self, schedule: Schedule) -> bool:
        """Whether a schedule may run as this batch once more."""
        return (
            self.is_decode
            and (self.step is None or self.step.form.sums_steps)
            and len(schedule.sequences) == schedule.num_tokens == len(self.sequences)
            and all(self.is_counted)
            and not any(sequence.is_computed_again for sequence in schedule.sequences)
            and self.tables.are_of(schedule.sequences)
        )

    def book(self, mixture: Mixture) -> list[tuple[Sequence, Exception]]:
        """Adds to the sequences what their experts got in all steps of the batch.

        Returns:
            Those for whom that was not possible.
        """
        if self.step is None or not self.num_steps:
            return []
        try:
            weights, counts = mixture.usage(self.step)
        except Exception as error:
            return [(sequence, error) for _, sequence in self._counted()]
        failed: list[tuple[Sequence, Exception]] = []
        for i, sequence in self._counted():
            try:
                sequence.add_usage(weights[:, i], self.num_steps * counts[:, i])
            except Exception as error:
                failed.append((sequence, error))
        return failed

    def _counted(self) -> list[tuple[int, Sequence]]:
        return [(i, each) for i, each in enumerate(self.sequences) if each.experts and self.is_counted[i]]
