"""The rules as an object of the Prometheus operator: `python ops/prometheus_rule.py > k8s/base/prometheusrule.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent / "prometheus" / "rules"


def prometheus_rule() -> dict[str, Any]:
    """All groups of all files, in their order."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ramole", "labels": {"app": "ramole"}},
        "spec": {"groups": groups},
    }


def as_yaml() -> str:
    """What the file holds."""
    return "# Made from ops/prometheus/rules by `make k8s`.\n" + yaml.safe_dump(
        prometheus_rule(), sort_keys=False, width=110
    )


if __name__ == "__main__":
    sys.stdout.write(as_yaml())
