"""What a benchmark of the executor measures: sizes of bases, batches and adapters. No measuring here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

QUERY_VALUE = ("q_proj", "v_proj")  # what the paper's adapters touch
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Rival(StrEnum):
    """Who runs beside the engine.

    NO_ADAPTERS is the same engine with the same wrapped modules and requests that name no adapter; PLAIN an engine over
    a model without any wrapped module; PLAIN_LORA an engine where each request has one adapter of rank k r, which
    computes the same as its k adapters.
    """

    NO_ADAPTERS = "no_adapters"
    PLAIN = "plain"
    PLAIN_LORA = "plain_lora_of_rank_kr"
    PEFT_MIXED = "peft_mixed"
    PEFT_ONE_BY_ONE = "peft_one_by_one"
    PEFT_ARROW = "peft_arrow"
    TRANSFORMERS_CB = "transformers_continuous_batching"
    TRANSFORMERS_GENERATE = "transformers_generate"


@dataclass(frozen=True, slots=True)
class BaseSize:
    """A Llama with random weights. `feed_forward` is the width of the feed-forward part, 0 = twice `hidden`."""

    hidden: int
    num_layers: int
    vocab_size: int = 512
    feed_forward: int = 0

    @property
    def num_heads(self) -> int:
        """Heads of width 64, as in small Llamas; one head when the model is narrower."""
        return max(1, self.hidden // 64)

    @property
    def num_kv_heads(self) -> int:
        """Two query heads share one key head."""
        return max(1, self.num_heads // 2)

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward part."""
        return self.feed_forward or 2 * self.hidden


@dataclass(frozen=True, slots=True)
class EngineCase:
    """One batch through whole engines.

    Attributes:
        name: how the report calls it.
        num_requests, num_adapters, k: b, p and k; request i uses adapters i k, i k + 1, ... modulo p.
        rank: r of every adapter, and of the slots.
        prompt_tokens: shortest and longest prompt.
        arrivals_per_step: requests that arrive before each step; 0 = all before the first.
        rivals: who runs beside it.
        rounds: interleaved repetitions after one that is not counted.
        num_alone: how many requests are also run alone, to compare their tokens.
        preset: the composition; '' = one adapter as it is, several routed.
        dtype: of base and slots.
        source: folder or GGUF file of a real base instead; `base` then says nothing.
    """

    name: str
    base: BaseSize
    num_requests: int
    num_adapters: int
    k: int
    rank: int = 8
    targets: tuple[str, ...] = ALL_LINEAR
    router_rank: int = 8
    prompt_tokens: tuple[int, int] = (8, 48)
    new_tokens: int = 32
    arrivals_per_step: int = 0
    rivals: tuple[Rival, ...] = (Rival.NO_ADAPTERS,)
    rounds: int = 5
    num_alone: int = 4
    preset: str = ""
    dtype: str = "float32"
    source: str = ""


@dataclass(frozen=True, slots=True)
class StepCase:
    """Decode steps of a whole engine in which every row is busy, as on a GPU of a server.

    Attributes:
        base: built once for all of `sweep`.
        sweep: (b, p, k) of each measurement.
        dtype: of base and slots.
        num_steps: steps timed together.
    """

    name: str
    base: BaseSize
    sweep: tuple[tuple[int, int, int], ...]
    rank: int = 16
    targets: tuple[str, ...] = ALL_LINEAR
    router_rank: int = 8
    dtype: str = "bfloat16"
    prompt_tokens: int = 64
    num_steps: int = 20
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class ModuleCase:
    """One wrapped module of widths d = o, with a router when k > 1.

    Attributes:
        tokens_per_request: 1 is decode, more is prefill.
        repeats: calls timed together in each round.
    """

    name: str
    width: int
    num_requests: int
    tokens_per_request: int
    num_adapters: int
    k: int
    rank: int = 8
    router_rank: int = 8
    rounds: int = 7
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class SlotCase:
    """A stream of requests whose adapters do not all fit the device.

    Attributes:
        num_adapters: the working set; compared are `num_adapters` slots and half as many.
        load: arrival rate as a share of what the engine sustains with everything resident.
        is_zipf: popularity 1 / rank instead of uniform.
        num_requests: length of the stream in each round.
    """

    name: str
    base: BaseSize
    num_adapters: int
    k: int
    rank: int = 8
    targets: tuple[str, ...] = ALL_LINEAR
    router_rank: int = 8
    prompt_tokens: tuple[int, int] = (8, 48)
    new_tokens: int = 16
    num_requests: int = 60
    max_rows: int = 16
    load: float = 0.5
    is_zipf: bool = True
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """All cases of one run. The named ones feed the summary; `overheads` compare the compute forms at decode."""

    k1: EngineCase
    k3: EngineCase
    idle: EngineCase
    guards: EngineCase
    prefill: ModuleCase
    decode: ModuleCase
    overheads: tuple[ModuleCase, ...]
    slots: SlotCase
    more_engines: tuple[EngineCase, ...] = ()
    more_modules: tuple[ModuleCase, ...] = ()
    more_slots: tuple[SlotCase, ...] = ()
    steps: tuple[StepCase, ...] = ()

    @property
    def num_cases(self) -> int:
        """How often `progress` is called."""
        more = (self.overheads, self.more_engines, self.more_modules, self.more_slots, self.steps)
        return 7 + sum(len(cases) for cases in more)


SMALL, MIDDLE, LARGE = BaseSize(512, 4), BaseSize(1024, 4), BaseSize(2048, 2)


def quick_options() -> BenchOptions:
    """Every summary figure, in about two minutes on two cores."""
    k1 = EngineCase(
        "k1_p32_h512",
        SMALL,
        num_requests=32,
        num_adapters=32,
        k=1,
        rivals=(Rival.NO_ADAPTERS, Rival.PEFT_MIXED),
        new_tokens=24,
        rounds=3,
    )
    return BenchOptions(
        k1=k1,
        k3=EngineCase("k3_p32_h1024", MIDDLE, num_requests=32, num_adapters=32, k=3, new_tokens=16, rounds=4),
        idle=replace(k1, name="idle_h512", rivals=(Rival.NO_ADAPTERS, Rival.PLAIN), num_alone=0, rounds=6),
        guards=replace(k1, name="guards_h512", rivals=(), num_alone=0, rounds=8),
        prefill=ModuleCase(
            "prefill_d1024", 1024, num_requests=32, tokens_per_request=32, num_adapters=32, k=3, rounds=5
        ),
        decode=ModuleCase(
            "decode_d1024", 1024, num_requests=32, tokens_per_request=1, num_adapters=32, k=3, repeats=5, rounds=9
        ),
        overheads=tuple(
            ModuleCase(f"overhead_d{d}", d, num_requests=32, tokens_per_request=1, num_adapters=32, k=3, repeats=20)
            for d in (512, 1024)
        ),
        slots=SlotCase("slots_zipf_k3", SMALL, num_adapters=32, k=3),
        more_engines=(
            replace(k1, name="k1_p32_h512_qv", targets=QUERY_VALUE, rivals=(Rival.NO_ADAPTERS,)),
            replace(
                k1,
                name="request_weights_p96_k3_h512",
                num_adapters=96,
                k=3,
                preset="mixture",
                rivals=(Rival.NO_ADAPTERS, Rival.PLAIN_LORA),
            ),
        ),
    )


def gpu_steps(quick: bool) -> tuple[StepCase, ...]:
    """Decode of a Llama of 7.4 B parameters, with adapters everywhere and with the paper's targets."""
    base = BaseSize(4096, 32, vocab_size=32_000, feed_forward=14_336)
    batches = (1, 32) if quick else (1, 8, 32, 64)
    sweep = tuple(
        dict.fromkeys((b, p, k) for b in batches for k in (1, 3) for p in (k, 8, 32, 96) if k <= p <= max(b * k, k))
    )
    cases = (
        StepCase("decode_7b_all_linear", base, sweep),
        StepCase("decode_7b_query_value", base, sweep, targets=QUERY_VALUE),
    )
    return cases[:1] if quick else cases


def full_options() -> BenchOptions:
    """The quick cases with more rounds, and the grid around them."""
    quick = quick_options()
    everyone = (Rival.NO_ADAPTERS, Rival.PEFT_MIXED, Rival.PEFT_ONE_BY_ONE, Rival.TRANSFORMERS_CB)
    engines = [
        EngineCase(
            f"b{b}_p{p}_k{k}_r{r}_h{base.hidden}{'_staggered' if arrivals else ''}",
            base,
            num_requests=b,
            num_adapters=p,
            k=k,
            rank=r,
            arrivals_per_step=arrivals,
            new_tokens=16,
            rounds=3,
            rivals=everyone[: 3 if b == 8 else 2] if k == 1 and not arrivals else (Rival.NO_ADAPTERS,),
        )
        for base in (SMALL, MIDDLE, LARGE)
        for b, p, k, r, arrivals in (
            (1, 1, 1, 16, 0),
            (8, 8, 1, 8, 0),
            (8, 8, 3, 8, 0),
            (32, 8, 3, 8, 0),
            (32, 32, 1, 16, 0),
            (32, 96, 3, 8, 0),
            (32, 96, 3, 16, 0),
            (32, 32, 3, 8, 4),
        )
    ]
    arrow = EngineCase("arrow_b8_p8_k3_h512", SMALL, num_requests=8, num_adapters=8, k=3, rivals=(Rival.PEFT_ARROW,))
    modules = [
        ModuleCase(
            f"t{b * n}_p{p}_k{k}_r{r}_d{d}",
            d,
            num_requests=b,
            tokens_per_request=n,
            num_adapters=p,
            k=k,
            rank=r,
            rounds=5,
            repeats=1 if n > 1 else 10,
        )
        for d in (512, 1024, 2048)
        for r in (8, 16)
        for b, n, p, k in ((1, 1, 1, 1), (8, 1, 8, 3), (32, 1, 32, 1), (32, 1, 96, 3), (32, 32, 8, 3), (32, 32, 96, 3))
    ]
    return replace(
        quick,
        k1=replace(quick.k1, rivals=everyone, new_tokens=32, rounds=7),
        k3=replace(quick.k3, new_tokens=32, rounds=7),
        idle=replace(quick.idle, rounds=15),
        guards=replace(quick.guards, rounds=25),
        prefill=replace(quick.prefill, tokens_per_request=64),
        slots=replace(quick.slots, num_requests=300),
        more_engines=(*quick.more_engines, *engines, arrow),
        more_modules=tuple(modules),
        more_slots=tuple(
            replace(quick.slots, name=f"slots_{'zipf' if z else 'uniform'}_k{k}_load{load}", is_zipf=z, k=k, load=load)
            for z, k, load in ((False, 1, 0.5), (False, 3, 0.5), (True, 1, 0.5), (True, 3, 0.8))
        ),
    )


def real_cases(source: str, *, quick: bool) -> tuple[EngineCase, ...]:
    """A real base with 16 adapters of all its linears: k of 0, 1 and 3, for 1, 8 and 32 requests with prompts of 32 and
    512 tokens; `quick`: the short prompts of 1 and 8."""
    everyone = (Rival.TRANSFORMERS_GENERATE, Rival.TRANSFORMERS_CB)
    return tuple(
        EngineCase(
            f"k{k}_b{b}_prompt{length}",
            SMALL,
            num_requests=b,
            num_adapters=16,
            k=k,
            prompt_tokens=(length, length),
            new_tokens=16,
            rivals=everyone if k == 0 else (Rival.NO_ADAPTERS, *((Rival.PEFT_MIXED,) if k == 1 else ())),
            rounds=1 if quick else 3,
            num_alone=1,
            source=source,
        )
        for length in ((32,) if quick else (32, 512))
        for b in ((1, 8) if quick else (1, 8, 32))
        for k in (0, 1, 3)
    )
