"""A client in another language: Node's official gRPC library with stubs that it makes from protos/ while it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.rpc
import pytest

from ramole.gateway.keys import KeyFile, Role
from support.world_thread import WorldThread, world_thread

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, beside exactly the packages of its lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node or no npm here: the client in JavaScript is not tried")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(SOURCE / name, folder)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm installs nothing here: the client in JavaScript is not tried: {done.stderr[-300:]}")
    return folder / "client.mjs"


class Node:
    """The client, of one gateway."""

    def __init__(self, script: Path, world: WorldThread, key: str) -> None:
        self.world = world
        self.key = key
        self._script = script

    def __call__(self, task: str, **env: str) -> Any:
        done = subprocess.run(
            ["node", str(self._script), task],
            env={
                "PATH": os.environ["PATH"],
                "ADDRESS": self.world.address,
                "KEY": self.key,
                "PROTOS": str(ROOT / "protos"),
                "GOOGLE_PROTOS": str(Path(next(iter(google.rpc.__path__))).parents[1]),
                "PROMPT": "naïve 漢 text",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def node(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    data = tmp_path_factory.mktemp("data")
    _, key = KeyFile(data / "keys.json").add("node", "default", Role.PUBLISHER)
    with world_thread(data) as world:
        yield Node(script, world, key)


def test_it_is_told_who_it_is(node: Node) -> None:
    told = node("describe")
    assert told["base_model"] == "zoo/base"
    assert told["caller"] == {"tenant": "default", "name": "node", "roles": ["publisher", "user"]}
    assert told["limits"]["max_prompt_chars"] == 100


def test_without_a_key_it_gets_nothing(node: Node) -> None:
    for key in ("", "rml-wrong"):
        refused = node("describe", KEY=key)
        assert refused["code"] == "UNAUTHENTICATED"
        info = refused["details"]["google.rpc.ErrorInfo"]
        assert (info["reason"], info["domain"], bool(info["metadata"]["remedy"])) == ("UNAUTHENTICATED", "ramole", True)


def test_it_streams_an_answer(node: Node) -> None:
    events = node("generate")["events"]
    assert [event["event"] for event in events] == ["routing", "chunk", "chunk", "chunk", "usage"]
    assert events[0]["routing"]["adapters"][0]["adapter"]["name"] == "a"
    assert [event["chunk"]["text"] for event in events[1:-1]] == ["naïve", "漢", "text"]
    assert events[-1]["usage"]["finish_reason"] == "FINISH_REASON_LENGTH"
    assert node("complete")["answer"]["text"] == "naïve漢text"


def test_one_of_a_batch_fails_alone(node: Node) -> None:
    events = node("batch")["events"]
    ends = {event["index"]: event for event in events}
    assert ends[0]["event"] == "usage"
    assert (ends[1]["failure"]["reason"], ends[1]["failure"]["code"]) == ("INVALID_INPUT", 3)


def test_an_error_says_why_where_and_what_to_do(node: Node) -> None:
    refused = node("refused")
    assert (refused["events"], refused["code"]) == ([], "INVALID_ARGUMENT")
    assert refused["message"] == "prompt: the prompt is empty (send some text)"
    info = refused["details"]["google.rpc.ErrorInfo"]
    assert info["reason"] == "INVALID_INPUT"
    assert (info["metadata"]["field"], info["metadata"]["remedy"]) == ("prompt", "send some text")
    [violation] = refused["details"]["google.rpc.BadRequest"]["fieldViolations"]
    assert violation["field"] == "prompt"


def test_cancelling_ends_the_request_on_the_server(node: Node) -> None:
    node.world.gate("step")
    ended = node("cancel")
    assert ended["code"] == "CANCELLED"
    assert [event["event"] for event in ended["events"]] == ["routing", "chunk"]
    node.world.until_idle()
    node.world.open("step")
