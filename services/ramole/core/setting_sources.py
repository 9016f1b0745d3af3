"""Where settings come from: `RAMOLE_*` variables and one YAML file. What neither can mean is refused, by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from ramole.core.errors import WrongState

PREFIX = "RAMOLE_"
CONFIG = "RAMOLE_CONFIG"
"""Names the YAML file."""
OTHERS = (CONFIG, "RAMOLE_ADDRESS", "RAMOLE_KEY", "RAMOLE_CA")
"""Variables that are ours and no settings."""
DELIMITER = "__"

_SERVICE_LINK = "_SERVICE_HOST"
_LINKED = ("_SERVICE_", "_PORT")

Key = tuple[str, ...]


def variable(key: Key) -> str:
    """The variable of a setting: ``RAMOLE_GATEWAY__SERVER__PORT``."""
    return PREFIX + DELIMITER.join(key).upper()


def our_variables(environment: Mapping[str, str]) -> dict[Key, str]:
    """All variables that are meant for us as key -> value, shallow ones first, so that a deep one overrides a part.

    Kubernetes puts ``NAME_SERVICE_HOST``, ``NAME_PORT_...`` into every pod for each service of its namespace; those of
    a service whose name begins with ``ramole`` are none of ours.

    Raises:
        WrongState: a name is not in capitals.
    """
    services = [name.removesuffix(_SERVICE_LINK) for name in environment if name.endswith(_SERVICE_LINK)]
    links = tuple(service + end for service in services for end in _LINKED)
    found: dict[Key, str] = {}
    for name, value in environment.items():
        if not name.upper().startswith(PREFIX) or name in OTHERS or name.startswith(links):
            continue
        if name != name.upper():
            raise WrongState("a variable's name is in capitals", field=name, remedy=f"call it {name.upper()}")
        found[tuple(name.removeprefix(PREFIX).lower().split(DELIMITER))] = value
    return dict(sorted(found.items(), key=lambda item: len(item[0])))


class Variables(EnvSettingsSource):
    """The environment. A variable that no setting takes goes on to the validation, which refuses it."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        self._ours = our_variables(os.environ)
        return {variable(key).lower(): value for key, value in self._ours.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON; what is none goes on to the validation, which says what it should have been."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value

    def __call__(self) -> dict[str, Any]:
        """Nested values."""
        unknown = {key[0]: value for key, value in self._ours.items() if key[0] not in self.settings_cls.model_fields}
        return {**super().__call__(), **unknown}


class YamlFile(PydanticBaseSettingsSource):
    """The file that `CONFIG` names.

    Raises:
        WrongState: there is no such file, or it is not a YAML mapping whose keys are all different.
    """

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        self._values, _ = read_yaml(path)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value at the top of the file."""
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Nested values."""
        return self._values


def config_path() -> Path | None:
    """The YAML file that the environment names; None = none is named.

    Raises:
        WrongState: the variable is empty.
    """
    name = os.environ.get(CONFIG)
    if name is None:
        return None
    if not name.strip():
        raise WrongState("the variable is empty", field=CONFIG, remedy="name a YAML file, or unset it")
    return Path(name).expanduser()


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The values of a file, and the line of each key. Raises WrongState as `YamlFile`."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise WrongState(f"{path} cannot be read: {why}", field=CONFIG, remedy="name a YAML file") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = dict(_lines(node, (), path)) if node is not None else {}
        values = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        raise WrongState(f"not YAML: {error.problem or error.context}", field=where, remedy="mend the file") from error
    except (yaml.YAMLError, ValueError) as error:
        what = " ".join(str(error).split())
        raise WrongState(f"not YAML: {what}", field=str(path), remedy="mend the file") from error
    if not isinstance(values, dict):
        raise WrongState("the file is not a mapping", field=str(path), remedy="write lines of the form 'key: value'")
    return values, lines


def _lines(node: yaml.Node, key: Key, path: Path) -> Iterator[tuple[Key, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            continue  # construction refuses it
        if name.value in seen and name.tag != "tag:yaml.org,2002:merge":
            raise WrongState(
                f"the key is there twice, first in line {seen[name.value]}",
                field=f"{path} line {line}, {'.'.join((*key, name.value))}",
                remedy="remove one of them",
            )
        seen[name.value] = line
        yield (*key, name.value), line
        yield from _lines(value, (*key, name.value), path)
