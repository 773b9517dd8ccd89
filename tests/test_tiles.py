"""Large images in tiles: cover, placement, merging, and the same results by every way in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onelook
from onelook.augment.letterbox import Letterbox, Stretch
from onelook.cli.app import main
from onelook.errors import UsageError, UserError
from onelook.ops.merge import MergeKind, merge_detections, merge_non_maximum
from onelook.ops.nms import Nms, Postprocess, RawDetections, TopK
from onelook.ops.numpy_iou import pairwise_overlap_of_smaller
from onelook.ops.tile_grid import MOST_TILES
from onelook.predict.predictor import Predictor
from onelook.predict.tiles import Tiles
from onelook.reporter import SilentReporter
from onelook.types import Detections
from onnx_models import write_model

SIDE = 64
FRAMES = (Letterbox(), Letterbox(anchor="centre", rounding="round"), Stretch())
KINDS: tuple[MergeKind, ...] = ("nms", "nmm")


class SquareFinder:
    """A network in miniature: boxes around the white squares of its input; larger ones have higher scores."""

    size = (SIDE, SIDE)
    class_names = ("square",)
    postprocess: Postprocess = Nms(0.1, 0.5)
    evaluating: Postprocess = Nms(0.1, 0.5)

    def __init__(self, frame: Letterbox | Stretch = FRAMES[0]) -> None:
        self.frame = frame
        self.batches: list[int] = []

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        self.batches.append(len(batch))
        return [self._find(image) for image in batch]

    def _find(self, image: np.ndarray) -> RawDetections:
        white = np.ascontiguousarray((image.min(2) > 127).astype(np.uint8))
        _, _, found, _ = cv2.connectedComponentsWithStats(white)
        boxes = found[1:, :4].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        scores = (0.5 + found[1:, 4] / (4 * SIDE * SIDE)).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        return boxes[order], scores[order], np.zeros(len(boxes), np.int64)


def squares(size: tuple[int, int], corners: list[tuple[int, int]], side: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A black image with white squares at (top, left), and their boxes."""
    image = np.zeros((*size, 3), np.uint8)
    for top, left in corners:
        image[top : top + side, left : left + side] = 255
    return image, np.array([(left, top, left + side, top + side) for top, left in corners], np.float32)


def in_rows(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T[:2])]


# --- where tiles are -------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))
cuts = st.builds(Tiles, st.integers(40, 300), st.floats(0, 0.8), st.sampled_from(KINDS))


@settings(max_examples=30)
@given(sizes, cuts)
def test_tiles_cover_every_pixel_and_overlap_at_least_as_asked(size: tuple[int, int], tiles: Tiles) -> None:
    corners = tiles.corners(size)
    assert tiles.count(size) == (len(corners) + 1 if len(corners) > 1 else 1)
    covered = np.zeros(size, bool)
    for top, left in corners:
        assert top + min(tiles.side, size[0]) <= size[0] and left + min(tiles.side, size[1]) <= size[1]
        covered[top : top + tiles.side, left : left + tiles.side] = True
    assert covered.all()
    for axis in (0, 1):
        steps = np.diff(sorted({corner[axis] for corner in corners}))
        assert (tiles.side - steps >= tiles.side * tiles.overlap - 1e-6).all()


@settings(deadline=None, max_examples=25)
@given(sizes, cuts, st.sampled_from(FRAMES), st.integers(0, 2**32 - 1))
def test_boxes_of_a_tile_return_to_their_place_in_the_image(
    size: tuple[int, int], tiles: Tiles, frame: Letterbox | Stretch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    (whole, whole_placement), *cut = tiles.cut(image, frame, (SIDE, SIDE))
    expected, plain = frame(image, (SIDE, SIDE))
    np.testing.assert_array_equal(whole, expected)
    assert whole_placement == plain
    corners = tiles.corners(size)
    assert len(cut) == (len(corners) if len(corners) > 1 else 0)
    for (top, left), (pixels, placement) in list(zip(corners, cut))[-6:]:
        part = np.ascontiguousarray(image[top : top + tiles.side, left : left + tiles.side])
        expected, alone = frame(part, (SIDE, SIDE))
        np.testing.assert_array_equal(pixels, expected)
        assert placement.source == size
        boxes = rng.uniform(0, SIDE, (5, 4))
        back = alone.to_original(boxes) + np.array([left, top, left, top])
        np.testing.assert_allclose(placement.to_original(boxes), back, atol=1e-6)
        np.testing.assert_allclose(placement.to_input(back), boxes, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"side": 8}, {"overlap": 0.95}, {"overlap": -0.1}, {"merge_kind": "wbf"}])
def test_tiles_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Tiles(**wrong)  # type: ignore[arg-type]


def test_an_image_of_too_many_tiles_is_refused_before_they_are_listed() -> None:
    with pytest.raises(UsageError, match=f"{MOST_TILES:,}"):
        Tiles(32, 0.9).corners((10_000, 10_000))
    assert Tiles(640, 0.2).count((10_000, 10_000)) == 20 * 20 + 1


# --- merging ---------------------------------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> list[RawDetections]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        count = int(rng.integers(0, 9))
        corner = rng.integers(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(1, 40, (count, 2))], 1).astype(np.float32)
        scores = (rng.integers(1, 6, count) / 5).astype(np.float32)  # many equal ones
        found.append((boxes, scores, rng.integers(0, 3, count)))
    return found


@given(views(), st.sampled_from(KINDS), st.floats(0, 1), st.booleans(), st.randoms())
def test_merged_detections_do_not_depend_on_the_order_of_tiles(
    found: list[RawDetections], kind: MergeKind, threshold: float, agnostic: bool, random: object
) -> None:
    first = merge_detections(found, kind, threshold, agnostic=agnostic)
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for a, b in zip(first, merge_detections(shuffled, kind, threshold, agnostic=agnostic)):
        np.testing.assert_array_equal(a, b)
    assert (np.diff(first[1]) <= 0).all()


@given(views(), st.floats(0.05, 1))
def test_what_suppression_keeps_is_as_the_slow_rule_says(found: list[RawDetections], threshold: float) -> None:
    boxes, scores, labels = merge_detections(found, "nms", threshold)
    rows = sorted(
        (-score, label, *box) for part in found for box, score, label in zip(*(column.tolist() for column in part))
    )
    kept: list[tuple[float, ...]] = []
    for score, label, *box in rows:
        others = np.array([one[2:] for one in kept if one[1] == label]).reshape(-1, 4)
        if not (pairwise_overlap_of_smaller(np.array([box]), others) > threshold).any():
            kept.append((score, label, *box))
    merged = [(-score, label, *box) for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist())]
    assert merged == kept


def test_merging_makes_one_box_around_the_parts_of_an_object() -> None:
    """Two tiles see the left and the right part; a third object is apart, a fourth of another class."""
    left, right = [10, 10, 40, 30], [30, 11, 70, 30]
    boxes = np.array([left, right, [200, 10, 220, 30], [12, 10, 38, 30]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 0, 0, 1])
    parts = [(boxes[row : row + 1], scores[row : row + 1], labels[row : row + 1]) for row in range(4)]
    merged, kept_scores, kept_labels = merge_detections(parts, "nmm", 0.3)
    np.testing.assert_array_equal(merged, [[10, 10, 70, 30], boxes[2], boxes[3]])
    assert kept_scores.tolist() == scores[[0, 2, 3]].tolist() and kept_labels.tolist() == [0, 0, 1]
    assert len(merge_detections(parts, "nmm", 0.3, agnostic=True)[0]) == 2
    np.testing.assert_array_equal(merge_detections(parts, "nms", 0.3)[0], boxes[[0, 2, 3]])


@given(views(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_merging_keeps_what_is_whole_and_encloses_what_is_cut(
    found: list[RawDetections], threshold: float, seed: int
) -> None:
    boxes, scores = (np.concatenate([part[column] for part in found]) for column in (0, 1))
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    cut = np.random.default_rng(seed).random(len(boxes)) < 0.5
    keep, merged = merge_non_maximum(boxes, scores, cut, threshold)
    np.testing.assert_array_equal(merged[~cut], boxes[~cut])
    assert (merged[keep, :2] <= boxes[keep, :2]).all() and (merged[keep, 2:] >= boxes[keep, 2:]).all()
    for row in np.flatnonzero(~keep):  # each that is dropped belongs to a better one
        shared = pairwise_overlap_of_smaller(boxes[row : row + 1].astype(np.float64), boxes[:row].astype(np.float64))[0]
        takers = np.flatnonzero(keep[:row] & (shared > threshold))
        assert takers.size
        taker = takers[0]
        if cut[row] and cut[taker] and scores[row] >= scores[taker] / 2:
            assert (merged[taker, :2] <= boxes[row, :2]).all() and (merged[taker, 2:] >= boxes[row, 2:]).all()


def test_boxes_that_are_not_finite_are_left_out() -> None:
    boxes = np.array([[0, 0, np.inf, 9], [0, 0, 9, 9]], np.float32)
    found = (boxes, np.array([0.9, 0.5], np.float32), np.zeros(2, np.int64))
    assert merge_detections([found, found], "nmm", 0.5)[1].tolist() == [0.5]


# --- detection -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    st.sets(st.tuples(st.integers(0, 11), st.integers(0, 15)), min_size=1, max_size=40),
    st.sampled_from((0.2, 0.35, 0.5)),
    st.sampled_from(KINDS),
)
def test_small_objects_are_found_once_and_in_their_place(
    cells: set[tuple[int, int]], overlap: float, kind: MergeKind
) -> None:
    """Squares of 10 pixels, 20 apart, in tiles of 64 that share at least 12: each is whole in one of them."""
    image, truth = squares((240, 320), [(20 * row + 5, 20 * column + 5) for row, column in cells])
    finder = SquareFinder()
    found = Predictor(finder, batch=4).detect(image, 0.1, tile=SIDE, overlap=overlap, tile_merge=kind)
    assert found.size == (240, 320) and len(found) >= len(truth)
    farthest = 0.01 if kind == "nms" else 1.3  # a part may begin within a margin of the border
    for box in truth:
        assert np.abs(found.boxes - box).max(1).min() < farthest
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    near = np.abs(centres[:, None] - (truth[:, :2] + truth[:, 2:]) / 2).max(2) < 5.1
    assert (near.sum(0) == 1).all()
    assert sum(finder.batches) == Tiles(SIDE, overlap).count((240, 320)) and max(finder.batches) == 4


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_fits_into_one_tile_is_detected_as_without(frame: Letterbox | Stretch, kind: MergeKind) -> None:
    image, _ = squares((90, 128), [(3, 7), (30, 30), (31, 70), (60, 100)], side=17)
    predictor = Predictor(SquareFinder(frame))
    plain = predictor.detect(image, 0.1)
    tiled = predictor.detect(image, 0.1, tile=128, overlap=0.5, tile_merge=kind)
    assert len(plain) == 4 and tiled.to_dict() == plain.to_dict()


def test_an_object_larger_than_a_tile_is_found_in_the_whole_image() -> None:
    image, (truth,) = squares((256, 256), [(40, 60)], side=150)
    found = Predictor(SquareFinder()).detect(image, 0.1, tile=SIDE, tile_merge="nmm")
    np.testing.assert_allclose(found.boxes[0], truth, atol=5)


def test_merging_joins_the_parts_of_an_object_that_no_tile_has_whole() -> None:
    """Four tiles at 0, 21, 43 and 64 see an object from 10 to 120, and the whole image does not show it."""
    assert [left for _, left in Tiles(64, 0.6).corners((64, 128))] == [0, 21, 43, 64]
    spans, scores = ((10, 64), (21, 85), (43, 107), (64, 120)), (0.7, 0.9, 0.8, 0.6)
    found = [Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), size=(64, 128))]
    for (left, right), score in zip(spans, scores):
        box = np.array([[left, 10, right, 20]], np.float32)
        found.append(replace(found[0], boxes=box, scores=np.array([score], np.float32), labels=np.zeros(1, np.int64)))
    joined = Tiles(64, 0.6, "nmm").merge(found, Nms())
    assert joined.boxes.tolist() == [[10, 10, 107, 20], [64, 10, 120, 20]] and len(joined.scores) == 2
    best = Tiles(64, 0.6, "nms").merge(found, Nms())
    assert best.boxes.tolist() == [[21, 10, 85, 20], [64, 10, 120, 20]]
    whole = replace(found[0], boxes=np.array([[9, 9, 121, 21]], np.float32), scores=np.array([0.5], np.float32))
    found[0] = replace(whole, labels=np.zeros(1, np.int64))
    assert all(Tiles(64, 0.6, kind).merge(found, Nms()).boxes.tolist() == [[9, 9, 121, 21]] for kind in KINDS)


def test_limits_hold_for_the_merged_detections() -> None:
    image, _ = squares((200, 200), [(20 * row, 20 * column) for row in range(9) for column in range(9)])
    predictor = Predictor(SquareFinder(), postprocess=Nms(0.1, 0.5, limit=7))
    assert len(predictor.detect_tiles(image, predictor.postprocess, Tiles(SIDE))) == 7
    assert len(predictor.detect_tiles(image, TopK(limit=7), Tiles(SIDE))) > 7  # the limit of one run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported model, whose scores are the brightness, and an image that is bright in one quarter."""
    folder = tmp_path_factory.mktemp("tiles")
    write_model(folder / "small.onnx")
    image = np.zeros((128, 160, 3), np.uint8)
    image[64:, 96:] = 255
    cv2.imwrite(str(folder / "a.png"), image)
    (folder / "data/annotations").mkdir(parents=True)
    (folder / "data/val").mkdir()
    cv2.imwrite(str(folder / "data/val/a.png"), image)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 68, 16, 16], "area": 256, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 128, "width": 160}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "data/annotations/instances_val.json").write_text(json.dumps(content))
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_every_way_in_finds_the_same(folder: Path, tmp_path: Path) -> None:
    """An exported file by `detect` of one image and of a list, by `stream`, and by the command line."""
    detector = onelook.load(folder / "small.onnx")
    alone = detector.detect(folder / "a.png", tile=64, overlap=0)
    assert alone.scores[:2].tolist() == pytest.approx([0.9, 0.8])
    assert len(alone) > len(detector.detect(folder / "a.png"))
    np.testing.assert_allclose(alone.boxes[0], [100, 68, 116, 84], atol=1e-3)
    (streamed,) = detector.stream(folder / "a.png", tile=64, overlap=0)
    (listed,) = detector.detect([folder / "a.png"], tile=64, overlap=0)
    assert streamed.to_dict() == listed.to_dict() == alone.to_dict() and streamed.image is None
    settings = ("--model", str(folder / "small.onnx"), "--tile", "64", "--overlap", "0", "--format", "json,images")
    assert run("detect", str(folder / "a.png"), *settings, "--out", str(tmp_path / "out")) == 0
    (written,) = json.loads((tmp_path / "out/detections.json").read_text())
    assert written == json.loads(json.dumps(alone.to_dict()))
    assert (tmp_path / "out/images/a.png").is_file() or list((tmp_path / "out").rglob("a.*"))


def test_validation_in_tiles_scores_what_detection_finds(folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "val.json"
    base = ("val", str(folder / "data"), "--model", str(folder / "small.onnx"), "--json", str(told))
    assert run(*base) == 0
    assert json.loads(told.read_text())["stats"]["AP"] == 0
    assert run(*base, "--tile", "64", "--overlap", "0") == 0
    assert json.loads(told.read_text())["stats"]["AP"] == pytest.approx(1.0)
    assert run(*base, "--tile", "64", "--rectangular") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ("--tile", "5"),
        ("--tile", "64", "--overlap", "1"),
        ("--tile-merge", "wbf"),
        ("--overlap", "0.5"),
        ("--tile-merge", "nms"),
    ],
)
def test_wrong_tiles_are_wrong_usage(folder: Path, wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("detect", str(folder / "a.png"), "--model", str(folder / "small.onnx"), *wrong) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_image_of_too_many_tiles_does_not_lose_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, side in (("a", 64), ("b", 4600), ("c", 64)):
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.zeros((side, side), np.uint8))
    settings = ("--model", str(folder / "small.onnx"), "--tile", "32", "--format", "json")
    told = tmp_path / "told.json"
    assert run("detect", str(tmp_path / "images"), *settings, "--out", str(tmp_path / "out"), "--json", str(told)) == 1
    written = json.loads((tmp_path / "out/detections.json").read_text())
    assert [Path(one["source"]).stem for one in written] == ["a", "c"]
    (failure,) = json.loads(told.read_text())["failures"]
    assert failure["source"].endswith("b.png") and "tiles of 32 pixels" in failure["message"]
    assert run("detect", str(tmp_path / "images/b.png"), *settings, "--out", str(tmp_path / "alone")) == 2


def test_validation_names_the_image_of_too_many_tiles(folder: Path, tmp_path: Path, capsys) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    cv2.imwrite(str(data / "val/wide.png"), np.zeros((4600, 4600), np.uint8))
    file = data / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["images"].append({"id": 2, "file_name": "wide.png", "height": 4600, "width": 4600})
    file.write_text(json.dumps(content))
    assert run("val", str(data), "--model", str(folder / "small.onnx"), "--tile", "32") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "wide.png' cannot be cut" in told and "tiles of 32 pixels" in told and "larger tiles" in told


def test_shards_hold_what_detection_in_tiles_finds(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")
    found = onelook.load(folder / "small.onnx").detect(folder / "a.png", tile=64, overlap=0)
    settings = {"on": "local", "reporter": SilentReporter()}
    out = tmp_path / "out"
    onelook.detect_shards(folder / "small.onnx", folder / "a.png", out, tile=64, overlap=0.0, **settings)
    (row,) = parquet.read_table(out / "detections").to_pylist()
    assert row["scores"] == found.scores.tolist() and row["boxes"] == found.boxes.tolist()
    with pytest.raises(UserError, match="tiles, side was 64"):
        onelook.detect_shards(folder / "small.onnx", folder / "a.png", out, tile=96, overlap=0.0, **settings)
    whole = (str(folder / "a.png"), "--model", str(folder / "small.onnx"), "--on", "local", "--tile", "64")
    assert run("detect", *whole, "--out", str(tmp_path / "other")) == 0


def test_a_file_of_a_fixed_batch_is_filled_with_tiles(tmp_path: Path) -> None:
    """Runs of one image would be filled up with empty ones: four times the work of a batch of four."""
    for batch, expected in ((None, 1), (1, 1), (4, 4)):
        assert onelook.load(write_model(tmp_path / f"{batch}.onnx", batch=batch)).batch == expected
