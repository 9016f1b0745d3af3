"""Everything that a GPU must tell about ramole, as one table and one JSON file, in minutes and without a network.

    python ops/gpu/report.py [--device cuda] [--seconds 530] [--out FOLDER] [STAGE ...]

Each stage is a process of its own with a limit: none ends the others. On a CPU the same code runs in tiny shapes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = {"tests": 0.3, "kernels": 0.2, "engine": 0.3, "bench": 0.2}
"""By name, in this order: what is wrong early makes what follows worthless. With their share of the time."""
_LIBRARIES = ("torch", "triton", "transformers", "peft", "numpy")


def run_tests(device: str, seconds: float, lines: Path) -> None:
    """The tests that need a GPU; without one, those of the kernels in Triton's interpreter."""
    chosen = ["-m", "gpu", "tests/gpu"] if device != "cpu" else ["tests/unit/mixture/test_triton_padding.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=0", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    said = done.stdout.splitlines()
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    summary = next((line for line in reversed(said) if " passed" in line or " failed" in line), done.stderr[-300:])
    found: dict[str, Any] = {"case": " ".join(chosen), "ok": done.returncode == 0, "summary": summary}
    lines.write_text(json.dumps(found | ({"failed": failed} if failed else {})) + "\n")


def run_stage(stage: str, device: str, seconds: float, lines: Path) -> None:
    """In a process of its own."""
    if stage == "tests":
        run_tests(device, seconds, lines)
        return
    import torch
    from records import Records

    is_tiny = device == "cpu"
    if is_tiny:
        torch.set_num_threads(1)
    importlib.import_module(stage).run(Records(lines, seconds), torch.device(device), is_tiny=is_tiny)


def run_all(stages: list[str], device: str, seconds: float, out: Path) -> dict[str, Any]:
    """All stages, each with what is left of its own time and of that of those before it."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "services"), str(ROOT / "tests"), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    end, cases = time.monotonic() + seconds, []
    for i, stage in enumerate(stages):
        share = STAGES[stage] / sum(STAGES[later] for later in stages[i:])
        limit = max(1.0, (end - time.monotonic()) * share)
        lines = out / f"{stage}.jsonl"
        lines.unlink(missing_ok=True)
        sys.stderr.write(f"{stage}: at most {limit:.0f} s\n")
        command = [sys.executable, str(HERE / "report.py"), "--device", device, "--seconds", str(limit * 0.95)]
        command += ["--lines", str(lines), stage]
        with (out / f"{stage}.log").open("w") as log:
            try:
                code = subprocess.run(
                    command, env=environment, stdout=log, stderr=log, timeout=limit + 5, check=False
                ).returncode
                ended = "" if code == 0 else f"it ended with {code}, see {stage}.log"
            except subprocess.TimeoutExpired:
                ended = "its time was over"
        found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        cases += [{"stage": stage, **case} for case in found]
        if ended:
            cases.append({"stage": stage, "case": "the stage itself", "ok": False, "error": ended})
    return {"setup": setup(device), "cases": cases}


def setup(device: str) -> dict[str, Any]:
    """What it ran on."""
    import torch

    found: dict[str, Any] = {name: _version(name) for name in _LIBRARIES} | {"python": sys.version.split()[0]}
    if device == "cpu":
        return found | {"device": "cpu", "note": "tiny shapes: figures mean nothing"}
    properties = torch.cuda.get_device_properties(torch.device(device))
    return found | {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def show(report: dict[str, Any]) -> None:
    """As a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "stage", "case", "", "what was found", title="  ".join(f"{k} {v}" for k, v in report["setup"].items())
    )
    for case in report["cases"]:
        verdict = {True: "right", False: "WRONG"}.get(case.get("ok"), "")  # type: ignore[arg-type]
        figures = {k: v for k, v in case.items() if k not in ("stage", "case", "ok", "at", "seconds")}
        said = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        table.add_row(*(Text(cell) for cell in (case["stage"], case["case"], verdict, said)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> int:
    """0 = nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], default=[], metavar="STAGE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=530.0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-report")
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)  # one stage, called by ourselves
    given = parser.parse_args()
    if given.lines is not None:
        run_stage(given.stages[0], given.device, given.seconds, given.lines)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    report = run_all(given.stages or list(STAGES), given.device, given.seconds, given.out)
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    return int(any(case.get("ok") is False for case in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
