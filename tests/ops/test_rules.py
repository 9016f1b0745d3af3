"""Rules and dashboards as they are shipped: correct, tested, explained, and about metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dashboards
import metrics_page
from support.pages import ROOT
from support.prometheus import SHIPPED, binary, rules, runbook_expressions, shown

ALERTS = [rule for rule in rules() if "alert" in rule]
PAGES = sorted((ROOT / "ops" / "grafana").glob("*.json"))

_NAME = re.compile(r"\b(?:ramole_\w+|job:\w+:\w+)")
_TEXT = re.compile(r'"[^"]*"')


def promtool(*arguments: str, folder: Path = SHIPPED) -> str:
    done = subprocess.run(
        [binary("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_its_rules_are_good() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", *[str(path) for path in sorted((SHIPPED / "tests").glob("*_test.yml"))])


def test_every_alert_is_tried_both_ways() -> None:
    tried: dict[str, set[bool]] = {}
    for path in (SHIPPED / "tests").glob("*_test.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for each in test.get("alert_rule_test", ()):
                tried.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    assert tried == {rule["alert"]: {True, False} for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"ops/runbooks/{rule['alert']}.md"
    text = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert "\n## See\n" in text
    assert "\n## Do\n" in text


def test_there_is_no_runbook_without_an_alert_and_none_names_one_that_is_not() -> None:
    names = {rule["alert"] for rule in ALERTS}
    assert set(runbook_expressions()) == names
    for path in (ROOT / "ops" / "runbooks").glob("*.md"):
        assert set(re.findall(r"\bRamole[A-Z]\w+", path.read_text())) <= names


def test_the_dashboards_are_those_that_their_description_makes() -> None:
    made = {f"{each.uid.removeprefix('ramole-')}.json": dashboards.as_json(each) for each in dashboards.DASHBOARDS}
    assert {page.name: page.read_text() for page in PAGES} == made, "run `python ops/dashboards.py`"


def test_every_panel_says_what_it_shows_and_where_the_figures_come_from() -> None:
    found = [json.loads(page.read_text()) for page in PAGES]
    assert len({page["uid"] for page in found}) == len(found) == 5
    for page in found:
        assert page["schemaVersion"] >= 36
        assert [each["name"] for each in page["templating"]["list"]] == ["datasource", "job"]
        assert len({panel["title"] for panel in page["panels"]}) == len(page["panels"])
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in page["panels"]}
        assert len(places) == len(page["panels"])
        for panel in page["panels"]:
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(target["legendFormat"] for target in panel["targets"])


def test_every_expression_of_dashboards_and_runbooks_can_be_read(tmp_path: Path) -> None:
    expressions = [*shown(), *runbook_expressions().values()]
    group = {"name": "shown", "rules": [{"record": f"shown:{i}", "expr": e} for i, e in enumerate(expressions)]}
    (tmp_path / "shown.yml").write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(expressions)} rules found" in promtool("check", "rules", "--lint=none", "shown.yml", folder=tmp_path)


def test_every_metric_that_is_asked_for_is_declared() -> None:
    known = {name for spec, _ in metrics_page.specs() for name in metrics_page.exported(spec)}
    known |= {rule["record"] for rule in rules() if "record" in rule}
    for expression in (*shown(), *runbook_expressions().values(), *(rule["expr"] for rule in rules())):
        assert set(_NAME.findall(_TEXT.sub("", expression))) <= known, expression


def test_the_guide_lists_every_alert() -> None:
    page = (ROOT / "docs/guide/monitor.md").read_text()
    listed = re.findall(r"^\| \[(\w+)\]\(\S+\) \| ([\w, ]+) \|", page, re.MULTILINE)
    severities: dict[str, list[str]] = {}
    for rule in ALERTS:
        severities.setdefault(rule["alert"], []).append(rule["labels"]["severity"])
    assert dict(listed) == {alert: ", ".join(each) for alert, each in severities.items()}


def test_what_the_guide_asks_for_is_declared() -> None:
    known = {name for spec, _ in metrics_page.specs() for name in (spec.name, *metrics_page.exported(spec))}
    assert set(_NAME.findall((ROOT / "docs/guide/monitor.md").read_text())) <= known
