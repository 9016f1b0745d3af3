"""For every test, before it imports anything else.

Stubs made by tests alone must not end gRPC's poller either, see `ramole.transport.poller`. And where there is no GPU,
Triton's kernels are interpreted, for which Triton wants to know before its first import, by whatever library.
"""

from __future__ import annotations

import os

import torch

from ramole.transport.poller import keep_poller

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure() -> None:
    keep_poller()
