"""What an executor takes of its device: decided once at the start, from facts, before any weight is read.

Whatever the settings leave open is settled here. Nothing in this file touches a device, a file or a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from ramole.core.errors import WrongState
from ramole.core.settings import ExecutorSettings
from ramole.executor.block_pool import BLOCK, blocks_for
from ramole.lora.ranks import slot_rank_for

_NUM_SLOTS = 64
_LEAST_SLOTS = 9  # a request with eight adapters, and the empty slot
_LEAST_LEN = 256
_AT_ONCE = 4  # of the longest requests, without one that makes room for another
_UNLIMITED_LEN = 4096  # of a base model that knows any number of positions
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_GIB, _MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What is known of a base model without its weights.

    Attributes:
        dtype: of the checkpoint.
        num_weights: numbers that are kept in the dtype of the computation.
        packed_bytes: of weights that stay as they are, since they are quantised.
        linears: widths (in, out) of all modules that adapters may touch.
        feed_forward: width of the widest layer within.
        max_positions: None = any number.
        form: what else is to be said: quantised, or dequantised.
    """

    dtype: str
    num_weights: int
    packed_bytes: int = 0
    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    feed_forward: int
    vocab_size: int
    linears: tuple[tuple[int, int], ...]
    max_positions: int | None = None
    form: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device.

    Attributes:
        device: cpu, cuda or cuda:N.
        free_bytes: at the moment.
        cores: that the process may use.
        has_bf16: whether it multiplies matrices of bfloat16 itself.
        others: further devices of its kind.
    """

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    cores: int
    has_bf16: bool
    others: int = 0

    @property
    def is_cpu(self) -> bool:
        """Whether the memory is that of the machine."""
        return self.device == "cpu"


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the plan."""

    name: str
    num_bytes: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything there is.

    Attributes:
        num_slots: the empty one included.
        kv_blocks: of keys and values.
    """

    dtype: str
    num_slots: int
    slot_rank: int
    max_rows: int
    max_len: int
    kv_blocks: int

    @property
    def kv_tokens(self) -> int:
        """Whose keys and values fit."""
        return self.kv_blocks * BLOCK

    @classmethod
    def of(cls, options: ExecutorSettings) -> Sizes:
        """Where no memory is planned: what the settings leave open is small."""
        max_len = _LEAST_LEN if options.max_len == "auto" else options.max_len
        return cls(
            dtype="float32" if options.dtype == "auto" else options.dtype,
            num_slots=_NUM_SLOTS if options.num_slots == "auto" else options.num_slots,
            slot_rank=slot_rank_for(0) if options.slot_rank == "auto" else options.slot_rank,
            max_rows=options.max_rows,
            max_len=max_len,
            kv_blocks=options.kv_blocks or options.max_rows * blocks_for(max_len),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings as they are meant on this device.

    Attributes:
        budget_bytes: what the parts may take together.
    """

    device: str
    threads: int
    sizes: Sizes
    parts: tuple[Part, ...]
    budget_bytes: int
    where: str

    @property
    def num_bytes(self) -> int:
        """Of all parts."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def summary(self) -> str:
        """In one line."""
        sizes = self.sizes
        return (
            f"{self.device}, {sizes.dtype}, threads {self.threads}; {sizes.num_slots} slots of rank {sizes.slot_rank}, "
            f"{sizes.max_rows} rows, up to {sizes.max_len} tokens a request; {shown(self.num_bytes)} of "
            f"{shown(self.budget_bytes)} ({self.where})"
        )

    def lines(self) -> Iterator[str]:
        """The table as text."""
        for part in self.parts:
            yield f"{part.name:<12} {shown(part.num_bytes):>10}  {part.detail}"


def make_plan(
    options: ExecutorSettings, base: BaseFacts, device: DeviceFacts, *, slot_rank: int, router_rank: int = 0
) -> Plan:
    """Settles what is `auto`: first what must be, then slots and KV as far as memory goes.

    Args:
        slot_rank: of the settings, or of the repository where they leave it open.
        router_rank: 0 = there is no router.

    Raises:
        WrongState: it cannot fit; the remedy names settings with values that make it fit.
    """
    planner = _Planner(options, base, device, router_rank)
    sizes = planner.fitting(planner.least(slot_rank))
    return Plan(
        device=device.device,
        threads=threads_of(options, device),
        sizes=sizes,
        parts=planner.parts(sizes),
        budget_bytes=planner.budget,
        where=planner.where,
    )


def shown(num_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:.1f} MiB"


class _Planner:
    def __init__(self, options: ExecutorSettings, base: BaseFacts, device: DeviceFacts, router_rank: int) -> None:
        self._options = options
        self._base = base
        self._device = device
        self._router_rank = router_rank
        if options.memory_bytes is not None:
            self.budget, self.where = options.memory_bytes, "executor.memory_bytes"
        else:
            share = options.memory_fraction / (options.bounds[0] or 1) if device.is_cpu else options.memory_fraction
            self.budget = int(device.free_bytes * share)
            self.where = f"{share:.0%} of the {shown(device.free_bytes)} that are free on {device.name}"

    def least(self, slot_rank: int) -> Sizes:
        """The smallest sizes that the settings allow."""
        options, limit = self._options, self._base.max_positions
        if options.max_len != "auto" and limit is not None and options.max_len > limit:
            raise WrongState(
                f"the base model knows {limit} positions, executor.max_len is {options.max_len}",
                field="executor.max_len",
                remedy=f"set it to at most {limit}, or to auto",
            )
        max_len = min(_LEAST_LEN, self._most_len) if options.max_len == "auto" else options.max_len
        kv_blocks = options.kv_blocks or _least_blocks(options.max_rows, max_len)
        if options.max_len == "auto":
            max_len = min(max_len, kv_blocks * BLOCK)
        return Sizes(
            dtype=_dtype(options, self._base, self._device),
            num_slots=_LEAST_SLOTS if options.num_slots == "auto" else options.num_slots,
            slot_rank=slot_rank,
            max_rows=options.max_rows,
            max_len=max_len,
            kv_blocks=kv_blocks,
        )

    def fitting(self, sizes: Sizes) -> Sizes:
        """Larger ones, as far as memory goes: half of what is left for slots, the rest for KV, then again slots."""
        room = self.budget - self.total(sizes)
        if room < 0:
            raise self._refusal(sizes)
        sizes = self._with_more_slots(sizes, room // 2)
        sizes = self._with_more_tokens(sizes)
        return self._with_more_slots(sizes, self.budget - self.total(sizes))

    def _with_more_slots(self, sizes: Sizes, room: int) -> Sizes:
        if self._options.num_slots != "auto":
            return sizes
        each = self.total(replace(sizes, num_slots=sizes.num_slots + 1)) - self.total(sizes)
        more = room // each if each else _NUM_SLOTS
        return replace(sizes, num_slots=min(_NUM_SLOTS, sizes.num_slots + more))

    def _with_more_tokens(self, sizes: Sizes) -> Sizes:
        blocks = sizes.kv_blocks
        if not self._options.kv_blocks:
            blocks += max(0, self.budget - self.total(sizes)) // (BLOCK * self._token_bytes(sizes))
        max_len = sizes.max_len
        if self._options.max_len == "auto":
            longest = blocks // min(_AT_ONCE, sizes.max_rows) * BLOCK
            max_len = min(self._most_len, max(max_len, longest))
        if not self._options.kv_blocks:
            blocks = min(blocks, sizes.max_rows * blocks_for(max_len))
        return replace(sizes, max_len=max_len, kv_blocks=blocks)

    @property
    def _most_len(self) -> int:
        return self._base.max_positions or _UNLIMITED_LEN

    def total(self, sizes: Sizes) -> int:
        """Bytes of all parts."""
        return sum(part.num_bytes for part in self.parts(sizes))

    def parts(self, sizes: Sizes) -> tuple[Part, ...]:
        """What these sizes take, line by line."""
        base, item = self._base, _ITEM_BYTES[sizes.dtype]
        widths, q = sum(d + o for d, o in base.linears), self._router_rank or 1
        each_slot = sizes.slot_rank * widths * item
        each_token = self._token_bytes(sizes)
        found = [
            Part(
                "base model",
                base.num_weights * item + base.packed_bytes,
                f"{base.num_weights / 1e6:.1f} M weights in {sizes.dtype}{base.form and ', ' + base.form}",
            ),
            Part("router", q * widths * item, f"rank {self._router_rank}" if self._router_rank else "none"),
            Part(
                "slots",
                sizes.num_slots * each_slot,
                f"{sizes.num_slots} of rank {sizes.slot_rank}, at most {shown(each_slot)} each",
            ),
            Part("couplings", sizes.num_slots * len(base.linears) * q * sizes.slot_rank * item, "of slots and router"),
            Part(
                "KV",
                sizes.kv_tokens * each_token,
                f"{sizes.kv_tokens} tokens in {sizes.kv_blocks} blocks, {each_token / 1024:.1f} KiB each token",
            ),
            Part("workspace", self._workspace(sizes), f"steps of {self._options.token_budget} tokens; an estimate"),
        ]
        if not self._device.is_cpu:
            found.append(Part("graphs", self._graphs(sizes), "of decode steps; an estimate"))
        return tuple(found)

    def _token_bytes(self, sizes: Sizes) -> int:
        base = self._base
        return 2 * base.num_layers * base.num_kv_heads * base.head_dim * _ITEM_BYTES[sizes.dtype]

    def _workspace(self, sizes: Sizes) -> int:
        base, item = self._base, _ITEM_BYTES[sizes.dtype]
        logits = 3 * sizes.max_rows * base.vocab_size * 4  # as they are, as numbers, sorted
        return logits + self._options.token_budget * (8 * base.hidden + 3 * base.feed_forward) * item

    def _graphs(self, sizes: Sizes) -> int:
        # Their sizes are powers of two, in some variants; they share one pool, but each keeps its logits.
        return 4 * 2 * sizes.max_rows * self._base.vocab_size * _ITEM_BYTES[sizes.dtype] + 256 * _MIB

    def _refusal(self, sizes: Sizes) -> WrongState:
        needed = self.total(sizes)
        table = ", ".join(f"{part.name} {shown(part.num_bytes)}" for part in self.parts(sizes))
        is_counted = self._options.memory_bytes is not None
        says = f"{shown(needed)} are needed ({table}); there are {shown(self.budget)}"
        says += "" if is_counted else f", {self.where}"
        field = "executor.memory_bytes" if is_counted else "executor.memory_fraction"
        ways, together = list(self._ways(sizes))[:3], self._together(sizes)
        if len(ways) < 3 and together:
            ways.append(f"all of {', '.join(together)}")
        if ways:
            return WrongState(says, field=field, remedy=f"set {' or '.join(ways)}")
        more = f", of which this machine has {self._device.others + 1}" if self._device.others else ""
        return WrongState(
            says,
            field="base_model",
            remedy="serve a smaller or a quantised base model, or use a device with more memory: one model over "
            f"several devices{more} is not built, see ADR 30",
        )

    def _ways(self, sizes: Sizes) -> Iterator[str]:
        """Single settings that make it fit, with their values."""

        def fits(**changes: int | str) -> bool:
            return self.total(self._smaller(sizes, changes)) <= self.budget

        if self._options.kv_blocks and (most := _largest(lambda n: fits(kv_blocks=n), 1, sizes.kv_blocks)):
            yield f"executor.kv_blocks to {most}"
        if most := _largest(lambda n: fits(max_len=n * BLOCK), 1, sizes.max_len // BLOCK):
            yield f"executor.max_len to {most * BLOCK}"
        if most := _largest(lambda n: fits(num_slots=n), 2, sizes.num_slots):
            yield f"executor.num_slots to {most}"
        if most := _largest(lambda n: fits(max_rows=n), 1, sizes.max_rows):
            yield f"executor.max_rows to {most}"
        if sizes.dtype == "float32" and fits(dtype="bfloat16"):
            yield "executor.dtype to bfloat16"
        yield from self._more_memory(self.total(sizes))

    def _more_memory(self, needed: int) -> Iterator[str]:
        if needed > self._device.free_bytes:
            return
        if self._options.memory_bytes is not None:
            yield f"executor.memory_bytes to {needed}"
        elif (share := ceil(100 * needed / self._device.free_bytes)) <= 100:
            yield f"executor.memory_fraction to {share / 100:g}"

    def _smaller(self, sizes: Sizes, changes: Mapping[str, int | str]) -> Sizes:
        """Other sizes, with as much KV as they need at least."""
        small = replace(sizes, **changes)  # type: ignore[arg-type]
        return (
            small if self._options.kv_blocks else replace(small, kv_blocks=_least_blocks(small.max_rows, small.max_len))
        )

    def _together(self, sizes: Sizes) -> list[str]:
        """Settings that make it fit only together, as large as they can be; empty = there are none."""

        def fits(changes: Mapping[str, int | str]) -> bool:
            return self.total(self._smaller(sizes, changes)) <= self.budget

        changes: dict[str, int | str] = {}
        least = {"num_slots": 2, "max_rows": 1, "max_len": BLOCK} | (
            {"kv_blocks": 1} if self._options.kv_blocks else {}
        )
        if sizes.dtype == "float32" and not fits(least):
            changes["dtype"] = "bfloat16"
        if not fits(changes | least):
            return []
        changes |= least
        for name in least:
            unit = BLOCK if name == "max_len" else 1
            most = getattr(sizes, name) // unit
            found = _largest(lambda n, name=name, unit=unit: fits(changes | {name: n * unit}), 1, most)  # type: ignore[misc]
            changes[name] = max(least[name], found * unit)
        return [f"executor.{name} to {value}" for name, value in changes.items() if value != getattr(sizes, name)]


def _least_blocks(max_rows: int, max_len: int) -> int:
    """Of KV: with fewer, long requests would wait for one another more than they run."""
    return min(_AT_ONCE, max_rows) * blocks_for(max_len)


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest n in [low, high] for which a condition holds that holds for all smaller ones too; 0 = none."""
    if low > high or not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _dtype(options: ExecutorSettings, base: BaseFacts, device: DeviceFacts) -> str:
    if options.dtype != "auto":
        return options.dtype
    if base.dtype not in _ITEM_BYTES or (base.dtype == "bfloat16" and not device.has_bf16):
        return "float32"
    return "float32" if base.dtype == "float16" and device.is_cpu else base.dtype


def threads_of(options: ExecutorSettings, device: DeviceFacts) -> int:
    """Torch's threads of one executor."""
    if options.threads != "auto":
        return options.threads
    return max(1, (device.cores - 1) // (options.bounds[0] or 1)) if device.is_cpu else 1
