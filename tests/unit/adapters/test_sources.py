"""What a server fetches for a client: only what the operator allows, and exactly the adapter."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.adapters.intake.sources import check_source, fetch
from ramole.core.errors import InvalidInput, LimitExceeded, Unavailable
from support.hub_server import COMMIT, hub_server
from support.s3_server import new_bucket, s3_options

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
FILES = {CONFIG: b"{}", TENSORS: b"tensors" * 1_000_000}
ALLOWED = ("hf://", "s3://bucket", "file:///adapters/")


def fetched(uri: str, options: dict[str, Any] | None = None, allowed: tuple[str, ...] = ()) -> dict[str, bytes]:
    got: dict[str, bytearray] = {}
    fetch(uri, options or {}, allowed, lambda name, data: got.setdefault(name, bytearray()).extend(data))
    return {name: bytes(data) for name, data in got.items()}


@pytest.mark.parametrize(
    "uri",
    ["hf://org/repo", "hf://org/repo@v1.0", "hf://org/repo@main/sub/folder/", "s3://bucket/x", "file:///adapters/x"],
)
def test_allowed(uri: str) -> None:
    if not uri.startswith("file"):
        check_source(uri, ALLOWED)
    else:
        with pytest.raises(InvalidInput, match="not an allowed"):
            check_source(uri, ("hf://",))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/etc",
        "file:///etc",
        "file:///adapters",
        "file:///adapters/../etc",
        "file:///adapters/./x",
        "file:///adapters//x",
        "file://adapters/x",
        "local:///adapters/x",
        "FILE:///adapters/x",
        "s3://bucket-of-others/x",
        "s3://bucket",
        "s3://bucket/../other/x",
        "s3://bucket/%2e%2e/other",
        "http://169.254.169.254/latest",
        "simplecache::file:///etc",
        "hf://simplecache::file:///etc",
        "zip://*.x::hf://org/repo",
        "hf://org/repo?x=1",
        "hf://org/repo#x",
        "hf://org/*",
        "hf://org/repo\n",
        "hf://org/re po",
        "hf://org/répo",
        "hf://" + "x" * 2000,
        "memory://x",
    ],
)
def test_everything_else_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_source(uri, ALLOWED)
    assert caught.value.field == "header.source"
    assert caught.value.remedy


@given(st.text(alphabet="./:@ahfs3%\\~*?#x-", max_size=40))
def test_no_text_climbs_out_of_a_prefix(text: str) -> None:
    uri = f"s3://bucket{text}"
    try:
        check_source(uri, ("s3://bucket/inner",))
    except InvalidInput:
        return
    _, path = fsspec.core.split_protocol(uri)
    assert path.startswith("bucket/inner/")
    assert ".." not in path.split("/")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An allowed folder that holds the adapter "good", and a secret one beside it."""
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder, data in ((allowed / "good", FILES), (secret, dict.fromkeys(FILES, b"secret"))):
        folder.mkdir(parents=True)
        for name, content in data.items():
            (folder / name).write_bytes(content)
    return allowed, secret


def test_links_out_of_an_allowed_folder(folders: tuple[Path, Path]) -> None:
    allowed, secret = folders
    (allowed / "linked").mkdir()
    (allowed / "linked" / CONFIG).write_bytes(b"{}")
    (allowed / "linked" / TENSORS).symlink_to(secret / TENSORS)
    (allowed / "folder").symlink_to(secret)
    for name in ("linked", "folder"):
        with pytest.raises(InvalidInput, match="a link to elsewhere") as caught:
            fetched(f"file://{allowed}/{name}", allowed=(f"file://{allowed}",))
        assert caught.value.field == "header.source"


def test_links_that_stay_below_an_allowed_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    allowed, _ = folders
    (allowed / "snapshot").mkdir()
    for name in FILES:
        (allowed / "snapshot" / name).symlink_to(Path("..") / "good" / name)
    (tmp_path / "elsewhere").symlink_to(allowed)
    for prefix in (f"file://{allowed}", f"file://{tmp_path}/elsewhere/", "file:///"):
        check_source(f"file://{allowed}/good", (f"file://{allowed}",))
        assert fetched(f"file://{allowed}/good", allowed=(prefix,)) == FILES
        assert fetched(f"file://{allowed}/snapshot", allowed=(prefix,)) == FILES
    assert fetched(f"local://{allowed}/good", allowed=(f"local://{allowed}",)) == FILES


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_regular_file_is_refused_at_once(folders: tuple[Path, Path], kind: str) -> None:
    allowed, _ = folders
    path = allowed / "good" / CONFIG
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            with contextlib.chdir(path.parent):  # addresses are short
                listener.bind(path.name)
        with pytest.raises(InvalidInput, match="no regular file"):
            fetched(f"file://{allowed}/good", allowed=(f"file://{allowed}",))


def test_a_link_that_comes_between_check_and_open_leads_nowhere(folders: tuple[Path, Path]) -> None:
    allowed, secret = folders
    (allowed / "good" / TENSORS).write_bytes(b"open")
    decoy = allowed / "decoy"
    decoy.symlink_to(secret)
    is_over = threading.Event()

    def swap() -> None:
        good, spare = allowed / "good", allowed / "spare"
        while not is_over.is_set():
            for source, target in ((good, spare), (decoy, good), (good, decoy), (spare, good)):
                source.rename(target)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            with contextlib.suppress(InvalidInput, Unavailable):
                assert b"secret" not in fetched(f"file://{allowed}/good", allowed=(f"file://{allowed}",)).values()
    finally:
        is_over.set()
        thread.join()


def test_from_memory_and_s3(s3: str) -> None:
    memory = fsspec.filesystem("memory")
    bucket = new_bucket(s3)
    store = fsspec.filesystem("s3", **s3_options(s3))
    for name, data in FILES.items():
        memory.pipe_file(f"/some/adapter/{name}", data)
        store.pipe_file(f"{bucket.removeprefix('s3://')}/{name}", data)
    assert fetched("memory://some/adapter/") == FILES
    assert fetched(bucket, {"s3": s3_options(s3)}) == FILES


def test_from_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_server")
    seen: list[tuple[str, str]] = []
    with hub_server(
        "org/repo", {**FILES, "README.md": b"x", "sub/adapter_config.json": b"other"}, seen=seen
    ) as endpoint:
        options = {"hf": {"endpoint": endpoint}}
        assert fetched("hf://org/repo@v1", options) == FILES
        for missing in ("hf://org/nothing@v1", "hf://org/repo@v1/sub", "hf://org/repo@v2"):
            with pytest.raises(InvalidInput) as caught:
                fetched(missing, options)
            assert caught.value.field == "header.source"
        assert {authorization for _, authorization in seen} == {""}, "the server's own token is nobody's"
        seen.clear()
        assert fetched("hf://org/repo@v1", {"hf": {"endpoint": endpoint, "token": "hf_of_the_operator"}}) == FILES
        assert "Bearer hf_of_the_operator" in {authorization for _, authorization in seen}


def test_both_files_of_a_branch_come_from_one_commit() -> None:
    seen: list[tuple[str, str]] = []
    inner = {f"sub/{name}": data for name, data in FILES.items()}
    with hub_server("org/repo", {**FILES, **inner}, "main", seen) as endpoint:
        options = {"hf": {"endpoint": endpoint}}
        for uri, resolved in (
            ("hf://org/repo", f"hf://org/repo@{COMMIT}"),
            ("hf://org/repo@main/", f"hf://org/repo@{COMMIT}"),
            (f"hf://org/repo@{COMMIT}", f"hf://org/repo@{COMMIT}"),
            ("hf://org/repo@main/sub", f"hf://org/repo@{COMMIT}/sub"),
        ):
            assert fetch(uri, options, (), lambda name, data: None) == resolved
            check_source(resolved, ALLOWED)
    read = [path for path, _ in seen if "/resolve/" in path]
    assert read
    assert all(f"/resolve/{COMMIT}/" in path for path in read)


def test_what_the_upload_raises_passes() -> None:
    fsspec.filesystem("memory").pipe_file("/big/adapter_config.json", b"x")

    def write(name: str, data: bytes) -> None:
        raise LimitExceeded("too large")

    with pytest.raises(LimitExceeded):
        fetch("memory://big", {}, (), write)
    with pytest.raises(InvalidInput, match="has no adapter_config"):
        fetch("memory://nowhere", {}, (), write)
    with pytest.raises(InvalidInput, match=r"has no adapter_model\.safetensors") as caught:
        fetch("memory://big", {}, (), lambda name, data: None)
    assert "adapter_model.bin" in caught.value.remedy
    with pytest.raises(Unavailable):
        fetch("nosuchfilesystem://x", {}, (), write)
