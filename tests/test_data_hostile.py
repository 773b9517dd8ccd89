"""Annotation files that are damaged, forged or malicious: one clear message each, in bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import data_sets as make
from counting import error_and_calls
from data_sets import changed, put, voc_object, voc_xml
from onelook.data import open_dataset
from onelook.data.check import check
from onelook.errors import UserError
from onelook.reporter import SilentReporter

DEEP = 100_000


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def num_bytes(data: Path) -> int:
    """The size of all files of a data set."""
    folder = data if data.is_dir() else data.parent
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def refused(data: Path, *words: str) -> str:
    """Opens what must be refused, with a message holding these words; `check` must say so too, and not fail."""
    tracemalloc.start()
    try:
        error, calls = error_and_calls(UserError, lambda: open_dataset(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6 and calls < 50_000 + 20 * num_bytes(data)
    message = str(error)
    for word in words:
        assert word in message, message
    assert len(message) < 3000 and error.remedy
    with contextlib.suppress(UserError):
        assert check(data, quick=True).exit_code == 1
    return message


# what, content, words of the message
COCO = [
    ("an empty file", "", ["instances_val.json:1", "no JSON object"]),
    ("a results file", "[]", ["a list, as results files are"]),
    ("a text", '"hello"', ["no JSON object"]),
    ("a binary file", bytes(range(256)), ["instances_val.json:1"]),
    ("invalid UTF-8 in a name", b'{"images": [{"id": 1, "file_name": "\xff\xfe"}]}', ["UTF-8"]),
    ("a file cut short", '{"images": [{"id": 1, "file_name": "a.png"', ["cut short"]),
    ("a cut string in a skipped value", '{"extra": ["abc', ["ends inside"]),
    ("a trailing comma", '{"images": [1,], "categories": []}', ["instances_val.json:1"]),
    ("two objects", '{"images": [], "categories": []} {}', ["after the end"]),
    ("no images", {"annotations": [], "categories": []}, ["no 'images'"]),
    ("no categories", {"annotations": [], "images": []}, ["no 'categories'"]),
    ("images as an object", changed(images={"a": 1}), ["'images' must be a list"]),
    ("images twice", '{"images": [], "images": [], "categories": []}', ["twice"]),
    ("an image as a number", changed(images=[5]), ["images[0] must be an object"]),
    ("deep lists", '{"images": ' + "[" * DEEP, ["deep"]),
    ("deep objects in an unknown key", '{"other": ' + '{"a":' * DEEP, ["deep"]),
    ("deep lists in a box", '{"annotations": [{"bbox": ' + "[" * DEEP, ["deep"]),
    ("NaN in a box", '{"annotations": [{"bbox": [NaN, 1, 2, 3]}]}', ["'NaN' is not a number of JSON"]),
    ("Infinity in a box", '{"annotations": [{"bbox": [0, 0, Infinity, 3]}]}', ["'Infinity'"]),
    (
        "1e999 in a box",
        json_text := '{"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}], '
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1e999, 3]}], '
        '"categories": [{"id": 1, "name": "a"}]}',
        ["'bbox' must be four finite numbers", "annotation 1"],
    ),
    ("a number of 10,000 digits", json_text.replace("1e999", "9" * 10_000), ["thousands of digits"]),
    ("a number of 400 digits", json_text.replace("1e999", "9" * 400), ["'bbox' must be"]),
    ("a huge box", json_text.replace("1e999", "1e300"), ["'bbox' must be"]),
    ("a string of 20 million letters", '{"images": [{"id": "' + "x" * 20_000_000 + '"}]}', ["'id' must be an integer"]),
    ("a long unterminated string", '{"extra": "' + "x" * 20_000_000, ["longer than"]),
    ("a box of three", changed(annotations_0={"bbox": [1, 2, 3]}), ["annotations[0]", "annotation 11"]),
    ("a box of texts", changed(annotations_0={"bbox": ["1", "2", "3", "4"]}), ["'bbox' must be"]),
    ("a box of booleans", changed(annotations_0={"bbox": [True, False, True, True]}), ["'bbox' must be"]),
    ("a box as a text", changed(annotations_0={"bbox": "1 2 3 4"}), ["'bbox' must be"]),
    ("no box and no outline", changed(annotations_2={"bbox": None}), ["'bbox' must be", "annotation 10"]),
    ("a negative width", changed(annotations_0={"bbox": [5, 5, -3, 4]}), ["negative width"]),
    ("an area as a text", changed(annotations_0={"area": "big"}), ["'area'"]),
    ("a negative area", changed(annotations_0={"area": -1}), ["'area'"]),
    ("an iscrowd of 7", changed(annotations_0={"iscrowd": 7}), ["'iscrowd' must be 0 or 1"]),
    ("an image id as a text", changed(images_0={"id": "7"}), ["images[0]", "'id' must be an integer"]),
    ("an image id as a boolean", changed(images_0={"id": True}), ["'id' must be an integer"]),
    ("an image id beyond 64 bits", changed(images_0={"id": 1 << 70}), ["'id' is too large"]),
    ("an image id with a fraction", changed(images_0={"id": 1.5}), ["'id' must be an integer"]),
    ("an image id twice", changed(images_0={"id": 3}), ["image id 3 is given twice"]),
    ("an annotation id twice", changed(annotations_0={"id": 10}), ["annotation id 10 is given twice"]),
    ("an annotation without id", changed(annotations_0={"id": None}), ["annotations[0]: 'id'"]),
    ("an unknown image", changed(annotations_0={"image_id": 99}), ["image 99", "not in the file"]),
    ("an unknown category", changed(annotations_0={"category_id": 99}), ["category 99"]),
    ("a negative category", changed(annotations_0={"category_id": -1}), ["category -1"]),
    ("a category as a text", changed(annotations_0={"category_id": "dog"}), ["'category_id' must be an integer"]),
    ("a category id twice", changed(categories_0={"id": 2}), ["Category id 2 is given twice"]),
    ("a category name twice, both used", changed(categories_0={"name": "cat"}), ["same name 'cat'"]),
    ("a category without a name", changed(categories_0={"name": ""}), ["'name' must be a text"]),
    ("a category name as a list", changed(categories_0={"name": ["cat"]}), ["'name' must be a text"]),
    ("a lone surrogate as a name", changed(categories_0={"name": "\ud800"}), ["'name' must be a text"]),
    ("a name that leaves the folder", changed(images_0={"file_name": "../../etc/passwd"}), ["inside the data set"]),
    ("a hidden way out", changed(images_0={"file_name": "sub/../../secret.png"}), ["inside the data set"]),
    ("a way out for Windows", changed(images_0={"file_name": "..\\..\\secret.png"}), ["inside the data set"]),
    ("an absolute name", changed(images_0={"file_name": "/etc/passwd"}), ["inside the data set"]),
    ("a drive", changed(images_0={"file_name": "C:\\secret.png"}), ["inside the data set"]),
    ("a zero byte in a name", changed(images_0={"file_name": "a\0.png"}), ["control character"]),
    ("a tab in a name", changed(images_0={"file_name": "a\tb.png"}), ["must not hold a tab", "a\\tb.png"]),
    ("a drive with a slash", changed(images_0={"file_name": "C:/secret.png"}), ["inside the data set"]),
    ("a share", changed(images_0={"file_name": "\\\\server\\a\\b.png"}), ["inside the data set"]),
    ("a way out behind a colon", changed(images_0={"file_name": "a:/../../b.png"}), ["inside the data set"]),
    ("an empty name", changed(images_0={"file_name": ""}), ["inside the data set"]),
    ("a name as a number", changed(images_0={"file_name": 5}), ["inside the data set"]),
    ("a very long name", changed(images_0={"file_name": "x" * 100_000}), ["inside the data set"]),
    ("a negative width of an image", changed(images_0={"width": -5}), ["'width' must be a positive number"]),
    ("a height of zero", changed(images_0={"height": 0}), ["'height' must be a positive number"]),
    ("a height as a text", changed(images_0={"height": "48"}), ["'height' must be a positive number"]),
    ("a height of a billion", changed(images_0={"height": 10**9}), ["'height' must be a positive number"]),
    ("no images at all", changed(images=[], annotations=[]), ["has no images"]),
    ("a huge area", changed(annotations_0={"area": 1e300}), ["'area'"]),
    ("a huge outline", changed(annotations_0={"bbox": None, "segmentation": [[1e300, 2, 3, 4]]}), ["'segmentation'"]),
    ("70,000 categories", changed(categories=[{"id": i, "name": f"c{i}"} for i in range(70_000)]), ["65,536"]),
    ("an outline of an odd count", changed(annotations_0={"segmentation": [[1, 2, 3]]}), ["'segmentation' must be"]),
    ("an outline of texts", changed(annotations_0={"segmentation": [["a", "b"]]}), ["'segmentation' must be"]),
    ("an outline as a text", changed(annotations_0={"segmentation": "polygon"}), ["'segmentation' must be"]),
    ("run lengths without counts", changed(annotations_0={"segmentation": {"size": [1, 1]}}), ["run lengths"]),
    ("an image that is missing and has no size", changed(images_2={"file_name": "x.png", "width": None}), ["x.png"]),
    (
        "no image where expected",
        changed(images=[{"id": 1, "file_name": "q.png"}], annotations=[]),
        ["not found", "q.png"],
    ),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in COCO], ids=[case[0] for case in COCO])
def test_bad_coco_gets_one_message(tmp_path, content, words):
    refused(make.coco(tmp_path / "data", content), *words)


YOLO = [
    ("four values", "0 .5 .5 .25\n", ["a.txt:1", "found 4"]),
    ("six values", "0 .5 .5 .25 .5 .9\n", ["a.txt:1", "confidence"]),
    ("a text", "\ncat .5 .5 .25 .5\n", ["a.txt:2", "finite number"]),
    ("commas", "0,.5,.5,.25,.5\n", ["a.txt:1"]),
    ("NaN", "0 nan .5 .25 .5\n", ["finite number"]),
    ("infinity", "0 .5 .5 inf .5\n", ["finite number"]),
    ("underscores", "0 .5 .5 0.2_5 .5\n", ["finite number"]),
    ("a class that is not known", "0 .5 .5 .1 .1\n2 .5 .5 .25 .5\n", ["a.txt:2", "class 2", "0 to 1"]),
    ("a negative class", "-1 .5 .5 .25 .5\n", ["whole number"]),
    ("a class with a fraction", "0.5 .5 .5 .25 .5\n", ["whole number"]),
    ("a class of 30 digits", f"{10**30} .5 .5 .25 .5\n", ["whole number"]),
    ("pixels", "0 32 24 10 10\n", ["outside of 0 to 1", "pixels"]),
    ("further than an image's side", "0 2.1 .5 .1 .1\n", ["outside of 0 to 1"]),
    ("a negative width", "0 .5 .5 -0.0005 .5\n", ["negative"]),
    ("an outline far outside of the image", "0 .1 .1 .2 .1 .2 -1.5\n", ["outside of 0 to 1"]),
    ("a binary file", bytes(range(256)) * 10, ["not a text file"]),
    ("zero bytes", b"0 .5 .5 .2 .2\n\0\0\0\n", ["zero bytes"]),
    ("an image as a label", make.png(), ["not a text file"]),
    ("a huge label", b"0 .5 .5 .25 .5\n" * 1_200_000, ["longer than"]),
    ("one long line", b"0 " + b".5 " * 200_001, ["found 200002"]),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in YOLO], ids=[case[0] for case in YOLO])
def test_bad_yolo_labels_get_one_message(tmp_path, content, words):
    refused(make.yolo(tmp_path / "data", content), *words)


YAML = [
    ("an empty file", "", ["names no split"]),
    ("a list", "- a\n- b\n", ["names no split"]),
    ("no split", "names: [cat]\n", ["names no split"]),
    ("a split that is a number", "val: 5\nnames: [cat, dog]\n", ["'val' must be a folder"]),
    ("a split that is missing", "val: nowhere\nnames: [cat, dog]\n", ["does not exist"]),
    ("a path that is missing", "path: nowhere\nval: images/val\nnames: [a]\n", ["'path' does not exist"]),
    ("a path that is a list", "path: [a]\nval: images/val\n", ["'path' must be a folder"]),
    ("names with a gap", "val: images/val\nnames: {0: a, 2: b}\n", ["keys of 'names'"]),
    ("a name twice", "val: images/val\nnames: [a, a]\n", ["more than once"]),
    ("a name that is a list", "val: images/val\nnames: [[a], b]\n", ["not a class name"]),
    ("the root of the system", "path: /\nval: .\nnames: [a, b]\n", ["folder of the system"]),
    ("a folder of the kernel", "val: /proc/self\nnames: [a, b]\n", ["folder of the system"]),
    ("a huge count", "val: images/val\nnc: 99999999999\n", ["'nc' must be"]),
    ("a count that is a text", "val: images/val\nnc: many\n", ["'nc' must be"]),
    ("a negative count", "val: images/val\nnc: -2\n", ["'nc' must be"]),
    ("a wrong count", "val: images/val\nnames: [a, b]\nnc: 3\n", ["'nc' is 3"]),
    ("too few names", "val: images/val\nnames: [cat]\n", ["class 1"]),
    ("keypoints of no shape", "val: images/val\nnames: [a, b]\nkpt_shape: many\n", ["'kpt_shape'"]),
    ("a Python object", "val: !!python/object/apply:os.system ['touch owned']\n", ["data.yaml:1"]),
    ("aliases", "a: &a [x]\nval: *a\n", ["data.yaml"]),
    ("invalid YAML", "val: [images\n", ["data.yaml"]),
    ("a key twice", "val: images/val\nval: images/val\n", ["data.yaml:2"]),
    ("deep lists", "val: " + "[" * 5000 + "\n", ["data.yaml"]),
    ("a binary file", bytes(range(256)), ["data.yaml"]),
    ("a folder without images", "val: labels\nnames: [a, b]\n", ["holds no image"]),
    ("a list that is no list", "val: labels/val/a.txt\nnames: [a, b]\n", ["not the name of an image"]),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in YAML], ids=[case[0] for case in YAML])
def test_bad_descriptions_get_one_message(tmp_path, content, words, monkeypatch):
    root = make.yolo(tmp_path / "data")
    put(root / "data.yaml", content)
    monkeypatch.chdir(tmp_path)
    refused(root, *words)
    refused(root / "data.yaml", *words)
    assert not (tmp_path / "owned").exists()


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12))
    + "]>"
)
VOC = [
    ("an empty file", "", ["a.xml:1", "not valid XML"]),
    ("no XML", "hello", ["not valid XML"]),
    ("a file cut short", voc_xml(voc_object())[:-30], ["not valid XML"]),
    ("another root", "<html></html>", ["expected <annotation>"]),
    ("a billion laughs", LAUGHS + "<annotation><object><name>&m;</name></object></annotation>", ["refused"]),
    (
        "an external entity",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc_xml(voc_object("&x;")),
        ["refused"],
    ),
    ("a document type", '<!DOCTYPE annotation SYSTEM "http://localhost/a.dtd">' + voc_xml(), ["refused"]),
    ("an unknown entity", voc_xml(voc_object("&x;")), ["not valid XML"]),
    ("deep tags", "<annotation>" + "<a>" * DEEP, ["nested"]),
    ("a long name", voc_xml(voc_object("x" * 5000)), ["longer than 4,096"]),
    ("a huge file", "<annotation>" + " " * (17 << 20), ["longer than"]),
    ("too many objects", voc_xml("<object/>" * 66_000), ["more than 65,536 objects"]),
    ("no box", voc_xml("<object>\n<name>cat</name></object>"), ["a.xml:4", "<xmin> of 'cat' is missing"]),
    ("a box of texts", voc_xml(voc_object(box=("a", 2, 3, 4))), ["'a', no number"]),
    ("NaN", voc_xml(voc_object(box=("nan", 2, 3, 4))), ["'nan', no number"]),
    ("infinity", voc_xml(voc_object(box=(1, 2, "inf", 4))), ["'inf', no number"]),
    ("a huge number", voc_xml(voc_object(box=(1, 2, "1e200", 4))), ["no number"]),
    ("a box that ends before it starts", voc_xml(voc_object(box=(10, 2, 3, 4))), ["ends before it starts"]),
    ("no name", voc_xml(voc_object("")), ["no <name>"]),
    ("a difficult of maybe", voc_xml(voc_object(more="<difficult>maybe</difficult>")), ["<difficult> must be 0 or 1"]),
    ("a width of text", voc_xml(size="<size><width>wide</width><height>4</height></size>"), ["<width> must be"]),
    ("a negative width", voc_xml(size="<size><width>-4</width><height>4</height></size>"), ["<width> must be"]),
    ("an unknown encoding", '<?xml version="1.0" encoding="klingon"?>' + voc_xml(), ["a.xml"]),
    ("invalid UTF-8", voc_xml(voc_object()).encode().replace(b"dog", b"d\xffg"), ["not valid XML"]),
    ("a binary file", bytes(range(256)), ["not valid XML"]),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in VOC], ids=[case[0] for case in VOC])
def test_bad_voc_gets_one_message(tmp_path, content, words):
    refused(make.voc(tmp_path / "data", content), *words)


def test_a_list_of_voc_cannot_leave_the_data_set(tmp_path):
    root = make.voc(tmp_path / "data")
    put(root / "ImageSets" / "Main" / "val.txt", "a\n../../../etc/passwd\n")
    refused(root, "not the name of an image")


def test_a_class_that_the_list_of_classes_lacks(tmp_path):
    root = make.voc(tmp_path / "data")
    put(root / "labels.txt", "dog\n")
    refused(root, "'cat'", "not in the list of classes")


IMAGES = [
    ("an empty image", b"", ["a.png"]),
    ("a text", b"not an image", ["a.png"]),
    ("a PNG cut in its header", make.png()[:18], ["a.png"]),
    ("a PNG of no size", make.png(0, 5), ["a.png"]),
    ("a JPEG without a frame", b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9", ["a.png"]),
    ("a JPEG of endless segments", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 50_000, ["a.png"]),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in IMAGES], ids=[case[0] for case in IMAGES])
def test_bad_images_of_a_yolo_set_get_one_message(tmp_path, content, words):
    root = make.yolo(tmp_path / "data")
    put(root / "images" / "val" / "a.png", content)
    refused(root, *words)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    root = make.yolo(tmp_path / "data")
    (root / "labels" / "val" / "a.txt").unlink()
    os.mkfifo(root / "labels" / "val" / "a.txt")
    refused(root, "not an ordinary file")
    root = make.coco(tmp_path / "coco")
    (root / "annotations" / "instances_val.json").unlink()
    os.mkfifo(root / "annotations" / "instances_val.json")
    with pytest.raises(UserError):
        open_dataset(root)
    with pytest.raises(UserError):
        open_dataset(root / "annotations" / "instances_val.json")


PIPES = (
    *("data.yaml", "a.json", "annotations/a.json", "train/a.json", "meta.json", "shards.json", "labels/a.json"),
    *("a.csv", "train/a.csv", "classes.csv", "val-annotations-bbox.csv", "train-0.tar", "classes.txt", "labels/a.txt"),
    *("a.xml", "annotations.xml", "annotations/a.xml", "train/annotations.xml", "labels/a.xml"),
)


def test_a_pipe_that_may_describe_a_data_set_is_not_waited_for(tmp_path):
    places = []
    for number, name in enumerate(PIPES):
        root = tmp_path / str(number)
        put(root / "images" / "a.png", make.png())
        (root / name).parent.mkdir(exist_ok=True)
        os.mkfifo(root / name)
        places += [str(root), str(root / name)]
    code = (
        "import sys; from onelook.data import open_dataset; from onelook.errors import UserError\n"
        "for place in sys.argv[1:]:\n"
        "    print(place, flush=True)\n"
        "    try: open_dataset(place)\n"
        "    except UserError: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *places]
    done = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_loops_of_links_end(tmp_path):
    root = make.yolo(tmp_path / "data")
    (root / "images" / "val" / "again").symlink_to(root / "images" / "val")
    (root / "images" / "val" / "self.png").symlink_to(root / "images" / "val" / "self.png")
    refused(root, "self.png")
    (root / "images" / "val" / "self.png").unlink()
    assert len(open_dataset(root)) == 3


def test_a_list_of_a_million_lines_is_bounded(tmp_path):
    root = make.yolo(tmp_path / "data")
    put(root / "list.txt", "images/val/a.png\n" * 999_999 + "./images/val/a.png")
    put(root / "data.yaml", "val: list.txt\nnames: [cat, dog]\n")
    assert len(open_dataset(root)) == 1
    put(root / "list.txt", "".join(f"images/val/{i}.png\n" for i in range(3_000)))
    refused(root, "does not exist")


def test_a_list_of_names_too_long_for_files_is_checked(tmp_path):
    root = make.yolo(tmp_path / "data")
    put(root / "list.txt", f"images/val/a.png\nimages/{'v[' * 1500}/a.png\n")
    put(root / "data.yaml", "val: list.txt\nnames: [cat, dog]\n")
    problems = check(root, reporter=SilentReporter()).problems
    assert "image-unreadable" in [one.code for one in problems]


@pytest.mark.parametrize("place", ["nowhere", "a\0b", "x" * 5000, "", "/dev/null", "README.md"])
def test_places_that_hold_no_data_set(tmp_path, place, monkeypatch):
    put(tmp_path / "README.md", "# hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        open_dataset(place)
    assert caught.value.remedy
