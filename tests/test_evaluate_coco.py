"""The COCO protocol, judged by pycocotools and by stored numbers."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onelook.cli.views.evaluation import text_of_evaluation
from onelook.cli.views.text_table import text_table
from onelook.evaluation import GroundTruth, read_results, score, write_results
from onelook.evaluation.annotations import read_ground_truth
from onelook.evaluation.coco import STATS
from onelook.evaluation.tables import Results
from onelook.types import NOTHING
from shared import SHARED, data, needs_shared


def coco(images: Any, annotations: Any, categories: Any = ("a", "b")) -> dict[str, Any]:
    """A COCO dictionary: image ids; (image, category, box, crowd) tuples; names numbered 3, 5, 7..."""
    return {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in images],
        "categories": [{"id": 3 + 2 * i, "name": name} for i, name in enumerate(categories)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": c,
            }
            for i, (image, category, box, c) in enumerate(annotations)
        ],
    }


def table(truth: GroundTruth, detections: list[dict[str, Any]], folder: Path) -> Results:
    path = folder / "detections.json"
    path.write_text(json.dumps(detections))
    return read_results(path, truth)


def judged(ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    """The twelve numbers by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def results(truth: GroundTruth, detections: list[dict[str, Any]]) -> Results:
    return Results(
        np.array([truth.image_ids.tolist().index(entry["image_id"]) for entry in detections], np.int64),
        np.array([truth.category_ids.index(entry["category_id"]) for entry in detections], np.int64),
        np.array([entry["bbox"] for entry in detections], np.float64).reshape(-1, 4),
        np.array([entry["score"] for entry in detections], np.float64),
    )


side = st.sampled_from([0.0, 8.0, 20.0, 32.0, 50.0, 96.0, 100.0, 250.5])
place = st.sampled_from([0.0, 5.0, 10.0, 100.0, 105.5])
box = st.tuples(place, place, side, side).map(list)
annotation = st.tuples(
    st.sampled_from([1, 2, 9]), st.sampled_from([3, 5, 7]), box, st.integers(0, 4).map(lambda n: n == 0)
)
detection = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([1, 2, 9, 4]),
        "category_id": st.sampled_from([3, 5, 7]),
        "bbox": box,
        "score": st.sampled_from([0.1, 0.5, 0.5000001, 0.9]) | st.floats(0, 1, width=32),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(annotation, max_size=12), st.lists(detection, min_size=1, max_size=30))
def test_twelve_numbers_equal_pycocotools(annotations: list[Any], detections: list[dict[str, Any]]) -> None:
    ground_truth = coco([9, 4, 1, 2], annotations, ("a", "b", "c"))
    truth = GroundTruth.from_coco(ground_truth)
    ours = score(truth, results(truth, detections))
    assert list(ours.stats) == list(STATS)
    assert list(ours.stats.values()) == pytest.approx(judged(ground_truth, detections), abs=1e-12)


def test_crowded_random_sets_equal_pycocotools(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.permutation(100)[:7].tolist()
    boxes = np.c_[rng.uniform(0, 300, (300, 2)), rng.lognormal(3.8, 0.9, (300, 2))]
    truth_rows = [
        (images[rng.integers(6)], 3 + 2 * int(rng.integers(3)), b.tolist(), rng.random() < 0.1) for b in boxes
    ]
    ground_truth = coco(images, truth_rows, ("a", "b", "c", "d"))
    detections = [
        {
            "image_id": truth_rows[i % 300][0],
            "category_id": 3 + 2 * int(rng.integers(4)),
            "bbox": (np.array(truth_rows[i % 300][2]) * rng.normal(1, 0.05, 4)).clip(0).tolist(),
            "score": round(float(rng.random()), 2),
        }
        for i in range(3000)
    ]
    truth = GroundTruth.from_coco(ground_truth)
    ours = score(truth, table(truth, detections, tmp_path))
    assert list(ours.stats.values()) == pytest.approx(judged(ground_truth, detections), abs=1e-12)


@needs_shared
@pytest.mark.parametrize("number", range(3))
def test_stored_cases(number: int, tmp_path: Path) -> None:
    assert SHARED is not None
    case = json.loads((SHARED / "data" / "eval_cases.json").read_text())["cases"][number]
    truth = GroundTruth.from_coco(case["ground_truth"])
    ours = score(truth, table(truth, case["detections"], tmp_path))
    assert list(ours.stats.values()) == pytest.approx(list(case["expected"]["stats"].values()), abs=1e-9)
    for key, expected in case["expected"]["per_class"].items():
        found = ours.per_class[truth.names[truth.category_ids.index(int(key))]]
        assert found == pytest.approx({"AP": expected["AP"], "AP50": expected["AP50"]}, abs=1e-9)


@needs_shared
def test_stored_detections_of_real_images() -> None:
    reference = json.loads((data("coco_mini") / "reference_yolox_nano.json").read_text())
    truth = read_ground_truth(data("coco_mini") / "annotations" / "instances_val.json")
    ours = score(truth, read_results(data("coco_mini") / "detections_yolox_nano.json", truth))
    assert list(ours.stats.values()) == pytest.approx(list(reference["stats"].values()), abs=1e-9)
    for name, expected in reference["per_class"].items():
        assert ours.per_class[name] == pytest.approx({"AP": expected["AP"], "AP50": expected["AP50"]}, abs=1e-9)
    assert ours.to_dict()["images"] == 103 and ours.to_dict()["detections"] == 5928


ONE = [(1, 3, [10.0, 10.0, 20.0, 20.0], False)]
SMALL_SETS = {
    "no detections": (ONE, [], {"AP": 0.0, "APs": 0.0, "APm": -1.0, "APl": -1.0, "AR100": 0.0}),
    "no objects, no detections": ([], [], dict.fromkeys(STATS, -1.0)),
    "no objects": ([], [(1, 3, [0.0, 0.0, 9.0, 9.0], 0.9)], dict.fromkeys(STATS, -1.0)),
    "only a crowd": ([(*ONE[0][:3], True)], [(1, 3, [10.0, 10.0, 20.0, 20.0], 0.9)], dict.fromkeys(STATS, -1.0)),
    "perfect": (ONE, [(1, 3, [10.0, 10.0, 20.0, 20.0], 0.9)], {"AP": 1.0, "APs": 1.0, "APm": -1.0, "AR1": 1.0}),
    "other class": (ONE, [(1, 5, [10.0, 10.0, 20.0, 20.0], 0.9)], {"AP": 0.0}),
    "image without objects": (ONE, [(2, 3, [10.0, 10.0, 20.0, 20.0], 0.9)], {"AP": 0.0}),
    "false positive before": (
        ONE,
        [(2, 3, [0.0, 0.0, 20.0, 20.0], 0.9), (1, 3, [10.0, 10.0, 20.0, 20.0], 0.8)],
        {"AP": 0.5},
    ),
}


@pytest.mark.parametrize("word", SMALL_SETS)
@pytest.mark.filterwarnings("error")
def test_small_sets_have_defined_numbers_and_every_view(word: str) -> None:
    annotations, detections, expected = SMALL_SETS[word]
    truth = GroundTruth.from_coco(coco([1, 2], annotations))
    entries = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in detections]
    ours = score(truth, results(truth, entries))
    assert {name: ours.stats[name] for name in expected} == pytest.approx(expected)
    assert "NaN" not in json.dumps(ours.to_dict())
    shown = text_of_evaluation(ours)
    lines = {line[:29].rstrip(): line[29:].split() for line in shown.splitlines()}
    value = ours.stats["AP50"]
    assert lines["IoU 0.50"] == [NOTHING if value < 0 else f"{value:.4f}"]
    assert 0 <= ours.best_confidence <= 1
    assert ours.confusion().matrix.shape == (3, 3)
    assert len(ours.image_scores()) == 2
    assert ours.precision_recall().shape == (2, 101)
    assert set(ours.error_types.counts) == {"Bkg", "Both", "Cls", "Dupe", "Loc", "Miss"}
    assert isinstance(ours.label_suspects(), list)


def test_a_table_of_text_is_aligned_where_letters_are_wide() -> None:
    lines = list(text_table(("class", "AP"), [("ねこ", "0.5"), ("é", "-"), ("e\u0301", "0.25")]))
    assert lines == ["class    AP", "ねこ    0.5", "é         -", "e\u0301      0.25"]


def test_a_name_with_a_line_break_stays_in_its_line() -> None:
    assert list(text_table(("class", "AP"), [("a\r\nb\x1b[2J", "1")])) == ["class     AP", "a  b [2J   1"]


def test_a_set_without_images_or_classes_is_undefined() -> None:
    for images, categories in (([], ("a",)), ([1], ())):
        ours = score(coco(images, [], categories), Results.empty())
        assert set(ours.stats.values()) == {-1.0}


def test_f1_curve_counts_what_passes_the_threshold() -> None:
    truth = GroundTruth.from_coco(
        coco([1], [(1, 3, [10.0, 10.0, 20.0, 20.0], False), (1, 3, [90.0, 90.0, 20.0, 20.0], False)])
    )
    entries = [
        {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.8},
        {"image_id": 1, "category_id": 3, "bbox": [200.0, 10.0, 20.0, 20.0], "score": 0.3},
        {"image_id": 1, "category_id": 3, "bbox": [90.0, 90.0, 20.0, 20.0], "score": 0.6},
    ]
    curve = score(truth, results(truth, entries)).f1_curve
    assert curve.f1[0, [0, 300, 301, 600, 601, 800, 801]] == pytest.approx([0.8, 0.8, 1, 1, 2 / 3, 2 / 3, 0])
    assert curve.recall[0, [0, 700]] == pytest.approx([1, 0.5])
    assert curve.precision[0, 0] == pytest.approx(2 / 3)
    assert np.isnan(curve.f1[1]).all()
    assert (curve.best_confidence, curve.best_f1) == pytest.approx((0.301, 1.0))


def test_confusion_rows_are_annotated_columns_detected() -> None:
    truth = GroundTruth.from_coco(
        coco([1], [(1, 3, [10.0, 10.0, 20.0, 20.0], False), (1, 5, [90.0, 90.0, 20.0, 20.0], False)])
    )
    entries = [
        {"image_id": 1, "category_id": 5, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.8},
        {"image_id": 1, "category_id": 3, "bbox": [200.0, 10.0, 20.0, 20.0], "score": 0.7},
    ]
    assert score(truth, results(truth, entries)).confusion().matrix.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_every_kind_of_mistake_is_counted_as_what_it_is_and_mending_it_gains() -> None:
    """TIDE (Bolya et al. 2020, sec. 2.2): foreground from IoU 0.5 on, background below 0.1."""
    objects = [(1, 3, [100.0 * place, 10.0, 40.0, 40.0], False) for place in range(5)]
    truth = GroundTruth.from_coco(coco([1], [*objects, (1, 5, [10.0, 400.0, 40.0, 40.0], False)]))
    found = {
        "right": (3, [0.0, 10.0, 40.0, 40.0], 0.5),
        "Dupe": (3, [2.0, 10.0, 40.0, 40.0], 0.4),
        "Cls": (5, [100.0, 10.0, 40.0, 40.0], 0.9),
        "Loc": (3, [220.0, 10.0, 40.0, 40.0], 0.8),  # IoU 1/3
        "Both": (5, [320.0, 10.0, 40.0, 40.0], 0.7),
        "Bkg": (3, [10.0, 250.0, 40.0, 40.0], 0.6),
    }
    entries = [
        {"image_id": 1, "category_id": label, "bbox": box, "score": confidence}
        for label, box, confidence in found.values()
    ]
    errors = score(truth, results(truth, entries)).error_types
    # The fourth object, found in the wrong class and place, is missed, as are the fifth and that of the other class.
    assert errors.counts == {"Cls": 1, "Loc": 1, "Both": 1, "Dupe": 1, "Bkg": 1, "Miss": 3}
    assert all(errors.gain[kind] > 0 for kind in ("Cls", "Loc", "Bkg", "Miss", "FP", "FN"))
    right = [{"image_id": 1, "category_id": c, "bbox": box, "score": 0.5} for _, c, box, _ in objects]
    right.append({"image_id": 1, "category_id": 5, "bbox": [10.0, 400.0, 40.0, 40.0], "score": 0.5})
    perfect = score(truth, results(truth, right)).error_types
    assert perfect.ap50 == 1 and not any(perfect.counts.values()) and not any(perfect.gain.values())


def test_image_scores_list_the_worst_image_first() -> None:
    truth = GroundTruth.from_coco(
        coco([4, 8], [(4, 3, [10.0, 10.0, 20.0, 20.0], False), (8, 3, [9.0, 9.0, 20.0, 20.0], False)])
    )
    entries = [
        {"image_id": 4, "category_id": 3, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.8},
        {"image_id": 8, "category_id": 3, "bbox": [200.0, 10.0, 20.0, 20.0], "score": 0.7},
    ]
    worst, best = score(truth, results(truth, entries)).image_scores(0.5)
    assert (worst.image_id, worst.file, worst.f1, worst.false_positives, worst.false_negatives) == (8, "8.jpg", 0, 1, 1)
    assert (best.image_id, best.f1, best.true_positives) == (4, 1, 1)


def test_written_results_give_the_same_numbers_and_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = GroundTruth.from_coco(coco([11, 2**40, 7], [(7, 3, [1.0, 2.0, 30.0, 40.0], False)]))
    boxes = rng.uniform(0, 90, (50, 4)).astype(np.float32).astype(np.float64)
    made = Results(
        rng.integers(0, 3, 50), rng.integers(0, 2, 50), boxes, rng.random(50).astype(np.float32).astype(float)
    )
    path = write_results(tmp_path / "new" / "results.json", truth, made)
    entries = json.loads(path.read_text())
    assert {entry["image_id"] for entry in entries} == {7, 11, 2**40}
    assert {entry["category_id"] for entry in entries} == {3, 5}
    again = read_results(path, truth)
    for name in ("images", "labels", "boxes", "scores"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_classes_of_one_name_are_told_apart_by_id() -> None:
    assert GroundTruth.from_coco(coco([], [], ("cat", "dog", "cat"))).names == ("cat (3)", "dog", "cat (7)")
