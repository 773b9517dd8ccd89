"""Tests of the checks before the first epoch: warnings about data that would keep AP at 0."""

from __future__ import annotations

import json
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from onelook.api.tasks import DetectionTask
from onelook.augment.copy_paste import CopyPaste
from onelook.augment.random_erasing import CutOut
from onelook.augment.yolov7 import Yolov7Augment
from onelook.augment.yolox import SingleImageAugment, YoloxAugment
from onelook.data import open_dataset
from onelook.data.index import DIFFICULT
from onelook.data.loader import Batch
from onelook.data.order import Sampling, chosen_rows
from onelook.errors import DataError
from onelook.evaluation import score
from onelook.evaluation.coco import STATS
from onelook.evaluation.tables import Results
from onelook.networks.yolox.architecture import Yolox
from onelook.training.micro_batches import split_batch
from onelook.training.optimizer import Sgd
from onelook.training.preflight import (
    check_files,
    count_split,
    draw_batch,
    inspect_data,
    missing_for_metric,
    positives_per_object,
)
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import WarmCosine
from onelook.types import UNDEFINED, Matches, Targets
from training import CPU, LOSS, Squares, changed, train_state_of

RECIPE = Recipe(
    model=Yolox(num_classes=2, size=(320, 320)),
    loss=LOSS,
    augment=YoloxAugment(),
    optimizer=Sgd(),
    schedule=WarmCosine(),
    epochs=2,
    batch_size=8,
)


def make(root: Path, boxes: list[list[float]], *, classes: tuple[str, ...] = ("cup", "fork"), images: int = 2) -> Path:
    """A COCO set of 320x240 images; `boxes` are [category, x, y, w, h, crowd] of the first image, in both splits."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        for number in range(images):
            cv2.imwrite(str(root / split / f"{number}.png"), np.zeros((240, 320, 3), np.uint8))
        listed = [{"id": n, "file_name": f"{n}.png", "height": 240, "width": 320} for n in range(images)]
        annotations = [
            {"id": i, "image_id": 0, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for i, (c, *box, crowd) in enumerate(boxes, 1)
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
        whole = {"images": listed, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    return root


def test_splits_are_counted_as_training_uses_them(tmp_path: Path) -> None:
    boxes = [[0, 10, 10, 32, 32, 0], [1, -5, 0, 20, 20, 0], [1, 0, 0, 300, 200, 1], [0, 400, 10, 5, 5, 0]]
    counts = count_split(open_dataset(make(tmp_path, boxes), "train"), (320, 320), "training")
    numbers = (counts.images, counts.background, counts.objects, counts.usable, counts.crowds)
    assert numbers == (2, 1, 4, 2, 1)
    assert counts.per_class.tolist() == [1, 1]
    assert counts.median_side == pytest.approx((32 + (15 * 20) ** 0.5) / 2)


def test_view_counts_only_its_images(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path, [[0, 10, 10, 32, 32, 0]]), "train")
    assert count_split(dataset.view([1]), (320, 320), "training").usable == 0
    assert count_split(dataset.view([0, 0, 1]), (320, 320), "training").usable == 2


def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path) -> None:
    root = make(tmp_path / "a [b]", [], classes=("cup [red]", "fork [/x]"))
    training, validation = (open_dataset(root, split) for split in ("train", "val"))
    lines = str(inspect_data(RECIPE, training, validation, [f"A note of '{root}'."])).splitlines()
    assert any("cup [red]" in line for line in lines) and any("fork [/x]" in line for line in lines)
    assert f"A note of '{root}'." in lines
    assert any(line.startswith("warning: ") and line.endswith(f"Run: onelook check {root}") for line in lines)


WARNINGS = {
    "no objects at all": ([], "no objects to train on"),
    "boxes outside their images": ([[0, 10, 10, 50, 50, 0], [1, 900, 900, 50, 50, 0]], "outside their images"),
    "boxes as fractions of the image": ([[0, 0.2, 0.3, 0.4, 0.3, 0], [1, 0.1, 0.1, 0.5, 0.5, 0]], "check the unit"),
    "a class without objects": ([[0, 10, 10, 50, 50, 0]], "No training object has the class 'fork'"),
}


@pytest.mark.parametrize(("boxes", "said"), WARNINGS.values(), ids=list(WARNINGS))
def test_data_that_cannot_be_trained_on_is_warned_of(tmp_path: Path, boxes: list[list[float]], said: str) -> None:
    root = make(tmp_path, boxes)
    found = inspect_data(RECIPE, open_dataset(root, "train"), open_dataset(root, "val"))
    assert any(said in warning for warning in found.warnings), found.warnings
    assert "warning:" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["warnings"] == list(found.warnings)


def test_a_training_set_of_crowds_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 1, 1, 50, 50, 1], [1, 1, 1, 50, 50, 1]])
    with pytest.raises(DataError, match=r"All 2 objects .* are crowds"):
        inspect_data(RECIPE, open_dataset(root, "train"), open_dataset(root, "val"))


def test_a_validation_set_of_crowds_is_called_so(tmp_path: Path) -> None:
    root = make(tmp_path / "a", [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]])
    crowds = open_dataset(make(tmp_path / "b", [[0, 1, 1, 50, 50, 1]]), "val")
    (warning,) = inspect_data(RECIPE, open_dataset(root, "train"), crowds).warnings
    assert "The validation split has no objects that count (the only one is a crowd): AP is undefined" in warning


def test_good_data_has_no_warnings(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]])
    assert inspect_data(RECIPE, open_dataset(root, "train"), open_dataset(root, "val")).warnings == ()


def test_class_that_only_validation_has_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]])
    path = root / "annotations" / "instances_train.json"
    whole = json.loads(path.read_text())
    whole["annotations"] = whole["annotations"][:1]
    path.write_text(json.dumps(whole))
    found = inspect_data(RECIPE, open_dataset(root, "train"), open_dataset(root, "val"))
    assert any("The validation set has objects of 'fork'" in warning for warning in found.warnings)


def test_only_sampled_images_are_counted_and_warned_of(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 2, 2, 0], [1, 0, 0, 300, 200, 1]], images=4)
    training, validation = open_dataset(root, "train"), open_dataset(root, "val")
    subset = replace(RECIPE, sampling=Sampling(classes=("fork",), background=0.0))
    found = inspect_data(subset, training, validation)
    seen, judged = found.splits
    assert (seen.images, seen.objects, seen.usable, seen.crowds) == (1, 2, 1, 1)
    assert seen.per_class.tolist() == [0, 1] and judged.per_class.tolist() == [1, 1]
    assert seen.median_side == pytest.approx(2)
    assert any(
        "The validation set has objects of 'cup', the training set has none" in warning for warning in found.warnings
    )
    assert any("smaller than 2.0 pixels" in warning for warning in found.warnings)
    assert not any("No training object" in warning for warning in found.warnings)  # cups were left out on purpose


def test_counts_are_of_the_same_random_fraction_as_training(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]], images=4)
    training, validation = open_dataset(root, "train"), open_dataset(root, "val")
    seen = {}
    for seed in range(20):
        recipe = replace(RECIPE, sampling=Sampling(fraction=0.5), seed=seed)
        found = inspect_data(recipe, training, validation)
        drawn = 0 in chosen_rows(training, recipe.sampling, seed)
        assert (found.splits[0].images, found.splits[0].usable) == (2, 2 * drawn)
        assert any("no objects to train on" in warning for warning in found.warnings) != drawn
        seen[drawn] = True
    assert len(seen) == 2


def outlines(root: Path, crowd: int = 0) -> None:
    """Gives the first training object an outline."""
    path = root / "annotations" / "instances_train.json"
    whole = json.loads(path.read_text())
    whole["annotations"][0] |= {"segmentation": [[10, 10, 60, 10, 60, 60]], "iscrowd": crowd}
    path.write_text(json.dumps(whole))


PASTING = {
    "copy-paste": (replace(RECIPE, augment=YoloxAugment(mix=CopyPaste())), True),
    "with batch_augments": (replace(RECIPE, augment=YoloxAugment(mix=CopyPaste()), batch_augments=(CutOut(),)), True),
    "in the closing epochs": (replace(RECIPE, closing=Closing(1, YoloxAugment(mix=CopyPaste()))), True),
    "YOLOv7's paste-in": (replace(RECIPE, augment=Yolov7Augment()), True),
    "YOLOv7 without it": (replace(RECIPE, augment=Yolov7Augment(paste=None)), False),
    "MixUp": (RECIPE, False),
    "nothing": (replace(RECIPE, augment=SingleImageAugment()), False),
}


@pytest.mark.parametrize(("recipe", "pastes"), PASTING.values(), ids=list(PASTING))
def test_pasting_without_outlines_is_warned_of(tmp_path: Path, recipe: Recipe, pastes: bool) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]])
    assert any("nothing will be pasted" in warning for warning in warnings_of(recipe, root)) == pastes
    outlines(root)
    assert not any("nothing will be pasted" in warning for warning in warnings_of(recipe, root))
    without = replace(recipe, sampling=Sampling(classes=("fork",)))  # the cup with a polygon is left out
    assert any("nothing will be pasted" in warning for warning in warnings_of(without, root)) == pastes
    outlines(root, crowd=1)
    assert any("nothing will be pasted" in warning for warning in warnings_of(recipe, root)) == pastes


def warnings_of(recipe: Recipe, root: Path) -> tuple[str, ...]:
    return inspect_data(recipe, open_dataset(root, "train"), open_dataset(root, "val")).warnings


# Areas are those of the annotations, in pixels of the image; boundaries belong to both sides.
JUDGED = {
    "nothing": [],
    "only crowds": [[0, 1, 1, 50, 50, 1]],
    "small": [[0, 10, 10, 30, 30, 0]],
    "small and medium at once": [[0, 10, 10, 32, 32, 0]],
    "medium": [[0, 10, 10, 33, 32, 0]],
    "medium and large at once": [[0, 10, 10, 96, 96, 0]],
    "large": [[0, 10, 10, 97, 96, 0]],
    "small and large": [[0, 10, 10, 30, 30, 0], [1, 10, 10, 100, 100, 0]],
    "outside its image": [[0, 400, 10, 5, 5, 0]],
    "large, of which a small part is in the image": [[0, -90, 10, 97, 96, 0]],
}


@pytest.mark.parametrize("boxes", JUDGED.values(), ids=list(JUDGED))
def test_metrics_are_predicted_as_undefined_exactly_where_evaluation_has_none(
    tmp_path: Path, boxes: list[list[float]]
) -> None:
    validation = open_dataset(make(tmp_path, boxes), "val")
    stats = score(validation.coco_ground_truth(), Results.empty()).stats
    foreseen = {metric for metric in STATS if missing_for_metric(metric, validation)}
    assert foreseen == {metric for metric, value in stats.items() if value == UNDEFINED}


@pytest.mark.parametrize(("count", "said"), [(1, "(the only one is difficult)"), (3, "(all 3 are difficult)")])
def test_difficult_objects_leave_metrics_undefined(tmp_path: Path, count: int, said: str) -> None:
    validation = open_dataset(make(tmp_path, [[0, 10, 10, 30, 30, 0]] * count), "val")
    flags = np.full(count, DIFFICULT, np.uint8)
    index = copy(validation.index)
    index.object_flags = flags
    marked = replace(validation, index=index)
    assert missing_for_metric("AP", validation) is None
    assert missing_for_metric("AP", marked) is None  # in COCO, as pycocotools counts them
    assert missing_for_metric("AP", replace(marked, ignores_difficult=True)) == f"objects that count {said}"


@pytest.mark.parametrize(
    ("metric", "boxes", "said"),
    [
        ("AP", [], "no objects: AP is undefined"),
        ("APs", [[0, 10, 10, 50, 50, 0]], "no small objects (below 32x32 pixels): APs is undefined"),
        ("ARl", [[0, 10, 10, 50, 50, 0]], "no large objects (above 96x96 pixels): ARl is undefined"),
        ("APm", [[0, 10, 10, 50, 50, 0]], None),
        ("AP", [[0, 10, 10, 50, 50, 0]], None),
    ],
)
def test_a_metric_that_is_undefined_on_the_validation_set_is_warned_of(tmp_path: Path, metric, boxes, said) -> None:
    found = warnings_of(replace(RECIPE, metric=metric), make(tmp_path, boxes))
    told = [warning for warning in found if "undefined" in warning]
    assert len(told) == (said is not None) and (said is None or said in told[0])


def test_missing_image_files_are_named_before_training(tmp_path: Path) -> None:
    root = make(tmp_path, [[0, 10, 10, 50, 50, 0], [1, 80, 80, 60, 60, 0]], images=4)
    training, validation = open_dataset(root, "train"), open_dataset(root, "val")
    recipe = SimpleNamespace(sampling=Sampling(), seed=0)
    check_files(recipe, training, validation)
    (root / "val" / "2.png").unlink()
    check_files(recipe, training, None)
    with pytest.raises(DataError, match=r"1 of 4 images of .*split 'val', do not exist, such as .*2\.png"):
        check_files(recipe, training, validation)
    (root / "train" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images of .*split 'train'.*3\.png"):
        check_files(recipe, training, None)
    check_files(SimpleNamespace(sampling=Sampling(background=0.0), seed=0), training, None)  # it is not trained on


def targets() -> Targets:
    boxes = torch.tensor([[[4.0, 4, 20, 20], [30, 30, 60, 60]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    return Targets(boxes, torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True, True], [False, False]]))


def test_positives_per_object_are_counted_without_a_change_of_the_model() -> None:
    model = torch.nn.BatchNorm2d(3).train()

    def assigner(predictions: torch.Tensor, targets: Targets) -> Matches:
        pairs = torch.zeros(2, 5, dtype=torch.long)
        valid = torch.tensor([[True, True, True, False, False], [False] * 5])
        return Matches(pairs, pairs, pairs.float(), valid)

    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    assert positives_per_object(model, assigner, [(images, targets())]) == pytest.approx(1.5)
    assert model.training and model.num_batches_tracked.item() == 0
    empty = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool))
    assert positives_per_object(model, assigner, []) is None
    assert positives_per_object(model, assigner, [(images, empty)]) is None


def test_positives_use_the_training_precision_and_assign_in_float32() -> None:
    inside = []

    @contextmanager
    def autocast():
        inside.append("in")
        yield
        inside.append("out")

    class Model(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inside.append("model")
            return images

    def assigner(predictions: torch.Tensor, targets: Targets) -> Matches:
        inside.append("assigner")
        pairs = torch.zeros(2, 1, dtype=torch.long)
        return Matches(pairs, pairs, pairs.float(), pairs.bool())

    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    positives_per_object(Model(), assigner, [(images, targets())] * 2, autocast)
    assert inside == ["in", "model", "out", "assigner"] * 2


def test_the_parts_of_a_batch_are_its_images_padded_to_their_own_objects() -> None:
    images = torch.arange(5)[:, None, None, None].expand(5, 3, 2, 2)
    valid = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    labels = torch.arange(15).reshape(5, 3)
    whole = Batch(images, Targets(torch.rand(5, 3, 4), labels, valid, torch.rand(5, 3)), tuple(range(5)))
    found = list(split_batch(whole, 2))
    assert [part[:, 0, 0, 0].tolist() for part, _ in found] == [[0, 1], [2, 3], [4]]
    assert [own.labels.shape for _, own in found] == [(2, 2), (2, 0), (1, 3)]
    for rows, (_, own) in zip((slice(0, 2), slice(2, 4), slice(4, 5)), found):
        most = own.labels.shape[1]
        for name in ("boxes", "labels", "valid", "shares"):
            assert torch.equal(getattr(own, name), getattr(whole.targets, name)[rows, :most])


@pytest.mark.parametrize(("processes", "accumulate", "share"), [(1, 1, 8), (4, 1, 2), (2, 2, 2), (8, 1, 1)])
def test_counting_positives_needs_no_more_memory_than_a_training_pass(
    processes: int, accumulate: int, share: int
) -> None:
    recipe = changed(batch_size=8, accumulate=accumulate)
    train_state = train_state_of(recipe, precision="bf16")
    # The state itself is built for one process: the test has no second one to exchange tensors with.
    train_state.process_group = ProcessGroup(0, processes, CPU)
    sizes, precisions, said = [], [], []

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))
        precisions.append(torch.is_autocast_enabled("cpu"))

    train_state.detector.register_forward_pre_hook(watch)
    run = SimpleNamespace(
        train_state=train_state, recipe=recipe, log=SimpleNamespace(info=said.append, warning=said.append)
    )
    batches = [Squares(batch=8 // accumulate).take(tuple(range(8 // accumulate)))] * 2
    DetectionTask(LOSS).report_first_batches(run, batches)
    assert set(sizes) == {share} and sum(sizes) == 16 // accumulate
    assert all(precisions) and "priors are assigned to each object" in said[0]


def test_first_batch_is_a_grid_with_its_boxes() -> None:
    images = np.full((2, 3, 64, 96), 50, np.uint8)
    grid = draw_batch(images, targets(), ("cup", "fork"))
    assert grid.shape == (3 * 64 + 4, 2 * (3 * 96 + 4), 3)  # enlarged, so that names do not cover the images
    left, right = np.split(grid, 2, axis=1)
    assert (left[2:-2, 2:-2] != 50).any() and (right[2:-2, 2:-2] == 50).all()
