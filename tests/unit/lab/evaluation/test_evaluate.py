"""The command on a user's own adapters: figures, report, summary; errors in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from typer.testing import CliRunner

from ramole.cli import app
from ramole.lab.evaluation.evaluate import summary
from ramole.zoo.catalog import Zoo

METHODS = ("calibrated", "base", "perfect", "selection", "mixture", "ramole", "similarity")


def test_evaluate_own_adapters(zoo: Zoo, adapters: Path, tmp_path: Path) -> None:
    first, second = sorted(path.name for path in adapters.iterdir())[:2]
    tests = tmp_path / "tests.jsonl"
    lines = [
        {"prompt": prompt.prompt, "answer": prompt.answer, "adapter": adapter.name}
        for adapter in zoo.adapters[:6]
        for prompt in adapter.prompts[:3]
    ]
    lines.append({"prompt": "both", "answer": "x", "adapters": [first, second]})
    tests.write_text("\n".join(map(json.dumps, lines)))
    arguments = ["evaluate", "--quick", "--json", "--base", str(zoo.base_path), "--adapters", str(adapters)]
    arguments += ["--tests", str(tests), "--router", str(zoo.router_path), "--out", str(tmp_path / "out")]
    for name in METHODS:
        arguments += ["--method", name]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert list(figures)[-1] == "summary"
    found = figures["summary"]
    assert set(found["small"]) == {"2", "4"}
    assert found["small"]["2"]["default"] > 0.6
    assert set(found["iid"]) == set(found["ood"]) == set(METHODS)
    assert found["default"] in found["iid"]
    assert found["iid"]["perfect"]["score"] == found["iid"]["selection"]["score"] > 0.8
    assert found["iid"]["base"]["score"] < 0.2
    # Some of the six can stand in for each other.
    assert found["ood"]["selection"]["score"] < found["iid"]["selection"]["score"] - 0.2
    for value in found["iid"].values():
        assert value["low"] <= value["score"] <= value["high"]
    assert set(found["retriever"]["zero_shot"]) == {"seen", "unseen"}
    assert all(set(group) == {"top1", "top3", "top5", "top8"} for group in found["retriever"]["zero_shot"].values())
    assert {"bm25", "tfidf", "zero_shot max"} <= set(figures["retrieval"])
    assert figures["two_skill"]["num_pairs"] == 1
    assert set(found["two_skill"]) == {"once", "rerouted", "named_rerouted", "bound"}
    assert [row["num_adapters"] for row in figures["growth"]] == [6]
    assert all(row["outputs_equal"] for row in figures["throughput"])
    out = tmp_path / "out"
    assert json.loads((out / "figures.json").read_text()) == figures
    rows = list(csv.DictReader((out / "end_task.csv").open()))
    assert len(rows) == len(figures["end_task"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "both named, ramole" in page
    assert "Retrieval in other words" in page
    assert "Small repositories" in page
    assert set(figures["wordings"]) == {"given", "new", "bare", "chat", "all"}


def test_errors_are_one_line() -> None:
    for arguments, word in (
        (["--method", "magic"], "magic"),
        (["--adapters", "."], "--base"),
        (["--base", "x"], "--adapters"),
    ):
        done = CliRunner().invoke(app, ["evaluate", *arguments])
        assert done.exit_code == 1
        assert word in done.output
        assert "Traceback" not in done.output


def test_the_summary_prefers_tasks_that_no_training_has_seen() -> None:
    import numpy as np

    value = {"score": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        {
            "pool": "open",
            "group": group,
            "retriever": "",
            "setting": "iid",
            "method": "base",
            "is_main": True,
            "k": 0,
            "exact_match": value,
        }
        for group in ("all", "seen", "unseen")
    ]
    from ramole.lab.evaluation.views import View

    view = View(np.arange(1), np.zeros(1, np.int64), np.ones((1, 20), np.float32), np.ones((1, 20), np.bool_))
    many, few = np.arange(20) < 10, np.arange(20) < 18
    assert summary({"zero_shot": {}}, {"zero_shot": view}, rows, many)["group"] == "unseen"
    assert summary({"zero_shot": {}}, {"zero_shot": view}, rows, few)["group"] == "all"
