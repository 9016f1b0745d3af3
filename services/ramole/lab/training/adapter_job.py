"""One LoRA from JSON lines to a folder that can be uploaded: PEFT and the Trainer of transformers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ramole.core.errors import InvalidInput, WrongState
from ramole.core.samples import json_lines
from ramole.core.texts import read_text
from ramole.embedding.encoder import locate
from ramole.lab.training.checkpoint import last_checkpoint
from ramole.lora.files import CONFIG_FILE
from ramole.zoo.catalog import PROMPTS, SAMPLES, Example

CHECKPOINTS = "checkpoints"
NUM_SAMPLES = 20
IGNORED = -100
"""What the Trainer's loss takes no notice of."""

_PLAN = "plan.json"
_MIN_EXAMPLES = 4
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """How an adapter is trained.

    Attributes:
        rank: r of the LoRA; alpha = 2 r.
        targets: module names that get one; empty = all linear ones but the head.
        epochs: at most; fewer when the held-out loss stops falling.
        patience: epochs without a better held-out loss before it ends.
        held_out: share of the examples that are only asked.
        max_len: tokens of an example; a longer one is refused.
        is_chat: prompts are written by the base's chat template.
    """

    rank: int = 8
    targets: tuple[str, ...] = ()
    epochs: int = 10
    patience: int = 2
    batch: int = 8
    lr: float = 2e-4
    held_out: float = 0.1
    max_len: int = 1024
    is_chat: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "patience", "batch", "lr", "held_out", "max_len"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{getattr(self, name)}", field=f"--{name.replace('_', '-')}", remedy="more than 0")
        if self.held_out >= 1:
            raise InvalidInput(f"{self.held_out}", field="--held-out", remedy="less than 1")


@dataclass(frozen=True, slots=True)
class AdapterJob:
    """What to train, from what, and where to. `base`: folder or hub id of a causal LM."""

    base: str
    base_id: str
    data: Path
    out: Path
    recipe: AdapterRecipe = field(default_factory=AdapterRecipe)
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as token ids; `labels` are the ids of the answer, and IGNORED where the prompt is."""

    input_ids: list[int]
    labels: list[int]


def read_examples(path: Path) -> list[Example]:
    """The examples of a file, {"prompt", "answer"} a line, or {"messages"} that end with the assistant's.

    Raises:
        NotFound: there is no such file.
        InvalidInput: naming the line at fault, or there are fewer than four different ones.
    """
    found: dict[Example, None] = {}
    for number, entry in json_lines(read_text(path, field="--data"), path.name, "--data"):
        example = _example(entry)
        if example is None:
            raise InvalidInput(
                f"line {number} of {path.name} is no example",
                field="--data",
                remedy='{"prompt": ..., "answer": ...}, or {"messages": [user, assistant]}, a line; nothing blank',
            )
        found[example] = None
    if len(found) < _MIN_EXAMPLES:
        raise InvalidInput(
            f"{len(found)} different examples", field="--data", remedy=f"give at least {_MIN_EXAMPLES}, better hundreds"
        )
    return list(found)


def encode_example(tokenizer: Any, example: Example, recipe: AdapterRecipe) -> Tokens:
    """Prompt, answer and end, of which only answer and end are learned; the prompt as a server sees it.

    Raises:
        InvalidInput: it has more tokens than the recipe allows, or the base has no chat template.
    """
    if recipe.is_chat:
        if not tokenizer.chat_template:
            raise InvalidInput("the base has no chat template", field="--chat", remedy="leave it out")
        messages = [{"role": "user", "content": example.prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        head = tokenizer(example.prompt)["input_ids"]
    tail = [*tokenizer(example.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if len(head) + len(tail) > recipe.max_len:
        raise InvalidInput(
            f"an example of {len(head) + len(tail)} tokens: {example.prompt[:60]!r}",
            field="--data",
            remedy="shorten it, or allow more with --max-len",
        )
    return Tokens([*head, *tail], [*[IGNORED] * len(head), *tail])


def run_adapter_job(job: AdapterJob, *, progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """Trains, keeps the epoch of the best held-out loss, and writes the adapter with its samples and prompts.

    A run that was stopped goes on from its last epoch.

    Raises:
        NotFound, InvalidInput: the data can not be used, or `out` holds an adapter.
        WrongState: `out` holds checkpoints of another training.
    """
    if (job.out / CONFIG_FILE).exists():
        raise InvalidInput(f"there is an adapter in {str(job.out)!r}", field="--out", remedy="give another folder")
    train, dev = _split(read_examples(job.data), job)
    checkpoints = _checkpoints(job)
    progress("loading", 0.0)
    model, figures = _train(job, train, dev, checkpoints, progress)
    model.save_pretrained(str(job.out), safe_serialization=True)
    _finish_config(job.out / CONFIG_FILE, job)
    samples = list(dict.fromkeys(example.prompt for example in train))[:NUM_SAMPLES]
    _write(job.out / SAMPLES, samples)
    _write(job.out / PROMPTS, {"train": [asdict(one) for one in train], "test": [asdict(one) for one in dev]})
    shutil.rmtree(checkpoints)
    return {"out": str(job.out), "examples": len(train), "held_out": len(dev), "samples": len(samples), **figures}


def _train(
    job: AdapterJob, train: Sequence[Example], dev: Sequence[Example], checkpoints: Path, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        EarlyStoppingCallback,
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()  # this command has its own
    recipe = job.recipe
    torch.manual_seed(job.seed)
    folder = str(locate(job.base))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    learned, asked = ([asdict(encode_example(tokenizer, one, recipe)) for one in part] for part in (train, dev))
    base = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=list(recipe.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress("training", state.global_step / max(1, state.max_steps))

    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=recipe.batch,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
        seed=job.seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=learned,
        eval_dataset=asked,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=[Report(), EarlyStoppingCallback(recipe.patience)],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    before = trainer.evaluate()["eval_loss"]
    done = trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    return model, {
        "epochs": round(float(trainer.state.epoch or 0), 2),
        "steps": trainer.state.global_step,
        "loss_before": round(float(before), 4),
        "loss": round(float(trainer.state.best_metric), 4),
        "train_loss": round(float(done.training_loss), 4),
    }


def _split(examples: Sequence[Example], job: AdapterJob) -> tuple[list[Example], list[Example]]:
    shuffled = list(examples)
    Random(f"{job.seed}/adapter").shuffle(shuffled)
    num_held_out = max(1, round(job.recipe.held_out * len(shuffled)))
    return shuffled[num_held_out:], shuffled[:num_held_out]


def _checkpoints(job: AdapterJob) -> Path:
    folder = job.out / CHECKPOINTS
    data = hashlib.sha256(job.data.read_bytes()).hexdigest()
    plan = {"base": job.base, "data": data, "recipe": asdict(job.recipe), "seed": job.seed}
    path = folder / _PLAN
    # Compared as written: JSON knows no tuples.
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(plan)):
        raise WrongState(
            f"{str(folder)!r} holds checkpoints of a training with other settings or other data",
            field="--out",
            remedy="give another folder, or delete them",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, plan)
    return folder


def _finish_config(path: Path, job: AdapterJob) -> None:
    # PEFT writes a path of this machine, and a set in an order that differs from run to run.
    config = json.loads(path.read_text("utf-8"))
    config.update(
        base_model_name_or_path=job.base_id or job.base,
        target_modules=sorted(config["target_modules"]),
        inference_mode=True,
    )
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")


def _example(entry: Any) -> Example | None:
    if not isinstance(entry, dict):
        return None
    prompt, answer = entry.get("prompt"), entry.get("answer")
    messages = entry.get("messages")
    if isinstance(messages, list) and len(messages) == 2 and all(isinstance(one, dict) for one in messages):
        roles = [one.get("role") for one in messages]
        prompt, answer = (one.get("content") for one in messages) if roles == ["user", "assistant"] else (None, None)
    is_text = isinstance(prompt, str) and isinstance(answer, str) and bool(prompt.strip() and answer.strip())
    return Example(prompt, answer) if is_text else None  # type: ignore[arg-type]


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
