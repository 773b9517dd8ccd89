"""YOLOX is the published network: names, shapes, counts, arithmetic, initialisation and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from networks import Golden, filled_detector, goldens, manifest
from onelook.errors import UserError
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import variant
from onelook.networks.yolox.architecture import NORMALISED_RGB, Yolox
from onelook.ops.boxes import xyxy_to_cxcywh
from onelook.types import Predictions
from shared import needs_shared

MODELS = list(manifest("yolox"))
GOLDENS = goldens("yolox")

# The reference's own rounding, float32 against float64: raw box values, scores. Random weights amplify it.
ROUNDING = {
    "yolox-nano": (5.2e-4, 1.0e-4),
    "yolox-tiny": (3.6e-5, 1.0e-5),
    "yolox-s": (4.9e-4, 1.2e-4),
    "yolox-m": (3.2e-3, 1.1e-3),
    "yolox-l": (1.5e-2, 3.7e-3),
    "yolox-x": (1.1e-5, 4.5e-6),
    "yolox-darknet53": (2.1e-4, 6.9e-5),
}


@cache
def _structure(name: str) -> Detector:
    with torch.device("meta"):
        return build(name)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_a_bijection_with_the_official_ones(name: str) -> None:
    detector = _structure(name)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    assert set(names) == set(detector.state_dict())
    assert len(set(names.values())) == len(names)
    ours = {names[key]: list(tensor.shape) for key, tensor in detector.state_dict().items()}
    assert ours == manifest("yolox")[name]["tensors"]


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_arithmetic_are_the_published_ones(name: str) -> None:
    detector, entry = _structure(name), manifest("yolox")[name]
    assert count_parameters(detector) == entry["parameters"]
    assert count_parameters(deploy(detector)) == entry["deploy_parameters"]
    assert variant(name).architecture.size == tuple(entry["gflops_size"])
    assert count_gflops(detector, tuple(entry["gflops_size"])) == pytest.approx(entry["gflops"], rel=1e-9)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_the_published_one(name: str) -> None:
    norms = [module for module in _structure(name).modules() if isinstance(module, nn.BatchNorm2d)]
    entry = manifest("yolox")[name]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(entry["bn_eps"], entry["bn_momentum"])}


@dataclass(frozen=True)
class Run:
    """One golden model run in all four ways: (form, dtype) -> its pyramid and predictions."""

    name: str
    golden: Golden
    outputs: dict[tuple[str, torch.dtype], tuple[tuple[torch.Tensor, ...], Predictions]]


@pytest.fixture(scope="module", params=GOLDENS)
def run(request: pytest.FixtureRequest) -> Run:
    golden = Golden.load("yolox", request.param)
    detector = filled_detector(request.param, golden.arrays)
    # The golden's input is BGR, that of the official network; ours takes RGB.
    images = torch.from_numpy(golden.image[:, ::-1].copy())
    outputs = {}
    for dtype in (torch.float32, torch.float64):
        detector.to(dtype)  # so that the second deploy form is folded in float64
        for form, network in (("training", detector), ("deploy", deploy(detector))):
            with torch.no_grad():
                features = network.features(images.to(dtype))
                outputs[form, dtype] = features, network.head(features)
    return Run(request.param, golden, outputs)


def _official(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """Our predictions of one image as official rows: centre, size, objectness, class probabilities."""
    assert predictions.objectness is not None
    columns = (
        xyxy_to_cxcywh(predictions.boxes),
        predictions.objectness.sigmoid().unsqueeze(-1),
        predictions.classes.sigmoid(),
    )
    return torch.cat(columns, -1)[0, rows].numpy()


@needs_shared
@pytest.mark.parametrize("form", ["training", "deploy"])
def test_float64_outputs_are_the_official_ones(run: Run, form: str) -> None:
    features, predictions = run.outputs[form, torch.float64]
    arrays = run.golden.arrays
    rows = arrays["rows"]
    np.testing.assert_allclose(_official(predictions, rows), arrays["predictions_double"], 1e-6)
    np.testing.assert_allclose(predictions.regression[0, rows], arrays["raw_boxes_double"], 1e-6)
    for level, feature in enumerate(features):
        sample = feature.reshape(-1)[arrays[f"feature_{level}_index"]]
        np.testing.assert_allclose(sample, arrays[f"feature_{level}_sample_double"], 1e-6, 1e-7)


@needs_shared
@pytest.mark.parametrize("form", ["training", "deploy"])
def test_float32_outputs_are_the_official_ones_up_to_their_own_rounding(run: Run, form: str) -> None:
    _, predictions = run.outputs[form, torch.float32]
    arrays = run.golden.arrays
    rows = arrays["rows"]
    raw_noise, score_noise = ROUNDING[run.name]
    official = _official(predictions, rows)
    # One recorded run is a sample of the noise: other kernels and thread counts reach twice as far.
    np.testing.assert_allclose(predictions.regression[0, rows], arrays["raw_boxes_double"], 0, 2.5 * raw_noise)
    np.testing.assert_allclose(official[:, 4:], arrays["predictions_double"][:, 4:], 0, 2.5 * score_noise)
    # Sides are exponentials of thousands of pixels: their noise is relative, and it moves centres with it.
    reach = arrays["predictions_double"][:, 2:4].max(1, keepdims=True) + 32
    error = np.abs(official[:, :4] - arrays["predictions_double"][:, :4])
    assert (error / reach).max() < 2.5 * raw_noise


@needs_shared
def test_deploy_form_equals_training_form(run: Run) -> None:
    training, deployed = (run.outputs[form, torch.float64][1] for form in ("training", "deploy"))
    torch.testing.assert_close(deployed.boxes, training.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(deployed.scores(), training.scores(), rtol=1e-6, atol=1e-12)


def test_priors_are_cell_centres_level_by_level_and_boxes_are_decoded_from_them() -> None:
    predictions = _tiny(3)(torch.rand(2, 3, 64, 96) * 255)
    priors = predictions.priors
    assert priors.shapes == ((8, 12), (4, 6), (2, 3))
    assert predictions.boxes.shape == (2, 126, 4)
    assert predictions.classes.shape == (2, 126, 3)
    assert predictions.objectness is not None and predictions.objectness.shape == (2, 126)
    assert priors.points[:2].tolist() == [[4, 4], [12, 4]]
    assert priors.points[-1].tolist() == [80, 48]
    assert priors.levels.bincount().tolist() == [96, 24, 6]
    assert priors.strides.unique().tolist() == [8, 16, 32]
    centres = (predictions.boxes[..., :2] + predictions.boxes[..., 2:]) / 2
    offsets = predictions.regression[..., :2] * priors.strides[:, None]
    torch.testing.assert_close(centres, priors.points - priors.strides[:, None] / 2 + offsets, rtol=0, atol=1e-4)


def _tiny(num_classes: int, **changes: Any) -> Detector:
    torch.manual_seed(0)
    return replace(Yolox(depth=0.33, width=0.125, size=(64, 64), num_classes=num_classes), **changes).build()


def test_initialisation_is_as_published() -> None:
    detector = build("yolox-nano", classes=7)
    state = detector.state_dict()
    prior = -math.log(99)
    for level in range(3):
        assert torch.all((state[f"head.levels.{level}.classes.bias"] - prior).abs() < 1e-6)
        assert torch.all((state[f"head.levels.{level}.objectness.bias"] - prior).abs() < 1e-6)
        boxes = state[f"head.levels.{level}.boxes.bias"]
        assert 0 < boxes.abs().max() <= 1 / 8  # PyTorch's default for 64 inputs
    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.abs().max() <= fan_in**-0.5, name
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1), name
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1) and torch.all(module.bias == 0)
    scores = detector.eval()(torch.rand(1, 3, 64, 64) * 255).scores()
    assert scores.shape == (1, 84, 7)


@pytest.mark.parametrize("num_classes", [1, 2, 365])
def test_any_class_count_changes_only_the_class_rows(num_classes: int) -> None:
    detector, published = _tiny(num_classes), _tiny(80)
    rows = {f"head.{name}" for name in detector.head.class_rows()}
    assert len(rows) == 6
    for name, tensor in published.state_dict().items():
        shape = detector.state_dict()[name].shape
        assert shape == ((num_classes, *tensor.shape[1:]) if name in rows else tensor.shape)


def test_every_parameter_gets_a_gradient() -> None:
    detector = _tiny(3)
    predictions = detector(torch.rand(2, 3, 64, 64) * 255)
    assert predictions.objectness is not None
    (predictions.regression.sum() + predictions.classes.sum() + predictions.objectness.sum()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_deploying_does_not_change_the_original() -> None:
    detector = _tiny(3).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    deployed = deploy(detector)
    assert detector.training and not detector.deployed and deployed.deployed and not deployed.training
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert before.keys() == detector.state_dict().keys()
    with torch.no_grad():
        for parameter in deployed.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_deploying_twice_is_deploying_once() -> None:
    deployed = deploy(_tiny(3))
    again = deploy(deployed)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in deployed.state_dict().items())


@pytest.mark.parametrize(
    "architecture", [Yolox(0.33, 0.125), Yolox(0.33, 0.125, pixels=NORMALISED_RGB)], ids=["raw", "normalised"]
)
def test_deploy_form_has_the_pixels_in_its_stem_only_where_that_is_exact(architecture: Yolox) -> None:
    detector = architecture.build().double().eval()
    _randomise_statistics(detector)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    deployed = deploy(detector)
    assert isinstance(deployed.pixels, nn.Identity) == (architecture.pixels != NORMALISED_RGB)
    with torch.no_grad():
        torch.testing.assert_close(deployed(images).boxes, detector(images).boxes, rtol=1e-9, atol=1e-9)


def test_the_pixels_of_old_weights_are_normalised_rgb() -> None:
    pixels = Yolox(0.33, 0.125, pixels=NORMALISED_RGB).build().pixels
    image = torch.tensor([255.0, 0.0, 51.0])[None, :, None, None].expand(1, 3, 2, 2)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(pixels(image)[0, :, 0, 0], torch.tensor(expected))


def _randomise_statistics(detector: Detector) -> None:
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)


def test_half_precision_features_are_decoded_in_float32() -> None:
    detector = _tiny(3).eval().half()
    with torch.no_grad():
        predictions = detector(torch.rand(1, 3, 64, 64).half())
    assert predictions.boxes.dtype == predictions.classes.dtype == torch.float32


@pytest.mark.parametrize("size", [(64, 65), (48, 64)])
def test_sides_that_are_no_multiples_of_the_stride_raise(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiples of 32"):
        _tiny(3)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(3, 64, 64), torch.zeros(1, 64, 64, 3)],
    ids=["uint8", "one image", "channels last"],
)
def test_input_that_is_no_batch_of_images_raises(images: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        _tiny(3)(images)
