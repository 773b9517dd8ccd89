"""AlignOTA's matches, and the losses and gradients of DAMO-YOLO, equal the reference's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from onelook.assign.align_ota import AlignOta
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.generalized_focal import DistributionFocal, QualityFocal, side_distances
from onelook.losses.pairs import Pairs
from onelook.losses.yolox import BoxIou
from onelook.networks.damo_yolo.zero_head import expected_distances
from onelook.ops.boxes import distances_to_xyxy
from onelook.ops.priors import grid_priors
from onelook.types import Predictions, Targets
from shared import SHARED, needs_shared, reference

CASES = json.loads((reference("damo_yolo") / "losses.json").read_text())["cases"] if SHARED is not None else {}
LOSS = DetectionLoss(
    AlignOta(),
    (QualityFocal(), BoxIou(2.0, kind="giou", squared=False, emphasis="scores"), DistributionFocal()),
)
NAMES = {"classes": "loss_cls", "box": "loss_bbox", "distribution": "loss_dfl"}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(reference("damo_yolo") / "losses.npz") as file:
        return dict(file)


def problem(arrays, case, dtype):
    facts = CASES[case]
    classes = torch.from_numpy(arrays[f"{case}/cls_logits"]).to(dtype).requires_grad_()
    sides = torch.from_numpy(arrays[f"{case}/reg_logits"]).to(dtype).requires_grad_()
    shapes = [(facts["height"] // stride, facts["width"] // stride) for stride in facts["strides"]]
    priors = grid_priors(shapes, facts["strides"], offset=0.0, dtype=dtype)
    regression = sides.flatten(2)
    distances = expected_distances(regression, torch.arange(facts["reg_max"] + 1)) * priors.strides[:, None]
    predictions = Predictions(distances_to_xyxy(priors.points, distances), classes, None, regression, priors)
    counts = [len(arrays[f"{case}/gt_labels_{image}"]) for image in range(facts["images"])]
    boxes = torch.zeros(len(counts), max(counts), 4, dtype=dtype)
    labels = torch.zeros(len(counts), max(counts), dtype=torch.int64)
    valid = torch.zeros(labels.shape, dtype=torch.bool)
    for image, count in enumerate(counts):
        boxes[image, :count] = torch.from_numpy(arrays[f"{case}/gt_boxes_{image}"])
        labels[image, :count] = torch.from_numpy(arrays[f"{case}/gt_labels_{image}"])
        valid[image, :count] = True
    return classes, sides, predictions, Targets(boxes, labels, valid)


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_are_identical(arrays, case, dtype):
    _, _, predictions, targets = problem(arrays, case, dtype)
    matches = LOSS.assigner(predictions, targets)
    pairs = Pairs(predictions, targets, matches)
    near, _ = LOSS.assigner.regions(predictions.priors, targets.boxes, targets.valid)
    distances = side_distances(pairs, CASES[case]["reg_max"] + 1)
    for image in range(len(targets.valid)):
        valid = matches.valid[image]
        order = matches.priors[image][valid].argsort()
        found = [part[image][valid][order].detach().numpy() for part in (matches.priors, matches.objects)]
        if f"{case}/matched_anchor_{image}" not in arrays:
            assert not valid.any()
            continue
        np.testing.assert_array_equal(found[0], arrays[f"{case}/matched_anchor_{image}"])
        np.testing.assert_array_equal(found[1], arrays[f"{case}/matched_gt_{image}"])
        quality = matches.quality[image][valid][order].numpy()
        np.testing.assert_allclose(quality, arrays[f"{case}/matched_iou_{image}"], rtol=1e-5, atol=1e-6)
        candidates = near[image].any(0).nonzero().squeeze(1).numpy()
        np.testing.assert_array_equal(candidates, arrays[f"{case}/candidates_{image}"])
        sides = distances[image][valid][order].numpy()
        np.testing.assert_allclose(sides, arrays[f"{case}/dfl_target_{image}"], rtol=1e-5, atol=1e-6)


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_agree(arrays, case):
    facts = CASES[case]
    classes, sides, predictions, targets = problem(arrays, case, torch.float64)
    losses = LOSS(predictions, targets)
    for name, value in losses.items():
        assert value.item() == pytest.approx(facts["losses"][NAMES[name]], rel=1e-5, abs=1e-12), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(facts["losses"]["total_loss"], rel=1e-5)
    total.backward()
    assert classes.grad.norm().item() == pytest.approx(facts["grad_norm"]["cls_logits"], rel=1e-5)
    assert sides.grad.norm().item() == pytest.approx(facts["grad_norm"]["reg_logits"], rel=1e-5, abs=1e-12)
    for kind, gradient in (("cls", classes.grad), ("reg", sides.grad)):
        sample = gradient.flatten()[arrays[f"{case}/grad_{kind}_index"]]
        np.testing.assert_allclose(sample, arrays[f"{case}/grad_{kind}_value"], rtol=1e-5, atol=1e-9)


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_costs_agree_where_there_is_no_penalty(arrays, case, monkeypatch):
    """The stored costs are float32, in which the penalty leaves nothing of the rest."""
    _, _, predictions, targets = problem(arrays, case, torch.float64)
    seen = {}

    def keep(cost, iou, *rest):
        seen["cost"], seen["iou"] = cost.clone(), iou.clone()
        return dynamic_k(cost, iou, *rest)

    from onelook.assign import align_ota
    from onelook.assign.cost import dynamic_k

    monkeypatch.setattr(align_ota, "dynamic_k", keep)
    LOSS.assigner(predictions, targets)
    for image in range(len(targets.valid)):
        if f"{case}/cost_{image}" not in arrays:
            continue
        rows, count = arrays[f"{case}/candidates_{image}"], int(targets.valid[image].sum())
        expected_cost = arrays[f"{case}/cost_{image}"]
        free = expected_cost < 1e7
        assert free.any()
        for name, expected in (("cost", expected_cost), ("iou", arrays[f"{case}/iou_{image}"])):
            ours = seen[name][image, :count][:, rows].T.numpy()
            np.testing.assert_allclose(ours[free], expected[free], rtol=1e-5, atol=1e-6)
