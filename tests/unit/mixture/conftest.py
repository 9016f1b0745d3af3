"""Where there is no GPU, Triton's kernels are interpreted. It reads the variable when the kernels are imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
