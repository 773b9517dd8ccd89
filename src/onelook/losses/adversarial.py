"""What self-adversarial training asks of a picture: that the network sees no objects in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onelook.ops.precision import at_least_float32
from onelook.types import Predictions

MAX_BOX_SIDE = (
    100.0  # side of a box, in pictures; Darknet has no bound, and an exponential that overflows spoils the picture
)
DETECTED_SCORE = 0.25  # score from which Darknet takes a class for detected


def no_object_loss(predictions: Predictions) -> Tensor:
    """How far a network is from seeing nothing, a scalar: lower is emptier.

    Objectness of every prior should be 0; where a class is seen (score above 0.25), its probability should be 0 and
    that of the classes not seen 1. Each prior counts by the side of its box, as a part of the picture's (Darknet).
    Darknet also pulls the raw values of such boxes to 0; what they mean differs between heads, so they are left alone.
    Without objectness the classes of every prior should be 0.
    """
    boxes, classes = at_least_float32(predictions.boxes.detach()), at_least_float32(predictions.classes)
    priors = predictions.priors
    extent = (priors.points + priors.strides.unsqueeze(1) / 2).to(boxes.dtype).amax(0)
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.0).nan_to_num(0.0) / extent
    weight = sides.prod(-1).sqrt().clamp(max=MAX_BOX_SIDE)
    if predictions.objectness is None:
        return (weight.unsqueeze(-1) * _cross_entropy(classes, torch.zeros_like(classes))).sum()
    objectness = at_least_float32(predictions.objectness)
    seen = predictions.scores().detach() > DETECTED_SCORE
    unseen = torch.where(seen, 0.0, 1.0).to(classes.dtype)
    turned = _cross_entropy(classes, unseen).sum(-1) * seen.any(-1)
    return (weight * (_cross_entropy(objectness, torch.zeros_like(objectness)) + turned)).sum()


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, wanted, reduction="none")
