"""Exported DAMO-YOLO networks are evaluated like the networks that they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exported_scores import DETECTIONS, IMAGES, annotated, scores_of_exports
from networks import filled_detector, manifest
from onelook.networks.detector import Detector
from shared import needs_shared

SIZE = (160, 160)
# Of batch norm. Made-up weights let deep networks amplify rounding, until float32 itself is a quarter of a pixel off.
GAIN = {"M": 0.8}


def calibrated(name: str) -> Detector:
    """The reference's weights, with batch norm's statistics of the images that are evaluated.

    The stored statistics are of pixels from 0 to 1. With real ones, up to 255, nearly all scores are exactly 0 or 1:
    tens of thousands are equal, and which of their boxes suppression keeps is chance, in every runtime another.
    """
    constants = manifest("damo_yolo")[name]["constants"]
    known = {key: np.asarray(values, np.float32) for key, values in constants.items()}
    detector = filled_detector(f"damo-yolo-{name.lower()}", known)
    assert detector.architecture is not None
    images, frame = annotated(), detector.architecture.frame
    framed = np.stack([frame(images.image(row), SIZE)[0] for row in range(IMAGES)])
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        for norm in norms:
            norm.weight *= GAIN.get(name, 1.0)
        detector.train().features(torch.from_numpy(framed).permute(0, 3, 1, 2).float())
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return detector.eval()


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Ns", "T", "M"])
def test_exported_files_score_like_pytorch(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for scores in scores_of_exports(calibrated(name), tmp_path, SIZE, least=0.98):
        assert scores.metadata.multi_label
        assert scores.metadata.model == f"damo-yolo-{name.lower()}"
        assert scores.found >= IMAGES * DETECTIONS
        assert scores.reached == pytest.approx(scores.wanted, abs=1e-4)
        assert scores.own_wanted["AP"] > 0.8  # not 1 where an image has more than the 100 findings that COCO counts
        assert scores.own == pytest.approx(scores.own_wanted, abs=1e-4)
