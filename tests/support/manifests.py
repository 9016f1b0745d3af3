"""What must hold between the manifests of k8s/, the code, and what Kubernetes and KubeRay accept.

Each check takes the objects of one overlay and returns what is wrong, so that a planted fault shows that it can fail.
"""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

import ramole
from ramole.app import load_settings, resolve
from ramole.app.services import SERVICES
from ramole.core.settings import PlainSettings, Settings
from ramole.transport.server import ACCEPTING

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu-dev", "gpu-prod")
CRDS = ROOT.parent / "shared" / "data" / "crds"
KUBERNETES = "1.34"
CUSTOM = {"RayService", "Milvus", "PodMonitor", "PrometheusRule"}
"""Kinds whose schemas are those of their operators."""
GATEWAY_API = {"Gateway", "HTTPRoute", "GRPCRoute", "InferencePool"}
"""Kinds for whose schemas there is no copy here."""
SECRETS = {
    "ramole-internal": {"key", "tls.crt", "tls.key", "ca.crt"},
    "ramole-keys": {"keys.json"},
    "ramole-milvus": {"token"},
    "ramole-redis": {"password"},
    "ramole-s3": {"access-key-id", "secret-access-key", "endpoint-url"},
    "ramole-tls": {"tls.crt", "tls.key"},
}
"""That the README has made by hand: name -> keys, of which an overlay may use some."""

Object = dict[str, Any]
Check = Callable[["Manifests"], Iterator[str]]


@dataclass
class Manifests:
    """The objects of one overlay, as Kustomize renders them."""

    overlay: str
    objects: list[Object]

    @classmethod
    def render(cls, overlay: str) -> Manifests:
        folder = ROOT / "k8s" / "overlays" / overlay
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return cls(overlay, list(yaml.safe_load_all(done.stdout)))

    def copy(self) -> Manifests:
        return Manifests(self.overlay, copy.deepcopy(self.objects))

    def of(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (found,) = (found for found in self.of(kind) if found["metadata"]["name"] == name)
        return found

    @property
    def cluster(self) -> Object:
        spec: Object = self.one("RayService", "ramole")["spec"]["rayClusterConfig"]
        return spec

    @property
    def groups(self) -> dict[str, Object]:
        return {group["groupName"]: group for group in self.cluster["workerGroupSpecs"]}

    @property
    def templates(self) -> list[Object]:
        """Pod templates of everything that runs."""
        ray = [self.cluster["headGroupSpec"], *self.cluster["workerGroupSpecs"]]
        return [each["template"] for each in ray] + [found["spec"]["template"] for found in self.of("StatefulSet")]

    @property
    def serve_config(self) -> Object:
        config: Object = yaml.safe_load(self.one("RayService", "ramole")["spec"]["serveConfigV2"])
        return config

    @property
    def settings(self) -> Settings:
        """That the pods will have, all of them together."""
        return resolve(PlainSettings(**all_settings(self.serve_config)))


def all_settings(serve_config: Object) -> Object:
    """Of the applications together: each has a share of them."""
    found: Object = {}
    for application in serve_config["applications"]:
        merge(found, application["args"]["settings"])
    return found


def merge(target: Object, source: Mapping[str, Any]) -> None:
    """Sets in `target`, at any depth, what `source` has."""
    for key, value in source.items():
        if isinstance(value, Mapping):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def settings_of(overlay: str, monkeypatch: Any) -> Settings:
    """What `ramole serve-config` reads."""
    monkeypatch.setenv("RAMOLE_CONFIG", str(ROOT / "k8s" / "overlays" / overlay / "settings.yaml"))
    return load_settings()


def kinds(world: Manifests) -> Iterator[str]:
    """Built-in kinds against the schemas of their release, strictly; and no others than we know."""
    for found in world.objects:
        if found["kind"] in CUSTOM | GATEWAY_API:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                kubernetes_validate.validate(found, KUBERNETES, strict=True)
            except Exception as error:
                yield f"{found['kind']} {found['metadata']['name']}: {type(error).__name__}: {str(error)[:200]}"


def custom_kinds(world: Manifests) -> Iterator[str]:
    """Operators' kinds against their schemas, where an unknown field is a fault."""
    for found in world.objects:
        if found["kind"] in CUSTOM:
            schema = _schemas().get((found["apiVersion"], found["kind"]))
            if schema is None:
                yield f"no schema of {found['apiVersion']} {found['kind']}"
                continue
            for error in jsonschema.Draft7Validator(schema).iter_errors(found):
                yield f"{found['kind']} {found['metadata']['name']}: {error.json_path}: {error.message[:200]}"


@cache
def _schemas() -> dict[tuple[str, str], Any]:
    """By version and kind."""
    schemas = {}
    for path in CRDS.glob("*.yaml"):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)
        for version in crd["spec"]["versions"]:
            key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            schemas[key] = _strict(version["schema"]["openAPIV3Schema"])
    return schemas


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    is_open = node.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(node.get("properties"), dict) and not is_open and "additionalProperties" not in node:
        strict["additionalProperties"] = False
        if node["properties"].get("metadata") == {"type": "object"}:  # any object's, which no CRD spells out
            strict["properties"]["metadata"] = {"type": "object"}
    return strict


def serve_keys(world: Manifests) -> Iterator[str]:
    """Every key of the Serve configuration is one that Serve reads: its schema passes over what it does not know."""
    config = world.serve_config
    try:
        read = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
    except ValueError as error:
        yield f"serveConfigV2: {error}"
        return
    yield from _unread(config, read, "serveConfigV2")
    for application in config["applications"]:
        module, _, name = application["import_path"].partition(":")
        build = getattr(importlib.import_module(module), name, None)
        if build is None:
            yield f"{application['import_path']} is nothing"
            continue
        try:
            deployment = build(application["args"])._bound_deployment
        except Exception as error:
            yield f"{application['name']}: {error}"
            continue
        if deployment.name != application["name"]:
            yield f"{application['name']} builds {deployment.name}"
        if scaling := deployment._deployment_config.autoscaling_config:
            AutoscalingConfig(**scaling.model_dump(exclude_unset=True))


def _unread(given: Any, read: Any, where: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key not in read:
                yield f"{where}.{key} is not read"
            else:
                yield from _unread(value, read[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(read, list):
        for i, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from _unread(one, other, f"{where}[{i}]")


def versions(world: Manifests) -> Iterator[str]:
    """One Ray and one ramole everywhere."""
    (ray,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    if world.cluster["rayVersion"] != ray.removeprefix("ray==").split()[0]:
        yield f"rayVersion {world.cluster['rayVersion']}, but {ray}"
    for template in world.templates:
        for container in template["spec"]["containers"]:
            name, _, tag = container["image"].partition(":")
            if not tag or tag == "latest":
                yield f"{container['image']} is not pinned"
            if name == "ramole" and tag.rpartition("-")[0] != ramole.__version__:
                yield f"{container['image']} is not {ramole.__version__}"
    dockerfile = (ROOT / "k8s" / "Dockerfile").read_text()
    torch = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    ).split()[0]
    if dockerfile.count(torch) != 2:
        yield f"the Dockerfile does not install {torch}"


def ports(world: Manifests) -> Iterator[str]:
    """The public ports are those of the settings, from the container to the routes and the probe."""
    gateway = world.settings.gateway
    public = {"ramole-grpc": gateway.server.port, "ramole-http": gateway.http.port}
    (container,) = world.groups["gateway"]["template"]["spec"]["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    (policy,) = world.one("NetworkPolicy", "ramole-gateway")["spec"]["ingress"]
    service = {port["targetPort"]: port["port"] for port in world.one("Service", "ramole")["spec"]["ports"]}
    routed = {
        kind: {
            backend["port"] for rule in world.one(kind, "ramole")["spec"]["rules"] for backend in rule["backendRefs"]
        }
        for kind in ("GRPCRoute", "HTTPRoute")
    }
    for what, found, right in (
        ("the gateway's pods", {name: named.get(name) for name in public}, public),
        ("the probe", container["readinessProbe"].get("grpc"), {"port": gateway.server.port, "service": ACCEPTING}),
        ("the Service", service, public),
        ("the NetworkPolicy", {port["port"] for port in policy["ports"]}, set(public.values())),
        ("the GRPCRoute", routed["GRPCRoute"], {gateway.server.port}),
        ("the HTTPRoute", routed["HTTPRoute"], {gateway.http.port}),
        ("the hosts", {gateway.server.host, gateway.http.host, world.settings.metrics.host}, {"0.0.0.0"}),
        ("the metrics of each group", set(_metrics_ports(world).values()), {world.settings.metrics.port}),
    ):
        if found != right:
            yield f"ports of {what}: {found}, not {right}"
    pods = {port["name"] for template in world.templates for c in template["spec"]["containers"] for port in c["ports"]}
    for monitor in world.of("PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in pods:
                yield f"{monitor['metadata']['name']} reads {endpoint['port']}, which no pod has"


def _metrics_ports(world: Manifests) -> dict[str, int | None]:
    return {
        name: next(
            (
                port["containerPort"]
                for port in group["template"]["spec"]["containers"][0]["ports"]
                if port["name"] == "ramole-metrics"
            ),
            None,
        )
        for name, group in world.groups.items()
    }


def selectors(world: Manifests) -> Iterator[str]:
    """What selects pods selects some of ours."""
    labels = [template["metadata"]["labels"] for template in world.templates]
    for found in world.objects:
        spec = found.get("spec", {})
        match found["kind"]:
            case "Service":
                wanted = spec["selector"]
            case "PodDisruptionBudget" | "PodMonitor":
                wanted = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                wanted = spec["podSelector"].get("matchLabels", {})
            case _:
                continue
        if not any(wanted.items() <= label.items() for label in labels):
            yield f"{found['kind']} {found['metadata']['name']} selects no pod: {wanted}"


def secrets(world: Manifests) -> Iterator[str]:
    """Every Secret and claim that is referred to is one that somebody makes; none is in the manifests."""
    if world.of("Secret"):
        yield "a Secret lies in the manifests"
    claims = {claim["metadata"]["name"] for claim in world.of("PersistentVolumeClaim")}
    for node in _nodes(world.objects):
        if "secretKeyRef" in node:
            reference = node["secretKeyRef"]
            if reference["key"] not in SECRETS.get(reference["name"], set()):
                yield f"nobody makes {reference['name']}/{reference['key']}"
        if (name := node.get("secretName")) and name not in SECRETS:
            yield f"nobody makes {name}"
        for reference in node.get("certificateRefs", []):
            if reference["name"] not in SECRETS:
                yield f"nobody makes {reference['name']}"
        if (claim := node.get("claimName")) and claim not in claims:
            yield f"nobody makes the claim {claim}"


def files(world: Manifests) -> Iterator[str]:
    """Every file that the settings name is in a volume that every pod of ours has, under a key of its Secret."""
    settings = world.settings
    internal = settings.internal
    named = [
        settings.gateway.keys_file,
        settings.retrieval.token_file,
        internal.secret_file,
        internal.tls.cert_file,
        internal.tls.key_file,
        internal.tls.ca_file,
    ]
    for group in (world.cluster["headGroupSpec"], *world.groups.values()):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume.get("secret", {}).get("secretName", "") for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        for path in map(Path, filter(None, named)):
            if path.name not in SECRETS.get(mounts.get(str(path.parent), ""), set()):
                yield f"{path} is in no volume of {group.get('groupName', 'the head')}"
        if mounts.get(str(settings.data_dir)) != "":
            yield f"{settings.data_dir} is no volume of {group.get('groupName', 'the head')}"


def resources(world: Manifests) -> Iterator[str]:
    """Every replica finds a group that has what it asks for, and all replicas fit into what may be started."""
    settings = world.settings
    free: dict[str, float] = {}
    for name, spec in SERVICES.items():
        asked = spec.resources(settings)
        fitting = [group for group in world.groups.values() if _fits(asked, _offer(group))]
        if not fitting:
            yield f"no group has what {name} asks for: {asked}"
            continue
        section = spec.section(settings)
        per_pod = min(_times(asked, _offer(group)) for group in fitting)
        if any(spec.fixed_ports(settings).values()):
            per_pod = min(per_pod, 1)
        most = sum(group["maxReplicas"] for group in fitting) * per_pod
        replicas = section.bounds[1]
        if replicas > most:
            yield f"{replicas} replicas of {name}, but pods for {most}"
        elif (asks := replicas + ceil(replicas * spec.max_surge_percent(settings) / 100)) > most:
            yield f"an update runs {asks} replicas of {name}, but there are pods for {most}"
        free[name] = most
        for group in fitting:
            if name == "executor":
                requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
                if float(requests.get("nvidia.com/gpu", 0)) != asked.num_gpus:
                    yield f"a pod of {group['groupName']} has other GPUs than its replica"
    head = world.cluster["headGroupSpec"]["rayStartParams"]
    if head.get("num-cpus") != "0":
        yield "the head takes replicas"
    for group in world.groups.values():
        cpu = float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        if _offer(group)["CPU"] > 2 * cpu:
            yield f"{group['groupName']} offers more than twice the CPUs that it has"


def _offer(group: Object) -> dict[str, float]:
    """The logical resources of one pod."""
    params = group["rayStartParams"]
    custom = json.loads(params.get("resources", '"{}"').strip("'\"").replace('\\"', '"'))
    return {"CPU": float(params["num-cpus"]), "GPU": float(params.get("num-gpus", 0)), **custom}


def _asked(resources: Any) -> dict[str, float]:
    asked = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, **resources.custom}
    return {name: amount for name, amount in asked.items() if amount}


def _fits(resources: Any, offer: Mapping[str, float]) -> bool:
    return all(offer.get(name, 0) >= amount for name, amount in _asked(resources).items())


def _times(resources: Any, offer: Mapping[str, float]) -> int:
    return int(min(offer.get(name, 0) // amount for name, amount in _asked(resources).items()))


def kuberay(world: Manifests) -> Iterator[str]:
    """What KubeRay's own code demands beside its schema."""
    cluster = world.cluster
    if cluster["autoscalerOptions"]["version"] != "v2" or not cluster["enableInTreeAutoscaling"]:
        yield "the autoscaler is not v2"
    for gated in ("networkPolicy", "tlsOptions"):
        if gated in cluster:
            yield f"{gated} is behind a feature gate"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        if pod.get("restartPolicy", "Never") != "Never":
            yield "autoscaler v2 demands restartPolicy Never"
        if "resources" in group and {"num-cpus", "num-gpus", "resources"} & set(group["rayStartParams"]):
            yield "resources are given twice"
        names = {env["name"] for container in pod["containers"] for env in container.get("env", [])}
        if names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} or "redis-password" in group["rayStartParams"]:
            yield "Redis is given twice"
        labels = group["template"]["metadata"]["labels"]
        if any(key.startswith(("ray.io/", "app.kubernetes.io/")) for key in labels):
            yield "a label is one of those that KubeRay sets and selects by"
        if any(not isinstance(value, str) for value in group["rayStartParams"].values()):
            yield "rayStartParams are texts"
    for group in cluster["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas are outside of their bounds"


def hardening(world: Manifests) -> Iterator[str]:
    """Pods run as nobody, hold no token they do not need, and are limited in memory."""
    for template in world.templates:
        pod = template["spec"]
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            yield "a pod may run as root"
        if pod["serviceAccountName"] not in {a["metadata"]["name"] for a in world.of("ServiceAccount")}:
            yield f"nobody makes the account {pod['serviceAccountName']}"
        for container in pod["containers"]:
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False or context["capabilities"]["drop"] != ["ALL"]:
                yield f"{container['name']} may gain privileges"
            if "memory" not in container["resources"].get("limits", {}):
                yield f"{container['name']} has no memory limit"


def _nodes(value: Any) -> Iterator[Object]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


CHECKS: tuple[Check, ...] = (
    kinds, serve_keys, versions, ports, selectors, secrets, files, resources, kuberay, hardening,
)  # fmt: skip
