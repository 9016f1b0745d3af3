"""What Ray Serve is told, to run the five services on a cluster: ``serve deploy`` and KubeRay's RayService read it."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from ramole.app.resolution import resolve
from ramole.app.services import SERVICES, check_replicas
from ramole.app.shares import share
from ramole.app.trust import check_hosts
from ramole.core.errors import WrongState
from ramole.core.setting_errors import fields
from ramole.core.settings import Settings

IMPORT_PATH = "ramole.app:build"


def serve_config(settings: Settings) -> dict[str, Any]:
    """A configuration in the form of Serve's `ServeDeploySchema`.

    Every application gets those of the given settings that its service reads, and makes its deployment from them by the
    table of services: the configuration repeats nothing of that. Sent again with a change, it makes Serve replace the
    replicas of those that read what has changed.

    Args:
        settings: as they were read, not resolved: their files are those of the cluster's nodes.

    Raises:
        WrongState: they cannot run on a cluster, or hold a secret that a configuration would show.
    """
    resolved = resolve(settings)
    check_replicas(resolved, "cluster")
    check_hosts(resolved)
    if not settings.data_dir.is_absolute():
        raise WrongState(
            f"{settings.data_dir} is relative, and no folder is the same on all nodes",
            field="data_dir",
            remedy="give an absolute path",
        )
    _check_secrets(settings)
    given = settings.model_dump(mode="json", exclude_unset=True)
    return {
        # Calls go to the gateway's own ports. KubeRay asks the proxy of the head whether Serve is well.
        "proxy_location": "HeadOnly",
        "applications": [
            {
                "name": name,
                "import_path": IMPORT_PATH,
                "route_prefix": None,
                "args": {"service": name, "settings": share(given, spec.all_reads)},
            }
            for name, spec in SERVICES.items()
        ],
    }


def rayservice_patch(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as a strategic merge patch of the RayService `name`."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name},
        "spec": {"serveConfigV2": as_yaml(config)},
    }


def as_yaml(value: dict[str, Any]) -> str:
    """YAML for people: in the order given, texts of several lines as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, and everything where it belongs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _check_secrets(settings: Settings) -> None:
    """What no representation shows, no configuration does."""
    for key, field in fields():
        section: BaseModel | None = settings
        for name in key[:-1]:
            section = getattr(section, name)
            if section is None:
                break
        else:
            if not field.repr and getattr(section, key[-1]):
                raise WrongState(
                    "whoever may read the configuration would read it",
                    field=".".join(key),
                    remedy="leave it out, and give the nodes a file or the variables of its library, from a Secret",
                )
