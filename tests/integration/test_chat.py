"""`ramole chat` with a real model: one whose base has a chat template, and one whose base has none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from ramole.client import RamoleClient
from ramole.zoo.catalog import Zoo
from support.local_system import local_system


async def chat(address: str, typed: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a conversation from a pipe."""
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("ramole")), "chat", "--max-tokens", "12"),
        env=os.environ | {"RAMOLE_ADDRESS": address},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(typed.encode())
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("has_template", [True, False])
async def test_a_conversation(tmp_path: Path, zoo: Zoo, has_template: bool) -> None:
    base = tmp_path / "base"
    shutil.copytree(zoo.base_path, base)
    if has_template:
        (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    adapter = zoo.adapters[0]
    async with local_system(tmp_path / "data", base_model=str(base), base_id=zoo.base_id) as system:
        async with RamoleClient(system.address) as client:
            await client.upload(adapter.path, adapter.samples, adapter=adapter.name)
        code, out, err = await chat(system.address, f"{adapter.prompts[0].prompt}\n/why\n")
    if has_template:
        assert (code, err) == (0, "")
        answer, *why = out.splitlines()
        assert answer.strip()
        assert any(f"default/{adapter.name}@1" in line for line in why)
        assert "first token after" in why[-1]
    else:
        assert (code, out) == (1, "")
        assert "chat template" in err
        assert err.count("\n") == 1
