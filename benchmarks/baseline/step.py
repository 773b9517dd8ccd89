"""A training step as the official repositories write it: the reference for speed of `onelook.training.loop`.

Objects are assigned image by image, with loops, masks and `.item()`; losses are gathered by masks; every loss is read
in every step; the optimizer is PyTorch's default one, and the average of the weights a loop over tensors. YOLOX's
assignment and loss are written out here. The other families assign with the library's own rule, one image at a time:
that is less than what their official loops do, so that a ratio to it is a lower bound.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from baseline.simota import simota
from onelook.assign.simota import SimOta
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.pairs import Pairs
from onelook.networks.detector import Detector
from onelook.training.optimizer import AdamW, parameter_groups
from onelook.training.recipe import Recipe
from onelook.types import Matches, Predictions, Targets


class TextbookStep:
    """A network with its optimizer, gradient scaler and average; a call makes one step and returns its losses.

    half: type of the network's forward pass, None for float32.
    """

    def __init__(self, recipe: Recipe, detector: Detector, device: torch.device, half: torch.dtype | None) -> None:
        assert isinstance(recipe.loss, DetectionLoss)
        self.detector, self.loss, self.device, self.half = detector.to(device).train(), recipe.loss, device, half
        settings: Any = recipe.optimizer
        groups = parameter_groups(self.detector, settings.weight_decay, decay_scalars=settings.decay_scalars)
        rate = settings.lr_per_image * recipe.batch_size
        if isinstance(settings, AdamW):
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=rate, betas=settings.betas)
        else:
            momentum, nesterov = settings.momentum, settings.nesterov
            self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov)
        self.scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
        self.average = copy.deepcopy(self.detector).eval()
        self.decay = 0.9998

    def __call__(self, images: Tensor, targets: Targets) -> dict[str, float]:
        """images (B, 3, H, W) uint8, on the device as the targets are."""
        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            predictions = self.detector(images.float())
        losses = textbook_losses(self.loss, predictions, targets)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            present = self.detector.state_dict()
            for name, average in self.average.state_dict().items():
                if average.is_floating_point():
                    average.mul_(self.decay)
                    average.add_((1 - self.decay) * present[name].detach())
        return {name: value.item() for name, value in losses.items()}


def textbook_losses(loss: DetectionLoss, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
    """The weighted terms of a loss; an auxiliary head is left out."""
    predictions = replace(
        predictions,
        boxes=predictions.boxes.float(),
        classes=predictions.classes.float(),
        objectness=None if predictions.objectness is None else predictions.objectness.float(),
        regression=predictions.regression.float(),
    )
    names = [term.name for term in loss.terms]
    if isinstance(loss.assigner, SimOta) and names == ["box", "objectness", "classes"]:
        return _yolox(loss, predictions, targets)
    return loss.weighted_terms(Pairs(predictions, targets, _by_image(loss, predictions, targets)))


def _yolox(loss: DetectionLoss, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
    """IoU, objectness and class loss, over the positive priors of all images (YOLOX sec. 2.1)."""
    rule: Any = loss.assigner
    assert predictions.objectness is not None
    matched = simota(
        predictions,
        targets,
        radius=rule.radius,
        inside_box=rule.inside_box,
        candidates=rule.candidates,
        iou_weight=rule.iou_weight,
        penalty=rule.penalty,
    )
    masks, boxes, classes = [], [], []
    for image, (rows, objects, iou) in enumerate(matched):
        mask = torch.zeros_like(predictions.objectness[image], dtype=torch.bool)
        valid = targets.valid[image]
        mask[rows] = True
        masks.append(mask)
        boxes.append(targets.boxes[image][valid][objects])
        one_hot = F.one_hot(targets.labels[image][valid][objects], predictions.classes.shape[2])
        classes.append(one_hot * iou.unsqueeze(1))
    foreground = torch.cat(masks)
    count = max(int(foreground.sum().item()), 1)
    first, second = predictions.boxes.flatten(0, 1)[foreground], torch.cat(boxes)
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).prod(1) * (low < high).all(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (first, second)]
    iou = shared / (areas[0] + areas[1] - shared + 1e-16)
    scores, logits = predictions.objectness.flatten(), predictions.classes.flatten(0, 1)[foreground]
    found = (
        (1 - iou**2).sum() / count,
        F.binary_cross_entropy_with_logits(scores, foreground.float(), reduction="none").sum() / count,
        F.binary_cross_entropy_with_logits(logits, torch.cat(classes).float(), reduction="none").sum() / count,
    )
    return {term.name: loss.scale * term.weight * value for term, value in zip(loss.terms, found)}


def _by_image(loss: DetectionLoss, predictions: Predictions, targets: Targets) -> Matches:
    """The matches of a batch, assigned one image after the other."""
    parts = []
    for image in range(len(targets.valid)):
        count = max(int(targets.valid[image].sum().item()), 1)
        one = slice(image, image + 1)
        objects = Targets(targets.boxes[one, :count], targets.labels[one, :count], targets.valid[one, :count])
        parts.append(loss.assigner(_image(predictions, one), objects))
    most = max(part.priors.shape[1] for part in parts)

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        if name in ("ignored", "objectness"):
            return torch.cat(values)
        return torch.cat([F.pad(value, (0, most - value.shape[1])) for value in values])

    return Matches(*(column(name) for name in ("priors", "objects", "quality", "valid", "ignored", "objectness")))


def _image(predictions: Predictions, one: slice) -> Predictions:
    return replace(
        predictions,
        boxes=predictions.boxes[one],
        classes=predictions.classes[one],
        objectness=None if predictions.objectness is None else predictions.objectness[one],
        regression=predictions.regression[one],
        auxiliary=None,
        unique=None if predictions.unique is None else predictions.unique[one],
        certainty=None if predictions.certainty is None else predictions.certainty[one],
    )
