"""YOLOv7's inference is the published one: letterbox, rectangles, suppression, test-time augmentation."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from networks import Golden, filled_detector
from onelook.augment.letterbox import Letterbox, ResizeTransform, Stretch
from onelook.config import to_plain
from onelook.errors import ExportError, UsageError
from onelook.evaluation.rectangular import Rectangular
from onelook.exported import ExportedMetadata
from onelook.networks.tta import TestTimeAugmentation
from onelook.networks.variants import variant
from onelook.networks.yolov7.architecture import CENTRED_LETTERBOX, Yolov7
from onelook.ops.nms import Nms
from onelook.predict.runtimes.torch import TorchRuntime
from shared import SHARED, needs_shared, reference


@cache
def details() -> dict[str, Any]:
    return json.loads((reference("yolov7") / "details.json").read_text()) if SHARED is not None else {}


@cache
def goldens() -> dict[str, np.ndarray]:
    with np.load(reference("yolov7") / "postprocess.npz") as file:
        return {key: file[key] for key in file.files}


CASES = [case for case in details().get("letterbox", ()) if not case["arguments"]["auto"]]


@needs_shared
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['image']} in {case['arguments']['new_shape']}")
def test_letterbox_is_the_published_one(case: dict[str, Any]) -> None:
    sides = case["arguments"]["new_shape"]
    size = (sides, sides) if isinstance(sides, int) else tuple(sides)
    frame = Letterbox(anchor="centre", rounding="round", enlarge=case["arguments"].get("scaleup", True))
    assert frame.enlarge is False or frame == CENTRED_LETTERBOX
    framed, placement = frame(np.zeros((*case["image"], 3), np.uint8), size)
    assert framed.shape[:2] == tuple(case["output"])
    assert (placement.top, placement.left) == (case["top"], case["left"])
    assert placement.scale_x == placement.scale_y == pytest.approx(case["ratio"])
    grey = (framed == 114).all((1, 2)).sum(), (framed == 114).all((0, 2)).sum()
    assert grey == (2 * case["pad_y"], 2 * case["pad_x"])


@needs_shared
@pytest.mark.parametrize("name", ["evaluation", "demo", "demo_agnostic"])
def test_suppression_is_the_published_one(name: str) -> None:
    rows, settings = goldens()["predictions"], details()["postprocess"][name]
    uses: dict[str, Nms] = {"evaluation": Yolov7.evaluating}
    published = uses.get(name, Yolov7.detecting)
    assert published.multi_label == settings.get("multi_label", False)
    nms = Nms(
        settings["conf_thres"],
        settings["iou_thres"],
        settings.get("agnostic", False),
        published.multi_label,
        published.limit,
        published.pool,
    )
    centres, sides = rows[..., :2], rows[..., 2:4]
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), -1)
    for image, (found, labels) in enumerate(
        (np.concatenate((boxes, scores[:, None]), 1), labels)
        for boxes, scores, labels in nms.batch(boxes, rows[..., 4:5] * rows[..., 5:])
    ):
        expected = goldens()[f"{name}/{image}"]
        np.testing.assert_allclose(found, expected[:, :5], rtol=1e-6, atol=1e-4)
        assert (labels == expected[:, 5]).all()


@needs_shared
def test_single_class_is_scored_by_objectness_alone() -> None:
    rows, settings = goldens()["predictions_one_class"][0], details()["postprocess"]["one_class"]
    boxes = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1)
    found = Nms(settings["conf_thres"], settings["iou_thres"])(boxes, rows[:, 4:5])
    np.testing.assert_allclose(found[1], goldens()["one_class/0"][:, 4], rtol=1e-6)
    np.testing.assert_allclose(found[0], goldens()["one_class/0"][:, :4], rtol=1e-6, atol=1e-4)

    detector = tiny(num_classes=1)
    with torch.no_grad():
        predictions = detector(torch.rand(1, 3, 64, 64) * 255)
    assert predictions.objectness is not None
    assert torch.equal(predictions.scores()[..., 0], predictions.objectness.sigmoid())


@needs_shared
def test_boxes_are_mapped_back_by_gain_and_padding() -> None:
    given, settings = goldens()["demo/0"][:, :4], details()["postprocess"]["scale"]
    height, width = settings["image_shape"]
    known = settings["from_ratio_pad"]
    place = ResizeTransform(known["gain"], known["gain"], known["pad_x"], known["pad_y"], (height, width), (256, 256))
    clipped = place.to_original(given).clip(0, np.array([width, height, width, height]))
    np.testing.assert_allclose(clipped, goldens()["scale/from_ratio_pad"], rtol=1e-5, atol=1e-3)


def tiny(**changes: Any) -> Any:
    from dataclasses import replace

    torch.manual_seed(0)
    architecture: Any = replace(
        variant("yolov7-tiny").architecture, **{"width_multiple": 0.125, "size": (64, 64)} | changes
    )
    return architecture.build().eval()


@needs_shared
@pytest.mark.parametrize("case", details().get("test_time_augmentation_shapes", {}))
def test_augmented_copies_have_the_published_shapes(case: str) -> None:
    shape, _, stride = case.partition(" stride ")
    height, width = map(int, shape.split("x"))
    images = torch.zeros(1, 3, height, width)
    for scale, mirrored in TestTimeAugmentation().copies:
        copy = TestTimeAugmentation().copy(images, scale, mirrored, int(stride))
        assert list(copy.shape[2:]) == details()["test_time_augmentation_shapes"][case][str(scale).removesuffix(".0")]


@needs_shared
def test_augmented_predictions_are_the_official_ones() -> None:
    golden = Golden.load("yolov7", "yolov7-tiny")
    with np.load(reference("yolov7") / "tta.npz") as file:
        rows, expected, total = file["rows"], file["predictions"], int(file["total"])
    detector = filled_detector("yolov7-tiny", golden.arrays).double()
    with torch.no_grad():
        boxes, scores = TestTimeAugmentation()(detector, torch.from_numpy(golden.image).double() * 255)
    assert boxes.shape[1] == scores.shape[1] == total
    centres, sides = expected[:, :2], expected[:, 2:4]
    corners = np.concatenate((centres - sides / 2, centres + sides / 2), 1)
    np.testing.assert_allclose(boxes[0, rows].numpy(), corners, rtol=2e-4, atol=0.05)
    np.testing.assert_allclose(scores[0, rows].numpy(), expected[:, 4:5] * expected[:, 5:], rtol=0, atol=5e-5)


def test_mirrored_boxes_are_mapped_back() -> None:
    detector = tiny()
    images = torch.rand(1, 3, 64, 96) * 255
    only_mirrored = TestTimeAugmentation(copies=((1.0, True),))
    with torch.no_grad():
        boxes, scores = only_mirrored(detector, images)
        plain = detector(images.flip(3))
    torch.testing.assert_close(boxes[..., 0], 96 - plain.boxes[..., 2])
    torch.testing.assert_close(boxes[..., 2], 96 - plain.boxes[..., 0])
    assert torch.equal(scores, plain.scores())


def test_backend_uses_all_copies() -> None:
    batch = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    counts = {
        tta: len(TorchRuntime(tiny(), "cpu", tta=tta)(batch, Nms(0.0, 1.0))[0][1])
        for tta in (None, TestTimeAugmentation())
    }
    rows = 3 * (64 + 16 + 4)
    assert list(counts.values()) == [rows, 3 * rows]  # 64 * 0.83 and 64 * 0.67 are padded to 64 again


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ([(480, 640), (427, 640)], [(512, 672)]),  # all wide: the tallest decides, half a cell is added
        ([(640, 480), (640, 427)], [(672, 512)]),
        ([(480, 640), (640, 480)], [(672, 672)]),
        ([(640, 480), (480, 640), (427, 640), (640, 427)], [(512, 672), (672, 512)]),
    ],
)
def test_rectangles_are_the_published_ones(sizes: list[tuple[int, int]], shapes: list[tuple[int, int]]) -> None:
    groups = Rectangular().groups(np.array(sizes), 640, 32, 2)
    assert [shape for _, shape in groups] == shapes
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(sizes)))


def test_images_keep_their_longest_side_in_larger_rectangles() -> None:
    frame = Rectangular().frame(CENTRED_LETTERBOX, 640)
    placement, sides = frame.get_transform((375, 500), (512, 672))
    assert sides == (480, 640)
    assert (placement.top, placement.left) == (16, 16)
    assert placement.scale_x == 1.28
    with pytest.raises(UsageError, match="stretches"):
        Rectangular().frame(Stretch(), 640)


def test_images_are_averaged_where_they_shrink() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2, ::2] = 200
    shrunk, _ = Letterbox(shrink="area")(image, (4, 4))
    assert (shrunk == 50).all()
    assert not (Letterbox(interpolation="nearest")(image, (4, 4))[0] == 50).any()


def test_backend_has_separate_settings_for_detection_and_evaluation() -> None:
    backend = TorchRuntime(tiny(), "cpu")
    assert backend.postprocess == Nms(limit=300, pool=30_000)
    assert backend.evaluating == Nms(limit=300, pool=30_000, multi_label=True, clip=True)


def metadata(**changes: Any) -> str:
    known: dict[str, Any] = {
        "model": "m", "names": (), "num_classes": 3, "size": (64, 64), "frame": {"type": "Letterbox"},
        "outputs": "raw", "multi_label": True, "nms": None, "batch": 1, "precision": "float32", "architecture": {},
        "version": "0",
    }  # fmt: skip
    return ExportedMetadata(**known | changes).to_json()


def test_exported_files_store_the_evaluation_settings() -> None:
    own = to_plain(Yolov7.evaluating)
    assert ExportedMetadata.from_json(metadata(evaluating=own), "file").evaluating == own
    older = json.loads(metadata())
    del older["evaluating"], older["detecting"]
    assert ExportedMetadata.from_json(json.dumps(older), "file").evaluating is None
    with pytest.raises(ExportError, match="'evaluating' is not null or the settings of a postprocessing"):
        ExportedMetadata.from_json(metadata(evaluating={"confidence": 0.1}), "file")
