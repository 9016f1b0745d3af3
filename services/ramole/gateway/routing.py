"""Which adapters a prompt gets: retrieved, named by the request, or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from ramole.core import access
from ramole.core.bounds import MAX_EXPERTS
from ramole.core.call import current_call, traced
from ramole.core.composition import Composition
from ramole.core.errors import DeadlineExceeded, EncoderMismatch, InvalidInput, Unavailable, WrongState
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.parts import AnswerSoFar
from ramole.gateway.stages import Stages
from ramole.gateway.values import Choice, NamedAdapter, Order, Routing
from ramole.transport.values import ref_from_pb


class AdapterChooser:
    """Finds the adapters of one request.

    Args:
        backends: encoder, index and store.
        base_id: the served base model.
        timeout_s: how long the encoder and the index may take, each; then they count as down.
    """

    def __init__(self, backends: Backends, *, base_id: str, timeout_s: float) -> None:
        self._backends = backends
        self._base_id = base_id
        self._timeout_s = timeout_s
        self._encoder_id = ""  # the live generation's; '' until it turns out to be another than the settings' one

    async def named(self, order: Order, stages: Stages) -> tuple[Choice, ...]:
        """The adapters that `order` names, as they are now.

        Raises:
            NotFound: one does not exist for the caller.
            WrongState: one belongs to another base model.
        """
        if not order.named:
            return ()
        stages.enter("adapters")
        with traced("resolve", adapters=len(order.named)):
            choices = await asyncio.gather(*(self._resolve(i, named) for i, named in enumerate(order.named)))
        return tuple(choices)

    async def choose(self, order: Order, stages: Stages, so_far: AnswerSoFar) -> Routing:
        """What `order` will use next. Of what is retrieved, nothing that was left out of the answer so far.

        Raises:
            DeadlineExceeded: the deadline of the call passed.
            Unavailable: retrieval is down and the order does not allow the base model to answer alone.
        """
        composition, named = order.composition, so_far.named
        try:
            if named and so_far.is_in_parts:
                routing = await self._next_named(order, so_far, stages)
            elif named:
                routing = Routing(named, replace(composition, k=len(named)))
            elif composition.k == 0:
                routing = Routing((), composition)
            else:
                routing = await self.retrieve(order.retrieval_text, composition, stages, order.tags, so_far)
        except Unavailable:
            if not (order.may_fall_back or order.allows_degraded):
                raise
            routing = Routing((), replace(composition, k=0), has_fallen_back=True)
        return replace(routing, left_out=tuple(so_far.left_out.values()), part=so_far.number)

    async def _next_named(self, order: Order, so_far: AnswerSoFar, stages: Stages) -> Routing:
        """The one of the named adapters that is nearest, of those that have not answered.

        Those that retrieval does not know, for they have no samples, come last, as they were named.
        """
        left = [choice for choice in so_far.left(so_far.named) if choice.ref not in so_far.left_out]
        if not left:
            return Routing((), replace(order.composition, k=0))
        wide = replace(order.composition, k=MAX_EXPERTS)
        found = await self.retrieve(order.retrieval_text, wide, stages, (), so_far, [choice.ref for choice in left])
        near = {choice.ref: choice.similarity for choice in found.choices}
        best = max(left, key=lambda choice: near.get(choice.ref, -2.0))
        return replace(
            found,
            choices=(replace(best, similarity=near.get(best.ref, 0.0)),),
            composition=replace(order.composition, k=1),
            next_digests=tuple(each.ref.digest for each in left if each is not best) if so_far.may_go_on else (),
        )

    async def readable(self, order: Order, stages: Stages) -> Order:
        """The order with a text for retrieval, if it will be read: of a prompt of tokens, what they say.

        Raises:
            InvalidInput: the base model has no such token, or they say nothing.
        """
        if order.retrieval_text or not order.is_retrieved:
            return order
        stages.enter("executor")
        text = await self._backends.detokenize(order.tokens)
        if not text.strip():
            raise InvalidInput(
                "the tokens have no text for retrieval",
                field="prompt_token_ids",
                remedy="give a query, name adapters, or ask for k = 0",
            )
        return replace(order, query=text)

    async def retrieve(
        self,
        prompt: str,
        composition: Composition,
        stages: Stages,
        tags: Sequence[str] = (),
        so_far: AnswerSoFar | None = None,
        among: Sequence[AdapterRef] = (),
    ) -> Routing:
        """The `composition.k` nearest adapters that have all of `tags`.

        Args:
            so_far: the answer that they shall go on with; those that have answered or cannot be used are left out.
            among: only these; () = all.

        Raises:
            Unavailable: the encoder or the index is down or too slow; it says which.
            DeadlineExceeded: the deadline of the call passed.
            EncoderMismatch: the index holds vectors of an encoder that is not loaded.
            WrongState: there are tags, and the index was made before adapters had some.
        """
        answer = so_far or AnswerSoFar(composition)
        try:
            encoder_id = self._encoder_id
            try:
                return await self._retrieve(prompt, composition, encoder_id, stages, tags, answer, among)
            except EncoderMismatch:
                # Another generation of the index serves than last time.
                generations = await self._backends.generations()
                if not generations or generations[0].encoder_id == encoder_id:
                    raise
                self._encoder_id = generations[0].encoder_id
            return await self._retrieve(prompt, composition, self._encoder_id, stages, tags, answer, among)
        except DeadlineExceeded as error:
            if current_call().remaining_s() == 0.0:
                raise stages.too_slow() from error
            raise Unavailable(f"{stages.slowest} was slow ({stages})", remedy="retry with back-off") from error

    async def _retrieve(
        self,
        prompt: str,
        composition: Composition,
        encoder_id: str,
        stages: Stages,
        tags: Sequence[str],
        so_far: AnswerSoFar,
        among: Sequence[AdapterRef],
    ) -> Routing:
        stages.enter("embedding")
        started = time.perf_counter()
        with traced("embed"):
            embedded = await self._backends.embed(
                [prompt], encoder_id, answers=[so_far.tokens] if so_far.tokens else (), timeout_s=self._timeout_s
            )
        embedded_at = time.perf_counter()
        stages.enter("retrieval")
        # Who may come next is wanted as well, where somebody may.
        k = MAX_EXPERTS if so_far.may_go_on else min(composition.k + len(so_far.left_out), MAX_EXPERTS)
        vector, encoder_id = embedded.vectors[0], embedded.encoder_id
        with traced("search", k=k):
            found = await self._backends.search(
                vector, encoder_id, k, tags, without=so_far.answered, among=among, timeout_s=self._timeout_s
            )
        searched_at = time.perf_counter()
        stages.enter("")
        choices = [Choice(ref_from_pb(hit.adapter), hit.similarity) for hit in found.hits]
        choices = [choice for choice in so_far.left(choices) if choice.ref not in so_far.left_out]
        # Doubt is of whole repositories and whole prompts.
        is_whole = not (among or so_far.tokens)
        doubt = found.doubt if is_whole and found.HasField("doubt") else None
        return Routing(
            tuple(choices[: composition.k]),
            composition.doubting(doubt, of_few=is_whole and found.of_few),
            embed_s=embedded_at - started,
            search_s=searched_at - embedded_at,
            doubt=doubt,
            next_digests=tuple(each.ref.digest for each in choices[composition.k :]) if so_far.may_go_on else (),
        )

    async def _resolve(self, index: int, named: NamedAdapter) -> Choice:
        field = f"adapters[{index}].adapter"
        found = await self._backends.find(named.name)
        if found is None or not found.is_live:
            raise access.missing(named.name, field=field)
        record = found.record
        ref = ref_from_pb(record.adapter)
        if record.base_model != self._base_id:
            raise WrongState(
                f"{ref} is made for {record.base_model}",
                field=field,
                remedy=f"use an adapter of {self._base_id}, which is served here",
            )
        return Choice(ref, weight=named.weight, scale=named.scale)
