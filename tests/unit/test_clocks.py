"""A clock that jumps moves no deadline: what measures time does it by clocks that cannot be set.

Shown by the source: wall-clock time is read in the places below and nowhere else, and each says what it is for. What
libraries do with it is not seen here; the one whose windows follow it is tried with jumps.
"""

from __future__ import annotations

import ast
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ramole
from ramole.core.errors import LimitExceeded
from ramole.core.settings import TenantLimitSettings
from ramole.gateway.tenant_limits import TenantLimits

ROOT = Path(ramole.__file__).parent
WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
READ = {
    "adapters/audit.py": 2,  # lines say when; one object a line is named by it
    "adapters/store/records.py": 2,  # when a version was made
    "adapters/store/store.py": 3,  # what is kept for days, staged for an hour, and when it was removed
    "app/doctor/serving.py": 4,  # certificates, and the clocks of two machines
    "gateway/http/models.py": 1,  # OpenAI's `created`
    "gateway/http/openai.py": 2,  # the same
    "gateway/keys.py": 1,  # when a key was made
    "gateway/pool.py": 1,  # the value of a gauge, of which a reader takes the latest
    "gateway/tenant_limits.py": 1,  # how long to wait for the library's next minute
    "observability/tracing.py": 1,  # collectors want spans at wall-clock times
    "tiers/disk.py": 1,  # drafts that a crash left behind an hour ago
}
"""Where, how often, and what for."""


def wall_clocks(tree: ast.AST) -> Iterator[ast.AST]:
    """Every read of a clock that somebody may set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if node.attr in WALL.get(owner, ()):
                yield node
        if isinstance(node, ast.ImportFrom) and node.module == "time":  # under a name that is not looked for
            yield from (alias for alias in node.names if alias.name in WALL["time"])


def test_wall_clock_time_is_read_where_it_is_meant() -> None:
    found = Counter(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ("lab", "v1")
        for _ in wall_clocks(ast.parse(path.read_text()))
    )
    assert dict(found) == READ


@pytest.mark.parametrize(
    "code",
    ["time.time()", "datetime.now(UTC)", "datetime.datetime.utcnow()", "clock = time.time", "from time import time"],
)
def test_each_way_to_read_it_is_found(code: str) -> None:
    assert list(wall_clocks(ast.parse(code)))


@pytest.mark.parametrize("jump_s", [-(10 * 365 * 86400), -86400.0, -3600.0, -61.0, -1.0, 1.0, 61.0, 3600.0, 86400.0])
def test_a_minute_that_is_used_up_ends_after_any_jump(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_800_000_030.0
    monkeypatch.setattr(time, "time", lambda: now_s)
    limits = TenantLimits(TenantLimitSettings(requests_per_minute=2), {})

    def refused_for_s() -> float:
        """0 = the request is taken."""
        try:
            with limits.request("ann"):
                return 0.0
        except LimitExceeded as error:
            return error.retry_after_s or 0.0

    assert (refused_for_s(), refused_for_s()) == (0.0, 0.0)
    assert refused_for_s() > 0
    now_s += jump_s
    for _ in range(121):
        waits_s = refused_for_s()
        if waits_s == 0:
            return
        assert waits_s <= 120.0
        now_s += 1.0
    pytest.fail("nobody is let in again")
