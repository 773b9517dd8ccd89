"""Shapes and names that annotation tools write and that are easily read as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_sets as make
from data_sets import put
from onelook.data import Dataset, open_dataset
from onelook.data.check import check
from onelook.data.formats import bounded_xml
from onelook.errors import DataError, UserError
from onelook.reporter import SilentReporter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def opened(root: Path, split: str = "val") -> Dataset:
    return open_dataset(root, split, reporter=SilentReporter())


def codes(root: Path) -> list[str]:
    return [problem.code for problem in check(root, reporter=SilentReporter()).problems]


def label_studio(root: Path, task: dict[str, Any]) -> Path:
    put(root / "a.png", make.png())
    put(root / "val.json", json.dumps([{"data": {"image": "a.png"}, "total_annotations": 1, **task}]))
    return root


def shape(kind: str, *, sized: bool = True, **value: Any) -> dict[str, Any]:
    size = {"original_width": 64, "original_height": 48} if sized else {}
    return {"type": kind, **size, "value": {kind: ["cat"], **value}}


@pytest.mark.parametrize(
    "corners",
    [
        pytest.param("0.125,0.25,,,0.375,0.75,,", id="two corners"),
        pytest.param("0.125,0.25,,,0.375,0.75", id="two corners, the last left out"),
        pytest.param("0.125,0.25,0.375,0.25,0.375,0.75,0.125,0.75", id="four corners"),
        pytest.param("0.375,0.75,0.125,0.75,0.125,0.25,0.375,0.25", id="four corners from the last on"),
        pytest.param("0.125,0.25,0.375,0.25,0.375,0.75", id="three corners"),
    ],
)
def test_corners_of_automl_are_one_box(tmp_path: Path, corners: str) -> None:
    put(tmp_path / "images/a.png", make.png())
    put(tmp_path / "set.csv", f"VALIDATION,gs://bucket/a.png,cat,{corners}\n")
    np.testing.assert_allclose(opened(tmp_path).boxes(0), [[8, 12, 24, 36]], atol=1e-4)


@pytest.mark.parametrize("corners", [",,,,,,,", "0.1,,,,,,,", "0.1,x,0.2,0.1,0.2,0.3,0.1,0.3"])
def test_a_row_of_automl_without_corners_is_an_error(tmp_path: Path, corners: str) -> None:
    put(tmp_path / "images/a.png", make.png())
    put(tmp_path / "set.csv", f"VALIDATION,gs://bucket/a.png,cat,{corners}\n")
    with pytest.raises(DataError, match=r"set\.csv:1: .*where a number is expected"):
        opened(tmp_path)


def test_an_image_of_another_split_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    head = "filename,class,xmin,ymin,xmax,ymax\n"
    put(tmp_path / "csv/train/_annotations.csv", f"{head}1.png,cat,1,2,3,4\n")
    put(tmp_path / "csv/val/_annotations.csv", f"{head}1.png,cat,5,6,7,8\n")
    put(tmp_path / "csv/val/1.png", make.png())
    shapes = [{"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}]
    for split in ("train", "val"):
        content = {"shapes": shapes, "imagePath": "1.png", "imageHeight": 48, "imageWidth": 64}
        put(tmp_path / f"labelme/{split}/1.json", json.dumps(content))
    put(tmp_path / "labelme/val/1.png", make.png())
    for root in (tmp_path / "csv", tmp_path / "labelme"):
        assert opened(root).file_name(0) == "val/1.png"
        with pytest.raises(UserError, match=r"1\.png"):
            opened(root, "train").sample(0)


def test_a_labelme_file_takes_the_image_that_it_names_before_one_of_its_stem_elsewhere(tmp_path: Path) -> None:
    for grey, name in enumerate(("images/first.png", "other/a.png")):
        put(tmp_path / name, make.png(grey=grey))
    content = {"shapes": [], "imagePath": "../images/first.png", "imageHeight": 48, "imageWidth": 64}
    put(tmp_path / "json/a.json", json.dumps(content))
    dataset = opened(tmp_path)
    labelled = [dataset.file_name(i) for i in range(len(dataset)) if dataset.labelled[i]]
    assert labelled == ["images/first.png"]


def test_files_of_labelme_in_a_folder_called_labels_are_no_missing_labels_of_yolo(tmp_path: Path) -> None:
    shapes = [{"label": "cat", "points": [[8, 12], [24, 36]], "shape_type": "rectangle"}]
    content = {"shapes": shapes, "imagePath": "../images/a.png", "imageHeight": 48, "imageWidth": 64}
    put(tmp_path / "images/a.png", make.png())
    put(tmp_path / "labels/a.json", json.dumps(content))
    dataset = opened(tmp_path)
    assert (dataset.format, dataset.names, len(dataset)) == ("labelme", ("cat",), 1)
    np.testing.assert_allclose(dataset.boxes(0), [[8, 12, 24, 36]])
    put(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    assert opened(tmp_path).format == "yolo"


def test_all_kinds_of_shapes_of_json_min_are_read(tmp_path: Path) -> None:
    size = {"original_width": 64, "original_height": 48}
    boxes = [{"x": 12.5, "y": 25, "width": 25, "height": 50, "rectanglelabels": ["cat"], **size}]
    polygons = [{"points": [[50, 12.5], [87.5, 12.5], [68.75, 87.5]], "polygonlabels": ["dog"], **size}]
    task = {"image": "a.png", "annotation_id": 1, "boxes": boxes, "polygons": polygons}
    put(tmp_path / "a.png", make.png())
    put(tmp_path / "b.png", make.png(grey=9))
    put(tmp_path / "val.json", json.dumps([task, {"image": "b.png", "annotation_id": 2}]))
    dataset = opened(tmp_path)
    np.testing.assert_allclose(dataset.boxes(0), [[8, 12, 24, 36], [32, 6, 56, 42]], atol=1e-4)
    assert dataset.labelled.tolist() == [True, True]  # the second was annotated, with no object


@pytest.mark.parametrize("kind", ["ellipselabels", "brushlabels", "keypointlabels"])
def test_shapes_without_a_box_are_a_warning(tmp_path: Path, kind: str) -> None:
    box = shape("rectanglelabels", x=10, y=10, width=20, height=20)
    root = label_studio(tmp_path, {"annotations": [{"result": [box, shape(kind, x=50, y=50)]}]})
    assert "shape-without-box" in codes(root) and len(opened(root).boxes(0)) == 1


def test_a_turned_box_needs_the_size_of_its_image(tmp_path: Path) -> None:
    sized, turned = {"x": 50, "y": 25, "width": 25, "height": 25}, {"rotation": 90}
    box = shape("rectanglelabels", **sized, **turned)
    root = label_studio(tmp_path / "sized", {"annotations": [{"result": [box]}]})
    np.testing.assert_allclose(opened(root).boxes(0), [[20, 12, 32, 28]], atol=1e-4)  # about its first corner
    for number, other in enumerate((shape("rectanglelabels", sized=False, **sized, **turned), {**box})):
        if number:
            other["value"] = {**other["value"], "rotation": "much"}
        root = label_studio(tmp_path / str(number), {"annotations": [{"result": [other]}]})
        with pytest.raises(DataError, match="a turned box of 'cat'"):
            opened(root)


def cvat(root: Path, shapes: str) -> Path:
    put(root / "a.png", make.png())
    put(root / "val.xml", f'<annotations><image name="a.png" width="64" height="48">{shapes}</image></annotations>')
    return root


def test_a_rotation_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="8" ytl="12" xbr="24" ybr="20" rotation="{}"/>'
    np.testing.assert_allclose(opened(cvat(tmp_path / "1", box.format("90"))).boxes(0), [[12, 8, 20, 24]], atol=1e-4)
    with pytest.raises(DataError, match=r"val\.xml:1: the rotation of a box of 'cat'"):
        opened(cvat(tmp_path / "2", box.format("x")))


def test_a_long_outline_is_whole_and_an_endless_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = ";".join(["8.00,12.00"] * 100_000 + ["24.00,12.00", "24.00,36.00"])
    root = cvat(tmp_path / "1", f'<polygon label="cat" points="{points}"/>')
    np.testing.assert_allclose(opened(root).boxes(0), [[8, 12, 24, 36]], atol=1e-4)
    monkeypatch.setattr(bounded_xml, "_TAG_LIMIT", 1 << 18)
    with pytest.raises(DataError, match="a tag is longer than"):
        opened(cvat(tmp_path / "2", f'<polygon label="cat" points="{points}"/>'))
