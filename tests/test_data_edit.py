"""Editing data sets: classes renamed, merged, left out; several joined; faulty entries left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_sets as make
import onelook
from data_sets import put
from onelook.cli.app import run
from onelook.data import open_dataset, splits
from onelook.data.arrays import join, names_of, take_images, take_objects
from onelook.data.check import check
from onelook.data.class_edits import LEAVE_OUT, ClassEdits
from onelook.data.edit_file import read_edit_file, write_edit_file
from onelook.data.find import find_source
from onelook.data.formats.coco import COCO
from onelook.data.index import index_in_memory
from onelook.data.problems import Problems
from onelook.errors import DataError
from onelook.reporter import SilentReporter, ignore_progress


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.mark.parametrize(
    ("edits", "names", "labels"),
    [
        (ClassEdits(), ["a", "b", "c"], [0, 1, 2]),
        (ClassEdits(rename={"a": "b", "b": "a"}), ["b", "a", "c"], [0, 1, 2]),
        (ClassEdits(merge={"x": ("a", "c")}), ["x", "b"], [0, 1, 0]),
        (ClassEdits(merge={"a": ("a", "b")}, drop=("c",)), ["a"], [0, 0, LEAVE_OUT]),
        (ClassEdits(rename={"a": "z"}, only=("c", "z")), ["z", "c"], [0, LEAVE_OUT, 1]),
    ],
)
def test_classes_are_renamed_merged_and_left_out_in_this_order(
    edits: ClassEdits, names: list[str], labels: list[int]
) -> None:
    found, mapped = edits.apply(["a", "b", "c"], "here")
    assert (found, mapped.tolist()) == (names, labels)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (ClassEdits(rename={"aa": "x"}), "'rename': there is no class 'aa'. Did you mean 'aaa'?"),
        (ClassEdits(rename={"aaa": "b"}), "the name of another class, 'b'"),
        (ClassEdits(rename={"aaa": "x", "b": "x"}), "several classes the name 'x'"),
        (ClassEdits(merge={"b": ("aaa", "c")}), "'merge' makes 'b', which is another class already"),
        (ClassEdits(drop=("aaa", "b", "c")), "no class is left"),
        (ClassEdits(rename={"b": "x"}, only=("b",)), "'only': there is no class 'b'"),
    ],
)
def test_changes_that_cannot_be_made_say_why(edits: ClassEdits, message: str) -> None:
    with pytest.raises(DataError) as caught:
        edits.apply(["aaa", "b", "c"], "here")
    assert message in caught.value.message and caught.value.message.startswith("here: ")


def test_data_sets_of_several_formats_are_one(tmp_path: Path) -> None:
    make.coco(tmp_path / "coco")
    make.voc(tmp_path / "voc")
    make.yolo(tmp_path / "yolo", split="train")
    result = onelook.edit(
        ["coco", "voc", "yolo"], "all.yaml", rename={"cat": "feline"}, drop=["dog"], reporter=SilentReporter()
    )
    assert splits("all.yaml") == ("train", "val") and list(result.classes) == ["feline"]
    for _ in range(2):  # built, then from the index
        dataset = open_dataset("all.yaml", "val", reporter=SilentReporter())
        assert dataset.names == ("feline",) and dataset.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
        names = [dataset.path(i).relative_to(tmp_path).as_posix() for i in range(6)]
        assert names == [
            *(f"coco/val/{name}" for name in ("a.png", "sub/b.png", "c.png")),
            *(f"voc/JPEGImages/{name}.png" for name in "abc"),
        ]
        assert dataset.num_objects.tolist() == [1, 0, 0, 1, 1, 0] and dataset.crowd(0).tolist() == [True]
        assert dataset.boxes(3).tolist() == [[1, 2, 11, 22]] and dataset.difficult(4).tolist() == [True]
        assert not dataset.ignored(4).any()  # COCO counts difficult objects, so the joined set does
        assert dataset.sample(3).image.shape == (48, 64, 3)
    assert "difficult objects count like all others" in " ".join(dataset.notes)
    report = check("all.yaml", reporter=SilentReporter())
    unlabelled = {problem.file for problem in report.problems if problem.code == "image-without-labels"}
    assert unlabelled == {str(tmp_path / "voc/Annotations/c.xml"), str(tmp_path / "yolo/labels/train/b.txt")}


def test_one_data_set_keeps_its_ids_and_marks(tmp_path: Path) -> None:
    make.coco(tmp_path / "coco")
    make.voc(tmp_path / "voc")
    onelook.edit("coco", "one.yaml", skip_bad=True, reporter=SilentReporter())
    first, last = open_dataset("coco", reporter=SilentReporter()), open_dataset("one.yaml", reporter=SilentReporter())
    assert first.coco_ground_truth()["annotations"] == last.coco_ground_truth()["annotations"]
    assert (first.names, first.category_ids) == (last.names, last.category_ids)
    onelook.edit("voc", "voc.yaml", only=["cat"], reporter=SilentReporter())
    dataset = open_dataset("voc.yaml", reporter=SilentReporter())
    assert dataset.names == ("cat",) and dataset.ignored(1).tolist() == [True]


def test_what_is_faulty_is_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make.coco(tmp_path / "data", make.changed(annotations_2={"bbox": [1, 2, "x", 4]}, images_2={"width": 65}))
    with pytest.raises(DataError):
        open_dataset(root, reporter=SilentReporter())
    assert run(["edit", "data", "--skip-bad", "--out", "sound.yaml", "--json", "r.json"]) == 0
    assert "2 left out; all are listed in" in capsys.readouterr().out
    listed = (tmp_path / "sound.left-out.txt").read_text().splitlines()
    assert len(listed) == 2 and "instances_val.json:1 (annotation 10)" in listed[0] and "c.png" in listed[1]
    assert [one["code"] for one in json.loads((tmp_path / "r.json").read_text())["left_out"]][
        1
    ] == "image-size-mismatch"
    dataset = open_dataset("sound.yaml", reporter=SilentReporter())
    assert len(dataset) == 2 and dataset.num_objects.tolist() == [1, 1]
    assert "2 faulty" not in "".join(dataset.notes) and "are left out (skip_bad)" in "".join(dataset.notes)
    report = check("sound.yaml", reporter=SilentReporter())
    assert report.exit_code == 0 and report.summary["codes"]["left-out"] == 2
    put(root / "val/a.png", b"damaged")  # the index is built again
    assert len(open_dataset("sound.yaml", reporter=SilentReporter())) == 1


def test_the_command_merges_and_writes_a_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.coco(tmp_path / "coco")
    make.yolo(tmp_path / "yolo")
    assert run(["edit", "coco", "yolo", "--merge", "cat,dog=animal", "--to", "voc", "--out", "joined"]) == 0
    dataset = open_dataset("joined", reporter=SilentReporter())
    assert (dataset.format, dataset.names, len(dataset)) == ("voc", ("animal",), 6)
    shown = capsys.readouterr()
    assert "Pascal VOC cannot hold" in shown.out
    assert "index of the data is kept" not in shown.err  # that folder is gone already
    for arguments, message in (
        (["--rename", "cat", "--out", "x.yaml"], "--rename takes OLD=NEW"),
        (["--rename", "cat=a", "--rename", "cat=b", "--out", "x.yaml"], "gives 'cat' two names, 'a' and 'b'"),
        (["--merge", "=c", "--out", "x.yaml"], "--merge takes A,B=C"),
        (["--out", "folder"], "not the name of a YAML file"),
        (["--merge", "cat,dog=c", "--merge", "cat,dog=d", "--out", "x.yaml"], "names 'cat' for 'c' and for 'd'"),
    ):
        assert run(["edit", "coco", *arguments]) > 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()
    with pytest.raises(DataError, match="exists"):
        onelook.edit("coco", put(tmp_path / "old.yaml", ""), reporter=SilentReporter())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from: data\nrenam: {a: b}\n", "e.yaml:2: unknown key 'renam'. Did you mean 'rename'?"),
        ("from: []\n", "'from' must name 1 to"),
        ("from: data\nskip_bad: 2\n", "e.yaml:2: 'skip_bad' must be true or false"),
        ("from: data\nrename: [a]\n", "e.yaml:2: 'rename' must have entries"),
        ("from: data\ndrop:\n- [a]\n", "'drop' must be a text"),
        ("from: nowhere\n", "nowhere' does not exist"),
        ("from: e.yaml\n", "'from' leads back to this file"),
        ("from: data\nsplit: {val: v.txt}\n", "v.txt"),
        ("from: data\nonly: [cow]\n", "'only': there is no class 'cow'"),
        ("from: [data, classes]\n", "joins images with and without boxes"),
    ],
)
def test_a_faulty_file_is_refused_by_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    make.coco(tmp_path / "data")
    for name in ("x/1", "y/1"):
        put(tmp_path / "classes" / f"{name}.png", make.png())
    path = put(tmp_path / "e.yaml", text)
    with pytest.raises(DataError) as caught:
        open_dataset(path, reporter=SilentReporter())
    assert message in caught.value.message


def test_a_list_names_images_of_the_data_set_and_no_others(tmp_path: Path) -> None:
    make.coco(tmp_path / "data")
    put(tmp_path / "v.txt", "data/val/c.png\n\n./data/val/../val/a.png\n")
    path = put(tmp_path / "e.yaml", "from: data\nsplit: {valid: v.txt}\n")
    dataset = open_dataset(path, reporter=SilentReporter())
    assert [dataset.file_name(i) for i in range(2)] == ["a.png", "c.png"] and dataset.split == "val"
    put(tmp_path / "v.txt", "data/val/a.png\n../../etc/passwd\n")
    with pytest.raises(DataError, match=r"v\.txt:2.*passwd' is not in the data set"):
        open_dataset(path, reporter=SilentReporter())


def test_an_edit_file_beside_the_data_is_used_only_where_it_is_named(tmp_path: Path) -> None:
    root = make.voc(tmp_path / "data")
    put(root / "cats.yaml", "from: .\nonly: [cat]\n")
    assert open_dataset(root, reporter=SilentReporter()).names == ("cat", "dog")
    assert open_dataset(root / "cats.yaml", reporter=SilentReporter()).names == ("cat",)


words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(words, words, max_size=3),
    st.dictionaries(words, st.lists(words, min_size=1, max_size=3), max_size=1),
    st.lists(words, max_size=3),
    st.booleans(),
)
def test_a_written_file_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rename: dict[str, str], merge: Any, drop: list[str], skip_bad: bool
) -> None:
    path = tmp_path_factory.mktemp("edit") / "e.yaml"
    classes = ClassEdits(rename, {new: tuple(names) for new, names in merge.items()}, tuple(drop), ())
    write_edit_file(path, ["a", "../b"], classes, skip_bad=skip_bad)
    found = read_edit_file(path)
    assert (found.classes, found.skip_bad) == (classes, skip_bad)
    assert found.sources == (path.parent / "a", path.parent.parent / "b")


def test_parts_of_an_index_and_their_union_hold_the_same_objects(tmp_path: Path) -> None:
    source = find_source(make.coco(tmp_path / "data"))
    arrays, _ = COCO.read(source, "val", Problems(), ignore_progress)
    last, first = (take_images(arrays, np.array(rows)) for rows in ([2, 1], [0]))
    assert names_of(join([first, last])) == ["a.png", "c.png", "sub/b.png"]
    again = take_images(join([first, last]), np.array([0, 2, 1]))
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    one = take_objects(arrays, arrays["object_flags"] == 0)
    assert one["object_offsets"].tolist() == [0, 1, 2, 2] and len(one["points"]) == 3


def test_outlines_stay_with_their_objects_where_annotations_are_in_no_order(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.png", "height": 100, "width": 100} for number in (7, 3, 5)]
    annotations = []
    for number, (image, rings) in enumerate([(5, 1), (7, 2), (5, 0), (3, 3), (7, 1)]):
        outline = [[number, ring, number + 1, ring, number, ring + 1] + [50, 60] * ring for ring in range(rings)]
        entry = {"id": number, "image_id": image, "category_id": 1, "bbox": [number, 0, 1, 1], "segmentation": outline}
        annotations.append(entry)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    put(tmp_path / "annotations" / "instances_val.json", json.dumps(content))
    arrays, meta = COCO.read(find_source(tmp_path), "val", Problems(), ignore_progress)

    def outlines(arrays: Any) -> dict[int, list[list[float]]]:
        index = index_in_memory(arrays, meta)
        return {
            number: [ring.ravel().tolist() for ring in index.rings(row)]
            for row, number in enumerate(index.annotation_ids.tolist())
        }

    expected = {entry["id"]: entry["segmentation"] for entry in annotations}
    assert outlines(arrays) == expected
    first, second = take_images(arrays, np.array([2])), take_images(arrays, np.array([1, 0]))
    assert outlines(join([second, first])) == expected and outlines(join([arrays])) == expected
    some = take_objects(arrays, arrays["annotation_ids"] != 1)
    assert outlines(some) == {number: rings for number, rings in expected.items() if number != 1}
    assert len(some["points"]) == sum(len(ring) // 2 for rings in outlines(some).values() for ring in rings)
