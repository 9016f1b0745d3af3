"""A setting that is not taken is refused, by its variable or its line, with what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramole.core.errors import WrongState
from ramole.core.setting_errors import load_settings


def refusal() -> str:
    with pytest.raises(WrongState) as raised:
        load_settings()
    said = str(raised.value)
    assert "\n" not in said
    assert raised.value.remedy or "; " in said
    return said


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("RAMOLE_EXECUTER__NUM_SLOTS", "3", "RAMOLE_EXECUTOR__NUM_SLOTS"),
        ("RAMOLE_GATEWAY__PORT", "3", "RAMOLE_GATEWAY__HTTP__PORT"),
        ("RAMOLE_GATEWAY__SERVER__PROT", "3", "RAMOLE_GATEWAY__SERVER__PORT"),
        ("RAMOLE_BASEMODEL", "x", "RAMOLE_BASE_MODEL"),
        ("RAMOLE_", "x", "no setting"),
        ("ramole_base_model", "x", "RAMOLE_BASE_MODEL"),
        ("RAMOLE_gateway__server__port", "3", "RAMOLE_GATEWAY__SERVER__PORT"),
        ("ramole_config", "x", "RAMOLE_CONFIG"),
        ("RAMOLE_CONFIG", "/no/such/file.yaml", "/no/such/file.yaml"),
        ("RAMOLE_CONFIG", "/", "YAML"),
        ("RAMOLE_CONFIG", "", "unset"),
        ("RAMOLE_DATA_DIR", "", "a folder"),
        ("RAMOLE_DATA_DIR", " ", "a folder"),
        ("RAMOLE_DATA_DIR", "~no-such-user/data", "~no-such-user"),
        ("RAMOLE_CACHE__DIR", "", "local disk"),
        ("RAMOLE_EXECUTOR__DEVICE", "gpu0", "cuda:N"),
        ("RAMOLE_EXECUTOR__MAX_ROWS", "many", "'many'"),
        ("RAMOLE_GATEWAY", "many", "a section"),
        ("RAMOLE_GATEWAY__SERVER__HOST", "http://x", "host"),
        ("RAMOLE_ADAPTERS__SOURCES", "hf://", "hf://"),
        ("RAMOLE_RETRIEVAL__TIMEOUT_S", "inf", "finite"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str) -> None:
    monkeypatch.setenv(name, value)
    said = refusal()
    assert said.startswith(f"{name}: ")
    assert remedy in said


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMOLE_ADAPTERS__SOURCE_OPTIONS", '{"hf": "hush"}')
    monkeypatch.setenv("RAMOLE_ADAPTERS__STORE_OPTIONS", "hush")
    said = refusal()
    assert "RAMOLE_ADAPTERS__SOURCE_OPTIONS" in said
    assert "RAMOLE_ADAPTERS__STORE_OPTIONS" in said
    assert "hush" not in said


def test_variables_that_kubernetes_makes_of_services_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT_GRPC": "50051", "PORT": "tcp://10.0.0.1:50051"}
    for stem in ("RAMOLE", "RAMOLE_GATEWAY"):
        for end, value in {**links, "PORT_50051_TCP_ADDR": "10.0.0.1"}.items():
            monkeypatch.setenv(f"{stem}_{end}", value)
    monkeypatch.setenv("RAMOLE_GATEWAY__SERVER__PORT", "1234")
    assert load_settings().gateway.server.port == 1234
    monkeypatch.setenv("RAMOLE_EXECUTOR_PORT", "tcp://10.0.0.1:50051")
    assert refusal().startswith("RAMOLE_EXECUTOR_PORT: ")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (b"gateway: {\n", 2, "not YAML"),
        (b"a: 'b\n", 2, "not YAML"),
        (b"base_id: x\ngateway: {}\ngateway: {}\n", 3, "twice, first in line 2"),
        (b"gateway:\n  server:\n    port: 1\n    port: 2\n", 4, "gateway.server.port: the key is there twice"),
        (b"gateway:\n  server:\n    prot: 1\n", 3, "did you mean gateway.server.port?"),
        (b"base_id: x\nGateway: {}\n", 2, "did you mean gateway?"),
        (b"gateway: {port: 1}\n", 1, "did you mean gateway.http.port?"),
        (b"gateway:\n", 1, "a section"),
        (b"base_id: x\nexecutor: {max_rows: yes}\n", 2, "executor.max_rows"),
        (b"base_revision: 123\n", 1, "base_revision"),
        (b"retrieval: {timeout_s: .nan}\n", 1, "finite"),
        (b'data_dir: "a\\0b"\n', 1, "data_dir"),
        (b"? [a]\n: b\n", 1, "not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, line: int, says: str
) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_bytes(text)
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    said = refusal()
    assert said.startswith(f"{file} line {line}")
    assert says in said


@pytest.mark.parametrize(("text", "says"), [(b"- a\n", "not a mapping"), (b"\xff\xfe", "UTF-8"), (b"a: \x00", "YAML")])
def test_a_file_that_is_no_mapping_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, says: str
) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_bytes(text)
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    said = refusal()
    assert str(file) in said
    assert says in said


def test_a_rule_for_several_settings_names_where_they_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_text("executor: {token_budget: 3}\n")
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    assert refusal().startswith(f"{file} line 1, executor: token_budget 3")
    monkeypatch.setenv("RAMOLE_EXECUTOR__MAX_ROWS", "4")
    assert refusal().startswith("RAMOLE_EXECUTOR__MAX_ROWS and ")


def test_all_mistakes_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_text("executor: {max_rows: 0}\n")
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    monkeypatch.setenv("RAMOLE_EXECUTOR__NUM_SLOTS", "1")
    said = refusal()
    assert f"{file} line 1, executor.max_rows: " in said
    assert "RAMOLE_EXECUTOR__NUM_SLOTS: " in said


def test_a_home_folder_is_meant_wherever_a_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ramole.yaml").write_text(
        "data_dir: ~/data\nbase_model: ~/base\nretrieval: {uri: ~/index, ca_file: ~/ca.pem}\ncache: {dir: ~/cache}\n"
        "executor: {router: ~/router}\n"
        "embedding: {encoder: ~/encoder, retriever: ~/retriever, previous: {encoder: ~/old, retriever: ~/older}}\n"
    )
    monkeypatch.setenv("RAMOLE_CONFIG", "~/ramole.yaml")
    settings = load_settings()
    assert settings.data_dir == tmp_path / "data"
    assert settings.cache_dir == tmp_path / "cache"
    assert "~" not in settings.model_dump_json()


def test_an_empty_file_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    file = tmp_path / "ramole.yaml"
    file.write_text("# nothing yet\n")
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    assert load_settings() == defaults
