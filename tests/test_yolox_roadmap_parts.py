"""What YOLOX is compared with: its heads, their assigners and the head that needs no NMS (YOLOX tables 1 and 2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from onelook.assign.best_anchor import BestAnchor
from onelook.assign.centre_cell import CentreCell
from onelook.assign.one_to_one import OneToOne
from onelook.assign.simota import SimOta
from onelook.exporting.onnx import export_onnx
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.one_to_one import Selection
from onelook.losses.pairs import Pairs
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_gflops, count_parameters, count_profiler_gflops
from onelook.networks.variants import VARIANTS
from onelook.networks.yolox.architecture import YOLOV3_ANCHORS, Yolox
from onelook.ops.iou import pairwise_iou
from onelook.ops.nms import Nms, TopK
from onelook.ops.priors import grid_priors
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.runtimes.torch import TorchRuntime
from onelook.types import Matches, Predictions, Targets
from onelook.weights import restore, save_weights
from random_scenes import random_scene

DARKNET = Yolox(backbone="darknet53", activation="leaky_relu")
HEADS = {
    "coupled": replace(DARKNET, head="coupled", anchors=YOLOV3_ANCHORS),
    "decoupled, anchors": replace(DARKNET, anchors=YOLOV3_ANCHORS),
    "coupled, anchor-free": replace(DARKNET, head="coupled"),
    "one to one": replace(DARKNET, one_to_one=True),
    "coupled, anchors, one to one": replace(DARKNET, head="coupled", anchors=YOLOV3_ANCHORS, one_to_one=True),
}
TERMS = (BoxIou(), Objectness(), Classes())
few = settings(max_examples=15, deadline=None)


def narrow(architecture: Yolox) -> Detector:
    torch.manual_seed(0)
    small = replace(architecture, backbone="csp_darknet", depth=0.1, width=0.0625, num_classes=3, size=(64, 64))
    return build(small)


def targets(*objects: tuple[float, float, float, float], classes: int = 3) -> Targets:
    """One image with these boxes, and a row of padding."""
    boxes = torch.tensor([*objects, (0.0, 0.0, 0.0, 0.0)]).unsqueeze(0)
    labels = torch.arange(len(objects) + 1).remainder(classes).unsqueeze(0)
    return Targets(boxes, labels, torch.arange(len(objects) + 1).unsqueeze(0) < len(objects))


@pytest.mark.parametrize(
    ("head", "parameters", "gflops"),
    [
        ("coupled", 62_998_749, 157.28),
        ("decoupled, anchors", 63_855_837, 186.00),
        ("one to one", 67_267_554, 205.12),
    ],
)
def test_parameters_and_arithmetic_are_those_of_table_two(head: str, parameters: int, gflops: float) -> None:
    with torch.device("meta"):
        detector = build(HEADS[head])
    assert count_parameters(detector) == parameters
    assert count_profiler_gflops(detector, (640, 640)) == pytest.approx(gflops, abs=0.006)


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("yolox-nano", 1.08),
        ("yolox-tiny", 6.45),
        ("yolox-s", 26.8),
        ("yolox-m", 73.8),
        ("yolox-l", 155.6),
        ("yolox-x", 281.9),
        ("yolox-darknet53", 185.3),
    ],
)
def test_counting_as_the_paper_gives_the_numbers_of_the_paper(name: str, gflops: float) -> None:
    with torch.device("meta"):
        detector = build(name)
    counted = count_profiler_gflops(detector, VARIANTS[name].architecture.size)
    assert round(counted, 2 if gflops < 10 else 1) == gflops
    assert count_gflops(detector, (640, 640)) < count_profiler_gflops(detector, (640, 640))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_predicts_trains_and_deploys(head: str) -> None:
    detector = narrow(HEADS[head])
    architecture = HEADS[head]
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 96) * 255
    objects = targets((5, 5, 40, 30), (50, 20, 90, 60))
    objects = Targets(*(part.expand(2, *part.shape[1:]) for part in (objects.boxes, objects.labels, objects.valid)))
    predictions = detector(images)
    rows = (8 * 12 + 4 * 6 + 2 * 3) * (1 if architecture.anchors is None else 3)
    assert predictions.boxes.shape == (2, rows, 4) and predictions.scores().shape == (2, rows, 3)
    assert (predictions.unique is not None) == architecture.one_to_one

    assigner = SimOta() if architecture.anchors is None else BestAnchor()
    loss = DetectionLoss(assigner, (*TERMS, Selection(OneToOne())) if architecture.one_to_one else TERMS)
    sum(loss(predictions, objects).values(), torch.zeros(())).backward()
    without = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert not without

    detector.eval().double()
    whole, deployed = detector(images.double()), deploy(detector)(images.double())
    torch.testing.assert_close(deployed.boxes, whole.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(deployed.scores(), whole.scores(), rtol=1e-6, atol=1e-12)


def test_initial_scores_are_low_in_every_head() -> None:
    for head, architecture in list(HEADS.items())[:3]:
        predictions = narrow(architecture)(torch.rand(1, 3, 64, 64) * 255)
        assert predictions.objectness is not None
        assert predictions.objectness.sigmoid().median() < 0.05, head
        assert predictions.classes.sigmoid().median() < 0.05, head


def test_anchor_boxes_are_decoded_as_yolov3_does() -> None:
    detector = narrow(HEADS["decoupled, anchors"])
    predictions = detector(torch.rand(1, 3, 64, 64) * 255)
    row = 2 * 64 + 8 * 3 + 5  # third anchor of the finest level, row 3, column 5
    x, y, w, h = predictions.regression[0, row]
    centre = torch.stack(((x.sigmoid() + 5) * 8, (y.sigmoid() + 3) * 8))
    half = torch.stack((w.exp() * 33, h.exp() * 23)) / 2
    torch.testing.assert_close(predictions.boxes[0, row], torch.cat((centre - half, centre + half)))


def test_class_rows_are_where_the_heads_declare_them() -> None:
    detector = narrow(HEADS["coupled"])
    state = detector.head.state_dict()
    for name, rows in detector.head.class_rows().items():
        assert len(state[name]) == rows.anchors * (rows.before + 3 + rows.after)
    bias = state["levels.0.predictions.bias"].reshape(3, 8)
    assert (bias[:, 4:] < -4).all() and (bias[:, :4].abs() < 4).all()


def test_the_selectors_gradient_stops_at_the_head() -> None:
    detector = narrow(HEADS["one to one"])
    predictions = detector(torch.rand(1, 3, 64, 64) * 255)
    Selection(OneToOne())(
        Pairs(predictions, targets((5, 5, 40, 30)), OneToOne()(predictions, targets((5, 5, 40, 30))))
    ).backward()
    learning = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, _ in detector.named_parameters() if ".selector." in name}


def test_a_recipe_that_needs_more_than_the_head_provides_raises() -> None:
    for architecture, part in (
        (DARKNET, BestAnchor()),
        (DARKNET, Selection(OneToOne())),
        (HEADS["coupled"], CentreCell()),
        (HEADS["coupled"], RawL1()),
    ):
        assert not set(part.needs) <= architecture.provides
    with pytest.raises(ValueError, match="three levels"):
        replace(DARKNET, anchors=YOLOV3_ANCHORS[:2])


# --- assigners ---


def pairs_of(matches: Matches) -> set[tuple[int, int]]:
    valid = matches.valid[0]
    return set(zip(matches.objects[0][valid].tolist(), matches.priors[0][valid].tolist()))


def blank(size: tuple[int, int] = (256, 256), anchors: bool = False) -> Predictions:
    """Predictions of logits 0 and boxes of one pixel at every prior."""
    shapes = [(size[0] // stride, size[1] // stride) for stride in (8, 16, 32)]
    priors = grid_priors(shapes, (8, 16, 32), anchors=YOLOV3_ANCHORS if anchors else None)
    count = len(priors.points)
    boxes = torch.cat((priors.points - 0.5, priors.points + 0.5), -1).unsqueeze(0)
    return Predictions(boxes, torch.zeros(1, count, 3), torch.zeros(1, count), torch.zeros(1, count, 4), priors)


@pytest.mark.parametrize(
    ("side", "level", "what"),
    [(20, 0, "small"), (128, 0, "half of it is 64"), (130, 1, "just above"), (256, 1, "128"), (300, 2, "the rest")],
)
def test_the_level_depends_on_the_size_of_the_object(side: float, level: int, what: str) -> None:
    predictions = blank((320, 320))
    box = (160 - side / 2, 155, 160 + side / 2, 165)
    (pair,) = pairs_of(CentreCell()(predictions, targets(box)))
    assert predictions.priors.levels[pair[1]] == level, what


def test_the_cell_of_the_centre_is_assigned() -> None:
    predictions = blank()
    for centre, expected in (((20.0, 100.0), 12 * 32 + 2), ((256.0, 256.0), 32 * 32 - 1), ((0.0, 8.0), 32)):
        x, y = centre
        (pair,) = pairs_of(CentreCell()(predictions, targets((x - 5, y - 5, x + 5, y + 5))))
        assert pair == (0, expected)


def test_three_cells_a_side_end_at_the_border_and_take_cells_beside_a_small_box() -> None:
    predictions = blank()
    middle = pairs_of(CentreCell(cells=3)(predictions, targets((99, 99, 101, 101))))
    assert {row for _, row in middle} == {32 * y + x for y in (11, 12, 13) for x in (11, 12, 13)}
    corner = pairs_of(CentreCell(cells=3)(predictions, targets((1, 1, 5, 5))))
    assert {row for _, row in corner} == {0, 1, 32, 33}


def test_a_cell_of_two_objects_goes_to_the_smaller() -> None:
    small, large = (96.0, 96.0, 106.0, 106.0), (82.0, 82.0, 122.0, 122.0)
    for objects, winner in (((small, large), 0), ((large, small), 1)):
        matches = CentreCell()(blank(), targets(*objects))
        assert {one for one, _ in pairs_of(matches)} == {winner}
    shifted = CentreCell(cells=3)(blank(), targets(small, (90.0, 90.0, 130.0, 130.0)))
    assert [sum(one == index for one, _ in pairs_of(shifted)) for index in (0, 1)] == [9, 5]


def test_the_best_shape_of_all_anchors_is_taken_at_the_centres_cell() -> None:
    predictions = blank((416, 416), anchors=True)
    for width, height, level, anchor in ((11, 14, 0, 0), (34, 22, 0, 2), (60, 118, 1, 2), (370, 330, 2, 2)):
        box = (200 - width / 2, 210 - height / 2, 200 + width / 2, 210 + height / 2)
        ((_, row),) = pairs_of(BestAnchor()(predictions, targets(box)))
        priors = predictions.priors
        assert priors.sizes is not None
        assert priors.sizes[row].tolist() == list(YOLOV3_ANCHORS[level][anchor])
        assert (priors.points[row] - torch.tensor([200.0, 210.0])).abs().max() <= priors.strides[row] / 2


def test_negatives_that_overlap_an_object_are_ignored() -> None:
    predictions = blank((64, 64), anchors=True)
    boxes = predictions.boxes.clone()
    boxes[0, :5] = torch.tensor([20.0, 20.0, 31.0, 34.0])
    objects = targets((20, 20, 31, 34))
    matches = BestAnchor()(replace(predictions, boxes=boxes), objects)
    ((_, chosen),) = pairs_of(matches)
    assert matches.ignored is not None
    assert set(matches.ignored[0].nonzero().flatten().tolist()) == set(range(5)) - {chosen}
    assert not BestAnchor(ignore=1.0)(replace(predictions, boxes=boxes), objects).ignored.any()  # type: ignore[union-attr]


@few
@given(seed=st.integers(0, 2**32), objects=st.integers(0, 8), missing=st.sampled_from([0.0, 0.4, 1.0]))
@pytest.mark.parametrize("assigner", [CentreCell(), CentreCell(cells=3), OneToOne()], ids=["one", "nine", "one to one"])
def test_no_prior_has_two_objects_and_padding_and_other_images_change_nothing(
    assigner: CentreCell | OneToOne, seed: int, objects: int, missing: float
) -> None:
    predictions, scene = random_scene(seed, 2, objects, classes=4, size=(96, 160), dtype=torch.float64, missing=missing)
    matches = assigner(predictions, scene)
    for image in range(2):
        valid = matches.valid[image]
        rows = matches.priors[image][valid].tolist()
        assert len(rows) == len(set(rows))
        owners = matches.objects[image][valid]
        assert scene.valid[image][owners].all()
        if isinstance(assigner, OneToOne):
            assert len(set(owners.tolist())) == len(owners)
        iou = pairwise_iou(scene.boxes[image], predictions.boxes[image])
        torch.testing.assert_close(matches.quality[image][valid], iou[owners, rows])
        alone = assigner(
            replace(
                predictions,
                **{name: getattr(predictions, name)[image : image + 1] for name in ("boxes", "classes", "regression")},
                objectness=predictions.objectness[image : image + 1],  # type: ignore[index]
            ),
            Targets(
                F.pad(scene.boxes[image : image + 1], (0, 0, 0, 3)),
                F.pad(scene.labels[image : image + 1], (0, 3)),
                F.pad(scene.valid[image : image + 1], (0, 3)),
            ),
        )
        assert pairs_of(alone) == set(zip(owners.tolist(), rows))


@few
@given(seed=st.integers(0, 2**32))
def test_the_assigned_prior_is_the_best_in_the_centre_region(seed: int) -> None:
    predictions, scene = random_scene(seed, 1, 1, classes=4, size=(96, 160), dtype=torch.float64)
    matches = OneToOne()(predictions, scene)
    box, label = scene.boxes[0, 0], int(scene.labels[0, 0])
    quality = {}
    for row, point in enumerate(predictions.priors.points):
        centre = (box[:2] + box[2:]) / 2
        if ((point - centre).abs() < 2.5 * predictions.priors.strides[row]).all():
            iou = pairwise_iou(box[None], predictions.boxes[0, row][None])[0, 0]
            quality[row] = float(predictions.scores()[0, row, label] ** 0.2 * iou**0.8)
    ((_, chosen),) = pairs_of(matches)
    assert quality[chosen] == pytest.approx(max(quality.values()))


def test_selection_is_the_cross_entropy_of_the_final_score() -> None:
    predictions, scene = random_scene(3, 1, 3, classes=4, size=(96, 96), dtype=torch.float64)
    torch.manual_seed(0)
    unique = torch.randn(1, len(predictions.priors.points), dtype=torch.float64, requires_grad=True)
    predictions = replace(predictions, unique=unique)
    matches = OneToOne()(predictions, scene)
    desired = torch.zeros_like(unique).scatter_(1, matches.priors[matches.valid][None], 1.0)
    others = predictions.objectness.sigmoid() * predictions.classes.amax(-1).sigmoid()  # type: ignore[union-attr]
    expected = F.binary_cross_entropy(others * unique.sigmoid(), desired, reduction="sum") / desired.sum()
    (gradient,) = torch.autograd.grad(expected, unique)
    loss = Selection(OneToOne())(Pairs(predictions, scene, matches))
    (found,) = torch.autograd.grad(loss, unique)
    torch.testing.assert_close(found, gradient)


def test_the_backend_of_a_one_to_one_head_keeps_overlapping_boxes() -> None:
    backend = TorchRuntime(narrow(HEADS["one to one"]), "cpu", size=(64, 64))
    assert backend.postprocess == TopK(multi_label=False)
    assert TorchRuntime(narrow(HEADS["decoupled, anchors"]), "cpu", size=(64, 64)).postprocess == Nms()


def test_narrow_darknet_has_its_channels_and_blocks_scaled() -> None:
    with torch.device("meta"):
        small, whole = build(replace(DARKNET, depth=0.33, width=0.25)), build(DARKNET)
    assert small.backbone.channels == (64, 128, 128) and small.neck.channels == (32, 64, 128)
    assert count_parameters(small) < count_parameters(whole) / 16


@pytest.mark.parametrize(
    "inside", [pytest.param(False, marks=pytest.mark.slow, id="rows"), pytest.param(True, id="detections")]
)
def test_an_exported_one_to_one_head_has_no_nms(tmp_path: Path, inside: bool) -> None:
    onnx = pytest.importorskip("onnx")
    detector = narrow(HEADS["one to one"]).eval()
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, nms=Nms(confidence=0.0, iou=0.45, limit=40) if inside else None)
    graph = onnx.load(path).graph
    assert not {node.op_type for node in graph.node} & {"NonMaxSuppression", "Loop", "If"}
    assert [one.name for one in graph.input] == (["images", "confidence"] if inside else ["images"])
    exported, torch_backend = OnnxRuntime(path), TorchRuntime(detector, "cpu")
    assert exported.postprocess == torch_backend.postprocess == TopK(multi_label=False)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    postprocess = TopK(limit=40, confidence=0.0, multi_label=False)
    (found,), (expected,) = exported(images, postprocess), torch_backend(images, postprocess)
    assert len(found[1]) == len(expected[1]) == 40
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3)


@pytest.mark.parametrize("head", ["coupled", "one to one"])
def test_weights_bring_their_architecture_along(tmp_path: Path, head: str) -> None:
    detector = narrow(HEADS[head])
    save_weights(detector, tmp_path / "model.safetensors")
    again = restore(tmp_path / "model.safetensors")
    assert again.architecture == detector.architecture
    images = torch.rand(1, 3, 64, 64) * 255
    torch.testing.assert_close(again.eval()(images).scores(), detector.eval()(images).scores())
