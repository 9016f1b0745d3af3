"""Trains the LoRARetriever: texts of one task together, texts of different tasks apart.

Contrastive, with the other tasks of the batch as negatives (Zhao et al., "LoraRetriever: Input-Aware LoRA Retrieval and
Composition for Mixed Tasks in the Wild"), by sentence-transformers' own trainer.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ramole.core.errors import InvalidInput, WrongState
from ramole.embedding.encoder import digest_of, locate, open_model
from ramole.embedding.retriever import FingerprintOf, LinearMap, Mode, Retriever, save_retriever
from ramole.lab.training.checkpoint import last_checkpoint

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ramole.lab.training.texts import AdapterTexts

CHECKPOINTS = "checkpoints"
_PLAN = "plan.json"
_DEFAULT_LR = {Mode.LORA: 1e-3, Mode.FULL: 5e-5, Mode.NONE: 0.0}


@dataclass(frozen=True, slots=True)
class RetrieverRecipe:
    """How a retriever is trained.

    Attributes:
        rounds: every task is shown about once a round, as a pair of its samples.
        batch: tasks in one step at most; each is a negative for all others.
        lr: 0 = 1e-3 for a LoRA, 5e-5 for the whole encoder.
        rank: r of the LoRA on the encoder's attention; alpha = 2 r.
        temperature: of the softmax over cosines.
        checkpoint_steps: how often the state is saved.
    """

    mode: Mode = Mode.LORA
    rounds: int = 20
    batch: int = 32
    lr: float = 0.0
    rank: int = 8
    temperature: float = 0.05
    checkpoint_steps: int = 50

    def __post_init__(self) -> None:
        for name in ("rounds", "batch", "rank", "temperature", "checkpoint_steps"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{getattr(self, name)}", field=f"--{name.replace('_', '-')}", remedy="more than 0")


def train_encoder(
    base: str,
    tasks: Sequence[AdapterTexts],
    recipe: RetrieverRecipe,
    *,
    instruction: str,
    seed: int,
    out_dir: Path,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> SentenceTransformer:
    """Trains, or goes on from the last checkpoint in `out_dir`.

    Args:
        base: as `embedding.encoder`.
        tasks: at least two.
        progress: gets the finished fraction after each step.

    Returns:
        The model on the CPU, in evaluation mode; it carries its LoRA as PEFT attaches it.

    Raises:
        NotFound, Corrupt, WrongState: the base can not be loaded or trained, or `out_dir` is of another training.
    """
    folder = locate(base)
    model = open_model(base, folder)
    if recipe.mode is Mode.NONE:
        return model
    from transformers import set_seed

    set_seed(seed)
    if recipe.mode is Mode.LORA:
        _attach_lora(model, base, recipe.rank)
    checkpoints = out_dir / CHECKPOINTS
    _check_plan(checkpoints, {"base": digest_of(folder), "instruction": instruction, "seed": seed}, tasks, recipe)
    model.to(device)
    _fit(model, pairs(tasks, recipe, seed), recipe, instruction, seed, checkpoints, device, progress)
    return model.to("cpu").eval()


def save(
    out_dir: Path,
    model: SentenceTransformer,
    linear_map: LinearMap | None,
    *,
    base: str,
    instruction: str,
    recipe: RetrieverRecipe,
    tasks: Sequence[AdapterTexts],
    seed: int,
    figures: dict[str, Any],
    fingerprint: FingerprintOf | None = None,
) -> Retriever:
    """Writes the artefact and removes the checkpoints. Raises InvalidInput when there is one already."""
    about = {
        "num_samples": max(len(task.samples) for task in tasks),
        "tasks": sorted(task.name for task in tasks),
        "seed": seed,
        "recipe": asdict(recipe),
        "figures": figures,
    }
    artefact = Retriever(
        out_dir,
        recipe.mode,
        base,
        digest_of(locate(base)),
        instruction,
        linear_map,
        files={},
        about=about,
        fingerprint=fingerprint,
    )
    done = save_retriever(artefact, model)
    shutil.rmtree(out_dir / CHECKPOINTS, ignore_errors=True)
    return done


def pairs(tasks: Sequence[AdapterTexts], recipe: RetrieverRecipe, seed: int) -> list[list[tuple[str, str]]]:
    """(anchor, positive) of each step. All of a step are of different tasks, so that no negative is a false one."""
    rng = Random(f"{seed}/retriever")
    num_steps = math.ceil(len(tasks) / recipe.batch)
    size = len(tasks) // num_steps
    steps = []
    for _ in range(recipe.rounds):
        order = rng.sample(tasks, len(tasks))
        for start in range(0, num_steps * size, size):
            drawn = [rng.sample(task.samples, 2) for task in order[start : start + size]]
            steps.append([(anchor, positive) for anchor, positive in drawn])
    return steps


def _attach_lora(model: SentenceTransformer, base: str, rank: int) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=_attention_modules(model, base))
    model.add_adapter(config)


def _attention_modules(model: SentenceTransformer, base: str) -> list[str]:
    """Full names of the linear modules inside attention: whatever an architecture calls them."""
    import torch

    inside = [
        name
        for name, module in model.transformers_model.named_modules()
        if isinstance(module, torch.nn.Linear) and "attention" in name.lower().replace("attn", "attention")
    ]
    if not inside:
        raise WrongState(
            f"the encoder {base!r} has no linear modules in an attention that a LoRA could be attached to",
            field="--base",
            remedy="give a transformer, or use --mode full or --mode none",
        )
    return inside


def _check_plan(
    checkpoints: Path, origin: dict[str, Any], tasks: Sequence[AdapterTexts], recipe: RetrieverRecipe
) -> None:
    """Refuses checkpoints of another training: to go on from them would give neither the one nor the other."""
    texts = json.dumps([[task.name, *task.samples] for task in tasks])
    plan = json.dumps(
        {**origin, "recipe": asdict(recipe), "texts": hashlib.sha256(texts.encode()).hexdigest()}, indent=1
    )
    path = checkpoints / _PLAN
    if path.is_file() and path.read_text("utf-8") != plan:
        raise WrongState(
            f"{str(checkpoints)!r} holds checkpoints of another training",
            field="--out",
            remedy="give the options it was begun with, or another folder",
        )
    checkpoints.mkdir(parents=True, exist_ok=True)
    path.write_text(plan, "utf-8")


def _in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    """A batch sampler. The steps are laid out already: a shuffle would bring two pairs of one task together."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def _fit(
    model: SentenceTransformer,
    steps: list[list[tuple[str, str]]],
    recipe: RetrieverRecipe,
    instruction: str,
    seed: int,
    checkpoints: Path,
    device: str,
    progress: Callable[[float], None],
) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
        """Without model cards, which cost seconds and look things up on the hub."""

        def add_model_card_callback(self, *_: Any) -> None:
            pass

        def _save(self, output_dir: str, **_: Any) -> None:
            self.model.save_pretrained(output_dir, create_model_card=False)

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step / state.max_steps)

    rows = [(instruction + anchor, instruction + positive) for step in steps for anchor, positive in step]
    data = Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [p for _, p in rows]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=1,
        per_device_train_batch_size=len(steps[0]),
        learning_rate=recipe.lr or _DEFAULT_LR[recipe.mode],
        warmup_steps=max(1, len(steps) // 10),
        lr_scheduler_type="linear",
        batch_sampler=_in_order,
        save_strategy="steps",
        save_steps=recipe.checkpoint_steps,
        save_total_limit=1,
        seed=seed,
        use_cpu=device == "cpu",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    loss = MultipleNegativesRankingLoss(
        model,
        scale=1 / recipe.temperature,
        directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[Report()])
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
