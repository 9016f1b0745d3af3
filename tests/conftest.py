"""For every test, before it imports anything else.

Stubs made by tests alone must not end gRPC's poller either, see `ramole.transport.poller`. And where there is no GPU,
Triton's kernels are interpreted, for which Triton wants to know before its first import, by whatever library.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices are tiny here: more threads would wait for each other

import hypothesis
import pytest
import torch

from ramole.transport.poller import keep_poller
from support.canary import CanaryNet

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    keep_poller()
    # How long one example takes says how busy the machine is, and nothing of what is tried.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    config.pluginmanager.register(CanaryNet(), "canary-net")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Several workers take folder after folder, each as a whole: its tests share servers, which start once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0].rpartition("/")[0]

    config.option.loadscopereorder = False  # as collected: many small folders come last, and even out the workers
    return ByFolder(config, log)
