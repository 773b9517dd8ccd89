"""Verifies exported files: compares their outputs with PyTorch's on synthetic images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from onelook.errors import ExportError
from onelook.exported import ExportedMetadata
from onelook.exporting.graph import ExportGraph
from onelook.ops.nms import Nms

Runner = Callable[[Sequence[str], Mapping[str, np.ndarray]], list[np.ndarray]]
"""An opened model: names of outputs and the inputs by name -> the outputs."""

NUM_IMAGES = 4


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed differences between an exported file and PyTorch in float32.

    pixels: of a box corner, plus `side` times the longer side of what the image shows of the box, because sides are
    exponentials; for rows with less than half of the best score (background), `background_pixels` replaces `pixels`.
    score: as a fraction of the greatest score, so that it also tests untrained models, whose scores are tiny.
    share: of the rows with at least half of the best score that have to be within the bounds; below 1, others are not
    compared.
    """

    pixels: float
    background_pixels: float
    side: float
    score: float
    share: float = 1.0


INT8 = Tolerance(8.0, math.inf, 0.1, 0.35, share=0.8)
"""Bounds of 8-bit files, on real images: wide, as AP is their judge. They find outputs that are broken or swapped."""

TOLERANCES = {"float32": Tolerance(0.05, 0.05, 1e-3, 2e-3), "float16": Tolerance(1.0, 16.0, 0.02, 0.05), "int8": INT8}
NOT_COMPARED = Tolerance(math.inf, math.inf, 0.0, math.inf)
"""For differences that are reported only."""

IN_FLOAT32 = (
    "Export in float32 if this was --half: some models exceed the range of float16. Otherwise please report it."
)
MORE_IN_FLOAT = (
    "Give a smaller --max-drop, with which more convolutions stay in float, or more --calibration-images; the model's"
    " own --size loses less than a small one."
)

LEAST_SCORE = 0.05  # a model whose best score is lower detects nothing in the images


@dataclass(frozen=True)
class Agreement:
    """The greatest differences found: of a box corner in pixels of the input, and of a score.

    Boxes are compared as the image shows them: what lies beyond it is cut off. confident_box: the same of boxes whose
    row scores at least half of the best score.  rows, confident_rows: how many were compared.  best_score: of PyTorch.
    bounds: of an 8-bit file.  within: the share of the confident rows within the bounds.
    """

    box: float
    score: float
    confident_box: float
    images: int
    rows: int
    confident_rows: int
    best_score: float
    bounds: Tolerance | None = None
    within: float = 1.0

    @property
    def detects(self) -> bool:
        """Whether anything was found in the images: otherwise the numbers agree, and no detection was compared."""
        return self.best_score >= LEAST_SCORE

    def __str__(self) -> str:
        least = f"{self.best_score / 2:.2g}"
        confident, every, scored = (difference_text(one) for one in (self.confident_box, self.box, self.score))
        found = (
            f"{self.rows:,} rows of {self.images} images against PyTorch in float32: boxes in the image differ by at"
            f" most {confident} px in the {self.confident_rows:,} rows that score {least} or more, by {every} px in"
            f" all; scores by at most {scored}"
        )
        if self.bounds is not None:
            pixels, side, score = self.bounds.pixels, self.bounds.side, self.bounds.score * self.best_score
            found += (
                f". {self.within:.0%} of the rows that score {least} or more are within {pixels:g} px plus {side:.0%}"
                f" of the side, and {score:.2g} of the score ({self.bounds.share:.0%} have to be)"
            )
        if self.detects:
            return found
        return f"{found}. No row scores more than {self.best_score:.2g}: with these weights the model detects nothing"


def difference_text(value: float) -> str:
    """A difference with two digits that count, and all digits before the point: 217, not 2.2e+02."""
    if math.isinf(value) or abs(value) < 99.5:
        return "0" if value == 0 else f"{value:.2g}"
    return f"{value:,.0f}"


@dataclass(frozen=True)
class RawOutputs:
    """The outputs of a file: batches of images with their boxes (B, N, 4) and scores (B, N, C)."""

    batches: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]


def verification_images(size: tuple[int, int], count: int = NUM_IMAGES) -> np.ndarray:
    """Synthetic images (count, 3, H, W), float32 RGB 0..255, always the same: shapes over gradients and noise.

    Noise alone would vanish in the first layers, and all cells of a level would get the same features.
    """
    height, width = size
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
        image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
        for _ in range(24):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            reach = max(2, int(min(size) * rng.uniform(0.02, 0.3)))
            colour = tuple(map(float, rng.uniform(0, 255, 3)))
            if rng.random() < 0.5:
                axes = (reach, max(1, int(reach * rng.uniform(0.3, 1))))
                cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
            else:
                far = (centre[0] + reach, centre[1] + int(reach * rng.uniform(0.3, 2)))
                cv2.rectangle(image, centre, far, colour, -1)
        image = image + rng.normal(0, 8, image.shape)
        images.append(image.clip(0, 255).round().transpose(2, 0, 1))
    return np.stack(images).astype(np.float32)


def verify_rows(
    run: Runner,
    outputs: Sequence[str],
    graph: ExportGraph,
    metadata: ExportedMetadata,
    images: np.ndarray | None = None,
) -> tuple[Agreement, RawOutputs]:
    """Compares the boxes and scores of a file (`outputs`) with `graph`, in float32. ExportError where they differ.

    images: (I, 3, H, W) float32; None are the synthetic ones.
    """
    images = verification_images(metadata.size) if images is None else images
    found, expected = [], []
    for batch in _batches(images, metadata.batch):
        boxes, scores = run(outputs, {"images": batch})
        with torch.no_grad():
            reference = [tensor.numpy() for tensor in graph(torch.from_numpy(batch))]
        if boxes.shape != reference[0].shape or scores.shape != reference[1].shape:
            raise mismatch_error(f"its outputs have shapes {boxes.shape} and {scores.shape}")
        found.append((batch, boxes, scores))
        expected.append(reference)
    # All images at once, because the tolerance depends on the best score of all.
    boxes, scores = (np.concatenate([batch[part] for batch in found]) for part in (1, 2))
    expected_boxes, expected_scores = (np.concatenate(part) for part in zip(*expected))
    tolerance = TOLERANCES[metadata.precision]
    expected_rows = expected_boxes, expected_scores
    try:
        agreement = compare_rows((boxes, scores), expected_rows, tolerance, metadata.size)
    except ExportError as error:
        own = float32_differences(graph, [batch for batch, _, _ in found], expected_rows, metadata.size)
        if own is None or _is_within(own, TOLERANCES["float32"]):
            raise
        raise ExportError(
            f"{error.message} The reason is in the weights: PyTorch's own boxes in float32 differ from those in float64"
            f" by up to {own.box:.3g} pixels, and its scores by up to {own.score:.3g}. They amplify rounding, so that"
            " nothing in float32 can be compared with PyTorch.",
            "Trained weights do not do this: check these with `onelook val`.",
        ) from error
    return agreement, RawOutputs(tuple(found))


def float32_differences(
    graph: ExportGraph, batches: Sequence[np.ndarray], found: tuple[np.ndarray, np.ndarray], size: tuple[int, int]
) -> Agreement | None:
    """How far PyTorch's boxes and scores in float32 (`found`) are from those in float64: what float32 itself can hold.

    None where the network has no finite result in float64.
    """
    exact = copy.deepcopy(graph).double()
    exact.dtype = torch.float64
    with torch.no_grad():
        rows = [[tensor.double().numpy() for tensor in exact(torch.from_numpy(batch))] for batch in batches]
    boxes, scores = (np.concatenate(part) for part in zip(*rows))
    try:
        return compare_rows(found, (boxes, scores), NOT_COMPARED, size)
    except ExportError:
        return None


def _is_within(differences: Agreement, tolerance: Tolerance) -> bool:
    """Whether float32 holds the boxes and scores well enough that the tolerance can judge a file."""
    return differences.box <= tolerance.pixels and differences.score <= tolerance.score * differences.best_score


def compare_rows(
    found: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    tolerance: Tolerance,
    size: tuple[int, int],
) -> Agreement:
    """Compares boxes and scores of all rows; ExportError where one exceeds the tolerance, or nothing can be compared.

    size: (height, width) of the input, to which boxes are cut. A box that is not finite must be so in both.
    """
    (boxes, scores), (expected_boxes, expected_scores) = found, expected
    finite = np.isfinite(expected_boxes)
    if not np.isfinite(expected_scores).all() or not finite.any() or not (expected_scores > 0).any():
        raise ExportError(
            "The model gives no finite boxes and scores above 0, so that nothing of a file can be verified.",
            "Its weights are damaged or not trained: check them with `onelook val`.",
        )
    beyond = np.isfinite(boxes) != finite
    limits = np.array([size[1], size[0], size[1], size[0]], np.float64)
    expected_boxes = np.where(finite, expected_boxes, 0).astype(np.float64).clip(0, limits)
    boxes = np.where(finite & ~beyond, boxes, 0).astype(np.float64).clip(0, limits)
    side = (expected_boxes[..., 2:] - expected_boxes[..., :2]).max(-1, keepdims=True)
    box = np.where(beyond, np.inf, np.abs(boxes - expected_boxes))
    score = np.abs(scores - expected_scores)
    best = float(expected_scores.max())
    confident = expected_scores.max(-1) >= best / 2
    pixels = np.where(confident, tolerance.pixels, tolerance.background_pixels)[..., None]
    result = Agreement(
        *(float(box.max()), float(score.max()), float(box[confident].max()), len(boxes)),
        *(confident.size, int(confident.sum()), best),
    )
    agrees = (box <= pixels + tolerance.side * side).all(-1) & (score.max(-1) <= tolerance.score * best)
    if tolerance.share < 1:
        within = float(np.mean(agrees[confident]))
        result = replace(result, bounds=tolerance, within=within)
        agreeing = within >= tolerance.share and not beyond.any()
    else:
        agreeing = bool(agrees.all())
    if not agreeing or not math.isfinite(result.score):
        what = f"boxes differ by up to {result.box:.3g} pixels and scores by up to {result.score:.3g}"
        if tolerance.share < 1 and result.within < tolerance.share:
            what += f"; {result.within:.1%} of the rows that score {best / 2:.2g} or more are near enough, not"
            raise mismatch_error(f"{what} {tolerance.share:.0%}", MORE_IN_FLOAT)
        raise mismatch_error(what)
    return result


def verify_detections(run: Runner, metadata: ExportedMetadata, rows: RawOutputs) -> None:
    """Compares a file's detections with `Nms` over its own `rows`. ExportError where they differ.

    Besides the built-in thresholds it tests thresholds that keep about a hundred rows an image, so that models without
    confident detections are tested too.
    """
    settings = dict(metadata.nms or {})
    for batch, boxes, scores in rows.batches:
        crowded = _confidence_for(scores, 100 * len(batch))
        overlaps = [{}] if metadata.one_to_one else [{"iou": 0.45}, {"iou": 0.7}]
        for thresholds in ({}, *({"confidence": crowded, **overlap} for overlap in overlaps)):
            feed = {key: np.array(value, np.float32) for key, value in thresholds.items()}
            outputs = run(["count", "boxes", "scores", "labels"], {"images": batch, **feed})
            chosen = Nms(**{**settings, **{key: float(value) for key, value in feed.items()}})
            _compare_detections(outputs, chosen, boxes, scores)


def _confidence_for(scores: np.ndarray, count: int) -> float:
    """A confidence threshold that keeps the `count` best rows of the scores (B, N, C)."""
    ranked = np.sort(scores.max(-1).ravel())[::-1][: count + 1]
    return float(ranked[-2:].mean().clip(0, 1))


def _compare_detections(outputs: list[np.ndarray], nms: Nms, boxes: np.ndarray, scores: np.ndarray) -> None:
    count, found_boxes, found_scores, found_labels = outputs
    for image in range(len(boxes)):
        size = int(count[image])
        found = found_boxes[image, :size], found_scores[image, :size], found_labels[image, :size]
        if any(part[image, size:].any() for part in (found_boxes, found_scores, found_labels)):
            raise mismatch_error("its padding is not zero")
        # The file computes IoU in float32: a pair at the threshold itself may fall on either side.
        nearby = (nms.iou, max(0.0, nms.iou - 1e-5), min(1.0, nms.iou + 1e-5))
        if not any(_equal(found, _with_iou(nms, iou)(boxes[image], scores[image])) for iou in nearby):
            raise mismatch_error(f"NMS inside it keeps {size} detections that are not those of the same NMS outside")


def _with_iou(nms: Nms, iou: float) -> Nms:
    return Nms(nms.confidence, iou, nms.agnostic, nms.multi_label, nms.limit)


def _equal(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> bool:
    return (
        len(found[2]) == len(expected[2])
        and bool((found[2] == expected[2]).all())
        and np.allclose(found[0], expected[0], rtol=1e-5, atol=1e-3)
        and np.allclose(found[1], expected[1], rtol=1e-5, atol=1e-7)
    )


def _batches(images: np.ndarray, batch: int | None) -> list[np.ndarray]:
    """Batches of the fixed size, the last filled with repeated images; for a dynamic size, one of 1 and the rest."""
    if batch is None:
        return [images[:1], images[1:]]
    starts = range(0, len(images), batch)
    return [images[np.arange(start, start + batch) % len(images)] for start in starts]


def mismatch_error(what: str, remedy: str = IN_FLOAT32) -> ExportError:
    """The error for a file whose outputs differ from PyTorch's."""
    return ExportError(f"The exported model does not agree with PyTorch: {what}. The file was not written.", remedy)
