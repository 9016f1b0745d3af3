"""Settings: arguments win over the environment, the environment over the file; a typo is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ramole.core.settings import PlainSettings, Settings


def test_the_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_text("base_model: from-file\nbase_id: from-file\ngateway: {max_prompt_chars: 7}\n")
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    monkeypatch.setenv("RAMOLE_BASE_ID", "from-env")
    monkeypatch.setenv("RAMOLE_EXECUTOR__NUM_SLOTS", "9")
    settings = Settings(data_dir=tmp_path)
    assert settings.base_model == "from-file"
    assert settings.base_id == "from-env"
    assert settings.gateway.max_prompt_chars == 7
    assert settings.executor.num_slots == 9
    assert settings.data_dir == tmp_path
    assert Settings(base_id="from-arguments").base_id == "from-arguments"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("gatway: {}\n", "gatway"),
        ("gateway: {prot: 1}\n", "gateway.prot"),
        ("executor: {num_slots: 1}\n", "executor.num_slots"),
        ("gateway: {preset: best}\n", "gateway.preset"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, field: str) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_text(text)
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert field in str(raised.value)


def test_a_mistake_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMOLE_GATEWAY__PROT", "1")
    with pytest.raises(ValidationError, match=r"gateway\.prot"):
        Settings()


def test_plain_settings_know_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = PlainSettings()
    monkeypatch.setenv("RAMOLE_ADAPTERS__STORE_URI", "s3://production")
    monkeypatch.setenv("RAMOLE_CONFIG", "/no/such/file")
    assert PlainSettings() == defaults
    assert PlainSettings(base_id="x").base_id == "x"


@pytest.mark.parametrize("weight", [0, 0.009, 101, -1, float("nan")])
def test_a_tenants_weight_has_ends(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"tenant_weights\.acme"):
        PlainSettings(executor={"tenant_weights": {"acme": weight}})  # type: ignore[arg-type]
