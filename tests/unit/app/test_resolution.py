"""What no upload and no prompt could be served with ends the start, by the setting to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ramole.app.resolution import resolve
from ramole.core.errors import RamoleError
from ramole.core.names import check_indexable
from ramole.core.setting_errors import load_settings


@pytest.mark.parametrize(
    ("base_model", "base_id"),
    [
        ("/models/Llama-3.1-8B", "/models/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/models/My Llama (8B)/", "My-Llama-8B"),
        ("/" + "deep/" * 40 + "model", "model"),
        ("/models/" + "x" * 200, "x" * 128),
        ("/модели/llama", "llama"),
    ],
)
def test_a_base_model_without_a_name_is_called_after_its_folder(base_model: str, base_id: str) -> None:
    resolved = resolve(load_settings(base_model=base_model))
    assert resolved.base_id == base_id
    assert check_indexable(resolved.base_id, field="base_id")
    assert resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        ({"base_model": "/models/модель"}, "base_id", "set base_id"),
        ({"base_model": "m", "base_id": "my llama"}, "base_id", "letters"),
        ({"base_model": "m", "base_id": "x" * 129}, "base_id", "128"),
        ({"base_model": " "}, "base_model", "folder"),
        ({"adapters": {"tenant_quotas": {"a b": {}}}}, "adapters.tenant_quotas", "letters"),
        ({"executor": {"tenant_weights": {"a b": 2}}}, "executor.tenant_weights", "letters"),
        ({"adapters": {"sources": ["hub"]}}, "adapters.sources", "://"),
        ({"adapters": {"store_uri": "/somewhere"}}, "adapters.store_uri", "://"),
        ({"retrieval": {"uri": "http://host:port"}}, "retrieval.uri", "host:19530"),
        ({"retrieval": {"uri": "http://"}}, "retrieval.uri", "host:19530"),
        ({"base_model": "m", "gateway": {"preset": "ramole"}}, "gateway.preset", "executor.router"),
    ],
)
def test_what_would_be_refused_later_is_refused_at_once(settings: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(RamoleError) as refused:
        resolve(load_settings(**settings))
    assert refused.value.field == field
    assert remedy in refused.value.remedy


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    settings = {"cache": {"dir": "c"}, "retrieval": {"uri": "i"}, "embedding": {"encoder": "encoder"}}
    resolved = resolve(load_settings(data_dir="d", **settings))
    assert resolved.data_dir == tmp_path / "d"
    assert resolved.cache_dir == tmp_path / "c"
    assert resolved.retrieval.uri == str(tmp_path / "i")
    assert resolved.embedding.encoder == str(tmp_path / "encoder")
