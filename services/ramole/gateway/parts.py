"""An answer in parts: what there is of it, who has answered, and what was used. Policy: it calls nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ramole.core.answer import PartEnd
from ramole.core.composition import Composition, Reroute
from ramole.core.names import AdapterRef
from ramole.gateway.values import Choice, LeftOut, Routing
from ramole.transport.values import part_end_from_pb
from ramole.v1.common_pb2 import TokenChunk
from ramole.v1.executor_pb2 import ExecuteDone


@dataclass(slots=True)
class Part:
    """What one part uses.

    Attributes:
        has_begun: whether the first piece of it is there.
        runs: as executors tell, of the mixture and, where its adapters would end the answer, of the bare base model.
        num_tokens, num_chars: of the answer, that were told in it.
        end: None = the answer's own end, or it is not over.
    """

    routing: Routing
    has_begun: bool = False
    runs: list[ExecuteDone] = field(default_factory=list)
    num_tokens: int = 0
    num_chars: int = 0
    end: PartEnd | None = None

    def ran(self, done: ExecuteDone) -> None:
        """A sequence of it is over. Raises Corrupt for an end that is unknown here."""
        end = part_end_from_pb(done.part_end)
        if not self.runs or end is not PartEnd.TOKENS:
            self.end = end
        self.runs.append(done)

    @property
    def asks_base(self) -> bool:
        """Whether the base model is asked next what it would go on with."""
        return self.end is PartEnd.ADAPTERS and len(self.runs) == 1


class AnswerSoFar:
    """One answer as it grows.

    Args:
        named: the adapters that the request names, as they were at its start.

    Attributes:
        tokens: of all parts.
        left_out: adapters that cannot be used.
        is_last: whether the part that is made next goes on to the end.
    """

    def __init__(self, composition: Composition, named: Sequence[Choice] = ()) -> None:
        self._composition = composition
        self.named = tuple(named)
        self.tokens: list[int] = []
        self.parts: list[Part] = []
        self.left_out: dict[AdapterRef, LeftOut] = {}
        self.is_last = False

    @property
    def is_in_parts(self) -> bool:
        """Whether the request asks for re-routing."""
        return self._composition.reroute is not Reroute.OFF

    @property
    def number(self) -> int:
        """Of the part that is made next, from 0."""
        return len(self.parts)

    @property
    def answered(self) -> list[AdapterRef]:
        """Who has: the best of each part."""
        return [part.routing.choices[0].ref for part in self.parts if part.routing.choices]

    @property
    def may_go_on(self) -> bool:
        """Whether the part that is made next may be followed by another one."""
        if self.is_last:
            return False
        most = self._composition.most_parts
        return self.number + 1 < min(most, len({choice.ref for choice in self.named}) if self.named else most)

    def separators(self) -> tuple[str, ...]:
        """Texts that end the part that is made next."""
        return self._composition.separators if self.may_go_on else ()

    def ends_with_adapters(self, routing: Routing) -> bool:
        """Whether the base model is asked where the adapters of the part that is made next end."""
        asks = self._composition.reroute is Reroute.AT_END
        return asks and self.may_go_on and bool(routing.choices)

    def begin(self, part: Part) -> None:
        """The first piece of a part is there."""
        part.has_begun = True
        self.parts.append(part)

    def take(self, chunk: TokenChunk) -> None:
        """A piece of the newest part."""
        self.tokens += chunk.token_ids
        self.parts[-1].num_tokens += len(chunk.token_ids)
        self.parts[-1].num_chars += len(chunk.text)

    def field_of(self, expert: int, ref: AdapterRef) -> str:
        """Of a request, where it names an adapter, `expert` of its part; '' = it names none."""
        if not self.named:
            return ""
        index = [choice.ref for choice in self.named].index(ref) if self.is_in_parts else expert
        return f"adapters[{index}].adapter"

    def left(self, choices: Iterable[Choice]) -> list[Choice]:
        """Those of `choices` that have not answered, under whatever version."""
        gone = {(ref.tenant, ref.name) for ref in self.answered}
        return [choice for choice in choices if (choice.ref.tenant, choice.ref.name) not in gone]
