"""Answers that end as parts and go on as other sequences: the same tokens and the same text as in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.core.answer import FinishReason, PartEnd
from ramole.core.composition import Composition, Expert, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.detokenizer import Detokenizer, Vocabulary
from ramole.executor.fair_queue import FairQueue
from ramole.executor.sequence import Sequence
from ramole.executor.text import Part, TextCodec, TextStream
from ramole.executor.worker import Chunk, Done, EngineWorker
from support.byte_level import byte_level
from support.engine_world import Words, World, make_world, tiny_llama

MIXED = Composition(Weighting.UNIFORM)


@pytest.fixture
async def worker() -> AsyncIterator[tuple[World, EngineWorker]]:
    world = make_world()
    worker = EngineWorker(TextCodec(Words(), {2}))
    worker.start(world.engine)
    yield world, worker
    await worker.stop()


class Told:
    """What one part tells."""

    def __init__(self) -> None:
        self.text, self.tokens, self.logprobs = "", [], []  # type: ignore[var-annotated]
        self.done: Done

    @classmethod
    async def of(cls, worker: EngineWorker, part: Part, *digests: str, prompt: str = "hello", **sampling: Any) -> Told:
        told = cls()
        experts = tuple(Expert(digest) for digest in digests)
        async for event in worker.generate(prompt, experts, MIXED, Sampling(**sampling), part):
            if isinstance(event, Chunk):
                told.text += event.text
                told.tokens += event.token_ids
                told.logprobs += event.logprobs
            else:
                told.done = event
        return told


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1.1, "seed": 7, "top_k": 40},
    "penalised": {"temperature": 0.8, "seed": 3, "repetition_penalty": 1.7},
    "greedily penalised": {"repetition_penalty": 1.5},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_cut_anywhere_it_is_the_same_answer(worker: tuple[World, EngineWorker], kind: str) -> None:
    _, engine_worker = worker
    options = {**KINDS[kind], "logprobs": True, "max_tokens": 14}
    whole = await Told.of(engine_worker, Part(), "a1", "a2", **options)
    assert len(whole.tokens) == 14
    for cut in (1, 6, 13):
        first = await Told.of(engine_worker, Part(max_tokens=cut), "a1", "a2", **options)
        assert (first.done.part_end, len(first.tokens)) == (PartEnd.TOKENS, cut)
        rest = await Told.of(engine_worker, Part(tuple(first.tokens)), "a1", "a2", **options)
        assert first.tokens + rest.tokens == whole.tokens
        assert first.text + rest.text == whole.text
        assert first.logprobs + rest.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
        assert (rest.done.finish_reason, rest.done.part_end) == (FinishReason.LENGTH, None)
        assert rest.done.sequence.num_answered == cut


async def test_other_experts_read_prompt_and_answer_so_far_anew(worker: tuple[World, EngineWorker]) -> None:
    world, engine_worker = worker
    first = await Told.of(engine_worker, Part(max_tokens=5), "a1", max_tokens=12)
    rest = await Told.of(engine_worker, Part(tuple(first.tokens)), "a4", max_tokens=12)
    alone = Sequence("x", [*Words()("hello")["input_ids"], *first.tokens], 7, (Expert("a4"),), MIXED)
    make_world().run(alone)
    assert rest.tokens == alone.tokens
    assert world.engine.num_running == 0


async def test_bystanders_keep_their_answers(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker

    async def rerouted(number: int) -> list[int]:
        tokens: list[int] = []
        for turn in range(3):
            limit = 0 if turn == 2 else 4
            part = Part(tuple(tokens), max_tokens=limit)
            told = await Told.of(engine_worker, part, f"a{(number + turn) % 8}", prompt=f"who {number}", max_tokens=11)
            tokens += told.tokens
        return tokens

    async def bystander(number: int) -> list[int]:
        return (await Told.of(engine_worker, Part(), f"a{number}", prompt=f"by {number}", max_tokens=15)).tokens

    alone = [await bystander(i) for i in range(6)], [await rerouted(i) for i in range(6)]
    together = await asyncio.gather(*(bystander(i) for i in range(6)), *(rerouted(i) for i in range(6)))
    assert (together[:6], together[6:]) == alone


async def test_a_part_ends_with_the_token_that_completes_a_separator(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    whole = await Told.of(engine_worker, Part(), "a1", max_tokens=12)
    separator = whole.text[3:6]  # three tokens
    first = await Told.of(engine_worker, Part(separators=("nowhere", separator)), "a1", max_tokens=12)
    at = whole.text.index(separator) + 3
    assert (first.text, first.done.part_end) == (whole.text[:at], PartEnd.SEPARATOR)
    assert await engine_worker.ask(lambda engine: engine.num_running) == 0
    # One that begins in the part before is none: neither the whole of it nor its end.
    rest = await Told.of(engine_worker, Part(tuple(first.tokens), separators=(separator,)), "a1", max_tokens=12)
    assert first.text + rest.text == whole.text
    assert rest.done.part_end is None


async def test_a_stop_string_across_two_parts_stops(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    whole = await Told.of(engine_worker, Part(), "a1", max_tokens=12)
    stop = (whole.text[3:6],)
    first = await Told.of(engine_worker, Part(max_tokens=5), "a1", max_tokens=12, stop=stop)
    assert first.text == whole.text[: min(3, whole.text.index(stop[0]))], "what could begin it is held back"
    rest = await Told.of(engine_worker, Part(tuple(first.tokens)), "a1", max_tokens=12, stop=stop)
    assert first.text + rest.text == whole.text[: whole.text.index(stop[0])]
    assert (rest.done.finish_reason, rest.done.part_end) == (FinishReason.STOP, None)


async def test_the_experts_end_may_end_a_part_only_and_is_not_told(worker: tuple[World, EngineWorker]) -> None:
    world, engine_worker = worker
    whole = await Told.of(engine_worker, Part(), "a1", max_tokens=12)
    end = whole.tokens[6]
    at = whole.tokens.index(end)
    world.engine._eos = frozenset({end})
    plain = await Told.of(engine_worker, Part(), "a1", max_tokens=12)
    assert (plain.tokens, plain.done.finish_reason) == (whole.tokens[: at + 1], FinishReason.STOP)
    part = await Told.of(engine_worker, Part(ends_with_experts=True), "a1", max_tokens=12)
    assert (part.tokens, part.done.part_end) == (whole.tokens[:at], PartEnd.ADAPTERS)
    assert part.done.sequence.tokens == part.tokens
    # A stop token of the request ends the answer for good.
    stopped = await Told.of(engine_worker, Part(ends_with_experts=True), "a1", max_tokens=12, stop_tokens=(end,))
    assert (stopped.tokens, stopped.done.part_end) == (whole.tokens[: at + 1], None)


async def test_limits_count_the_whole_answer(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    last = await Told.of(engine_worker, Part((5,) * 11, max_tokens=1, separators=("x",)), max_tokens=12)
    assert (len(last.tokens), last.done.finish_reason, last.done.part_end) == (1, FinishReason.LENGTH, None)
    for tokens, field in (((5,) * 12, "answer_token_ids"), ((5, 97), "answer_token_ids[1]")):
        with pytest.raises(InvalidInput) as caught:
            await Told.of(engine_worker, Part(tokens), max_tokens=12)
        assert caught.value.field == field
    full = await Told.of(engine_worker, Part((5,) * 80))
    assert len(full.tokens) == 96 - 80 - len("hello")


async def test_what_was_cut_from_outside_says_what_its_experts_got(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    whole = await Told.of(engine_worker, Part(), "a1", "a2", max_tokens=8)
    for told in (
        await Told.of(engine_worker, Part(max_tokens=3), "a1", "a2", max_tokens=8),
        await Told.of(engine_worker, Part(), "a1", "a2", max_tokens=8, stop=(whole.text[3],)),
    ):
        assert told.done.sequence.mean_weights()[0].tolist() == pytest.approx([0.5, 0.5])


async def test_what_goes_on_waits_behind_nobody_of_its_tenant(worker: tuple[World, EngineWorker]) -> None:
    queue = FairQueue()
    names = ["new", "more", "on", "newer", "on too"]
    for name in names:
        queue.add(Sequence(name, [1], 1, num_answered=int(name.startswith("on"))))
    assert [sequence.id for sequence in queue] == ["on", "on too", "new", "more", "newer"]
    world, engine_worker = worker
    world.engine._max_waiting = 0
    assert (await Told.of(engine_worker, Part((5,)), max_tokens=3)).tokens


async def test_what_the_base_makes_of_a_text_is_read_beside_the_others(worker: tuple[World, EngineWorker]) -> None:
    _, engine_worker = worker
    beside = [asyncio.ensure_future(Told.of(engine_worker, Part(), f"a{i}", max_tokens=12)) for i in range(3)]
    alone = (await Told.of(engine_worker, Part(), "a0", max_tokens=12)).tokens
    asked = [("ab", (), (1,)), ("hello " * 14, (5, 9), (1, 2)), ("x" * 300, (7,), (2,)), ("one", (3,) * 9, (2, 1))]
    read = await asyncio.gather(*(engine_worker.read(*each) for each in asked))
    model = tiny_llama()
    for (text, answer, layers), sequence in zip(asked, read, strict=True):
        ids = [*Words()(text)["input_ids"][: 96 - 1 - len(answer)], *answer]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert sequence.states is not None
        for i, layer in enumerate(layers):
            assert sequence.states.last[i] == pytest.approx(states[layer][0, -1].numpy(), abs=1e-4)
            mean = states[layer][0, 1:].mean(0).numpy()  # the first is the same whatever follows
            assert sequence.states.mean(len(ids))[i] == pytest.approx(mean, abs=1e-4)
    assert (await beside[0]).tokens == alone
    await asyncio.gather(*beside)
    for wrong in ((), (0,), (3,)):
        with pytest.raises(InvalidInput) as caught:
            await engine_worker.read("text", (), wrong)
        assert caught.value.field == "layers"


# Text


@pytest.fixture(scope="module", params=["byte level", "byte fallback"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Most characters beyond ASCII take several tokens; with byte fallback so does a new line."""
    from tokenizers import Tokenizer, decoders, models

    if request.param == "byte fallback":
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "\u2581", "; ", "the"]
        vocab = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        return tokenizer
    return byte_level(["the answer; the answer;then the stop"])


texts = st.lists(st.sampled_from(["a", "b;", ";", "\n", "é", "the answer", "; then", "\U0001f642", " "]), max_size=12)


@given(texts.map("".join), st.sets(st.sampled_from([";", "; t", "\n", "é;", "\U0001f642", "ab"]), min_size=1))
@settings(max_examples=150, deadline=None)
def test_parts_add_up_and_end_with_the_tokens_that_complete_separators(
    tokenizer: Any, text: str, separators: set[str]
) -> None:
    vocabulary = Vocabulary.of(tokenizer)
    ids = tokenizer.encode(text).ids
    begin, out, ends = 0, "", []
    stream = TextStream(Detokenizer(vocabulary), separators=separators)
    for i, token in enumerate(ids, start=1):
        out += stream.push(token)
        if stream.is_part:
            ends.append(i)
            begin = i
            stream = TextStream(Detokenizer(vocabulary), separators=separators, answer=ids[:begin])
    assert out + stream.flush() == vocabulary.decode(ids)
    # The slow way: a part ends where its own text first has a separator in it.
    wanted, begin = [], 0
    for i in range(1, len(ids) + 1):
        before, now = vocabulary.decode(ids[:begin]), vocabulary.decode(ids[:i])
        if any(separator in now[len(before) :] for separator in separators):
            wanted.append(i)
            begin = i
    assert ends == wanted
