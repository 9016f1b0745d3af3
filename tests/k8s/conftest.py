from __future__ import annotations

from collections.abc import Callable

import pytest

from support.manifests import CHECKS, CRDS, CUSTOM, GATEWAY_API, Manifests

SEEN = pytest.StashKey[list[Manifests]]()


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest) -> Callable[[Manifests], None]:
    """Remembers an overlay for the line at the end."""
    return request.config.stash.setdefault(SEEN, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seen = config.stash.get(SEEN, [])
    if not seen:
        return
    kinds = [found["kind"] for world in seen for found in world.objects]
    custom, open_ = sum(kind in CUSTOM for kind in kinds), sum(kind in GATEWAY_API for kind in kinds)
    by = "their operators' schemas" if CRDS.exists() else "NOTHING: the operators' schemas are not here"
    terminalreporter.write_line(
        f"k8s: {len(seen)} overlays, {len(kinds)} objects: {len(kinds) - custom - open_} strictly by Kubernetes' "
        f"schemas, {custom} by {by}, {open_} of the Gateway API by cross-checks only; "
        f"{len(CHECKS)} checks on each overlay"
    )
