"""Balance of two losses by their gradients: one gets a given part of the other's gradient norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.ops.precision import at_least_float32
from onelook.ops.reduce import mean_over_processes

if TYPE_CHECKING:
    from onelook.types import Pyramid

EVERY = 10  # steps between two measurements
KEPT = 0.9  # part of the mean that a measurement leaves; the rest is the measurement
_SCALE = 1024.0  # float16 features have gradients that would be 0 without it; their ratio does not depend on it


class GradientBalance(nn.Module):
    """The factor with which a loss term has `share` times the gradient norm of the detection losses.

    The gradients are those at the neck's output features, over all levels; behind a frozen neck, at the predictions.
    Their norms are measured in the first step and in every tenth, and the factor follows from moving averages of both,
    which are equal in all processes and saved with the training's state. It is 0 where no measurement was finite.
    """

    norms: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.measures = True  # whether this step is one of those with a measurement
        self._has_measured = False
        self.register_buffer("norms", torch.zeros(2))  # of the detection losses and of the term
        self.register_load_state_dict_post_hook(GradientBalance._loaded)

    def _loaded(self, keys: object) -> None:
        self._has_measured = bool(self.norms[1] > 0)

    def begin_step(self, number: int) -> None:
        """Prepares a step with the term; number: of the steps so far."""
        self.measures = number % EVERY == 0 or not self._has_measured

    def measure(self, task: Tensor, term: Tensor, features: Pyramid) -> None:
        """Takes the norms of the gradients of two losses (scalars) at the features; the graph stays.

        Norms that are not finite, as of a batch that the optimizer skips too, are left out.
        """
        self._has_measured = True
        squares = torch.stack([_square_norm(loss, features) for loss in (task, term)])
        norms = mean_over_processes(squares).sqrt()  # up to a factor that both have, those of all processes' images
        mean = torch.where(self.norms[1] > 0, KEPT * self.norms + (1 - KEPT) * norms, norms)
        self.norms.copy_(torch.where(norms.isfinite().all(), mean, self.norms))

    def factor(self) -> Tensor:
        """The factor on the term, a scalar."""
        task, term = self.norms
        return torch.where(term > 0, self.share * task / term.clamp(min=1e-30), 0.0)


def _square_norm(loss: Tensor, features: Pyramid) -> Tensor:
    """The squared norm of a loss's gradient at the features; 0 where none of them leads to trained parameters."""
    trained = [feature for feature in features if feature.requires_grad]
    if not trained or not loss.requires_grad:
        return loss.new_zeros((), dtype=torch.float32)
    gradients = torch.autograd.grad(loss * _SCALE, trained, retain_graph=True, allow_unused=True)
    squares = [at_least_float32(gradient).square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else loss.new_zeros((), dtype=torch.float32)
