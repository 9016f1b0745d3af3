"""What a server fetches for a client: only what the operator allows, and exactly the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.adapters.sources import check_source, fetch
from ramole.core.errors import InvalidInput, LimitExceeded, Unavailable
from support.hub_server import hub_server
from support.s3_server import new_bucket, s3_options

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"tensors" * 1_000_000}
ALLOWED = ("hf://", "s3://bucket", "file:///adapters/")


def fetched(uri: str, options: dict[str, Any] | None = None) -> dict[str, bytes]:
    got: dict[str, bytearray] = {}
    fetch(uri, options or {}, lambda name, data: got.setdefault(name, bytearray()).extend(data))
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


def test_links_out_of_an_allowed_folder(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed / "good", allowed / "linked", secret):
        folder.mkdir(parents=True)
    for name, data in FILES.items():
        (allowed / "good" / name).write_bytes(data)
        (secret / name).write_bytes(b"secret")
    (allowed / "linked" / "adapter_config.json").write_bytes(b"{}")
    (allowed / "linked" / "adapter_model.safetensors").symlink_to(secret / "adapter_model.safetensors")
    (allowed / "folder").symlink_to(secret)
    prefixes = (f"file://{allowed}",)
    good = f"file://{allowed}/good"
    check_source(good, prefixes)
    assert fetched(good) == FILES
    for name in ("linked", "folder"):
        with pytest.raises(InvalidInput, match="a link to elsewhere"):
            check_source(f"file://{allowed}/{name}", prefixes)


def test_from_memory_and_s3(s3: str) -> None:
    memory = fsspec.filesystem("memory")
    bucket = new_bucket(s3)
    store = fsspec.filesystem("s3", **s3_options(s3))
    for name, data in FILES.items():
        memory.pipe_file(f"/some/adapter/{name}", data)
        store.pipe_file(f"{bucket.removeprefix('s3://')}/{name}", data)
    assert fetched("memory://some/adapter/") == FILES
    assert fetched(bucket, {"s3": s3_options(s3)}) == FILES


def test_from_a_hub(tmp_path: Path) -> None:
    with hub_server("org/repo", {**FILES, "README.md": b"x", "sub/adapter_config.json": b"other"}) as endpoint:
        options = {"hf": {"endpoint": endpoint, "token": False}}
        assert fetched("hf://org/repo@v1", options) == FILES
        for missing in ("hf://org/nothing@v1", "hf://org/repo@v1/sub", "hf://org/repo@v2"):
            with pytest.raises(InvalidInput) as caught:
                fetched(missing, options)
            assert caught.value.field == "header.source"


def test_what_the_upload_raises_passes() -> None:
    fsspec.filesystem("memory").pipe_file("/big/adapter_config.json", b"x")

    def write(name: str, data: bytes) -> None:
        raise LimitExceeded("too large")

    with pytest.raises(LimitExceeded):
        fetch("memory://big", {}, write)
    with pytest.raises(InvalidInput, match="has no adapter_config"):
        fetch("memory://nowhere", {}, write)
    with pytest.raises(Unavailable):
        fetch("nosuchfilesystem://x", {}, write)
