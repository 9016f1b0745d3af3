"""One table makes all systems, and refuses more of a service than there may be."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ramole.app import build
from ramole.app.resolution import resolve
from ramole.app.services import PUBLIC, SERVICES, Replicas, check_replicas
from ramole.core.errors import WrongState
from ramole.core.setting_errors import load_settings
from ramole.core.settings import ServiceSettings, Settings
from ramole.transport.peers import Peers
from ramole.transport.picker import StaticPicker
from ramole.transport.service import Service

SERVER = {"uri": "http://127.0.0.1:19530"}


def settings(**given: Any) -> Settings:
    return resolve(load_settings(**given))


async def test_the_table_and_what_it_speaks_of_have_the_same_names() -> None:
    sections = [name for name, field in Settings.model_fields.items() if isinstance(field.default, ServiceSettings)]
    assert sorted(SERVICES) == sorted(sections)
    for name, spec in SERVICES.items():
        module, _, kind = spec.factory.partition(":")
        service = getattr(importlib.import_module(module), kind)
        assert issubclass(service, Service)
        assert (spec.name, service.name, service.full_name) == (name, name, f"ramole.v1.{name.capitalize()}")
    asked: list[str] = []

    def picker_of(name: str) -> StaticPicker:
        asked.append(name)
        return StaticPicker("h:1")

    await Peers(picker_of).close()
    assert sorted([*asked, PUBLIC]) == sorted(SERVICES)
    assert [name for name, spec in SERVICES.items() if spec.is_public] == ["gateway"]


@pytest.mark.parametrize("place", ["process", "machine", "cluster"])
@pytest.mark.parametrize(("name", "why"), [("adapters", "one writer"), ("retrieval", "Milvus Lite")])
def test_a_service_with_one_writer_cannot_be_scaled(name: str, why: str, place: Any) -> None:
    with pytest.raises(WrongState) as refused:
        check_replicas(settings(**{name: {"replicas": 2}}), place)
    assert refused.value.field == f"{name}.replicas"
    assert why in refused.value.message
    assert "leave it at 1" in refused.value.remedy


@pytest.mark.parametrize("place", ["process", "machine", "cluster"])
@pytest.mark.parametrize("name", ["adapters", "retrieval"])
def test_a_service_with_one_writer_has_no_bounds(name: str, place: Any) -> None:
    with pytest.raises(WrongState, match=r"one writer|Milvus Lite") as refused:
        check_replicas(settings(**{name: {"scaling": {}}}), place)
    assert (refused.value.field, refused.value.remedy) == (f"{name}.scaling", "remove it")


def test_bounds_are_for_clusters_and_for_ports_that_are_free() -> None:
    asked = settings(executor={"scaling": {"min": 0, "max": 1}})
    check_replicas(asked, "machine")
    with pytest.raises(WrongState, match="one process") as refused:
        check_replicas(asked, "process")
    assert refused.value.field == "executor.scaling"
    asked = settings(gateway={"scaling": {"max": 2}})
    check_replicas(asked, "cluster")
    with pytest.raises(WrongState, match="50051") as refused:
        check_replicas(asked, "machine")
    assert refused.value.field == "gateway.scaling"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"executor": {"scaling": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"executor": {"scaling": {"max": 2}, "replicas": 2}}, "give one of them"),
        ({"embedding": {"scaling": {"min": 0}}}, "greater than or equal to 1"),
        ({"embedding": {"scaling": {"idle_s": 9}}}, "no setting has this name"),
        ({"executor": {"scaling": {"calls": 9}}}, "no setting has this name"),
        ({"executor": {"scaling": True}}, "neither yes nor no"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongState, match=words):
        settings(**given)


def test_an_index_on_a_server_scales() -> None:
    asked = settings(retrieval={"replicas": 3, **SERVER})
    check_replicas(asked, "machine")
    assert SERVICES["retrieval"].scaling(asked).replicas is Replicas.MANY


@pytest.mark.parametrize("name", ["embedding", "executor", "gateway"])
def test_one_process_runs_one_of_each(name: str) -> None:
    http = {"http": {"port": None}} if name == "gateway" else {}
    asked = settings(**{name: {"replicas": 2, "server": {"port": 0}, **http}})
    check_replicas(asked, "machine")
    with pytest.raises(WrongState, match="one process") as refused:
        check_replicas(asked, "process")
    assert refused.value.field == f"{name}.replicas"
    assert "--local" in refused.value.remedy


def test_a_port_is_listened_on_once_on_one_machine() -> None:
    for ports, taken in (
        ({}, "server.port"),
        ({"server": {"port": 0}}, "http.port"),
        ({"http": {"port": 0}}, "server.port"),
    ):
        asked = settings(gateway={"replicas": 2, **ports})
        check_replicas(asked, "cluster")
        with pytest.raises(WrongState, match="8000" if taken == "http.port" else "50051") as refused:
            check_replicas(asked, "machine")
        assert refused.value.field == "gateway.replicas"
        assert f"gateway.{taken}" in refused.value.remedy


def test_every_service_is_an_application_as_kuberay_asks_for_it(tmp_path: Path) -> None:
    given = {"data_dir": str(tmp_path), "embedding": {"replicas": 2}, "executor": {"device": "cuda"}}
    for name in SERVICES:
        deployment = build({"service": name, "settings": given})._bound_deployment
        assert deployment.name == name
        assert deployment.num_replicas == (2 if name == "embedding" else 1)
        options = deployment.ray_actor_options
        assert options.get("num_gpus", 0) == (1 if name == "executor" else 0)
        assert options["num_cpus"] == 0.1
        assert (deployment._replica_config.max_replicas_per_node == 1) == (name == "gateway")
        router = deployment._deployment_config.request_router_config.request_router_class
        assert ("AdapterAffinityRouter" in str(router)) == (name == "executor")


@pytest.mark.parametrize(
    ("args", "field", "remedy"),
    [
        ({"service": "embedding", "setings": {}}, "setings", "settings"),
        ({"settings": {}}, "service", "embedding"),
        ({"service": "embeding"}, "service", "embedding"),
        ({"service": "embedding", "settings": {"embeding": {}}}, "settings.embeding", "embedding"),
        ({"service": "embedding", "settings": {"_env_prefix": "X"}}, "settings._env_prefix", "embedding"),
        ({"service": "embedding", "settings": {1: 2}}, "settings.1", "embedding"),
        ({"service": "embedding", "settings": {"embedding": {"thread": 1}}}, "embedding.thread", "threads"),
        ({"service": "embedding", "settings": {"embedding": {"replicas": 0}}}, "embedding.replicas", "on Ray"),
        ({"service": "embedding", "settings": None}, "settings", "keys"),
        ({"service": "embedding", "settings": ["a"]}, "settings", "keys"),
        ({"service": "embedding", "settings": {"adapters": {"replicas": 2}}}, "adapters.replicas", "leave it at 1"),
    ],
)
def test_what_kuberays_arguments_cannot_mean_is_refused(args: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(WrongState) as refused:
        build(args)
    assert refused.value.field == field
    assert remedy in refused.value.remedy


def test_an_update_starts_a_new_replica_first_where_there_may_be_two() -> None:
    def surges(**given: Any) -> dict[str, int]:
        asked = settings(**given)
        return {
            name: build({"service": name, "settings": given})._bound_deployment._deployment_config.max_surge_percent
            for name, spec in SERVICES.items()
            if spec.max_surge_percent(asked)
        }

    any_port = {"server": {"port": 0}, "http": {"port": 0}}
    assert surges() == {"embedding": 100, "executor": 100}
    assert surges(retrieval=SERVER, gateway=any_port) == dict.fromkeys(
        ("embedding", "retrieval", "executor", "gateway"), 100
    )
    assert surges(executor={"device": "cuda"}, embedding={"max_surge_percent": 0}) == {}
    assert surges(executor={"device": "cuda", "max_surge_percent": 50}) == {"embedding": 100, "executor": 50}


@pytest.mark.parametrize("name", ["adapters", "retrieval"])
def test_no_update_runs_two_writers(name: str) -> None:
    with pytest.raises(WrongState, match=r"one writer|one process") as refused:
        check_replicas(settings(**{name: {"max_surge_percent": 1}}), "cluster")
    assert refused.value.field == f"{name}.max_surge_percent"
