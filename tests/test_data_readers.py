"""What the readers make of each format's layouts and fields."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import data_sets as make
from data_sets import changed, put, voc_object, voc_xml
from onelook.data import open_dataset, splits
from onelook.data.boxes import clean_boxes
from onelook.data.formats.voc_xml import read_xml
from onelook.data.paths import entries_ending
from onelook.data.split_names import usual_splits
from onelook.errors import DataError
from onelook.reporter import SilentReporter
from shared import data, needs_shared


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def images(folder, *names):
    for name in names:
        put(folder / name, make.png())


def coco_json(*names):
    entries = [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)]
    return json.dumps({"images": entries, "annotations": [], "categories": [{"id": 1, "name": "a"}]})


def coco_layouts(root):
    images(root / "1/val2017", "a.png")
    put(root / "1/annotations/instances_val2017.json", coco_json("a.png"))
    put(root / "1/annotations/captions_val2017.json", "{}")
    images(root / "2/valid", "a.png")
    put(root / "2/valid/_annotations.coco.json", coco_json("a.png"))
    images(root / "3/images/val", "a.png")
    put(root / "3/annotations/val.json", coco_json("a.png"))
    images(root / "4", "images/val/a.png")
    put(root / "4/instances_val.json", coco_json("images/val/a.png"))
    images(root / "5/data", "a.png")
    put(root / "5/labels.json", coco_json("a.png"))
    images(root / "6/val", "a.png")
    put(root / "6/annotations/instances_val.json", b"\xef\xbb\xbf" + coco_json("a.png").encode())
    images(root / "7/val", "a.png")
    put(root / "7/annotations/instances_val.json", coco_json("a.png").encode("utf-16"))


def yolo_layouts(root):
    row = "0 .5 .5 .5 .5"
    images(root / "1/images/val", "a.png")
    put(root / "1/labels/val/a.txt", row)
    images(root / "2/valid/images", "a.png")
    put(root / "2/valid/labels/a.txt", row)
    put(root / "2/data.yaml", "val: ../valid/images\nnc: 1\nnames: ['x']\n")
    images(root / "3/valid/images", "a.png")
    put(root / "3/valid/labels/a.txt", row)
    images(root / "4/images", "a.png")
    put(root / "4/labels/a.txt", row)
    put(root / "4/classes.txt", "x\n")
    images(root / "5/images/val", "a.png")
    put(root / "5/labels/val/a.txt", row)
    put(root / "5/val.txt", "./images/val/a.png\r\n\r\n")
    put(root / "5/custom.yaml", "path: .\nval: [val.txt]\nnames:\n  0: x\n")
    images(root / "6/images", "a.png")
    put(root / "6/images/a.txt", b"\xef\xbb\xbf0 .5 .5 .5 .5\r\n")
    put(root / "6/data.yaml", f"val: {root}/6/images\nnames: [x]\n")


def voc_layouts(root):
    xml = voc_xml(voc_object())
    images(root / "1/JPEGImages", "a.png")
    put(root / "1/Annotations/a.xml", xml)
    put(root / "1/ImageSets/Main/val.txt", "a\n")
    put(root / "1/ImageSets/Main/dog_val.txt", "a  1\n")
    images(root / "2/JPEGImages", "a.png")
    put(root / "2/Annotations/a.xml", xml)
    images(root / "3/valid", "a.png")
    put(root / "3/valid/a.xml", xml)
    images(root / "4/VOC2007/JPEGImages", "a.png")
    put(root / "4/VOC2007/Annotations/a.xml", xml)
    put(root / "4/VOC2007/ImageSets/Main/val.txt", "a\n")


@pytest.mark.parametrize(
    ("kind", "number"),
    [("coco", n) for n in range(1, 8)] + [("yolo", n) for n in range(1, 7)] + [("voc", n) for n in range(1, 5)],
)
def test_every_layout_is_found_by_its_content(tmp_path, kind, number):
    {"coco": coco_layouts, "yolo": yolo_layouts, "voc": voc_layouts}[kind](tmp_path)
    dataset = open_dataset(tmp_path / str(number), "val")
    assert (dataset.format, len(dataset), dataset.path(0).is_file()) == (kind, 1, True)
    assert splits(tmp_path / str(number)) in (("val",), ("all",))
    assert int(dataset.num_objects.sum()) == (kind != "coco")


def test_coco_keeps_ids_order_crowds_areas_and_subfolders(tmp_path):
    dataset = open_dataset(make.coco(tmp_path))
    assert dataset.names == ("cat", "dog") and dataset.category_ids == (2, 90)
    assert dataset.image_ids.tolist() == [7, 3, 5] and dataset.file_name(1) == "sub/b.png"
    assert dataset.annotation_ids(0).tolist() == [12, 10] and dataset.crowd(0).tolist() == [True, False]
    assert dataset.area(0).tolist() == [3072, 56] and dataset.area(1).tolist() == [55.5]
    assert dataset.boxes(1).tolist() == [[1.5, 2.25, 11.5, 22.25]] and dataset.boxes(2).shape == (0, 4)
    assert [len(rings) for rings in dataset.polygons(0)] == [0, 0] and dataset.polygons(1)[0][0].shape == (3, 2)


def test_a_json_file_is_a_data_set(tmp_path):
    root = make.coco(tmp_path)
    assert open_dataset(root / "annotations/instances_val.json").path(0).is_file()
    with pytest.raises(DataError, match="no split 'train'"):
        open_dataset(root / "annotations/instances_val.json", "train")


def test_sizes_that_annotations_lack_come_from_the_images(tmp_path):
    content = changed(images_0={"width": None, "height": None})
    assert open_dataset(make.coco(tmp_path / "coco", content)).sizes.tolist() == [[48, 64]] * 3
    xml = voc_xml(voc_object(), size="<size><width>0</width><height>0</height></size>")
    assert open_dataset(make.voc(tmp_path / "voc", xml)).sizes.tolist() == [[48, 64]] * 3


def test_an_unused_category_of_a_repeated_name_is_left_out(tmp_path):
    categories = [*make.COCO["categories"], {"id": 0, "name": "dog", "supercategory": "none"}]
    dataset = open_dataset(make.coco(tmp_path, changed(categories=categories)))
    assert dataset.category_ids == (2, 90) and "repeated name 'dog'" in dataset.describe()


def test_yolo_outlines_become_boxes_and_outlines(tmp_path):
    dataset = open_dataset(make.yolo(tmp_path, "1 .25 .25 .5 .25 .5 .75\n0 .5 .5 1 1\n"))
    assert dataset.boxes(0).tolist() == [[16, 12, 32, 36], [0, 0, 64, 48]]
    assert dataset.polygons(0)[0][0].tolist() == [[16, 12], [32, 12], [32, 36]] and dataset.polygons(0)[1] == ()
    assert dataset.labels(0).tolist() == [1, 0] and dataset.image_ids.tolist() == [1, 2, 3]


def test_yolo_pose_rows_are_boxes_where_the_description_says_so(tmp_path):
    root = make.yolo(tmp_path, "0 .5 .5 .5 .5 .1 .1 2 .2 .2 0\n")
    put(root / "data.yaml", "val: images/val\nkpt_shape: [2, 3]\nnames: [cat, dog]\n")
    assert open_dataset(root).boxes(0).tolist() == [[16, 12, 48, 36]]


def test_missing_and_empty_labels_keep_their_meaning(tmp_path):
    dataset = open_dataset(make.yolo(tmp_path))
    assert dataset.labelled.tolist() == [True, False, True] and dataset.num_objects.tolist() == [2, 0, 0]
    assert "images without a label file, which count as background: 1" in dataset.describe()


def test_classes_without_names_agree_between_splits(tmp_path):
    root = make.yolo(make.yolo(tmp_path, split="train"), "4 .5 .5 .5 .5")
    (root / "data.yaml").unlink()
    assert open_dataset(root, "train").names == open_dataset(root, "val").names == tuple("01234")


def test_voc_counts_pixels_from_1_and_marks_difficult(tmp_path):
    dataset = open_dataset(make.voc(tmp_path))
    assert dataset.names == ("cat", "dog") and dataset.boxes(0)[0].tolist() == [1, 2, 11, 22]
    assert dataset.difficult(1).tolist() == [True] and dataset.labelled.tolist() == [True, True, False]
    truth = dataset.coco_ground_truth()["annotations"]
    assert [entry["iscrowd"] for entry in truth] == [0, 0, 1] and len(dataset.sample(1).labels) == 1


def test_voc_classes_are_those_of_all_splits(tmp_path):
    root = make.voc(tmp_path)
    put(root / "Annotations/d.xml", voc_xml(voc_object("ant")))
    images(root / "JPEGImages", "d.png")
    put(root / "ImageSets/Main/train.txt", "d\n")
    assert open_dataset(root, "val").names == open_dataset(root, "train").names == ("ant", "cat", "dog")
    put(root / "labels.txt", "dog\ncat\nant\n")
    assert open_dataset(root, "val").names == ("dog", "cat", "ant")


def test_an_undivided_set_serves_any_split_and_says_so(tmp_path, capsys):
    voc_layouts(tmp_path)
    assert len(open_dataset(tmp_path / "2", "train", reporter=SilentReporter())) == 1
    assert capsys.readouterr() == ("", "")
    assert len(open_dataset(tmp_path / "2", "train")) == 1
    warning = f"warning: '{tmp_path}/2' is not divided into splits: all of it is used as 'train'.\n"
    assert capsys.readouterr() == ("", warning)
    with pytest.raises(DataError, match="no split 'fold3'"):
        open_dataset(tmp_path / "2", "fold3")


def test_classes_are_matched_by_name(tmp_path):
    dataset = open_dataset(make.coco(tmp_path))
    other = dataset.with_names(["dog", "bird", "cat"])
    assert other.labels(0).tolist() == [2, 0] and other.category_ids == (90, 91, 2)
    with pytest.raises(DataError, match=r"\[cat, dog\], but \[cat\]"):
        dataset.with_names(["cat"])


def test_boxes_are_cut_to_their_images():
    boxes = np.array([[-24.0, 8, 40, 5], [8, -24, 5, 40], [60, 40, 10, 20], [5, 5, 0, 4], [-9, 5, 4, 4], [70, 5, 4, 4]])
    cleaned, kept = clean_boxes(boxes, 48, 64)
    assert kept.tolist() == [True, True, True, False, False, False]
    assert cleaned[kept].tolist() == [[0, 8, 16, 13], [8, 0, 13, 16], [60, 40, 64, 48]]


def test_the_clean_up_published_for_coco_is_a_setting():
    boxes = np.array([[-2.0, 3, 5, 5], [60, 40, 10, 20], [5, 5, 0, 4], [70, 5, 4, 4], [1, 1, -3, 4]])
    cleaned, kept = clean_boxes(boxes, 48, 64, "slide")
    assert kept.tolist() == [True, True, False, False, False]
    assert cleaned[kept].tolist() == [[0, 3, 5, 8], [60, 40, 64, 48]]


def test_samples_leave_out_crowds(tmp_path):
    sample = open_dataset(make.coco(tmp_path)).sample(0)
    assert sample.image.shape == (48, 64, 3) and sample.boxes.tolist() == [[5, 6, 12, 14]]
    assert sample.labels.tolist() == [1] and len(sample.polygons) == 1


def test_views_choose_images(tmp_path):
    view = open_dataset(make.coco(tmp_path)).view([2, 1]).view([1])
    assert len(view) == 1 and view.image_ids.tolist() == [3] and len(view.coco_ground_truth()["annotations"]) == 1
    with pytest.raises(IndexError):
        view.view([1])


@needs_shared
@pytest.mark.parametrize(
    ("split", "counts"), [("train", [209, 2382, 214]), ("val", [83, 968, 87]), ("test", [69, 805, 71])]
)
def test_bccd_has_the_boxes_it_is_known_for(split, counts):
    dataset = open_dataset(data("bccd"), split)
    assert dataset.names == ("Platelets", "RBC", "WBC")
    assert np.bincount(dataset.index.labels).tolist() == counts and dataset.index.boxes.min() >= 0


@pytest.mark.parametrize(
    ("names", "usual"),
    [
        (("train", "val"), ("train", "val")),
        (("train", "val", "test"), ("train", "val")),
        (("train", "test"), ("train", "test")),
        (("trainval",), ("trainval", "val")),
        (("train", "val", "trainval", "test"), ("trainval", "test")),
        (("train", "val", "trainval"), ("train", "val")),
    ],
    ids="+".join,
)
def test_a_training_uses_the_usual_splits(names, usual):
    assert usual_splits(names) == usual


def test_a_pascal_voc_name_with_a_space_and_a_number_is_not_an_image_and_its_flag(tmp_path: Path) -> None:
    """`0 0` is the image `0 0.png` where that has an annotation, and the image `0` with its flag elsewhere."""
    for grey, name in enumerate(("0 0", "1 1", "0", "1")):
        put(tmp_path / "JPEGImages" / f"{name}.png", make.png(grey=grey))
        put(tmp_path / "Annotations" / f"{name}.xml", voc_xml(voc_object("cat")))
    put(tmp_path / "ImageSets" / "Main" / "val.txt", "0 0\n1 1\n")
    dataset = open_dataset(tmp_path)
    assert [dataset.path(image).stem for image in range(len(dataset))] == ["0 0", "1 1"]
    put(tmp_path / "ImageSets" / "Main" / "val.txt", "0 -1\n1 1\n")
    (tmp_path / "Annotations" / "1 1.xml").unlink()
    dataset = open_dataset(tmp_path)
    assert [dataset.path(image).stem for image in range(len(dataset))] == ["0", "1"]


def test_text_of_voc_counts_only_directly_inside_the_tags_that_matter(tmp_path):
    head = "text <filename> a<!-- b -->.png </filename> text <size>9<width>8</width>9<height>6</height></size>"
    box = "<bndbox>5<xmin>1</xmin>5<ymin>2</ymin><xmax>3<part>4</part>5</xmax><ymax>&#52;</ymax></bndbox>"
    put(tmp_path / "a.xml", f"<annotation>{head}<object>no<name>c&amp;d</name>no{box}</object>no</annotation>")
    found = read_xml(tmp_path / "a.xml")
    assert found.texts == {"filename": "a.png", "width": "8", "height": "6"}
    assert found.objects[0].texts == {"name": "c&d", "xmin": "1", "ymin": "2", "ymax": "4"}


def test_entries_of_an_ending_are_those_that_glob_finds(tmp_path):
    for name in ("b.txt", "a.txt", ".txt", ".c.txt", "d.txt.bak", "e.TXT", "txt"):
        put(tmp_path / name, "")
    (tmp_path / "f.txt").mkdir()
    assert entries_ending(tmp_path, ".txt") == sorted(tmp_path.glob("*.txt"))
    assert entries_ending(tmp_path, ".txt", ".bak")[-1].name == "f.txt"
    assert entries_ending(tmp_path / "gone", ".txt") == entries_ending(tmp_path / "txt", ".txt") == []
