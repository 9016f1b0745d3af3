"""What would end a start after minutes ends it at once, by the setting to change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ramole.adapters.store.writer import FolderLock
from ramole.app.preflight import preflight, settle_device
from ramole.app.resolution import resolve
from ramole.core.errors import RamoleError, WrongState
from ramole.core.setting_errors import load_settings
from ramole.executor.facts import check_device


def fly(folder: Path, **settings: Any) -> None:
    gateway = {"server": {"port": 0}}
    preflight(resolve(load_settings(**{"data_dir": folder, "gateway": gateway} | settings)))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_good_system_may_start_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        fly(tmp_path / "deep" / "data")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"base_model": "/no/such/folder"}, "base_model"),
        ({"base_model": "/no/such/file.gguf"}, "base_model"),
        ({"base_model": "./no-such-folder"}, "base_model"),
        ({"base_model": "no such folder", "base_id": "b"}, "base_model"),
        ({"base_model": "EMPTY", "base_id": "b"}, "base_model"),
        ({"base_model": "FILE", "base_id": "b"}, "base_model"),
        ({"executor": {"router": "/no/such/folder"}}, "executor.router"),
        ({"executor": {"router": "EMPTY"}}, "executor.router"),
        ({"embedding": {"retriever": "EMPTY"}}, "embedding.retriever"),
        ({"embedding": {"encoder": "/no/such/folder"}}, "embedding.encoder"),
        ({"embedding": {"previous": {"retriever": "EMPTY"}}}, "embedding.previous.retriever"),
        ({"retrieval": {"ca_file": "/no/such/file"}}, "retrieval.ca_file"),
        ({"data_dir": "FILE"}, "data_dir"),
        ({"data_dir": "FILE/below"}, "data_dir"),
        ({"data_dir": "/proc/no/such/folder"}, "data_dir"),
        ({"cache": {"dir": "FILE"}}, "cache.dir"),
        ({"gateway": {"server": {"host": "192.0.2.1", "port": 0}}}, "gateway.server.host"),
        ({"executor": {"server": {"host": "no-such-host.invalid"}}}, "executor.server.host"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, settings: dict[str, Any], field: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        if isinstance(value, str):
            return value.replace("EMPTY", str(tmp_path / "empty")).replace("FILE", str(tmp_path / "file"))
        return value

    with pytest.raises(WrongState) as refused:
        fly(tmp_path / "data", **placed(settings))
    assert refused.value.field == field
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"gateway": {"server": {"port": "TAKEN"}}}, "gateway.server.port"),
        ({"embedding": {"server": {"port": "TAKEN"}}}, "embedding.server.port"),
        ({"metrics": {"port": "TAKEN"}}, "metrics.port"),
    ],
)
def test_a_taken_port_is_named(tmp_path: Path, taken: int, settings: dict[str, Any], field: str) -> None:
    def placed(value: Any) -> Any:
        return {key: placed(each) for key, each in value.items()} if isinstance(value, dict) else taken

    with pytest.raises(WrongState) as refused:
        fly(tmp_path, **placed(settings))
    assert refused.value.field == field
    assert str(taken) in refused.value.message


def test_two_services_cannot_have_the_same_port(tmp_path: Path, taken: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(WrongState) as refused:
        fly(tmp_path, gateway={"server": {"port": port}}, metrics={"port": port})
    assert refused.value.field == "metrics.port"


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    fly(tmp_path)
    lock = FolderLock(tmp_path / "store")
    with pytest.raises(RamoleError) as refused:
        fly(tmp_path)
    assert refused.value.field == "data_dir"
    lock.close()
    fly(tmp_path)


def test_a_device_must_be_there() -> None:
    check_device("cpu", 0)
    check_device("cuda", 1)
    check_device("cuda:1", 2)
    for device, num_gpus, remedy in (("cuda", 0, "cpu"), ("cuda:1", 1, "cuda"), ("cuda:0", 0, "cpu")):
        with pytest.raises(WrongState) as refused:
            check_device(device, num_gpus)
        assert refused.value.field == "executor.device"
        assert refused.value.remedy.endswith(remedy)


def test_a_device_that_is_left_open_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "nvidiactl"
    monkeypatch.setattr("ramole.app.preflight._GPU_DRIVER", driver)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert settle_device(load_settings()).executor.device == "cpu", "without a driver nobody asks torch"
    driver.touch()
    assert settle_device(load_settings()).executor.device == "cuda"
    assert settle_device(load_settings(executor={"device": "cpu"})).executor.device == "cpu"
