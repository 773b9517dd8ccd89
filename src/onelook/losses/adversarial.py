"""The loss of self-adversarial training (YOLOv4 sec. 3.3): lowest where the network detects no object in the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onelook.ops.precision import at_least_float32
from onelook.types import Predictions

MAX_BOX_SIDE = 100.0  # in image sides; Darknet has no bound, but an exponential that overflows would spoil the image
DETECTED_SCORE = 0.25  # Darknet counts a class as detected above this score


def no_object_loss(predictions: Predictions) -> Tensor:
    """Returns a scalar, the loss of detecting objects: lower means fewer detections.

    Targets: objectness 0 for every prior; where a class is detected (score above 0.25), probability 0 for it and 1 for
    the classes not detected. Each prior is weighted by the side of its box relative to the image (Darknet). Darknet
    also pulls the raw values of such boxes to 0; their meaning differs between heads, so they are left unchanged.
    Without objectness, the target of all classes of every prior is 0.
    """
    boxes, classes = at_least_float32(predictions.boxes.detach()), at_least_float32(predictions.classes)
    priors = predictions.priors
    extent = (priors.points + priors.strides.unsqueeze(1) / 2).to(boxes.dtype).amax(0)
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.0).nan_to_num(0.0) / extent
    weight = sides.prod(-1).sqrt().clamp(max=MAX_BOX_SIDE)
    if predictions.objectness is None:
        return (weight.unsqueeze(-1) * _cross_entropy(classes, torch.zeros_like(classes))).sum()
    objectness = at_least_float32(predictions.objectness)
    detected = predictions.scores().detach() > DETECTED_SCORE
    opposite = torch.where(detected, 0.0, 1.0).to(classes.dtype)
    class_loss = _cross_entropy(classes, opposite).sum(-1) * detected.any(-1)
    return (weight * (_cross_entropy(objectness, torch.zeros_like(objectness)) + class_loss)).sum()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, target, reduction="none")
