"""Large images are cut into tiles with their objects: `convert` with a side."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_sets as make
from data_sets import put
from onelook.cli.app import run
from onelook.data import open_dataset
from onelook.data.building import lay_out_rings
from onelook.data.convert import convert
from onelook.data.tiling import Tiling, box_shares
from onelook.errors import UsageError
from onelook.ops.tile_grid import TileGrid
from onelook.reporter import SilentReporter

QUIET = SilentReporter()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))


def numbered_image(path: Path, width: int, height: int) -> np.ndarray:
    """An image file whose every pixel tells its place, so that a tile proves where it was cut; RGB."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([across % 256, down % 256, (across // 256) * 16 + down // 256], axis=2).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return image


def coco(
    root: Path, images: list[tuple[str, int, int]], objects: list[dict], names: tuple[str, ...] = ("tree",)
) -> Path:
    """A COCO data set with a split `train`; an object's image is counted from 0."""
    entries = [{"id": i + 1, "file_name": name, "width": w, "height": h} for i, (name, w, h) in enumerate(images)]
    annotations = [
        {"id": n + 1, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0, "category_id": 1}
        | {**one, "image_id": one["image"] + 1}
        for n, one in enumerate(objects)
    ]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    put(root / "annotations/instances_train.json", json.dumps(content))
    return root


def place_of(name: str) -> tuple[int, int]:
    """(top, left), which the name of a tile ends with."""
    top, left = os.path.splitext(name)[0].split("_")[-2:]
    return int(top), int(left)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 1500)] * 2, *[st.integers(1, 900)] * 2), max_size=6),
    st.sampled_from((40, 64, 100)),
    st.sampled_from((0.0, 0.2, 0.5)),
    st.sampled_from((0.3, 0.5, 1.0)),
)
def test_a_tile_has_the_objects_of_which_it_shows_enough(boxes, side, overlap, visible):
    width, height = 150, 90
    given_boxes = [
        (x / 10, y * 0.06, min(w / 10, width - x / 10), min(h / 10, height - y * 0.06)) for x, y, w, h in boxes
    ]
    given_boxes = [box for box in given_boxes if min(box[2:]) > 0.05]
    with tempfile.TemporaryDirectory() as folder:
        root = coco(Path(folder), [("a.png", width, height)], [{"image": 0, "bbox": list(box)} for box in given_boxes])
        image = numbered_image(root / "train/a.png", width, height)
        tiling = Tiling(TileGrid(side, overlap), visible)
        convert(root, to="coco", out=root / "out", tiling=tiling, reporter=QUIET)
        found = open_dataset(root / "out", "train", reporter=QUIET)
        covered = np.zeros((height, width), bool)
        for i in range(len(found)):
            top, left = place_of(found.file_name(i))
            tile = found.image(i)
            np.testing.assert_array_equal(tile, image[top : top + side, left : left + side])
            covered[top : top + side, left : left + side] = True
            expected = []
            for x, y, w, h in given_boxes:
                cut = (max(x, left), max(y, top), min(x + w, left + side), min(y + h, top + side))
                share = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0) / (w * h)
                if share >= visible - 1e-6:
                    expected.append((cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top))
            np.testing.assert_allclose(found.boxes(i), np.array(expected).reshape(-1, 4), atol=1e-3)
        assert covered.all()


def test_shares_of_boxes_are_exactly_one_only_inside():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 10, 10], [-1e-12, 0, 10, 10], [20, 0, 3, 3], [0.1, 0.2, 0.3, 0.4]])
    shares = box_shares(boxes, (0, 0, 10, 10))
    assert shares[0] == shares[4] == 1 and shares[1] == 0.25 and shares[2] < 1 and shares[3] == 0


def test_an_image_that_fits_is_the_same_file_and_jpegs_stay_jpegs(tmp_path):
    root = coco(
        tmp_path / "in", [("small.png", 50, 40), ("sub/large.jpg", 100, 60)], [{"image": 0, "bbox": [1, 2, 3, 4]}]
    )
    numbered_image(root / "train/small.png", 50, 40)
    numbered_image(root / "train/sub/large.jpg", 100, 60)
    result = convert(root, to="yolo", out=tmp_path / "out", tiling=Tiling(TileGrid(60, 0.0)), reporter=QUIET)
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*g"))
    assert written == ["images/train/small.png", "images/train/sub/large_0_0.jpg", "images/train/sub/large_0_40.jpg"]
    assert os.path.samefile(root / "train/small.png", tmp_path / "out/images/train/small.png")
    assert result.splits == {"train": {"images": 3, "boxes": 1}}
    assert "1 images were cut into 2 tiles of at most 60 x 60 pixels, 2 of them without objects" in result.notes
    assert not list((tmp_path / "out").glob(".*"))
    copied = convert(root, to="yolo", out=tmp_path / "copy", copy=True, tiling=Tiling(TileGrid(60)), reporter=QUIET)
    assert copied.splits == result.splits
    assert not os.path.samefile(root / "train/small.png", tmp_path / "copy/images/train/small.png")


def test_outlines_crowds_areas_and_marks_follow_their_boxes(tmp_path):
    outline = [40.0, 10.0, 80.0, 10.0, 80.0, 30.0, 40.0, 30.0]
    objects = [
        {"image": 0, "bbox": [40, 10, 40, 20], "area": 400, "segmentation": [outline]},
        {"image": 0, "bbox": [10, 0, 45, 50], "iscrowd": 1, "segmentation": {"counts": [0, 5000], "size": [50, 100]}},
        {"image": 0, "bbox": [0, 0, 100, 50], "category_id": 2, "hint": 3},
    ]
    root = coco(tmp_path / "in", [("a.png", 100, 50)], objects, ("tree", "forest"))
    numbered_image(root / "train/a.png", 100, 50)
    result = convert(root, to="coco", out=tmp_path / "out", tiling=Tiling(TileGrid(50, 0.0), 0.75), reporter=QUIET)
    first, second = open_dataset(tmp_path / "out", "train"), 1
    assert first.names == ("tree", "forest") and len(first) == 2
    np.testing.assert_allclose(first.boxes(0), [[10, 0, 50, 50]])  # of the crowd; 0.25 of the tree is too little
    np.testing.assert_allclose(first.boxes(second), [[0, 10, 30, 30], [0, 0, 5, 50]])
    assert first.crowd(0).tolist() == [True] and first.crowd(second).tolist() == [False, True]
    np.testing.assert_allclose(first.area(second), [300, 250])
    np.testing.assert_allclose(first.polygons(second)[0][0], [[0, 10], [30, 10], [30, 30], [0, 30]])
    assert "1 objects are in no tile, as none shows 75% of their boxes" in result.notes
    assert any("further fields" in note for note in result.notes)
    convert(root, to="voc", out=tmp_path / "voc", tiling=Tiling(TileGrid(50, 0.0), 0.75), reporter=QUIET)
    assert "<truncated>1</truncated>" in (tmp_path / "voc/Annotations/a_0_50.xml").read_text()


def test_rings_are_laid_out_object_by_object():
    triangle, square = np.array([[0.0, 0], [4, 0], [0, 4]]), np.array([[1.0, 1], [3, 1], [3, 3], [1, 3]])
    arrays = lay_out_rings([(), (triangle, square), iter((square,)), ()])
    assert arrays["ring_offsets"].tolist() == [0, 0, 2, 3, 3]
    assert arrays["ring_spans"].tolist() == [[0, 3], [3, 7], [7, 11]]
    np.testing.assert_array_equal(arrays["points"], np.concatenate((triangle, square, square)))
    none = lay_out_rings([(), ()])
    assert [none[name].shape for name in ("ring_offsets", "ring_spans", "points")] == [(3,), (0, 2), (0, 2)]


def test_names_stay_apart(tmp_path):
    images = [("a.png", 100, 40), ("a_0_0.png", 40, 40), ("A_0_0.PNG", 40, 40)]
    root = coco(tmp_path / "in", images, [{"image": 1, "bbox": [1, 2, 3, 4]}, {"image": 2, "bbox": [5, 6, 7, 8]}])
    for name, width, height in images:
        numbered_image(root / "train" / name, width, height)
    convert(root, to="coco", out=tmp_path / "out", tiling=Tiling(TileGrid(50)), reporter=QUIET)
    found = open_dataset(tmp_path / "out", "train", reporter=QUIET)
    names = [found.file_name(i) for i in range(len(found))]
    assert len({name.lower() for name in names}) == len(names) == 5
    whole = [found.boxes(i).tolist() for i in range(len(found)) if found.sizes[i].tolist() == [40, 40]]
    assert whole == [[[1, 2, 4, 6]], [[5, 6, 12, 14]]]


def test_tiles_are_read_out_of_shards_and_written_to_them(tmp_path):
    root = coco(tmp_path / "in", [("a.png", 100, 40)], [{"image": 0, "bbox": [60, 2, 3, 4]}])
    image = numbered_image(root / "train/a.png", 100, 40)
    convert(root, to="shards", out=tmp_path / "shards", reporter=QUIET)
    tiling = Tiling(TileGrid(50, 0.0))
    convert(tmp_path / "shards", to="shards", out=tmp_path / "tiles", tiling=tiling, reporter=QUIET)
    found = open_dataset(tmp_path / "tiles", "train", reporter=QUIET)
    assert [found.file_name(i).rpartition("/")[2] for i in range(2)] == ["a_0_0.png", "a_0_50.png"]
    np.testing.assert_array_equal(found.image(1), image[:, 50:])
    np.testing.assert_allclose(found.boxes(1), [[10, 2, 13, 6]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "0.1"], "'overlap' is for tiles"),
        (["--visible", "0.1"], "'visible' is for tiles"),
        (["--tile", "5"], "tile is 5"),
        (["--tile", "64", "--overlap", "0.95"], "overlap is 0.95"),
        (["--tile", "64", "--visible", "0"], "visible is 0"),
    ],
)
def test_what_cannot_be_cut_is_an_error(tmp_path, capsys, options, message):
    root = make.coco(tmp_path / "in")
    assert run(["convert", str(root), "--to", "coco", "--out", str(tmp_path / "out"), *options]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_of_too_many_tiles_is_named_by_its_size(tmp_path):
    root = coco(tmp_path / "in", [("a.png", 100000, 100000)], [])
    put(root / "train/a.png", make.png(100000, 1))
    with pytest.raises(UsageError, match="100000 x 100000"):
        convert(
            root, to="coco", out=tmp_path / "out", tiling=Tiling(TileGrid(32)), allow_size_mismatch=True, reporter=QUIET
        )
    assert not (tmp_path / "out").exists()
