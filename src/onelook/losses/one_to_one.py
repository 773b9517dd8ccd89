"""The loss of a head that needs no NMS (YOLOX table 2, "NMS-free")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from onelook.losses.pairs import Assigner, Pairs
from onelook.ops.precision import at_least_float32

_MAX_SCORE = 1 - 1e-6  # of a negative, whose loss would be infinite at 1


@dataclass(frozen=True)
class Selection:
    """Cross-entropy of the final score: 1 at the one prior of every object, 0 at all others (YOLOX table 2, last row).

    assigner: chooses that prior, such as `OneToOne`.

    YOLOX's paper names no loss for its NMS-free branch. As in Zhou et al. (2021, sec. 3.1), the final score is the
    product of the branch and the other scores; here no gradient flows to the other scores (the stopped gradient), only
    the best class is used, and the sum is divided by the number of objects that have a prior. Rows whose other scores
    are low have almost no loss, so the branch is trained where it is needed: on the rows around an object.
    """

    assigner: Assigner
    weight: float = 1.0
    name: str = "selection"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("one to one",)

    def __call__(self, pairs: Pairs) -> Tensor:
        predictions = pairs.predictions
        if predictions.unique is None:
            raise TypeError("Selection needs a head with one-to-one logits (`Predictions.unique`)")
        unique = at_least_float32(predictions.unique)
        others = at_least_float32(predictions.classes.detach()).amax(-1).sigmoid()
        if predictions.objectness is not None:
            others = others * at_least_float32(predictions.objectness.detach()).sigmoid()
        matches = self.assigner(predictions, pairs.targets)
        own = Pairs(predictions, pairs.targets, matches, pairs.across_processes)
        # Padded pairs point at row 0 and add 0 there.
        chosen = torch.zeros_like(unique).scatter_add_(1, matches.priors, matches.valid.to(unique.dtype)) > 0
        absent = -torch.log1p(-(others * unique.sigmoid()).clamp(max=_MAX_SCORE))
        # log(a * b) = log a + log b, and the logarithm of the other scores has no gradient, so it is omitted.
        return torch.where(chosen, -logsigmoid(unique), absent).sum() / own.count
