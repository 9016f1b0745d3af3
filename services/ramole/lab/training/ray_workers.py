"""The same training on many workers, by Ray Train's TorchTrainer. The only file here that imports Ray."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from ramole.lab.training.router_job import RouterJob, run_router_job
from ramole.lab.training.workers import Workers
from ramole.mixture.router import MANIFEST


def run_router_job_on_ray(job: RouterJob, *, num_workers: int, use_gpu: bool = False) -> dict[str, Any]:
    """Runs a job on `num_workers` workers of the Ray cluster that this process belongs to, or of one of its own.

    `job.out` and what the job reads must be at the same paths on every node.

    Returns:
        The manifest, see `run_router_job`.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    out = job.out.absolute()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": pickle.dumps(job), "out": str(out)},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(name="router", storage_path=str(out / "ray")),
    )
    trainer.fit()
    manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text())
    return manifest


def _worker(config: dict[str, Any]) -> None:
    from dataclasses import replace

    job: RouterJob = pickle.loads(config["job"])
    run_router_job(replace(job, out=Path(config["out"])), workers=Workers.joined())
