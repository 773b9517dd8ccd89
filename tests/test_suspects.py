"""Files of suspect annotations: FiftyOne's COCO JSON, CVAT and Label Studio, each read by the package's own reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onelook
from data_sets import png, put
from onelook.cli.app import run
from onelook.errors import UsageError, UserError

SILENT = onelook.SilentReporter()
FILES = {"suspects_coco": "a.json", "suspects_cvat": "a.xml", "suspects_label_studio": "a.json"}


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Three images; in the first a dog is annotated as a cat, in the second a cat has no annotation."""
    names = [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog & co"}]
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in (1, 2, 3)]
    boxes = {1: (1, [5, 5, 30, 30]), 2: (4, [5, 5, 30, 30]), 3: (4, [5, 5, 30, 30])}
    entries = [
        {"id": 7 + n, "image_id": n, "category_id": label, "bbox": box, "area": 900, "iscrowd": 0}
        for n, (label, box) in boxes.items()
    ]
    for n in (1, 2, 3):
        put(tmp_path / f"data/val/{n}.png", png(80, 60, 20 * n))
    content = {"images": images, "annotations": entries, "categories": names}
    put(tmp_path / "data/annotations/instances_val.json", json.dumps(content))
    found = [(1, 4, [5, 5, 30, 30], 0.99), (2, 4, [5, 5, 30, 30], 0.95), (2, 1, [50, 40, 20, 10], 0.98)]
    found += [(3, 4, [5, 5, 30, 30], 0.97)]
    results = [dict(zip(("image_id", "category_id", "bbox", "score"), one)) for one in found]
    put(tmp_path / "found.json", json.dumps(results))
    return tmp_path / "data", tmp_path / "found.json"


def suspects(data: tuple[Path, Path], kind: str, path: Path) -> Path:
    onelook.view(data[0], detections=data[1], out=path.parent / "x.html", reporter=SILENT, **{kind: path})
    return path


def objects(path: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """By image, the classes and boxes that the package's own reader finds."""
    dataset = onelook.open_dataset(path, reporter=SILENT)
    return {
        Path(dataset.file_name(i)).name: [
            (dataset.names[label], np.round(box, 6).tolist()) for label, box in zip(dataset.labels(i), dataset.boxes(i))
        ]
        for i in range(len(dataset))
    }


ANNOTATED = {"1.png": [("cat", [5, 5, 35, 35])], "2.png": [("dog & co", [5, 5, 35, 35])]}
SUSPECT = {"1.png": [("dog & co", [5, 5, 35, 35])], "2.png": [("cat", [50, 40, 70, 50])]}


def test_coco_json_has_annotations_and_marked_suspects(data: tuple[Path, Path]) -> None:
    path = suspects(data, "suspects_coco", data[0] / "val/a.json")
    content = json.loads(path.read_text())
    marked = {one["image_id"]: (one["suspect"], one["score"]) for one in content["annotations"] if "suspect" in one}
    assert marked == {1: ("wrong_label 0.99, annotated as cat", 0.99), 2: ("missing_annotation 0.98", 0.98)}
    assert len({one["id"] for one in content["annotations"]}) == 4
    assert [one["name"] for one in content["categories"]] == ["cat", "dog & co"]
    assert objects(path) == {name: ANNOTATED[name] + SUSPECT[name] for name in ANNOTATED}


def test_cvat_xml_has_annotations_and_marked_suspects(data: tuple[Path, Path]) -> None:
    path = suspects(data, "suspects_cvat", data[0] / "val/a.xml")
    text = path.read_text()
    assert text.count("<name>suspect</name>") == 2  # of both labels: CVAT refuses attributes that a label lacks
    assert re.findall(r'source="auto".*?<attribute name="suspect">(.*?)</attribute>', text) == [
        "wrong_label 0.99, annotated as cat",
        "missing_annotation 0.98",
    ]
    assert objects(path) == {name: ANNOTATED[name] + SUSPECT[name] for name in ANNOTATED}


def test_tasks_of_label_studio_have_suspects_as_predictions(data: tuple[Path, Path]) -> None:
    path = suspects(data, "suspects_label_studio", data[0] / "val/a.json")
    tasks = json.loads(path.read_text())
    assert [one["data"]["image"] for one in tasks] == [f"/data/local-files/?d=val/{n}.png" for n in (1, 2)]
    (result,) = tasks[1]["predictions"][0]["result"]
    assert result["value"]["rectanglelabels"] == ["cat"] and result["score"] == 0.98
    assert [result["value"][key] for key in ("x", "y", "width", "height")] == pytest.approx(
        [62.5, 66.6666667, 25, 16.6666667]
    )
    assert objects(path) == ANNOTATED  # predictions are no annotations


def test_val_writes_suspects_and_refuses_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data_sets import coco
    from onnx_models import write_model

    folder, model = coco(tmp_path / "data"), write_model(tmp_path / "small.onnx")
    given = ["val", str(folder), "--model", str(model)]
    paths = [("--report", "r.html"), ("--suspects-coco", "s.json"), ("--suspects-cvat", "s.xml")]
    options = [text for name, file in paths for text in (name, str(tmp_path / file))]
    assert run([*given, *options]) == 0
    printed = capsys.readouterr().out
    assert all(str(tmp_path / file) in printed and (tmp_path / file).is_file() for _, file in paths)
    for name, file in paths:
        assert run([*given, name, str(tmp_path / file)]) == 1
        assert "exists already" in capsys.readouterr().err
    assert run([*given, *options, "--overwrite"]) == 0


def test_suspects_need_detections_and_a_new_file(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no annotation is suspect"):
        onelook.view(data[0], suspects_coco=tmp_path / "a.json", reporter=SILENT)
    with pytest.raises(UserError, match="is a folder"):
        suspects(data, "suspects_coco", tmp_path)
    both = {"detections": data[1], "reporter": SILENT, "overwrite": True}
    with pytest.raises(UserError, match="two files"):
        onelook.view(data[0], out=tmp_path / "a", suspects_cvat=tmp_path / "a", **both)
    with pytest.raises(UserError, match="two files"):
        onelook.view(data[0], suspects_coco=tmp_path / "b", suspects_label_studio=tmp_path / "x/../b", **both)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_suspect_says_where(data: tuple[Path, Path], tmp_path: Path) -> None:
    found: Any = onelook.view(data[0], detections=data[1], out=tmp_path / "x.html", reporter=SILENT).evaluated
    wrong, missing = found.label_suspects()
    assert (wrong.box, wrong.annotated_box, wrong.object) == ((5, 5, 30, 30), (5, 5, 30, 30), 0)
    assert (missing.box, missing.annotated_box, missing.object) == ((50, 40, 20, 10), None, None)
