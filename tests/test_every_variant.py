"""What holds for every variant of every family, on narrow copies of them: the same topology with few channels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import narrow
from onelook.config import from_plain, to_plain
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.variants import ARCHITECTURE_TYPES, VARIANTS, variant
from onelook.types import Predictions

each_variant = pytest.mark.parametrize("name", VARIANTS)


@cache
def detector_of(name: str) -> Detector:
    torch.manual_seed(0)
    detector = narrow(variant(name).architecture).build()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return detector


def outputs(predictions: Predictions) -> list[Tensor]:
    found = [predictions.regression, predictions.classes]
    found += [] if predictions.objectness is None else [predictions.objectness]
    return found + ([] if predictions.auxiliary is None else outputs(predictions.auxiliary))


@each_variant
def test_a_step_changes_every_parameter(name: str) -> None:
    detector = narrow(variant(name).architecture).build()
    predictions = detector(torch.rand(2, 3, 64, 64) * 255)
    count = len(predictions.priors.points)
    assert predictions.boxes.shape == (2, count, 4)
    assert predictions.scores().shape == (2, count, 3)
    assert detector.architecture is not None
    assert (predictions.objectness is not None) == ("objectness" in detector.architecture.provides)
    assert (predictions.priors.sizes is not None) == ("anchors" in detector.architecture.provides)
    assert (predictions.auxiliary is not None) == ("auxiliary" in detector.architecture.provides)
    torch.stack([output.sum() for output in outputs(predictions)]).sum().backward()
    assert [key for key, parameter in detector.named_parameters() if parameter.grad is None] == []


@each_variant
def test_deploy_form_predicts_like_training_form(name: str) -> None:
    detector = detector_of(name).double().eval()
    images = torch.rand(1, 3, 64, 128, dtype=torch.float64) * 255
    deployed = deploy(detector)
    with torch.no_grad():
        expected, found = detector(images), deployed(images)
    assert expected.auxiliary is None and found.auxiliary is None
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.scores(), expected.scores(), rtol=1e-6, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())


@each_variant
def test_official_names_are_one_to_one(name: str) -> None:
    detector = detector_of(name)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    assert set(names) == set(detector.state_dict())
    assert len(set(names.values())) == len(names)


@each_variant
def test_another_class_count_changes_only_the_class_rows(name: str) -> None:
    architecture: Any = narrow(variant(name).architecture)
    with torch.device("meta"):
        other = replace(architecture, num_classes=11).build().state_dict()
    rows = {f"head.{key}": one for key, one in detector_of(name).head.class_rows().items()}
    for key, tensor in detector_of(name).state_dict().items():
        shape = list(tensor.shape)
        if key in rows:
            shape[rows[key].axis] += 8 * rows[key].anchors
        assert list(other[key].shape) == shape, key


@each_variant
def test_architecture_is_equal_after_saving(name: str) -> None:
    architecture = variant(name).architecture
    assert from_plain(to_plain(architecture), ARCHITECTURE_TYPES) == architecture
