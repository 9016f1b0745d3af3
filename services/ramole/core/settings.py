"""All settings. Read once by the composition root (`setting_errors.load_settings`); nothing else reads the environment.

Sources, the first wins: arguments, `RAMOLE_*` variables (nested with two underscores, e.g.
`RAMOLE_GATEWAY__SERVER__PORT`), the YAML file named by `RAMOLE_CONFIG`, the defaults below. A section is merged key by
key: the default of a section is always what its own class says, so that one key of it changes no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ramole.core.composition import PRESETS, Composition
from ramole.core.setting_sources import DELIMITER, PREFIX, Variables, YamlFile, config_path

DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
PAPER_INSTRUCTION = "Represent the sentence for similar task retrieval: "


if TYPE_CHECKING:  # where the names are text like any other
    Preset = str
else:
    Preset = Literal[tuple(PRESETS)]


def _at_home(path: str) -> str:
    """No shell has seen these values: `~` must not become a folder of that name."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") or "\0" in expanded:
        raise ValueError("there is no such path")
    return expanded


def _path(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip():
        raise ValueError("the path is empty")  # and would be the working directory
    return Path(_at_home(str(value)))


FilePath = Annotated[Path, BeforeValidator(_path)]
PathOrName = Annotated[str, AfterValidator(_at_home)]
"""A path, or something else that does not begin with `~`: a hub id, a URI, a keyword."""


@dataclass(frozen=True, slots=True)
class AutoOrFrom:
    """`auto`, or a whole number of at least `ge`: one mistake, not one for each of the two."""

    ge: int

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Before pydantic's own validation."""
        return no_info_before_validator_function(self._checked, handler(source))

    def _checked(self, value: object) -> object:
        is_number = isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
        if value != "auto" and not (is_number and int(value) >= self.ge):  # type: ignore[call-overload]
            raise ValueError(f"Input should be a whole number of at least {self.ge}, or auto")
        return value


Auto = Literal["auto"]
"""Found out at the start; `ramole doctor` shows what it would be."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and not cls._is_switch(info.field_name or ""):  # YAML's yes, no, on and off
            raise ValueError("neither yes nor no is meant here")
        return value

    @classmethod
    def _is_switch(cls, name: str) -> bool:
        annotation = cls.model_fields[name].annotation
        return annotation is bool or bool in get_args(annotation)


def _host(value: str) -> str:
    bare = value.removeprefix("[").removesuffix("]")
    if not bare.strip() or "/" in bare:
        raise ValueError("not a host name or address")
    return bare


Host = Annotated[str, AfterValidator(_host)]
"""Without the brackets of IPv6; `core.address` puts them where they belong."""


class ServerSettings(_Section):
    """What every gRPC server shares."""

    host: Host = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0 = any free port")
    max_inflight: int = Field(
        default=512, ge=1, description="calls in flight before RESOURCE_EXHAUSTED, transfers and watches not counted"
    )
    max_transfers: int = Field(default=128, ge=1, description="uploads, and downloads of clients, in flight")
    max_watches: int = Field(default=512, ge=1, description="streams of health, reflection and progress")
    peer_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of each of these limits that one peer may hold; 1 = no limit of its own",
    )
    peers_are: Literal["connections", "hosts"] = Field(
        default="connections", description="behind a load balancer all clients share one host"
    )
    idle_s: float = Field(
        default=30.0,
        gt=0,
        description="how long a client may send nothing into an open stream, or read nothing from it",
    )
    max_connections: int = Field(default=4096, ge=1, description="open at once; further ones are closed")
    grace_s: float = Field(default=8.0, ge=0, description="how long a stopping server lets calls finish")


class PublicServerSettings(ServerSettings):
    """Those of the public port."""

    port: int = Field(default=50051, ge=0, le=65535, description="0 = any free port")
    max_inflight: int = Field(
        default=1024, ge=1, description="calls in flight before RESOURCE_EXHAUSTED, transfers and watches not counted"
    )
    peer_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="part of each of these limits that one peer may hold; 1 = no limit of its own",
    )


class TlsSettings(_Section):
    """Certificates of the public ports. Renewed files take effect without a restart."""

    cert_file: PathOrName = Field(default="", description="PEM, the whole chain; '' = no TLS")
    key_file: PathOrName = Field(default="", description="PEM, without a passphrase")
    client_ca_file: PathOrName = Field(default="", description="PEM; given, clients must show a certificate of it")

    @property
    def is_on(self) -> bool:
        """Whether the ports speak TLS."""
        return bool(self.cert_file or self.key_file or self.client_ca_file)


class InternalTlsSettings(_Section):
    """Certificates of the ports behind the gateway, and of those who call them. Renewed files take effect without a
    restart."""

    cert_file: PathOrName = Field(default="", description="PEM, the whole chain; of a server and a client at once")
    key_file: PathOrName = Field(default="", description="PEM, without a passphrase")
    ca_file: PathOrName = Field(
        default="", description="PEM of an authority of this system's own: every certificate of it is believed"
    )
    server_name: str = Field(
        default="", description="that all certificates bear, where addresses change; '' = the address that is called"
    )

    @property
    def is_on(self) -> bool:
        """Whether the ports speak TLS."""
        return bool(self.cert_file or self.key_file or self.ca_file)


class InternalSettings(_Section):
    """How the services of one system know each other. Whoever else calls them is refused."""

    secret_file: FilePath | None = Field(
        default=None,
        description="a file of at least 16 bytes that all of them can read; absent = internal.key in data_dir, made at "
        "the first start, unless there is internal.tls",
    )
    tls: InternalTlsSettings = InternalTlsSettings()


class TenantLimitSettings(_Section):
    """What one tenant may ask of one gateway. Absent = no limit."""

    requests_in_flight: int | None = Field(default=None, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="of prompts and answers together")


class HttpSettings(_Section):
    """The HTTP port."""

    host: Host = "127.0.0.1"
    port: int | None = Field(default=8000, ge=0, le=65535, description="0 = any free port; null = no HTTP")
    max_body_bytes: int = Field(default=4 * 2**20, ge=1, description="of any body but an upload's")
    max_head_bytes: int = Field(default=32 * 2**10, ge=256, description="of request line and headers")
    max_headers: int = Field(default=100, ge=1)
    max_connections: int = Field(default=2048, ge=1, description="open at once")
    pool_metrics: bool = Field(
        default=False,
        description="whether /metrics/pool tells anybody, without a key, the load and the names of adapters at hand: "
        "for an endpoint picker of the Gateway API",
    )


class ResourceSettings(_Section):
    """What Ray sets aside on a node for each replica, and so where it runs. Nothing holds a replica to it."""

    num_cpus: float = Field(default=0.1, ge=0, description="logical ones; the services limit their own threads")
    num_gpus: float | None = Field(default=None, ge=0, description="null = 1 for an executor on CUDA, else 0")
    memory_bytes: int = Field(default=0, ge=0, description="0 = not counted")
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="resources by which nodes are told apart, as `ray start --resources` names them"
    )


class ScalingSettings(_Section):
    """How many replicas there may be, and when there are more or fewer (on Ray)."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=4, ge=1)
    target: float = Field(
        default=0.7, gt=0, le=1, description="part of what the replicas can do together above which there are more"
    )
    up_s: float = Field(default=3.0, gt=0, le=3600, description="how long more must be needed before there are more")
    down_s: float = Field(
        default=120.0, gt=0, le=86_400, description="how long fewer must have been enough before there are fewer"
    )

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class CallScalingSettings(ScalingSettings):
    """Of a service whose load is its calls in flight."""

    calls: int = Field(default=16, ge=1, description="in flight that one replica can do at once")


class ExecutorScalingSettings(ScalingSettings):
    """Of the executor, which knows what it can do."""

    min: int = Field(default=1, ge=0, description="0 = none while nobody asks; a prompt then waits for the first")
    idle_s: float = Field(
        default=600.0, gt=0, le=86_400, description="how long nobody must have asked before there is none, with min 0"
    )
    patience_s: float = Field(
        default=120.0, gt=0, description="how long a prompt waits for the first replica, unless its deadline is earlier"
    )
    first_token_s: float = Field(
        default=0.0, ge=0, description="mean time to the first token above which there is one more; 0 = any is fine"
    )


class ServiceSettings(_Section):
    """What every service has."""

    server: ServerSettings = ServerSettings()
    replicas: int = Field(default=1, ge=1, description="on Ray; of a service with one writer there is one")
    resources: ResourceSettings = ResourceSettings()
    scaling: CallScalingSettings | None = Field(
        default=None, description="bounds instead of a number of replicas; absent = there are as many as `replicas`"
    )
    max_surge_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="replicas that an update of a cluster may run beside the usual ones, so that an old one ends when "
        "a new one serves: each needs its resources, and the update waits for them. 0 = an old one ends first; null = "
        "100 where a replica needs no GPU, no port of its own and no other's right to write, else 0",
    )

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas that there may be."""
        scaling: ScalingSettings | None = self.scaling
        return (self.replicas, self.replicas) if scaling is None else (scaling.min, scaling.max)

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if self.scaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("replicas is a fixed number and scaling its bounds: give one of them")
        return self


class GatewaySettings(ServiceSettings):
    """The public ports."""

    server: PublicServerSettings = PublicServerSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = TlsSettings()
    keys_file: FilePath | None = Field(default=None, description="API keys; absent = keys.json in data_dir")
    allow_anonymous: bool = Field(
        default=False,
        description="whether those without a key may come: with keys to generate, without any keys to do everything",
    )
    show_interface: bool | None = Field(
        default=None, description="gRPC reflection, and /docs over HTTP; null = while there are no keys"
    )
    limits: TenantLimitSettings = TenantLimitSettings()
    tenant_limits: dict[str, TenantLimitSettings] = Field(default={}, description="of some tenants, instead of limits")
    preset: Preset = Field(default="calibrated", description="composition of requests that name none")
    max_prompt_chars: int = Field(default=32_768, ge=1)
    deadline_s: float = Field(default=120.0, gt=0, description="for calls whose client sets none")
    index_patience_s: float = Field(
        default=60.0, ge=0, description="how long a start waits for an index that is down or incomplete"
    )

    def shows_itself(self, *, is_open: bool) -> bool:
        """Whether strangers are told methods and messages; `is_open`: there are no keys."""
        return is_open if self.show_interface is None else self.show_interface

    @property
    def composition(self) -> Composition:
        """The server's default composition."""
        return PRESETS[self.preset]


class PreviousEncoder(_Section):
    """As in `EmbeddingSettings`."""

    encoder: PathOrName = "minilm"
    retriever: PathOrName = ""
    instruction: str = PAPER_INSTRUCTION


class EmbeddingSettings(ServiceSettings):
    """The LoRARetriever's encoder."""

    encoder: PathOrName = Field(default="minilm", description="'minilm' (shipped by a package) or any path or model id")
    retriever: PathOrName = Field(
        default="auto",
        description="folder of a trained retriever, '' = the encoder as it is, 'zoo' = the shipped one, "
        "'auto' = that for the shipped base model",
    )
    instruction: str = Field(default=PAPER_INSTRUCTION, description="a trained retriever brings its own")
    previous: PreviousEncoder | None = Field(
        default=None, description="the encoder of the live index, until `ramole reindex` has put this one in its place"
    )
    runtime: Literal["auto", "onnx", "torch"] = Field(
        default="auto",
        description="what computes: ONNX Runtime or torch, whose vectors are the same up to rounding; "
        "auto = ONNX Runtime where the encoder has a graph",
    )
    states: Literal["own", "executor"] = Field(
        default="own",
        description="who reads a prompt with the base model, for a retriever that wants its hidden states: this "
        "service with a copy of its own, or the executors, where texts wait in the engine's queue",
    )
    max_batch: int = Field(default=32, ge=1)
    batch_window_s: float = Field(
        default=0.0, ge=0, description="how long a prompt waits for company; on a CPU company saves nothing"
    )
    threads: int = Field(default=1, ge=1)


class RetrievalSettings(ServiceSettings):
    """Milvus: a Lite file inside `data_dir` when `uri` is empty, else a server."""

    uri: PathOrName = ""
    token: str = Field(default="", description="user:password or API key of the server", repr=False)
    token_file: PathOrName = Field(default="", description="a file that holds it instead, e.g. of a Kubernetes Secret")
    ca_file: PathOrName = Field(
        default="", description="PEM file of the authority behind an https server; '' = the system's"
    )
    timeout_s: float = Field(default=10.0, gt=0)
    scoring: Literal["mean", "max", "best"] = Field(
        default="mean", description="an adapter's mean sample (the paper), its nearest, or the mean of its nearest"
    )
    best_of: int = Field(default=3, ge=1, description="how many samples the scoring 'best' averages")
    index: Literal["flat", "hnsw"] = Field(
        default="flat", description="exact, or a graph for 100 000 rows of one base model; `ramole reindex` applies it"
    )

    @model_validator(mode="after")
    def _has_one_token(self) -> Self:
        if self.token and self.token_file:
            raise ValueError("give token or token_file, not both")
        return self


class QuotaSettings(_Section):
    """What one tenant may hold and do. 0 = no limit."""

    max_adapters: int = Field(default=0, ge=0, description="names")
    max_bytes: int = Field(default=0, ge=0, description="of different content, all versions")
    uploads_per_minute: int = Field(default=0, ge=0, description="rollbacks included")
    uploads_at_once: int = Field(default=32, ge=0)


class AdapterSettings(ServiceSettings):
    """Admission limits and store."""

    max_upload_bytes: int = Field(default=512 * 2**20, ge=1024)
    max_spool_bytes: int = Field(default=4 * 2**30, ge=1024, description="of all uploads in flight together")
    max_samples: int = Field(default=64, ge=1)
    max_rank: int = Field(default=64, ge=1)
    store_uri: str = Field(default="", description="fsspec URI of the store, e.g. s3://bucket/prefix; '' = in data_dir")
    store_options: dict[str, Any] = Field(
        default={}, description="arguments of its file system, e.g. endpoint_url", repr=False
    )
    audit_uri: str = Field(
        default="",
        description="fsspec URI of a folder for the audit log, one object for each action, opened with store_options; "
        "'' = audit.jsonl in data_dir",
    )
    max_relative_norm: float = Field(
        default=10.0,
        gt=0,
        description="largest Frobenius norm of an update, relative to the base weight it is added to; of a weight that "
        "is not known, sqrt(outputs) is taken",
    )
    sources: tuple[str, ...] = Field(
        default=("hf://",), description="URI prefixes that clients may have fetched; none of the server's own files"
    )
    source_options: dict[str, dict[str, Any]] = Field(
        default={},
        description="arguments of their file systems by scheme, e.g. {'hf': {'endpoint': ..., 'token': ...}}; "
        "without a token here none is sent to the hub",
        repr=False,
    )
    source_timeout_s: float = Field(default=300.0, gt=0, description="of one fetch, all in all")
    keep_versions: int = Field(default=0, ge=0, description="live versions of a name, the latest included; 0 = all")
    keep_days: float = Field(default=0.0, ge=0, description="older versions go, the latest stays; 0 = all stay")
    quota: QuotaSettings = QuotaSettings()
    tenant_quotas: dict[str, QuotaSettings] = Field(default={}, description="instead of quota, for some tenants")


class CacheSettings(_Section):
    """Where adapters wait between the store and the device. An executor has its own host memory; the disk is shared."""

    dir: FilePath | None = Field(default=None, description="local disk; default: the folder cache in data_dir")
    disk_bytes: int = Field(default=20 * 2**30, ge=0, description="of files from a remote store or another machine")
    host_bytes: int = Field(default=2 * 2**30, ge=0, description="weights in the memory of one executor")
    negative_s: float = Field(default=5.0, ge=0, description="how long a broken adapter is not tried again")


class MetricsSettings(_Section):
    """Where Prometheus reads: one port of each machine, for all services there."""

    host: Host = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="of /metrics over HTTP; 0 = none")


class LoggingSettings(_Section):
    """What the server logs: JSON lines on standard error, of replicas on Ray in Ray's own files."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="of everything but calls; `ramole log-level` changes it while the server runs"
    )
    access: bool = Field(default=True, description="a line for each call")


def _collector(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/")):
        raise ValueError("the address of a collector, e.g. http://127.0.0.1:4317")
    return value


class TracingSettings(_Section):
    """Traces by OpenTelemetry. Off without an endpoint, and then nothing of it is loaded."""

    otlp_endpoint: Annotated[str, AfterValidator(_collector)] = Field(
        default="", description="of a collector that takes OTLP over gRPC: http://host:4317 or https://...; '' = off"
    )
    sampling_ratio: float = Field(default=0.01, ge=0, le=1, description="share of all calls that are traced")
    wishes_per_minute: int = Field(
        default=60,
        ge=0,
        description="calls that one gateway traces for a tenant because their traceparent has the sampled flag; the "
        "ratio decides on further ones",
    )
    ca_file: PathOrName = Field(
        default="", description="PEM file of the authority behind an https endpoint; '' = the system's"
    )
    headers: dict[str, str] = Field(default={}, description="that the collector wants, e.g. authorization", repr=False)

    @property
    def is_on(self) -> bool:
        """Whether any call can be traced."""
        return bool(self.otlp_endpoint)


class ExecutorServerSettings(ServerSettings):
    """Those of the executors."""

    grace_s: float = Field(
        default=120.0, ge=0, description="how long a stopping server lets calls finish: one that is not needed any more"
    )


class ExecutorSettings(ServiceSettings):
    """The engine."""

    server: ExecutorServerSettings = ExecutorServerSettings()
    scaling: ExecutorScalingSettings | None = Field(  # type: ignore[assignment]  # other keys than the others'
        default=None, description="bounds instead of a number of replicas; absent = there are as many as `replicas`"
    )
    num_slots: Annotated[int | Auto, AutoOrFrom(2)] = Field(
        default="auto",
        description="adapter slots on the device, the empty slot included; auto = 64, or as many as memory has room "
        "for",
    )
    slot_rank: Annotated[int | Auto, AutoOrFrom(1)] = Field(
        default="auto",
        description="the largest rank that a slot holds, and that uploads may have; auto = that of the widest adapter "
        "in the store when the store opens, at least 16",
    )
    max_rows: int = Field(default=32, ge=1, description="requests that run at once")
    max_len: Annotated[int | Auto, AutoOrFrom(8)] = Field(
        default="auto",
        description="prompt + completion tokens of one request; auto = as many as the base model knows positions, as "
        "far as memory goes",
    )
    memory_fraction: float = Field(
        default=0.85,
        gt=0,
        le=1,
        description="part of the device's memory that is free at the start, for base model, slots and KV together; on "
        "a CPU that of the machine, or of its container, shared by the replicas",
    )
    memory_bytes: int | None = Field(default=None, ge=1, description="that memory, instead of memory_fraction")
    kv_blocks: int = Field(
        default=0,
        ge=0,
        description="blocks of 16 tokens of KV memory; 0 = as far as memory goes, at most what max_rows requests of "
        "max_len need. With fewer, the youngest request sometimes waits and has its keys and values computed again",
    )
    prefix_reuse: bool = Field(
        default=True,
        description="whether a prompt that begins like another one of its tenant, with the same adapters, weights and "
        "composition, begins with its keys and values; never with a routed composition",
    )
    token_budget: int = Field(
        default=512, ge=2, description="tokens of one engine step; more than max_rows, or prompts would starve"
    )
    max_waiting: int = Field(default=1024, ge=1)
    tenant_weights: dict[str, Annotated[float, Field(ge=0.01, le=100)]] = Field(
        default={}, description="share of a tenant beside the others while requests wait: 0.01 to 100, else 1"
    )
    max_step_s: float = Field(
        default=300.0, gt=0, description="an engine step that takes longer is stuck: the executor is replaced"
    )
    parse_special_tokens: bool = Field(
        default=False, description="whether '</s>' in a prompt is the control token; False = it is text like any other"
    )
    router: PathOrName = Field(
        default="auto", description="RouterLoRA folder, '' = none; 'auto' = the shipped one if it fits the base model"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="of base model, slots and KV; auto = the checkpoint's, but float32 on a CPU that does not multiply "
        "matrices of bfloat16 itself",
    )
    device: str = Field(
        default="auto",
        pattern=DEVICE,
        description="cpu, cuda, or one of several: cuda:N; auto = cuda where there is a GPU. On a Ray that runs "
        "already a replica sees one if resources.num_gpus asks for it",
    )
    threads: Annotated[int | Auto, AutoOrFrom(1)] = Field(
        default="auto",
        description="of torch; auto = the cores that this process may use but one, shared by the replicas; 1 on cuda",
    )

    @model_validator(mode="after")
    def _leaves_room_for_prompts(self) -> Self:
        if self.token_budget <= self.max_rows:
            raise ValueError(f"token_budget {self.token_budget} must be above max_rows {self.max_rows}")
        return self


class RaySettings(_Section):
    """The Ray of `ramole serve`."""

    address: str = Field(
        default="",
        pattern=r"^(auto|[^:/\s]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5})?$",
        description="host:port of a Ray that runs, 'auto' = the one of this machine; '' = a private one, for which the "
        "others of these settings are",
    )
    niceness: int = Field(default=0, ge=0, le=19, description="of the replicas; Ray's own default is 15")
    num_cpus: int = Field(default=8, ge=1, description="logical ones, of which a replica takes its resources.num_cpus")
    object_store_bytes: int = Field(
        default=100 * 2**20, ge=75 * 2**20, description="of Ray's shared memory, which no call passes through"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="where Ray tells its own metrics, on all interfaces; 0 = any free port"
    )
    stop_s: float = Field(default=10.0, gt=0, description="how long an orderly end may take; then processes are killed")


class Settings(BaseSettings):
    """Everything. One instance is built by the composition root and handed down."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True, allow_inf_nan=False
    )

    data_dir: FilePath = Field(default=Path("ramole-data"), description="a folder that only this server uses")
    base_model: PathOrName = Field(default="zoo", description="'zoo' (shipped), a folder or a hub id of a causal LM")
    base_id: str = Field(
        default="", description="the name adapters give their base; empty = base_model itself, or the folder's name"
    )
    base_revision: str = Field(default="", description="commit of a hub model; adapters made for another are refused")
    gateway: GatewaySettings = GatewaySettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    adapters: AdapterSettings = AdapterSettings()
    executor: ExecutorSettings = ExecutorSettings()
    cache: CacheSettings = CacheSettings()
    metrics: MetricsSettings = MetricsSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    internal: InternalSettings = InternalSettings()
    ray: RaySettings = RaySettings()

    reads_environment: ClassVar[bool] = True

    @property
    def cache_dir(self) -> Path:
        """Folder of the disk tier."""
        return self.cache.dir or self.data_dir / "cache"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the YAML file."""
        if not cls.reads_environment:
            return (init_settings,)
        path = config_path()
        yaml = (YamlFile(settings_cls, path),) if path else ()
        return (init_settings, Variables(settings_cls), *yaml)


class PlainSettings(Settings):
    """Arguments and defaults alone: for a world of its own, which the environment and its file are not about."""

    reads_environment: ClassVar[bool] = False
