"""The engine without any server: for scripts, notebooks and benchmarks.

engine = OfflineEngine("path/to/base", {"sql": Path("adapters/sql"), "haiku": Path("adapters/haiku")})
print(engine.generate(["a prompt", "another"], [["sql"], ["sql", "haiku"]]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ramole.core.composition import PRESETS, Composition, Expert
from ramole.core.errors import ExpertUnavailable, InvalidInput, NotFound, RamoleError
from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings, PlainSettings
from ramole.executor.engine import Engine
from ramole.executor.loading import load_runner
from ramole.executor.sampler import make_sampler
from ramole.executor.sequence import Sequence as EngineSequence
from ramole.executor.text import TextStream
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import read_base_shapes
from ramole.lora.config import read_config
from ramole.lora.files import CONFIG_FILE, read_folder
from ramole.lora.weights import AdapterWeights


class OfflineEngine:
    """One base model and adapters from PEFT folders.

    Args:
        base: folder or hub id of a causal LM.
        adapters: PEFT folder by name. Each is read when a prompt first needs it, and judged as an upload is.
        settings: sizes; `router` names a RouterLoRA folder, without one the routed weightings are refused.
    """

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path], *, settings: ExecutorSettings | None = None
    ) -> None:
        options = settings or ExecutorSettings(router="")
        runner, self._codec, sizes = load_runner(
            PlainSettings(base_model=str(base), executor=options), widest_rank=_widest_rank(adapters)
        )
        self._shapes = read_base_shapes(str(base), str(base))
        self._limits = AdmissionLimits(sizes.slot_rank)
        self._adapters = dict(adapters)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="read-adapter")
        self.engine = Engine(
            runner,
            load=self._load,
            eos_token_ids=self._codec.eos_token_ids,
            num_slots=sizes.num_slots,
            max_rows=sizes.max_rows,
            token_budget=options.token_budget,
            max_waiting=options.max_waiting,
            prefix_reuse=options.prefix_reuse,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reader threads."""
        self._readers.shutdown()

    def generate(
        self,
        prompts: Sequence[str],
        adapters: Sequence[Sequence[str | Expert]] = (),
        *,
        composition: Composition = PRESETS["mixture"],
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Answers all prompts in one continuously batched run.

        Args:
            adapters: for each prompt the names of its adapters, or Experts whose `digest` is the name; empty = none.

        Raises:
            InvalidInput: lengths differ.
            RamoleError: a prompt cannot run, or an adapter cannot be read.
        """
        if adapters and len(adapters) != len(prompts):
            raise InvalidInput(
                f"{len(adapters)} adapter lists for {len(prompts)} prompts",
                field="adapters",
                remedy="give one for each",
            )
        sampling = sampling or Sampling()
        streams = {str(i): self._codec.stream(sampling) for i in range(len(prompts))}
        try:
            for i, prompt in enumerate(prompts):
                named = adapters[i] if adapters else ()
                sequence = EngineSequence(
                    id=str(i),
                    prompt=self._codec.encode(prompt),
                    max_tokens=sampling.max_tokens or 0,
                    experts=tuple(expert if isinstance(expert, Expert) else Expert(expert) for expert in named),
                    composition=composition,
                    sampler=make_sampler(sampling, self.engine.device),
                )
                self.engine.add(sequence)
            return self._run(streams)
        except RamoleError:
            for id_ in streams:
                self.engine.cancel(id_)
            raise

    def _run(self, streams: Mapping[str, TextStream]) -> list[str]:
        texts = dict.fromkeys(streams, "")
        while self.engine.has_work:
            if self.engine.is_stalled:
                wait(self.engine.pending_loads, return_when="FIRST_COMPLETED")
            for update in self.engine.step():
                if isinstance(update.error, ExpertUnavailable):
                    raise update.error.of_adapter(f"adapters[{update.sequence.id}][{update.error.expert}]")
                if update.error is not None:
                    raise update.error
                id_ = update.sequence.id
                stream = streams[id_]
                if update.sampled is not None:
                    texts[id_] += stream.push(update.sampled.token)
                if stream.is_stopped:
                    self.engine.cancel(id_)
                elif update.is_last:
                    texts[id_] += stream.flush()
        return list(texts.values())

    def _load(self, name: str) -> Future[AdapterWeights]:
        return self._readers.submit(self._read, name)

    def _read(self, name: str) -> AdapterWeights:
        folder = self._adapters.get(name)
        if folder is None:
            raise NotFound(f"no adapter {name!r}", field="adapters", remedy=f"name one of {sorted(self._adapters)}")
        config, tensors = read_folder(folder)
        # Whatever base the adapter names: whoever runs a script knows what the folders hold.
        return admit(config, tensors, self._shapes, self._limits, base_model=self._shapes.base_id).weights


def _widest_rank(adapters: Mapping[str, Path]) -> int:
    """As their configs say. What cannot be read is refused when a prompt needs it."""
    widest = 0
    for folder in adapters.values():
        with suppress(OSError, RamoleError):
            config = read_config((folder / CONFIG_FILE).read_bytes())
            widest = max(widest, config.rank, *config.rank_pattern.values())
    return widest
