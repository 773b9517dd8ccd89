"""Where numbers must not be halves: costs, losses and coordinates."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """The tensor in float32 if it is half or bfloat16 (a half cannot tell pixels apart above 2048), else unchanged."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
