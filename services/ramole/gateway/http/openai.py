"""The routes that OpenAI's clients call."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ramole.core.call import current_call
from ramole.core.chat import Message
from ramole.core.composition import Composition, Reroute, Weighting
from ramole.core.errors import InvalidInput, RamoleError
from ramole.core.sampling import Sampling
from ramole.core.settings import GatewaySettings
from ramole.gateway.answers import AnswerFlow
from ramole.gateway.codec import routing_to_pb
from ramole.gateway.http.answers import DONE, AnswerWriter, ChatWriter, CompletionWriter, GrowingChoice, Json, event
from ramole.gateway.http.bodies import MAX_ANSWERS, ChatBody, CompletionBody, of_body, parse
from ramole.gateway.http.edge import ADAPTERS_KEY, Exchange, while_connected
from ramole.gateway.http.messages import as_json
from ramole.gateway.together import together
from ramole.gateway.values import Order, Routing
from ramole.transport.values import finish_from_pb
from ramole.v1.common_pb2 import TokenChunk
from ramole.v1.gateway_pb2 import UsageReport

AUTO = "auto"
"""The model that stands for: find the adapters that fit."""

_BARE = Composition(Weighting.UNIFORM, k=0)


class OpenAi:
    """``/v1/completions`` and ``/v1/chat/completions``.

    Args:
        base_id: the served base model; as a `model` it means no adapters.
    """

    def __init__(self, answers: AnswerFlow, settings: GatewaySettings, base_id: str) -> None:
        self._answers = answers
        self._settings = settings
        self._base_id = base_id

    async def completions(self, exchange: Exchange) -> None:
        """One prompt or several; they run as one batch."""
        body = parse(CompletionBody, await exchange.body())
        writer = CompletionWriter(current_call().request_id, int(time.time()), body.model, body.logprobs is not None)
        await self._answer(exchange, body, writer, [self._order(body, prompt) for prompt in body.prompt])

    async def chat(self, exchange: Exchange) -> None:
        """A conversation. Retrieval reads its last user message, or `ramole.query`."""
        body = parse(ChatBody, await exchange.body())
        writer = ChatWriter(current_call().request_id, int(time.time()), body.model, body.logprobs)
        messages = tuple(Message(message.role, message.text) for message in body.messages)
        await self._answer(exchange, body, writer, [self._order(body, "", messages)])

    def _order(
        self, body: CompletionBody | ChatBody, prompt: str | tuple[int, ...], messages: tuple[Message, ...] = ()
    ) -> Order:
        more = body.ramole
        adapters = [(named.adapter, named.weight, named.scale) for named in more.adapters]
        is_base = body.model == self._base_id
        try:
            composition = more.composition(self._settings.composition)
            if not is_base and body.model != AUTO:
                if adapters:
                    raise InvalidInput(
                        "adapters are named twice",
                        field="ramole.adapters",
                        remedy=f"name them there, with {AUTO!r} or {self._base_id!r} as the model, or one as the model",
                    )
                adapters = [(body.model.removeprefix(f"{self._base_id}:"), 1.0, 1.0)]
            text, token_ids = (prompt, ()) if isinstance(prompt, str) else ("", prompt)
            return Order.of(
                text,
                adapters,
                _bare(composition) if is_base and not adapters else composition,
                body.sampling(),
                messages=messages,
                query=more.query or "",
                tokens=token_ids,
                tags=more.tags,
                may_fall_back=more.fallback == "base_model",
                allows_degraded=more.allow_degraded,
                max_prompt_chars=self._settings.max_prompt_chars,
            )
        except RamoleError as error:
            raise self._told(error, body) from error

    def _told(self, error: RamoleError, body: CompletionBody | ChatBody) -> RamoleError:
        """The error, about the key of the body that it comes from."""
        if error.field.startswith("adapters[") and not body.ramole.adapters:
            return error.at("model")
        if isinstance(body, CompletionBody) and error.field == "sampling.top_logprobs":
            return error.at("logprobs")
        return of_body(error)

    async def _answer(
        self, exchange: Exchange, body: CompletionBody | ChatBody, writer: AnswerWriter, orders: Sequence[Order]
    ) -> None:
        if len(orders) * body.n > MAX_ANSWERS:
            raise InvalidInput(
                f"{len(orders) * body.n} answers", field="n", remedy=f"ask for at most {MAX_ANSWERS} in one call"
            )
        every = [
            replace(order, sampling=_numbered(order.sampling, number)) for order in orders for number in range(body.n)
        ]
        choices = [GrowingChoice(index) for index in range(len(every))]
        try:
            async with while_connected(exchange.request):
                events = self._events(exchange, every, choices, writer)
                if body.stream:
                    wants_usage = body.stream_options is not None and body.stream_options.include_usage
                    await exchange.tell_events(_as_stream(events, choices, writer, wants_usage=wants_usage))
                    return
                async with aclosing(events):
                    async for _ in events:
                        continue
                await exchange.tell(writer.whole(choices))
        except RamoleError as error:
            raise self._told(error, body) from error

    async def _events(
        self, exchange: Exchange, orders: Sequence[Order], choices: list[GrowingChoice], writer: AnswerWriter
    ) -> AsyncGenerator[Json]:
        """What a stream tells, while the choices grow."""
        used: dict[str, None] = {}
        async with aclosing(together([self._answers.run(order) for order in orders])) as events:
            async for index, news in events:
                choice = choices[index]
                if isinstance(news, Routing):
                    used |= dict.fromkeys(str(each.ref) for each in news.choices)
                    exchange.headers[ADAPTERS_KEY] = ",".join(used)
                    report = self._report(routing_to_pb(news, request_id="", base_model=self._base_id))
                    if news.part:
                        choice.report.setdefault("later_routings", []).append(report)
                    else:
                        choice.report["routing"] = report
                        if opening := writer.opening(index):
                            yield opening
                    if news.composition.reroute is not Reroute.OFF:
                        yield writer.routed(index, report)
                elif isinstance(news, TokenChunk):
                    yield writer.piece(index, choice.push(news))
                elif isinstance(news, UsageReport):
                    choice.finish_reason = finish_from_pb(news.finish_reason).value
                    choice.prompt_tokens, choice.completion_tokens = news.prompt_tokens, news.completion_tokens
                    choice.report["usage"] = self._report(news)
                    yield writer.end(choice)

    @staticmethod
    def _report(message: Any) -> Json:
        return as_json(message, has_defaults=False)


async def _as_stream(
    events: AsyncGenerator[Json], choices: Sequence[GrowingChoice], writer: AnswerWriter, *, wants_usage: bool
) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        async for data in events:
            yield event(data)
    if wants_usage:
        yield event(writer.total(choices))
    yield DONE


def _bare(composition: Composition) -> Composition:
    """Of the base model alone. Re-routing stays asked for, and is refused."""
    return replace(
        _BARE,
        reroute=composition.reroute,
        separators=composition.separators,
        max_parts=composition.max_parts,
    )


def _numbered(sampling: Sampling, number: int) -> Sampling:
    """Answers to one prompt differ also where a seed is given; the first is the one that it gives alone."""
    if sampling.seed is None or not number:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % 2**64)
