"""k8s/ as it would be applied: valid, consistent with the code, and each check able to fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import prometheus_rule
from ramole.app.serve_config import as_yaml, rayservice_patch, serve_config
from ramole.gateway.pool import KV_USAGE, LORA_INFO, RUNNING, WAITING
from support import manifests
from support.manifests import CHECKS, CRDS, CUSTOM, GATEWAY_API, OVERLAYS, ROOT, Check, Manifests, settings_of

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="NOT CHECKED: no kubectl here to render k8s/ with"
)


@pytest.fixture(scope="module", params=OVERLAYS)
def world(request: pytest.FixtureRequest, note: Callable[[Manifests], None]) -> Manifests:
    world = Manifests.render(request.param)
    note(world)
    return world


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_overlay_is_right(check: Check, world: Manifests) -> None:
    assert list(check(world)) == []


@pytest.mark.skipif(not CRDS.exists(), reason="NOT CHECKED: the operators' schemas are not here")
def test_operators_know_their_kinds(world: Manifests) -> None:
    assert list(manifests.custom_kinds(world)) == []


def test_no_kind_goes_unchecked_by_accident(world: Manifests) -> None:
    unknown = {found["kind"] for found in world.objects if "." in found["apiVersion"].partition("/")[0]}
    builtin = {"NetworkPolicy"}
    assert unknown - builtin <= CUSTOM | GATEWAY_API


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_serve_configuration_is_what_the_command_writes(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = (ROOT / "k8s" / "overlays" / overlay / "serve-config.yaml").read_text()
    config = serve_config(settings_of(overlay, monkeypatch))
    assert written == as_yaml(rayservice_patch("ramole", config)), "run `make k8s`"


def test_the_rules_are_those_that_promtool_tests(world: Manifests) -> None:
    written = (ROOT / "k8s" / "base" / "prometheusrule.yaml").read_text()
    assert written == prometheus_rule.as_yaml(), "run `make k8s`"
    assert world.one("PrometheusRule", "ramole")["spec"] == prometheus_rule.prometheus_rule()["spec"]


def test_the_example_of_a_pool_is_read_as_we_tell_it() -> None:
    objects = list(yaml.safe_load_all((ROOT / "k8s" / "examples" / "inference-pool.yaml").read_text()))
    example = Manifests("inference-pool", objects)
    assert list(manifests.kinds(example)) == []
    pool = example.one("InferencePool", "ramole")["spec"]
    gateway = Manifests.render("gpu-prod").groups["gateway"]["template"]
    assert pool["selector"]["matchLabels"].items() <= gateway["metadata"]["labels"].items()
    assert pool["targetPorts"][0]["number"] in [
        port["containerPort"] for port in gateway["spec"]["containers"][0]["ports"]
    ]
    picker = example.one("Deployment", "ramole-picker")["spec"]["template"]["spec"]["containers"][0]["args"]
    told = {argument.partition("=")[2] for argument in picker if "-metric=" in argument}
    assert told == {WAITING, RUNNING, KV_USAGE, LORA_INFO}


def edited(change: Callable[[Any], None]) -> Callable[[Manifests], None]:
    """A fault in the Serve configuration."""

    def plant(world: Manifests) -> None:
        config = world.serve_config
        change(config)
        world.one("RayService", "ramole")["spec"]["serveConfigV2"] = yaml.safe_dump(config)

    return plant


def given(**sections: Any) -> Callable[[Manifests], None]:
    """Settings of all applications, a section's keys changed."""

    def change(config: Any) -> None:
        for application in config["applications"]:
            for name, keys in sections.items():
                application["args"]["settings"].setdefault(name, {}).update(keys)

    return edited(change)


def pod(world: Manifests, group: str = "executor") -> Any:
    return world.groups[group]["template"]["spec"]


FAULTS: dict[str, tuple[Check, Callable[[Manifests], Any]]] = {
    "a misspelt field": (manifests.kinds, lambda w: w.one("Service", "ramole")["spec"].update(selektor={})),
    "a text for a number": (
        manifests.kinds,
        lambda w: w.one("StatefulSet", "ramole-redis")["spec"].update(replicas="1"),
    ),
    "an unknown kind": (
        manifests.kinds,
        lambda w: w.objects.append({"kind": "Some", "apiVersion": "v1", "metadata": {"name": "x"}}),
    ),
    "a misspelt field of an operator": (manifests.custom_kinds, lambda w: w.cluster.update(rayVersoin="2")),
    "a text for an operator's number": (manifests.custom_kinds, lambda w: w.groups["gateway"].update(minReplicas="1")),
    "a misspelt key for Serve": (manifests.serve_keys, edited(lambda c: c.update(proxy_locaton="HeadOnly"))),
    "a misspelt key of an application": (manifests.serve_keys, edited(lambda c: c["applications"][0].update(arg={}))),
    "nothing to import": (
        manifests.serve_keys,
        edited(lambda c: c["applications"][0].update(import_path="ramole.app:bild")),
    ),
    "another service": (manifests.serve_keys, edited(lambda c: c["applications"][0].update(name="embeding"))),
    "two store writers": (manifests.serve_keys, given(adapters={"replicas": 2})),
    "another Ray": (manifests.versions, lambda w: w.cluster.update(rayVersion="2.59.0")),
    "an image of yesterday": (manifests.versions, lambda w: pod(w)["containers"][0].update(image="ramole:0.0.9-cpu")),
    "an image of no version": (manifests.versions, lambda w: pod(w)["containers"][0].update(image="ramole")),
    "another port": (manifests.ports, given(gateway={"http": {"port": 9000, "host": "0.0.0.0"}})),
    "loopback": (manifests.ports, given(gateway={"server": {}})),
    "no metrics": (manifests.ports, given(metrics={"port": 0})),
    "a monitor of no port": (
        manifests.ports,
        lambda w: w.one("PodMonitor", "ramole-ray")["spec"]["podMetricsEndpoints"][0].update(port="metrix"),
    ),
    "a probe of another port": (
        manifests.ports,
        lambda w: pod(w, "gateway")["containers"][0]["readinessProbe"].update(grpc={"port": 9000}),
    ),
    "a budget of nobody": (
        manifests.selectors,
        lambda w: w.one("PodDisruptionBudget", "ramole-head")["spec"]["selector"].update(
            matchLabels={"component": "hed"}
        ),
    ),
    "a secret of nobody": (
        manifests.secrets,
        lambda w: pod(w)["volumes"].append({"name": "x", "secret": {"secretName": "ramole-x"}}),
    ),
    "a key of nobody": (
        manifests.secrets,
        lambda w: w.cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"].update(key="x"),
    ),
    "a secret in the open": (
        manifests.secrets,
        lambda w: w.objects.append({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}}),
    ),
    "a claim of nobody": (
        manifests.secrets,
        lambda w: pod(w)["volumes"].append({"name": "x", "persistentVolumeClaim": {"claimName": "x"}}),
    ),
    "a file of no volume": (manifests.files, given(gateway={"keys_file": "/etc/ramole/keys.json"})),
    "a pod without the secret": (manifests.files, lambda w: pod(w)["containers"][0]["volumeMounts"].pop()),
    "a replica that fits nowhere": (manifests.resources, given(executor={"resources": {"num_cpus": 64}})),
    "a resource of no group": (manifests.resources, given(embedding={"resources": {"custom": {"ramole-service": 1}}})),
    "more replicas than pods": (manifests.resources, given(gateway={"replicas": 50})),
    "bounds beyond the pods": (manifests.resources, given(executor={"scaling": {"min": 1, "max": 9}})),
    "an update without room": (manifests.resources, given(gateway={"replicas": 8, "max_surge_percent": 100})),
    "a head with replicas": (
        manifests.resources,
        lambda w: w.cluster["headGroupSpec"]["rayStartParams"].update({"num-cpus": "4"}),
    ),
    "another restart policy": (manifests.kuberay, lambda w: pod(w).update(restartPolicy="Always")),
    "a gated field": (manifests.kuberay, lambda w: w.cluster.update(tlsOptions={})),
    "Redis twice": (
        manifests.kuberay,
        lambda w: pod(w)["containers"][0]["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "x"}),
    ),
    "resources twice": (manifests.kuberay, lambda w: w.groups["gateway"].update(resources={"cpu": "1"})),
    "bounds the wrong way": (manifests.kuberay, lambda w: w.groups["gateway"].update(minReplicas=9)),
    "KubeRay's label": (
        manifests.kuberay,
        lambda w: w.groups["gateway"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "x"}),
    ),
    "root": (manifests.hardening, lambda w: pod(w).pop("securityContext")),
    "no limit": (manifests.hardening, lambda w: pod(w)["containers"][0]["resources"].pop("limits")),
}


@pytest.mark.parametrize(("check", "plant"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(check: Check, plant: Callable[[Manifests], Any], world: Manifests) -> None:
    if check is manifests.custom_kinds and not CRDS.exists():
        pytest.skip("NOT CHECKED: the operators' schemas are not here")
    world = world.copy()
    plant(world)
    assert list(check(world))
