"""What the traffic on a user's own system is made of: a YAML file, checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ramole.core.errors import InvalidInput
from ramole.core.samples import read_samples
from ramole.core.setting_sources import read_yaml
from ramole.lab.chaos.traffic import Task, Tenant

_NUM_PROMPTS = 3


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Adapter(_Part):
    """One adapter of a tenant.

    Attributes:
        name: under which it is uploaded, as a new version if there is one.
        folder: as PEFT writes it.
        samples: a file of typical inputs.
        prompts: what is asked of it; empty = the first samples.
    """

    name: str = Field(min_length=1)
    folder: Path
    samples: Path
    prompts: tuple[str, ...] = ()


class _Tenant(_Part):
    """One of the tenants.

    Attributes:
        name: of the tenant, as its key has it.
        key_file: the file with a publisher's key.
        adapters: its own; no other tenant may use them.
    """

    name: str = Field(min_length=1)
    key_file: Path
    adapters: tuple[_Adapter, ...] = Field(min_length=1)


class _Plan(_Part):
    tenants: tuple[_Tenant, ...] = Field(min_length=2)

    @field_validator("tenants")
    @classmethod
    def _are_different(cls, tenants: tuple[_Tenant, ...]) -> tuple[_Tenant, ...]:
        if len({tenant.name for tenant in tenants}) < len(tenants):
            raise ValueError("each tenant may be there once")
        return tenants


def read_plan(path: Path) -> tuple[Tenant, ...]:
    """The tenants of the traffic. Paths count from the folder of the file.

    Raises:
        WrongState: it cannot be read or is no YAML.
        InvalidInput: a key is unknown, missing or wrong, or a file is not there; names each.
        NotFound: a file of samples is not there.
    """
    values, _ = read_yaml(path)
    try:
        plan = _Plan.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        raise InvalidInput("; ".join(faults), field=str(path), remedy="see ops/chaos/README.md") from None
    return tuple(
        Tenant(
            tenant.name, _read_key(path.parent / tenant.key_file), tuple(_task(path.parent, a) for a in tenant.adapters)
        )
        for tenant in plan.tenants
    )


def _read_key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read", field="key_file", remedy="name a file with an API key") from error
    if not key:
        raise InvalidInput(f"{path} is empty", field="key_file", remedy="write the key of a publisher into it")
    return key


def _task(folder: Path, adapter: _Adapter) -> Task:
    samples = read_samples(folder / adapter.samples, field="samples").texts
    return Task(adapter.name, folder / adapter.folder, samples, adapter.prompts or samples[:_NUM_PROMPTS])
