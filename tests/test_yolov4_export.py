"""Exported YOLOv4 networks are evaluated like the networks that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exported_scores import DETECTIONS, IMAGES, annotated, scores_of_exports
from networks import filled_detector
from onelook.evaluation.frames import resized_batches
from onelook.evaluation.rectangular import square_groups
from onelook.exporting.verify import verification_images
from onelook.networks.detector import Detector
from onelook.networks.yolov4.architecture import STRETCH
from shared import needs_shared

# Standard deviations of raw values (boxes', scores'), and a score that few have. Random weights amplify rounding, deep
# ones most: yolov4's raw values are right to 0.2 % of their spread, so a smaller one keeps scores as exact as it can.
CASES = [("yolov4-tiny", (256, 256), (0.5, 2.0), 0.8), ("yolov4", (128, 160), (0.1, 0.4), 0.4)]


def calibrated(name: str, size: tuple[int, int], spreads: tuple[float, float]) -> Detector:
    """The filled network with batch norm's statistics, and raw values as large as a trained one's, on these images.

    As it is filled, yolov4's raw values reach 137, and a side of a box exp(137) anchors, which no float32 can hold. So
    it is with images that the statistics do not know; those that an export is verified on are among them.
    """
    detector = filled_detector(name)
    (frames,) = resized_batches(annotated(), square_groups(range(IMAGES), size, IMAGES), STRETCH)
    images = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2).float()
    images = torch.cat((images, torch.from_numpy(verification_images(size))))
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of these images
    head: Any = detector.head
    seen: list[tuple[nn.Conv2d, Tensor]] = []

    def see(layer: nn.Conv2d, _: Any, output: Tensor) -> None:
        seen.append((layer, output))

    with torch.no_grad():
        detector.train()(images)
        handles = [level.predict.register_forward_hook(see) for level in head.levels]
        detector.eval()(images)
        for handle in handles:
            handle.remove()
        for layer, output in seen:
            deviation, mean = torch.std_mean(output, (0, 2, 3))
            spread = torch.full((5 + head.num_classes,), spreads[1])
            spread[:4] = spreads[0]
            gain = spread.repeat(len(deviation) // len(spread)) / deviation
            layer.weight.mul_(gain[:, None, None, None])
            assert layer.bias is not None
            layer.bias.sub_(mean).mul_(gain)
    return detector


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "spreads", "least"), CASES, ids=[case[0] for case in CASES])
def test_exported_files_score_like_pytorch(
    name: str, size: tuple[int, int], spreads: tuple[float, float], least: float, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    kinds = []
    for scores in scores_of_exports(calibrated(name, size, spreads), tmp_path, size, least=least):
        kinds.append(scores.metadata.outputs)
        assert scores.metadata.model == name
        assert scores.found >= IMAGES * DETECTIONS
        assert scores.reached == pytest.approx(scores.wanted, abs=1e-4)
        assert scores.own_wanted["AP"] == 1
        assert scores.own == pytest.approx(scores.own_wanted, abs=1e-4)
    assert kinds == ["raw", "detections"]
