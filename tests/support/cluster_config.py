"""The Serve configurations of k8s/ with the paths, ports and means of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ramole.app.services import SERVICES
from ramole.app.shares import share
from ramole.gateway.keys import KeyFile, Role
from support.certificates import Authority
from support.manifests import ROOT, all_settings, merge
from support.server_process import free_port

NODE = {"ramole-services": 32.0, "ramole-gateway": 4.0, "ramole-executor": 4.0}
"""Resources by which the groups of k8s/ are told apart, all on one node."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What Serve is told.

    Attributes:
        config: in the form of ``serveConfigV2``.
        grpc_port, http_port: the public ones; 0 and None as they are in the settings.
        keys: those of the gateways.
    """

    config: dict[str, Any]
    grpc_port: int
    http_port: int
    keys: KeyFile

    def add_key(self, name: str, tenant: str, role: Role = Role.ADMIN) -> str:
        """Of a new caller."""
        return self.keys.add(name, tenant, role)[1]

    def changed(self, **sections: Any) -> ClusterConfig:
        """With other settings: every application gets those that its service reads, as `serve_config` does it."""
        config = yaml.safe_load(yaml.safe_dump(self.config))
        for application in config["applications"]:
            written = application["args"]["settings"]
            for name in written.keys() & {name for name, section in sections.items() if "replicas" in section}:
                written[name].pop("scaling", None)  # either a fixed number or bounds
            merge(written, share(sections, SERVICES[application["name"]].all_reads))
        return ClusterConfig(config, self.grpc_port, self.http_port, self.keys)


def patched(overlay: str, folder: Path, milvus: str, store: str) -> ClusterConfig:
    """The overlay's configuration with this machine's paths and ports, a small base model, one gateway, and no GPU.

    Args:
        folder: for keys, secrets and data.
        milvus: address of the index.
        store: URI of a folder of the object store.
    """
    patch = yaml.safe_load((ROOT / "k8s" / "overlays" / overlay / "serve-config.yaml").read_text())
    config: dict[str, Any] = yaml.safe_load(patch["spec"]["serveConfigV2"])
    written = all_settings(config)
    for application in config["applications"]:
        application["args"]["settings"].pop("base_model", None)
    (folder / "token").write_text("root:Milvus\n")
    if "secret_file" in written["internal"]:
        (folder / "key").write_text("k" * 64)
        internal: dict[str, Any] = {"secret_file": str(folder / "key")}
    else:
        files = Authority().write(folder, written["internal"]["tls"]["server_name"])
        internal = {"tls": dict(zip(("cert_file", "key_file", "ca_file"), map(str, files), strict=True))}
    grpc_port, http_port = free_port(), free_port()
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    return ClusterConfig(config, grpc_port, http_port, KeyFile(folder / "keys.json")).changed(
        data_dir=str(folder / "data"),
        internal=internal,
        gateway={
            "keys_file": str(folder / "keys.json"),
            "server": {"port": grpc_port},
            "http": {"port": http_port},
            "replicas": 1,  # whose ports are fixed, on one machine
        },
        executor={"device": "cpu", "dtype": "float32", "max_len": 256},
        retrieval={"uri": milvus, "token_file": str(folder / "token")},
        adapters={field: f"{store}/{field}" for field in ("store_uri", "audit_uri") if field in written["adapters"]},
    )
