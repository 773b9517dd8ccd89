"""Small data sets that users of detectors have reported as going wrong silently, and what is right for each."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import data_sets as make
from data_sets import codes, put, said
from onelook import build
from onelook.api.validate import validate
from onelook.cli.app import run
from onelook.data import open_dataset
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.loader import Loader
from onelook.data.objects import evaluation_notes
from onelook.data.order import Sampling
from onelook.data.paths import plain_name
from onelook.errors import DataError
from onelook.evaluation import score
from onelook.evaluation.annotations import read_ground_truth
from onelook.evaluation.tables import Results
from onelook.predict.sources import find_sources
from onelook.reporter import SilentReporter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))


def coco(root: Path, boxes: list[list[float]], *, size: tuple[int, int] | None = (160, 160), **fields: Any) -> Path:
    """Train and val of one image each, 160 x 160. size: as annotated, width and height."""
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    content = {
        "images": [{"id": 1, "file_name": "1.png", **sides}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **fields}
            for n, box in enumerate(boxes, 1)
        ],
    }
    for grey, split in enumerate(("train", "val")):
        put(root / split / "1.png", make.png(160, 160, grey))
        put(root / f"annotations/instances_{split}.json", json.dumps(content))
    return root


# --- boxes beyond the image -------------------------------------------------------------------------------------------

BEYOND = [[-24.0, 64, 64, 32], [64.0, -24, 32, 64], [120.0, 64, 64, 32], [-60.0, 10, 30, 30]]
INSIDE = [[0, 64, 40, 96], [64, 0, 96, 40], [120, 64, 160, 96]]


def as_it_is(sample, draw, rng):
    """An augmentation that changes nothing."""
    return sample.load() if hasattr(sample, "load") else sample


def test_boxes_beyond_the_image_are_cut_alike_everywhere(tmp_path):
    root = coco(tmp_path / "in", BEYOND)
    dataset = open_dataset(root, "train")
    assert dataset.sample(0).boxes.tolist() == INSIDE
    truth = dataset.coco_ground_truth()["annotations"]
    assert [[*box[:2], box[0] + box[2], box[1] + box[3]] for box in (a["bbox"] for a in truth)] == INSIDE
    assert [entry["area"] for entry in truth] == [40 * 32, 32 * 40, 40 * 32]
    assert codes(root) == {"box-beyond-image", "box-outside"}
    report = check(root, reporter=SilentReporter())
    assert report.exit_code == 0  # nothing of it is refused by a training
    left_out = [problem.message for problem in report.problems if problem.code == "box-outside"]
    assert left_out and all("training and val leave it out" in message for message in left_out)
    for to in ("coco", "yolo", "voc"):
        result = convert(root, to=to, out=tmp_path / to, reporter=SilentReporter())
        assert result.lost["parts of boxes beyond their images (cut off)"] == 6
        assert result.lost["boxes wholly outside of their images (left out)"] == 2
        np.testing.assert_allclose(open_dataset(tmp_path / to, "train").boxes(0), INSIDE, atol=1e-4)


def test_the_published_clean_up_is_a_setting_of_the_training(tmp_path):
    dataset = open_dataset(coco(tmp_path, BEYOND), "train")
    slid = [[0, 64, 64, 96], [64, 0, 96, 64], [120, 64, 160, 96], [0, 10, 30, 40]]
    assert replace(dataset, beyond_image="slide").sample(0).boxes.tolist() == slid


def test_outlines_are_cut_with_their_boxes(tmp_path):
    outline = {"segmentation": [[-32, 100, 100, 100, 100, 150, -32, 150]]}
    root = coco(tmp_path / "in", [[-32, 100, 132, 50]], **outline)
    (rings,) = open_dataset(root, "train").sample(0).polygons
    assert sorted(map(tuple, rings[0].tolist())) == [(0, 100), (0, 150), (100, 100), (100, 150)]
    result = convert(root, to="yolo", out=tmp_path / "yolo", reporter=SilentReporter())
    values = [float(value) for value in (tmp_path / "yolo/labels/train/1.txt").read_text().split()]
    assert len(values) == 9 and min(values) >= 0 and max(values) <= 1
    assert result.lost["parts of outlines beyond their images (cut off)"] == 2
    assert "error" not in said(tmp_path / "yolo")


# --- images that do not fit their annotations -------------------------------------------------------------------------


def turned_jpeg(width: int, height: int) -> bytes:
    """A JPEG of these stored sides, which its EXIF orientation 6 turns by 90 degrees."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    exif = b"Exif\0\0" + tiff
    data = cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def turned(root: Path) -> Path:
    coco(root, [[10, 10, 50, 50]], size=(128, 96))
    for split in ("train", "val"):
        put(root / split / "1.png", turned_jpeg(128, 96))
    return root


def test_turned_images_are_an_error_before_the_first_step(tmp_path, capsys):
    root = turned(tmp_path / "data")
    flags = ["--model", "yolox-nano", "--size", "64", "--batch", "1", "--epochs", "1", "--workers", "0"]
    assert run(["train", str(root), *flags, "--out", str(tmp_path / "run")]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "1.png' is 96 x 128 pixels, but annotated as 128 x 96 (turned by its EXIF orientation" in shown
    assert "--allow-size-mismatch" in shown and not (tmp_path / "run/best.safetensors").exists()


def test_val_refuses_images_of_another_size_unless_allowed(tmp_path):
    root, model = turned(tmp_path / "data"), build("yolox-nano")
    with pytest.raises(DataError, match=r"split 'val', have another size: .*EXIF"):
        validate(model, root, size=64, reporter=SilentReporter())
    with pytest.raises(DataError, match="no class in common"):  # it went on to the classes
        validate(model, root, size=64, allow_size_mismatch=True, reporter=SilentReporter())


def test_all_images_are_compared_once_and_a_sample_each_time(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 8} for n in range(200)]
    for n in range(200):
        put(tmp_path / f"val/{n}.png", make.png(8, 8))
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    put(tmp_path / "val/101.png", make.png(9, 8))
    put(tmp_path / "annotations/instances_val.json", json.dumps(content))
    for _ in range(2):  # what was found stays found
        with pytest.raises(DataError, match=r"1 of 200 images .*101\.png' is 9 x 8 pixels"):
            check_annotated_sizes(open_dataset(tmp_path), SilentReporter())
    put(tmp_path / "val/101.png", make.png(8, 8))
    check_annotated_sizes(open_dataset(tmp_path), SilentReporter())
    for n in range(0, 200, 2):
        put(tmp_path / f"val/{n}.png", make.png(8, 9))
    with pytest.raises(DataError, match=r"of 64 images looked at"):
        check_annotated_sizes(open_dataset(tmp_path), SilentReporter())


def test_convert_refuses_them_too(tmp_path):
    root = turned(tmp_path / "data")
    with pytest.raises(DataError, match="have another size"):
        convert(root, to="voc", out=tmp_path / "out", reporter=SilentReporter())
    convert(root, to="voc", out=tmp_path / "out", allow_size_mismatch=True, reporter=SilentReporter())


VOC_BOX = make.voc_object("a", (41, 41, 161, 161)) + make.voc_object("a", (141, 141, 181, 181))


@pytest.mark.parametrize("kind", ["coco", "voc, size 0", "voc, no size", "yolo"])
def test_replaced_images_make_the_index_stale_where_sizes_came_from_them(tmp_path, kind):
    if kind == "coco":
        coco(tmp_path, [[40, 40, 120, 120], [140, 140, 40, 40]], size=None)
        image = tmp_path / "train/1.png"
    elif kind == "yolo":
        image = tmp_path / "images/train/1.png"
        put(tmp_path / "labels/train/1.txt", "0 .5 .5 .6 .6\n0 .8 .8 .2 .2\n")
    else:
        size = "<size><width>0</width><height>0</height></size>" if "0" in kind else ""
        put(tmp_path / "Annotations/1.xml", make.voc_xml(VOC_BOX, size=size))
        image = tmp_path / "JPEGImages/1.png"
    put(image, make.png(100, 100))
    assert open_dataset(tmp_path, "train", reporter=SilentReporter()).sizes.tolist() == [[100, 100]]
    put(image, make.png(200, 200))
    dataset = open_dataset(tmp_path, "train", reporter=SilentReporter())
    assert dataset.sizes.tolist() == [[200, 200]]
    np.testing.assert_allclose(dataset.sample(0).boxes, [[40, 40, 160, 160], [140, 140, 180, 180]], atol=1e-4)
    stamp = dataset.index.path.stat().st_mtime_ns
    assert open_dataset(tmp_path, "train", reporter=SilentReporter()).index.path.stat().st_mtime_ns == stamp


# --- difficult, ignored, crowds ---------------------------------------------------------------------------------------


def test_objects_marked_difficult_count_in_coco_files_in_val_and_score_alike(tmp_path):
    root = coco(tmp_path, [[10, 10, 50, 50]], difficult=1, ignore=1)
    dataset = open_dataset(root)
    counted = score(dataset.coco_ground_truth(), Results.empty()).objects.tolist()
    file = root / "annotations/instances_val.json"
    assert counted == score(read_ground_truth(file), Results.empty()).objects.tolist() == [1]
    assert len(dataset.sample(0).labels) == 1


def test_val_says_how_difficult_objects_and_cut_boxes_count(tmp_path):
    boxes, marked = (coco(tmp_path / "a", BEYOND), coco(tmp_path / "b", [[1, 1, 9, 9]], difficult=1))
    assert evaluation_notes(open_dataset(marked)) == (
        "1 objects are marked difficult; they count like all others, as pycocotools.",
    )
    cut, left_out = evaluation_notes(open_dataset(boxes))
    assert cut.startswith("3 annotated boxes reach beyond their images")
    assert left_out.startswith("1 annotated boxes lie outside of their images or have no area")
    voc = open_dataset(make.voc(tmp_path / "c"))
    assert evaluation_notes(voc) == (
        "1 objects are marked difficult; they count neither hit nor miss, as in Pascal VOC.",
    )


def test_a_conversion_says_that_difficult_objects_count_otherwise(tmp_path):
    lost = convert(make.voc(tmp_path / "voc"), to="coco", out=tmp_path / "coco", reporter=SilentReporter()).lost
    assert [number for text, number in lost.items() if "difficult" in text] == [1]
    lost = convert(tmp_path / "coco", to="voc", out=tmp_path / "back", reporter=SilentReporter()).lost
    assert [number for text, number in lost.items() if "difficult" in text] == [1]


def test_a_split_of_crowds_is_an_error_of_check(tmp_path):
    root = coco(tmp_path, [[20, 20, 30, 30]], iscrowd=1)
    assert "only-crowds" in codes(root) and "Every object of the split 'train' is a crowd" in said(root)
    mixed = json.loads((root / "annotations/instances_train.json").read_text())
    mixed["categories"].append({"id": 2, "name": "b"})
    mixed["annotations"].append({**mixed["annotations"][0], "id": 2, "category_id": 2, "iscrowd": 0})
    put(root / "annotations/instances_train.json", json.dumps(mixed))
    assert "The class 'a' has only crowds in the split 'train'" in said(root)


# --- guesses ----------------------------------------------------------------------------------------------------------


def test_val_says_that_all_objects_are_crowds(tmp_path):
    root = coco(tmp_path, [[10, 10, 50, 50], [20, 20, 30, 30]], iscrowd=1)
    dataset = open_dataset(root)
    found = validate(build("yolox-nano", classes=dataset.names), dataset, size=64, reporter=SilentReporter())
    assert found.stats["AP"] == -1
    assert "The split has no objects that count (all 2 are crowds). Every number is undefined." in found.notes


def test_val_says_what_was_assumed_and_says_it_once(tmp_path):
    dataset = open_dataset(coco(tmp_path, [[10, 10, 50, 50]]))
    dataset = replace(dataset, notes=("a guess", "another guess", "a guess"))
    found = validate(build("yolox-nano", classes=dataset.names), dataset, size=64, reporter=SilentReporter())
    assert found.notes == ("a guess", "another guess")


def grouped(root: Path, *, used: bool = False, other: str = "fish") -> Path:
    content = {
        "images": [{"id": 0, "file_name": "1.jpg", "height": 48, "width": 64}],
        "categories": [
            {"id": 0, "name": "fish", "supercategory": "none"},
            {"id": 1, "name": "cod", "supercategory": "fish"},
            {"id": 2, "name": "eel", "supercategory": other},
        ],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": label, "bbox": [20, 10, 10, 20], "area": 200, "iscrowd": 0}
            for n, label in enumerate((1, 2, 0) if used else (1, 2))
        ],
    }
    put(root / "train/_annotations.coco.json", json.dumps(content))
    put(root / "train/1.jpg", make.png())
    return root


def test_a_category_that_groups_the_others_is_no_class(tmp_path):
    dataset = open_dataset(grouped(tmp_path / "a"), "train")
    assert dataset.names == ("cod", "eel") and dataset.labels(0).tolist() == [0, 1]
    assert "'fish' has no objects and is the supercategory of all others" in dataset.describe()
    assert "'fish' has no objects" in said(tmp_path / "a")
    for number, kept in enumerate((grouped(tmp_path / "b", used=True), grouped(tmp_path / "c", other="snake"))):
        assert open_dataset(kept, "train").names == ("fish", "cod", "eel"), number


def test_classes_that_are_listed_differently_are_matched_and_it_is_said(tmp_path):
    dataset = open_dataset(make.coco(tmp_path))
    assert "lists its classes differently (in another order)" in dataset.with_names(["dog", "cat"]).describe()
    assert "(not all)" in dataset.with_names(["cat", "dog", "eel"]).describe()
    assert "differently" not in dataset.with_names(["cat", "dog"]).describe()


# --- messages, flat folders and lists ---------------------------------------------------------------------------------


def test_ids_that_are_too_large_are_called_so(tmp_path):
    root = make.coco(tmp_path, make.changed(images_0={"id": 7_000_000_000_000_000_000}))
    with pytest.raises(DataError, match="'id' is too large: 7000000000000000000"):
        open_dataset(root)


def test_quoted_class_numbers_are_named(tmp_path):
    root = make.yolo(tmp_path)
    put(root / "data.yaml", "val: images/val\nnames:\n  '0': a\n  '1': b\n")
    with pytest.raises(DataError, match=r"keys of 'names' are text \('0', '1'\)") as caught:
        open_dataset(root)
    assert "quotes" in caught.value.remedy


def test_a_name_in_another_unicode_form_is_told_apart(tmp_path):
    root = make.coco(tmp_path, make.changed(images_0={"file_name": "caf\u00e9.png"}))
    (root / "val/a.png").rename(root / "val/cafe\u0301.png")
    assert r"the given one is caf\xe9.png, the file is cafe\u0301.png" in said(root)


def test_a_list_with_a_folder_that_is_not_there_is_read_without_it(tmp_path):
    put(tmp_path / "obj_train_data/f0.png", make.png())
    put(tmp_path / "obj_train_data/f0.txt", "0 .5 .5 .2 .2\n")
    put(tmp_path / "obj.names", "a\n")
    put(tmp_path / "train.txt", "data/obj_train_data/f0.png\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image(0).shape == (48, 64, 3) and len(dataset.boxes(0)) == 1
    assert "'train.txt': the images are found without the 'data/' before their names" in dataset.describe()
    put(tmp_path / "train.txt", "data/obj_train_data/f1.png\n")
    with pytest.raises(DataError, match="correct its name where it is listed"):
        open_dataset(tmp_path, "train")


def test_names_in_lists_are_taken_as_they_are(tmp_path):
    put(tmp_path / "images/#1.png", make.png())
    put(tmp_path / "labels/#1.txt", "0 .5 .5 .2 .2\n")
    put(tmp_path / "train.txt", "images/#1.png\n")
    assert open_dataset(tmp_path, "train").num_objects.tolist() == [1]
    put(tmp_path / "list/#1.png", make.png())
    put(tmp_path / "list/list.txt", "# a note\n#1.png\n")
    assert [Path(source.path).name for source in find_sources([str(tmp_path / "list/list.txt")])] == ["#1.png"]


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("names", ["classes.txt", None])
def test_yolo_labels_beside_their_images_are_found(tmp_path, split, names):
    put(tmp_path / f"{split}1.png", make.png())
    put(tmp_path / f"{split}1.txt", "0 .5 .5 .2 .2\n")
    if names:
        put(tmp_path / names, "a\n")
    dataset = open_dataset(tmp_path, "train", reporter=SilentReporter())
    assert dataset.format == "yolo" and dataset.num_objects.tolist() == [1] and dataset.labelled.all()
    assert dataset.names == (("a",) if names else ("0",))


def test_darknet_exports_are_found_and_their_classes_agree(tmp_path):
    for split in ("train", "valid"):
        put(tmp_path / f"{split}/1.png", make.png())
        put(tmp_path / f"{split}/1.txt", "1 .5 .5 .2 .2\n")
        put(tmp_path / f"{split}/_darknet.labels", "a\nb\n")
    assert open_dataset(tmp_path, "val").names == ("a", "b")
    put(tmp_path / "valid/_darknet.labels", "b\na\n")
    with pytest.raises(DataError, match="lists of classes differ"):
        open_dataset(tmp_path, "val")


def test_texts_that_are_no_labels_make_no_data_set(tmp_path):
    put(tmp_path / "1.png", make.png())
    put(tmp_path / "1.txt", "a cat on a mat, by the sea\n")
    with pytest.raises(DataError, match="No data set was recognised"):
        open_dataset(tmp_path)


def test_voc_files_beside_their_images_are_found(tmp_path):
    put(tmp_path / "1.png", make.png())
    put(tmp_path / "1.xml", make.voc_xml(make.voc_object("a")))
    dataset = open_dataset(tmp_path, "train", reporter=SilentReporter())
    assert dataset.format == "voc" and dataset.names == ("a",) and dataset.image(0).shape == (48, 64, 3)


def test_the_loader_takes_the_setting_for_boxes_beyond_the_image(tmp_path):
    dataset = open_dataset(coco(tmp_path, BEYOND), "train")
    counts = {}
    for beyond in ("cut", "slide"):
        with Loader(dataset, (160, 160), 1, sampling=Sampling(beyond_image=beyond), workers=0) as loader:
            (batch,) = loader.epoch(0, as_it_is, 0)
            counts[beyond] = batch.targets.boxes[0][batch.targets.valid[0]].tolist()
    assert counts["cut"] == INSIDE and counts["slide"][0] == [0, 64, 64, 96] and len(counts["slide"]) == 4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
@pytest.mark.parametrize("name", ["a:b.png", "C:x.png", "2024-01-01T10:00:00.png", "sub/a:b.png"])
def test_a_colon_in_a_name_is_a_letter_where_the_system_takes_it(tmp_path, name):
    root = make.coco(tmp_path, make.changed(images_0={"file_name": name}))
    put(root / "val" / name, make.png(grey=5))
    assert int(open_dataset(root).image(0).max()) == 5 and open_dataset(root).file_name(0) == name
    assert convert(root, to="yolo", out=tmp_path / "yolo", reporter=SilentReporter())
    assert plain_name("..") is plain_name("a:b/../../c.png") is None


def test_a_drive_is_refused_on_windows(monkeypatch):
    monkeypatch.setattr("onelook.data.paths.os.name", "nt")
    assert plain_name("a:b.jpg") is plain_name("C:x/y.jpg") is None and plain_name("sub/b.jpg") == "sub/b.jpg"
