"""The loss of a classifier of whole pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from onelook.ops.precision import at_least_float32
from onelook.types import Targets


@dataclass(frozen=True)
class ClassLoss:
    """Cross-entropy of a softmax, mean over the pictures, against the shares of their classes.

    smoothing: e makes targets y * (1 - e) + (1 - y) * e / (C - 1) (Szegedy et al. 2016, sec. 7, in Darknet's form).
    """

    smoothing: float = 0.1
    name: str = "classes"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing lies in [0, 1), not {self.smoothing}")

    def __call__(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """(B, C) logits and the classes of the pictures -> the loss by its name. Targets without shares share alike."""
        logits = at_least_float32(logits)
        return {self.name: cross_entropy(logits, self.wanted(targets, logits.shape[1]).to(logits.dtype))}

    @property
    def terms(self) -> tuple[ClassLoss]:
        """What a log calls it."""
        return (self,)

    def wanted(self, targets: Targets, num_classes: int) -> Tensor:
        """(B, C) soft targets."""
        valid = targets.valid.float()
        shares = valid / valid.sum(1, keepdim=True).clamp(min=1) if targets.shares is None else targets.shares * valid
        hard = torch.zeros(len(valid), num_classes, device=valid.device).scatter_add_(1, targets.labels, shares)
        if num_classes == 1:
            return hard
        return hard * (1 - self.smoothing) + (1 - hard) * self.smoothing / (num_classes - 1)

    def needs(self) -> Mapping[str, str]:
        """What the network must give."""
        return {"image classes": type(self).__name__}

    def adversarial_loss(self, logits: Tensor) -> Tensor:
        """What self-adversarial training lowers: how far the picture is from showing every class alike."""
        logits = at_least_float32(logits)
        return cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[1]), reduction="sum")
