"""The configuration of a cluster says what was given, to whom it is about, and shows no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ramole.app import build, load_settings
from ramole.app.serve_config import as_yaml, rayservice_patch, serve_config
from ramole.app.services import SERVICES
from ramole.core.errors import WrongState
from ramole.core.settings import PlainSettings

GIVEN = {
    "data_dir": "/var/lib/ramole",
    "embedding": {"replicas": 2, "instruction": "first line\nsecond line"},
    "executor": {"device": "cuda", "resources": {"num_gpus": 0.5, "custom": {"big": 1}, "memory_bytes": 2**30}},
    "internal": {"secret_file": "/etc/ramole/key"},
}


def test_serve_reads_it_and_builds_what_the_table_says() -> None:
    config = yaml.safe_load(as_yaml(serve_config(PlainSettings(**GIVEN))))
    schema = ServeDeploySchema.model_validate(config)
    assert [application.name for application in schema.applications] == list(SERVICES)
    for application in schema.applications:
        assert application.route_prefix is None
        name = application.name
        assert application.args["settings"].get(name) == GIVEN.get(name)
        assert application.args["settings"]["internal"] == GIVEN["internal"]
        assert build(application.args)._bound_deployment.name == application.name
    options = build(config["applications"][3]["args"])._bound_deployment.ray_actor_options
    assert options == {"num_cpus": 0.1, "num_gpus": 0.5, "memory": 2**30, "resources": {"big": 1.0}}


def test_only_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMOLE_DATA_DIR", "/var/lib/ramole")
    monkeypatch.setenv("RAMOLE_RETRIEVAL__TIMEOUT_S", "3")
    shares = {app["name"]: app["args"]["settings"] for app in serve_config(load_settings())["applications"]}
    some = {"data_dir": "/var/lib/ramole"}
    assert shares == {
        name: some | ({"retrieval": {"timeout_s": 3.0}} if name in ("retrieval", "gateway") else {})
        for name in SERVICES
    }


def test_a_patch_holds_the_configuration_as_text() -> None:
    config = serve_config(PlainSettings(**GIVEN))
    patch = yaml.safe_load(as_yaml(rayservice_patch("mine", config)))
    assert patch["metadata"]["name"] == "mine"
    assert yaml.safe_load(patch["spec"]["serveConfigV2"]) == config


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"data_dir": Path("here")}, "data_dir"),
        ({"retrieval": {"token": "user:word"}}, "retrieval.token"),
        ({"adapters": {"store_options": {"secret": "word"}}}, "adapters.store_options"),
        ({"adapters": {"source_options": {"hf": {"token": "word"}}}}, "adapters.source_options"),
        ({"adapters": {"replicas": 2}}, "adapters.replicas"),
        ({"embedding": {"server": {"host": "0.0.0.0"}}, "internal": {}}, "embedding.server.host"),
        ({"executor": {"device": "cuda", "resources": {"num_gpus": 0}}}, "executor.resources.num_gpus"),
    ],
)
def test_what_cannot_be_written_or_run(given: dict[str, Any], field: str) -> None:
    with pytest.raises(WrongState) as refused:
        serve_config(PlainSettings(**(GIVEN | given)))
    assert refused.value.field == field
    assert "word" not in str(refused.value)
