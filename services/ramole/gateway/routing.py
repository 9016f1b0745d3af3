"""Which adapters a prompt gets: retrieved, named by the request, or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from ramole.core import access
from ramole.core.bounds import MAX_EXPERTS
from ramole.core.call import current_call, traced
from ramole.core.composition import Composition
from ramole.core.errors import DeadlineExceeded, EncoderMismatch, InvalidInput, Unavailable, WrongState
from ramole.core.names import AdapterRef
from ramole.gateway.backends import Backends
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

    async def choose(self, order: Order, stages: Stages, without: Collection[AdapterRef] = ()) -> Routing:
        """What `order` will use. Of what is retrieved, nothing of `without`.

        Raises:
            DeadlineExceeded: the deadline of the call passed.
            NotFound: a named adapter does not exist for the caller.
            WrongState: a named adapter belongs to another base model.
            Unavailable: retrieval is down and the order does not allow the base model to answer alone.
        """
        composition = order.composition
        if order.named:
            stages.enter("adapters")
            with traced("resolve", adapters=len(order.named)):
                choices = await asyncio.gather(*(self._resolve(i, named) for i, named in enumerate(order.named)))
            return Routing(tuple(choices), replace(composition, k=len(choices)))
        if composition.k == 0:
            return Routing((), composition)
        try:
            return await self.retrieve(order.retrieval_text, composition, stages, without, order.tags)
        except Unavailable:
            if not (order.may_fall_back or order.allows_degraded):
                raise
            return Routing((), replace(composition, k=0), has_fallen_back=True)

    async def readable(self, order: Order, stages: Stages) -> Order:
        """The order with a text for retrieval, if it will be read: of a prompt of tokens, what they say.

        Raises:
            InvalidInput: the base model has no such token, or they say nothing.
        """
        if order.retrieval_text or order.named or order.composition.k == 0:
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
        without: Collection[AdapterRef] = (),
        tags: Sequence[str] = (),
    ) -> Routing:
        """The `composition.k` nearest adapters that have all of `tags`, besides those of `without`.

        Raises:
            Unavailable: the encoder or the index is down or too slow; it says which.
            DeadlineExceeded: the deadline of the call passed.
            EncoderMismatch: the index holds vectors of an encoder that is not loaded.
            WrongState: there are tags, and the index was made before adapters had some.
        """
        try:
            encoder_id = self._encoder_id
            try:
                return await self._retrieve(prompt, composition, encoder_id, stages, without, tags)
            except EncoderMismatch:
                # Another generation of the index serves than last time.
                generations = await self._backends.generations()
                if not generations or generations[0].encoder_id == encoder_id:
                    raise
                self._encoder_id = generations[0].encoder_id
            return await self._retrieve(prompt, composition, self._encoder_id, stages, without, tags)
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
        without: Collection[AdapterRef],
        tags: Sequence[str],
    ) -> Routing:
        stages.enter("embedding")
        started = time.perf_counter()
        with traced("embed"):
            embedded = await self._backends.embed([prompt], encoder_id, timeout_s=self._timeout_s)
        embedded_at = time.perf_counter()
        stages.enter("retrieval")
        k = min(composition.k + len(without), MAX_EXPERTS)
        vector, encoder_id = embedded.vectors[0], embedded.encoder_id
        with traced("search", k=k):
            found = await self._backends.search(vector, encoder_id, k, tags, timeout_s=self._timeout_s)
        searched_at = time.perf_counter()
        stages.enter("")
        choices = [Choice(ref_from_pb(hit.adapter), hit.similarity) for hit in found.hits]
        doubt = found.doubt if found.HasField("doubt") else None
        return Routing(
            tuple([choice for choice in choices if choice.ref not in without][: composition.k]),
            composition.doubting(doubt, of_few=found.of_few),
            embed_s=embedded_at - started,
            search_s=searched_at - embedded_at,
            doubt=doubt,
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
