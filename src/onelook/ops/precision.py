"""Minimum precision of costs, losses and coordinates."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """Converts float16 and bfloat16 to float32 and returns other tensors unchanged.

    Above 2048, float16 does not represent every whole pixel. (`torch.promote_types` would become a part of exported
    programs, which PyTorch 2.6 cannot load.)
    """
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
