"""Assignments, losses and gradients equal the reference's, whatever cases its files hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from golden_losses import level_priors, targets_of
from onelook.assign.simota import LATER, PAPER
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from random_scenes import decode
from shared import SHARED, needs_shared, reference

CASES = json.loads((reference("yolox") / "losses.json").read_text()) if SHARED is not None else {}
RULES = {"later": (LATER, ""), "paper": (PAPER, "legacy/")}
TERMS = {"box": "iou_times_5", "objectness": "obj", "classes": "cls", "l1": "l1"}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(reference("yolox") / "losses.npz") as file:
        return dict(file)


def problem(arrays, case, dtype):
    facts = CASES[case]
    raw = torch.from_numpy(arrays[f"{case}/raw"]).to(dtype).requires_grad_()
    predictions = decode(raw, level_priors(facts["height"], facts["width"], tuple(facts["strides"])))
    return raw, predictions, targets_of(arrays[f"{case}/labels"], dtype)


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_matches_are_identical(arrays, case, rule, dtype):
    assigner, folder = RULES[rule]
    _, predictions, targets = problem(arrays, case, dtype)
    matches = assigner(predictions, targets)
    near, _ = assigner.regions(predictions.priors, targets.boxes, targets.valid)
    for image in range(len(targets.valid)):
        prefix = f"{case}/{folder}image{image}"
        empty = np.zeros(0, np.int64)
        valid = matches.valid[image]
        order = matches.priors[image][valid].argsort()
        found = [part[image][valid][order].numpy() for part in (matches.priors, matches.objects, matches.quality)]
        np.testing.assert_array_equal(found[0], arrays.get(f"{prefix}/anchor", empty))
        np.testing.assert_array_equal(found[1], arrays.get(f"{prefix}/gt", empty))
        np.testing.assert_allclose(
            found[2], arrays.get(f"{prefix}/iou", empty.astype(np.float32)), rtol=1e-5, atol=1e-7
        )
        candidates = near[image].any(0).nonzero().squeeze(1).numpy()
        np.testing.assert_array_equal(candidates, arrays.get(f"{prefix}/candidate_anchor", empty))
        if f"{prefix}/class" in arrays:
            np.testing.assert_array_equal(targets.labels[image][found[1]], arrays[f"{prefix}/class"])


@needs_shared
@pytest.mark.parametrize("l1", ["without_l1", "with_l1"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_agree(arrays, case, rule, l1):
    facts = CASES[case] if rule == "later" else CASES[case].get("legacy_rule", {})
    if l1 not in facts:
        pytest.skip("the reference holds no numbers for it")
    loss = DetectionLoss(RULES[rule][0], (BoxIou(), Objectness(), Classes()))
    if l1 == "with_l1":
        loss = loss.with_terms(RawL1())
    raw, predictions, targets = problem(arrays, case, torch.float64)
    losses = loss(predictions, targets)
    for name, value in losses.items():
        assert value.item() == pytest.approx(facts[l1][TERMS[name]], rel=1e-5, abs=1e-12), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(facts[l1]["total"], rel=1e-5)
    total.backward()
    norms = {"grad_norm": raw.grad, "grad_norm_box": raw.grad[..., :4], "grad_norm_obj": raw.grad[..., 4]}
    for name, gradient in (norms | {"grad_norm_cls": raw.grad[..., 5:]}).items():
        if name in facts[l1]:
            assert gradient.norm().item() == pytest.approx(facts[l1][name], rel=1e-5, abs=1e-12), name
    prefix = f"{case}/{'legacy/' if rule == 'paper' else ''}{l1}"
    if f"{prefix}/grad_index" in arrays:
        sample = raw.grad.flatten()[arrays[f"{prefix}/grad_index"]]
        np.testing.assert_allclose(sample, arrays[f"{prefix}/grad_sample"], rtol=1e-5, atol=1e-7)
