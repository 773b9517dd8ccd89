"""YOLOv7 is the published network: names, shapes, counts, arithmetic, initialisation and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Golden, filled_detector, goldens, manifest
from official_layers import head_inputs
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import variant
from onelook.ops.boxes import xyxy_to_cxcywh
from onelook.types import Predictions
from shared import needs_shared

MODELS = list(manifest("yolov7"))
GOLDENS = goldens("yolov7")


@cache
def _structure(name: str) -> Detector:
    with torch.device("meta"):
        return build(name)


def _slow(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Large networks take their time in float64."""
    return () if name == "yolov7-tiny" else (pytest.mark.slow,)


def _is_constant(name: str) -> bool:
    return "anchor" in name


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_a_bijection_with_the_official_ones(name: str) -> None:
    detector = _structure(name)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    assert set(names) == set(detector.state_dict())
    assert len(set(names.values())) == len(names)
    ours = {names[key]: list(tensor.shape) for key, tensor in detector.state_dict().items()}
    tensors = manifest("yolov7")[name]["tensors"]
    assert ours == {key: shape for key, shape in tensors.items() if not _is_constant(key)}


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_arithmetic_are_the_published_ones(name: str) -> None:
    detector, entry = _structure(name), manifest("yolov7")[name]
    assert count_parameters(detector) == entry["parameters"]
    assert count_parameters(deploy(detector)) == entry["deploy_parameters"]
    assert variant(name).architecture.size == tuple(entry["gflops_size"])
    assert count_gflops(detector, tuple(entry["gflops_size"])) == pytest.approx(entry["gflops"], rel=1e-4)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_the_published_one(name: str) -> None:
    norms = [module for module in _structure(name).modules() if isinstance(module, nn.BatchNorm2d)]
    entry = manifest("yolov7")[name]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(entry["bn_eps"], entry["bn_momentum"])}


@needs_shared
@pytest.mark.parametrize("name", [pytest.param(name, marks=_slow(name)) for name in MODELS])
def test_layers_are_connected_as_the_official_list_says(name: str) -> None:
    """For the models without golden outputs, too: every join in the official order, every source the official one."""
    entry = manifest("yolov7")[name]
    torch.manual_seed(0)
    detector = build(name).eval()
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    state = {names[key]: tensor for key, tensor in detector.state_dict().items()}
    detector.neck.train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.rand(1, 3, 64, 128)
    activation = F.silu if name != "yolov7-tiny" else lambda x: F.leaky_relu(x, 0.1)
    with torch.no_grad():
        found = detector.features(images * 255)
        expected = head_inputs(entry["layers"], state, images, activation, entry["bn_eps"])
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        spread = theirs.std().clamp(min=1e-6)
        torch.testing.assert_close(ours / spread, theirs / spread, rtol=1e-3, atol=1e-3)


def _official(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """Our predictions of one image as official rows: centre, size, objectness, class probabilities."""
    assert predictions.objectness is not None
    columns = (
        xyxy_to_cxcywh(predictions.boxes),
        predictions.objectness.sigmoid().unsqueeze(-1),
        predictions.classes.sigmoid(),
    )
    return torch.cat(columns, -1)[0, rows].numpy()


@dataclass(frozen=True)
class Run:
    """One golden model in float64: the inputs of its heads and its raw maps in training form; predictions of both."""

    name: str
    golden: Golden
    features: tuple[torch.Tensor, ...]
    maps: tuple[torch.Tensor, ...]
    training: Predictions
    deployed: Predictions


def _run(name: str) -> Run:
    golden = Golden.load("yolov7", name)
    detector = filled_detector(name, golden.arrays).double()
    images = torch.from_numpy(golden.image).double() * 255  # the golden's input is 0..1
    detector.neck.train()  # only then auxiliary levels are computed
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        features = detector.features(images)
        layers = (*detector.head.lead, *detector.head.auxiliary)  # type: ignore[misc]
        maps = tuple(layer(level) for layer, level in zip(layers, features, strict=True))
        training = detector.head(features)
        deployed = deploy(detector)(images)
    return Run(name, golden, features, maps, training, deployed)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=_slow(name)) for name in GOLDENS])
def run(request: pytest.FixtureRequest) -> Run:
    return _run(request.param)


@needs_shared
@pytest.mark.parametrize("form", ["training", "deployed"])
def test_float64_outputs_are_the_official_ones_up_to_their_rounding(run: Run, form: str) -> None:
    arrays, noise = run.golden.arrays, manifest("yolov7")[run.name]["float32_noise"]
    found = _official(getattr(run, form), arrays["rows"])
    np.testing.assert_allclose(found[:, :4], arrays["predictions"][:, :4], rtol=0, atol=1.5 * noise["boxes"])
    np.testing.assert_allclose(found[:, 4:], arrays["predictions"][:, 4:], rtol=0, atol=1.5 * noise["scores"])


@needs_shared
def test_features_and_raw_maps_are_the_official_ones(run: Run) -> None:
    arrays, levels = run.golden.arrays, len(run.training.priors.shapes)
    for index, feature in enumerate(run.features):
        _check_sample(feature, arrays, f"feature_{index}", 1e-3)
    for index, level in enumerate(run.maps[:levels]):
        by_anchor = level.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2)
        _check_sample(by_anchor, arrays, f"raw_{index}", 1e-3)
    for index, level in enumerate(run.maps[levels:]):
        _check_sample(level, arrays, f"auxiliary_{index}", 1e-3)


def _check_sample(found: torch.Tensor, arrays: dict[str, np.ndarray], key: str, tolerance: float) -> None:
    assert list(found.shape) == arrays[f"{key}_shape"].tolist()
    sample = found.reshape(-1)[arrays[f"{key}_index"]]
    np.testing.assert_allclose(sample, arrays[f"{key}_sample"], tolerance, tolerance)
    np.testing.assert_allclose(found.mean(), arrays[f"{key}_mean"], tolerance, tolerance)


@needs_shared
def test_deploy_form_equals_training_form(run: Run) -> None:
    torch.testing.assert_close(run.deployed.boxes, run.training.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(run.deployed.scores(), run.training.scores(), rtol=1e-6, atol=1e-12)
