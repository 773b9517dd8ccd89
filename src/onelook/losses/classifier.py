"""The loss of an image classifier: cross-entropy, with label smoothing."""

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
    """Softmax cross-entropy against the class shares of each image, mean over the images.

    smoothing: e makes targets y * (1 - e) + (1 - y) * e / (C - 1) (Szegedy et al. 2016, sec. 7, in Darknet's form).
    """

    smoothing: float = 0.1
    name: str = "classes"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is in [0, 1), not {self.smoothing}")

    def __call__(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Returns the loss by its name, of logits (B, C) and the classes of the images. Default shares are equal."""
        logits = at_least_float32(logits)
        return {self.name: cross_entropy(logits, self.soft_targets(targets, logits.shape[1]).to(logits.dtype))}

    @property
    def terms(self) -> tuple[ClassLoss]:
        """The terms of the loss, for logs: itself."""
        return (self,)

    def soft_targets(self, targets: Targets, num_classes: int) -> Tensor:
        """Returns the target probabilities (B, C) of a batch."""
        valid = targets.valid.float()
        shares = valid / valid.sum(1, keepdim=True).clamp(min=1) if targets.shares is None else targets.shares * valid
        hard = torch.zeros(len(valid), num_classes, device=valid.device).scatter_add_(1, targets.labels, shares)
        if num_classes == 1:
            return hard
        return hard * (1 - self.smoothing) + (1 - hard) * self.smoothing / (num_classes - 1)

    def needs(self) -> Mapping[str, str]:
        """Returns what the network must provide, and the name of this class, which needs it."""
        return {"image classes": type(self).__name__}

    def adversarial_loss(self, logits: Tensor) -> Tensor:
        """Returns the loss that self-adversarial training minimises: cross-entropy against equal class shares."""
        logits = at_least_float32(logits)
        return cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[1]), reduction="sum")
