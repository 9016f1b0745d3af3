"""The demonstration's tables: prompts and answers as they are, a row a line where no terminal is."""

from __future__ import annotations

import pytest

from ramole.cli._output import show_table
from ramole.client import AdapterUsage, Completion, Routing, Usage
from ramole.core.composition import Composition
from ramole.core.names import AdapterRef
from ramole.demo import Answered, answers_table
from ramole.zoo.catalog import Example

HOSTILE = "[/x] [wip] :smile: \x1b[31m\u202e\n" + "long " * 60 + "end"
SHOWN = "[/x] [wip] :smile: \\x1b[31m\\u202e\\n" + "long " * 60 + "end"


def test_a_pipe_gets_every_character_of_a_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ref = AdapterRef("default", "a", 1, "0" * 64)
    used = (AdapterUsage(ref, 0.5, 0.25, ()),)
    completion = Completion(
        HOSTILE,
        Routing("r", "base", (), Composition(), has_fallen_back=False, embed_s=0.0, search_s=0.0),
        Usage("stop", 1, 1, used, 0.0, 0.0, 0.0, 1, 1),
    )
    answers = [Answered(Example(HOSTILE, "expected [/y]"), completion)] * 2
    show_table(answers_table(f"title {HOSTILE}", answers))
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == f"title {SHOWN}"
    rows = [line for line in lines if "expected [/y]" in line]
    assert len(rows) == 2
    assert all(row.count(SHOWN) == 2 and "a 0.50 0.25" in row and "✗" in row for row in rows)
