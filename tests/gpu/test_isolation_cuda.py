"""No request changes another's answer on a CUDA device either, where padded rows of a graph write to rows of others."""

from __future__ import annotations

import pytest
import torch

from support.hostile_world import Alone, drive

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: nothing of this file was tested"),
]


@pytest.mark.parametrize("seed", range(4))
def test_bystanders_get_what_they_get_alone(seed: int) -> None:
    drive("graphs", seed, Alone("graphs"), steps=60, may_differ=1)
