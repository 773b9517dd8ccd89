"""Random scenes: objects, and what a half-trained network says of them."""

from __future__ import annotations

import torch

from onelook.ops.priors import grid_priors
from onelook.types import Predictions, Priors, Targets

STRIDES = (8, 16, 32)


def decode(raw: torch.Tensor, priors: Priors) -> Predictions:
    """Raw rows (t_x, t_y, t_w, t_h, objectness, classes) as a YOLOX head would return them."""
    points, strides = priors.points.to(raw.dtype), priors.strides.to(raw.dtype).unsqueeze(-1)
    centre = (raw[..., :2] - 0.5) * strides + points
    half = raw[..., 2:4].exp() * strides / 2
    boxes = torch.cat([centre - half, centre + half], -1)
    return Predictions(boxes, raw[..., 5:], raw[..., 4], raw[..., :4], priors)


def random_scene(
    seed: int,
    batch: int,
    objects: int,
    *,
    classes: int = 80,
    size: tuple[int, int] = (640, 640),
    dtype: torch.dtype = torch.float32,
    missing: float = 0.0,
) -> tuple[Predictions, Targets]:
    """Objects of 10 to 300 pixels and predictions, of which those inside an object mostly fit one.

    missing: the chance that a row of the targets is padding.
    """
    rng = torch.Generator().manual_seed(seed)
    height, width = size
    frame = torch.tensor([width, height, width, height], dtype=dtype)
    sides = (torch.rand(batch, objects, 2, generator=rng, dtype=dtype) * 3.4 + 2.3).exp().clamp(max=0.9 * min(size))
    centres = torch.rand(batch, objects, 2, generator=rng, dtype=dtype) * frame[:2]
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], -1).clamp(min=0).minimum(frame)
    valid = torch.rand(batch, objects, generator=rng) >= missing
    boxes = torch.where(valid.unsqueeze(-1), boxes, 0.0)
    labels = torch.where(valid, torch.randint(0, classes, (batch, objects), generator=rng), 0)

    priors = grid_priors([(height // stride, width // stride) for stride in STRIDES], STRIDES)
    raw = torch.randn(batch, len(priors.points), 5 + classes, generator=rng, dtype=dtype) * 0.5
    raw[..., 4:] -= 4
    predictions = decode(raw, priors)
    if objects:
        one = torch.randint(0, objects, (batch, len(priors.points)), generator=rng)
        object_box = boxes.gather(1, one.unsqueeze(-1).expand(-1, -1, 4))
        points = priors.points.to(dtype)
        inside = ((points > object_box[..., :2]) & (points < object_box[..., 2:])).all(-1, keepdim=True)
        noise = 0.1 * torch.randn(object_box.shape, generator=rng, dtype=dtype)
        near = object_box + noise * (object_box[..., 2:] - object_box[..., :2]).repeat(1, 1, 2)
        near = torch.cat([torch.minimum(near[..., :2], near[..., 2:] - 1), near[..., 2:]], -1)
        predictions = Predictions(
            torch.where(inside, near, predictions.boxes),
            predictions.classes,
            predictions.objectness,
            predictions.regression,
            priors,
        )
    return predictions, Targets(boxes, labels, valid)
