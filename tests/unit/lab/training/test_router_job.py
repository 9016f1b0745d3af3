"""A whole router training: resumes exactly, refuses what does not fit, the same code on many workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ramole.cli import app
from ramole.core.errors import AdapterRefused, Corrupt, InvalidInput, RamoleError, WrongState
from ramole.lab.training.checkpoint import FILE
from ramole.lab.training.router import RouterRecipe, StepLog, train_router
from ramole.lab.training.router_job import (
    LOG,
    RouterAdapter,
    RouterJob,
    digest_of_base,
    encoder_of,
    prepare,
    run_router_job,
)
from ramole.mixture.router import load_router, save_router
from ramole.zoo.catalog import load_zoo

STEPS = 4


@pytest.fixture
def job(tmp_path: Path) -> RouterJob:
    zoo = load_zoo()
    adapters = tuple(
        RouterAdapter(a.name, a.path, a.samples[:4], tuple((e.prompt, e.answer) for e in a.train[:4]))
        for a in zoo.adapters[:4]
    )
    recipe = RouterRecipe(steps=STEPS, num_groups=2, group_size=2)
    return RouterJob(str(zoo.base_path), adapters, tmp_path / "router", recipe=recipe, checkpoint_every=2)


def words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A bag of hashed words: enough of a retriever to order four adapters, without loading an encoder."""
    found = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            found[row, crc32(word.encode()) % 64] += 1
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def pairs_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{name} {side}": getattr(pair, side) for name, pair in load_router(folder).pairs.items() for side in "ab"}


def assert_same(got: Path, wanted: Path, **tolerance: float) -> None:
    found = pairs_of(got)
    for name, tensor in pairs_of(wanted).items():
        torch.testing.assert_close(found[name], tensor, **(tolerance or {"rtol": 0, "atol": 0}))


def test_a_stopped_training_goes_on_where_it_was(job: RouterJob) -> None:
    straight = replace(job, out=job.out.with_name("straight"))
    manifest = run_router_job(straight, embed=words)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in pairs_of(straight.out).items() if name.endswith(" b"))

    def stop(step: StepLog) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_router_job(job, log=stop, embed=words)
    assert (job.out / FILE).is_file()
    seen: list[int] = []
    run_router_job(job, log=lambda step: seen.append(step.step), embed=words)
    assert seen == [3, 4]
    assert_same(job.out, straight.out)
    assert not (job.out / FILE).exists()
    logs = [
        [json.loads(line) for line in (folder / LOG).read_text().splitlines()] for folder in (job.out, straight.out)
    ]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4]
    assert logs[0][0]["gate_entropy"] == pytest.approx(1.0)
    assert logs[0][-1]["gate_entropy"] < 1.0
    assert manifest["base_sha256"] == digest_of_base(job.base, None)
    assert manifest["tasks"] == [adapter.name for adapter in job.adapters]
    assert 0 <= manifest["figures"]["top1"] <= manifest["figures"]["top_k"] <= 1


def test_a_checkpoint_of_another_run_is_refused(job: RouterJob) -> None:
    def stop(step: StepLog) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_router_job(job, log=stop, embed=words)
    with pytest.raises(WrongState, match="other settings"):
        run_router_job(replace(job, seed=1), embed=words)
    (job.out / FILE).write_bytes(b"broken")
    with pytest.raises(Corrupt, match="can not be read"):
        run_router_job(job, embed=words)


def other_width(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {n: t[:, :-1].contiguous() if "lora_A" in n else t for n, t in load_file(path).items()}
    save_file(tensors, path)


def other_base(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "somebody/else"}))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [(other_width, AdapterRefused, "maps"), (other_base, WrongState, "somebody/else")],
)
def test_what_does_not_fit_is_named(
    job: RouterJob, tmp_path: Path, spoil: Any, error: type[RamoleError], message: str
) -> None:
    bad = job.adapters[2]
    folder = tmp_path / "bad"
    shutil.copytree(bad.path, folder)
    spoil(folder)
    adapters = (*job.adapters[:2], replace(bad, path=folder), job.adapters[3])
    with pytest.raises(error, match=message) as caught:
        run_router_job(replace(job, adapters=adapters))
    assert repr(bad.name) in str(caught.value)


def test_too_little_to_train_on_is_refused(job: RouterJob) -> None:
    with pytest.raises(InvalidInput, match="2 adapters for k = 3"):
        run_router_job(replace(job, adapters=job.adapters[:2]))
    silent = replace(job.adapters[0], prompts=())
    with pytest.raises(InvalidInput, match="no training prompts"):
        run_router_job(replace(job, adapters=(silent, *job.adapters[1:])))


def test_train_router_command_on_own_adapters(job: RouterJob, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    for adapter in job.adapters:
        (folder / adapter.name).symlink_to(adapter.path, target_is_directory=True)
    arguments = ["train", "router", "--base", job.base, "--adapters", str(folder), "--out", str(job.out)]
    arguments += ["--steps", "1", "--groups", "1", "--group-size", "2", "--rank", "3", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["rank"] == load_router(job.out).rank == 3
    assert sorted(manifest["tasks"]) == sorted(adapter.name for adapter in job.adapters)
    lost = CliRunner().invoke(app, ["train", "router", "--out", str(job.out), "--base", job.base])
    assert lost.exit_code == 1
    assert "--adapters" in lost.output


class ThreadWorkers:
    """Two workers in one process: the oracle for the real ones."""

    size = 2

    def __init__(self, rank: int, barrier: Barrier, shared: list[list[torch.Tensor]]) -> None:
        self.rank, self.is_first = rank, rank == 0
        self._barrier, self._shared = barrier, shared

    def average(self, tensors: Any) -> None:
        mine = list(tensors)
        self._shared[self.rank] = [tensor.clone() for tensor in mine]
        self._barrier.wait()
        for tensor, a, b in zip(mine, *self._shared, strict=True):
            tensor.copy_((a + b) / 2)
        self._barrier.wait()


@pytest.mark.slow
def test_two_ray_workers_train_one_router(job: RouterJob) -> None:
    import ray

    from ramole.lab.training.ray_workers import run_router_job_on_ray

    barrier, shared, wanted = Barrier(2, timeout=120), [[], []], [{}, {}]
    ready = [prepare(job, encoder_of(job)) for _ in range(2)]  # transformers can not load in two threads

    def train(rank: int) -> None:
        workers: Any = ThreadWorkers(rank, barrier, shared)
        one = ready[rank]
        wanted[rank] = train_router(
            one.model, one.mixture, one.tasks, job.recipe, pad=one.pad, seed=job.seed, workers=workers
        )

    threads = [Thread(target=train, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank, pairs in enumerate(wanted):
        save_router(job.out.with_name(f"threads{rank}"), pairs, base_id="", manifest={})
    assert_same(job.out.with_name("threads0"), job.out.with_name("threads1"))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        manifest = run_router_job_on_ray(job, num_workers=2)
    finally:
        ray.shutdown()
    assert manifest["workers"] == 2
    assert_same(job.out, job.out.with_name("threads0"), rtol=1e-4, atol=1e-6)
    alone = replace(job, out=job.out.with_name("alone"))
    run_router_job(alone)
    with pytest.raises(AssertionError):
        assert_same(job.out, alone.out, rtol=1e-4, atol=1e-6)
