"""YOLOv4 is the published network: names, shapes, counts, arithmetic and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from darknet_graph import run as run_graph
from networks import Golden, filled_detector, goldens, manifest
from onelook.layers.conv import ConvBnAct
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import variant
from onelook.ops.boxes import xyxy_to_cxcywh
from onelook.types import Predictions
from shared import needs_shared

MODELS = list(manifest("yolov4"))
SLOW = {"yolov4", "yolov4-csp", "yolov4x-mish", "csresnext50-panet-spp"}
GOLDENS = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in goldens("yolov4")]


@cache
def structure(name: str) -> Detector:
    with torch.device("meta"):
        return build(name)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_a_bijection_with_the_official_ones(name: str) -> None:
    detector = structure(name)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    assert set(names) == set(detector.state_dict())
    assert len(set(names.values())) == len(names)
    ours = {
        names[key]: list(tensor.shape)
        for key, tensor in detector.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert ours == manifest("yolov4")[name]["tensors"]


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_arithmetic_are_the_published_ones(name: str) -> None:
    detector, entry = structure(name), manifest("yolov4")[name]
    assert count_parameters(detector) == entry["parameters"]
    assert count_parameters(deploy(detector)) == entry["deploy_parameters"]
    assert variant(name).architecture.size == tuple(entry["gflops_size"])
    assert count_gflops(detector, tuple(entry["gflops_size"])) == pytest.approx(entry["gflops"], abs=1e-4)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_and_anchors_are_the_published_ones(name: str) -> None:
    norms = [module for module in structure(name).modules() if isinstance(module, nn.BatchNorm2d)]
    entry = manifest("yolov4")[name]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(entry["bn_eps"], 0.01)}
    architecture: Any = variant(name).architecture
    anchors, order = entry["constants"]["anchors"], 1 if entry["constants"]["strides"][0] == 8 else -1
    for own, level in zip(architecture.anchors[::order], entry["levels"]):
        assert [list(anchor) for anchor in own] == [anchors[row] for row in level["mask"]]
    assert list(architecture.grid_scales[::order]) == [level["scale_x_y"] for level in entry["levels"]]


@dataclass(frozen=True)
class Run:
    """One golden model run in double precision, and what entered its prediction layers in the order of the file."""

    name: str
    golden: Golden
    detector: Detector
    predictions: Predictions
    features: list[Tensor]
    necks: list[Tensor]


@pytest.fixture(scope="module", params=GOLDENS)
def run(request: pytest.FixtureRequest) -> Run:
    golden = Golden.load("yolov4", request.param)
    detector = filled_detector(request.param, golden.arrays).double()
    head: Any = detector.head
    features: list[Tensor] = []
    necks: list[Tensor] = []
    for level in head.order:
        head.levels[level].predict.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        last = _last_spatial(detector, level)
        last.register_forward_pre_hook(lambda _, inputs: necks.append(inputs[0]))
    with torch.no_grad():
        predictions = detector(torch.from_numpy(golden.image).double() * 255)
    order = np.argsort(head.order) if head.order[0] == 0 else np.arange(len(features))[::-1]
    return Run(request.param, golden, detector, predictions, [features[i] for i in order], necks)


def _last_spatial(detector: Detector, level: int) -> nn.Module:
    """The 3x3 before a prediction layer: of the head, or in the tiny models of the neck."""
    expand: Any = detector.head.levels[level].expand  # type: ignore[index,union-attr]
    if isinstance(expand, ConvBnAct):
        return expand
    names = ("expand5", "join4", "join3")
    return detector.neck.get_submodule(names[len(detector.neck.channels) - 1 - level])


def official(predictions: Predictions, size: tuple[int, int], rows: np.ndarray) -> np.ndarray:
    """Our predictions of one image as rows of Darknet: centre, size (fractions), objectness, probabilities."""
    assert predictions.objectness is not None
    sides = torch.tensor([size[1], size[0]] * 2, dtype=predictions.boxes.dtype)
    columns = (
        xyxy_to_cxcywh(predictions.boxes) / sides,
        predictions.objectness.sigmoid().unsqueeze(-1),
        predictions.classes.sigmoid(),
    )
    return torch.cat(columns, -1)[0, rows].numpy()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((np.abs(ours - theirs) / (np.abs(theirs) + 0.01)).max())


@needs_shared
def test_float64_outputs_are_the_official_ones(run: Run) -> None:
    arrays = run.golden.arrays
    size = (run.golden.image.shape[2], run.golden.image.shape[3])
    assert len(run.predictions.priors.points) == manifest("yolov4")[run.name]["rows_total"]
    assert relative(official(run.predictions, size, arrays["rows"]), arrays["predictions_float64"]) < 1e-5
    for level, (feature, neck) in enumerate(zip(run.features, run.necks)):
        for kind, found in (("feature", feature), ("neck", neck)):
            sample = found.reshape(-1)[arrays[f"{kind}_{level}_index"]].numpy()
            np.testing.assert_allclose(sample, arrays[f"{kind}_{level}_sample_float64"], 1e-5, 1e-5)


@needs_shared
def test_deploy_form_equals_training_form(run: Run) -> None:
    with torch.no_grad():
        found = deploy(run.detector)(torch.from_numpy(run.golden.image).double() * 255)
    torch.testing.assert_close(found.boxes, run.predictions.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.scores(), run.predictions.scores(), rtol=1e-6, atol=1e-12)


@needs_shared
def test_float32_outputs_are_the_official_ones_up_to_their_own_rounding(run: Run) -> None:
    tolerance = {"yolov4-tiny": 1e-3, "yolov4-tiny-3l": 1e-3, "csresnext50-panet-spp": 3e-2}.get(run.name, 1e-2)
    detector = filled_detector(run.name, run.golden.arrays)
    with torch.no_grad():
        found = detector(torch.from_numpy(run.golden.image) * 255)
    size = (run.golden.image.shape[2], run.golden.image.shape[3])
    rows = run.golden.arrays["rows"]
    assert relative(official(found, size, rows), run.golden.arrays["predictions"]) < tolerance


@needs_shared
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]
)
def test_every_layer_has_its_position_in_the_published_graph(name: str) -> None:
    torch.manual_seed(0)
    detector = build(name).double().eval()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    tensors = {names[ours]: tensor for ours, tensor in detector.state_dict().items()}
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        found = detector(images * 255)
        expected = run_graph(name, tensors, images, manifest("yolov4")[name]["constants"]["anchors"])
    assert found.objectness is not None
    torch.testing.assert_close(found.boxes, expected[..., :4], rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(found.objectness.sigmoid(), expected[..., 4], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.classes.sigmoid(), expected[..., 5:], rtol=1e-9, atol=1e-12)
