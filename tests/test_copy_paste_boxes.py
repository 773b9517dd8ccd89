"""Copy-paste without outlines, and of rare classes: what is pasted, how often, and from which images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import data_sets as make
import onelook
from data_sets import put
from onelook.augment.copy_paste import CopyPaste
from onelook.augment.instances import Instances
from onelook.augment.yolov7 import Yolov7Augment
from onelook.augment.yolov7_copy_paste import Yolov7CopyPaste
from onelook.augment.yolox import YoloxAugment
from onelook.data.training_images import DrawImages, TrainingImages
from sampling import ListSampler, sample_generator
from scenes import COLOURS, SCENES, SIZE, extent

WITHOUT = tuple(replace(sample, polygons=None) for sample in SCENES)
BOXES_ONLY = ListSampler(WITHOUT, SIZE)


def test_objects_without_outlines_are_pasted_as_their_boxes() -> None:
    pasted = 0
    for seed in range(20):
        paste = CopyPaste(part=1.0, from_boxes=True).sample_parameters(BOXES_ONLY, sample_generator(0, 2, seed))
        if paste is None:
            continue
        image = paste.apply(np.full((*SIZE, 3), 200, np.uint8))
        for label, box in zip(paste.pasted.labels, paste.pasted.boxes):
            found = extent(image, COLOURS[label])
            assert found is not None
            np.testing.assert_allclose(found, box, atol=3)
            pasted += 1
        behind = Instances(np.array([[0.0, 0, 160, 160]]), np.array([7]))
        assert len(paste.add_instances(behind)) == len(paste.pasted) + 1
    assert pasted > 10


def test_outlines_are_used_where_there_are_some() -> None:
    both = ListSampler((*SCENES[:1],), SIZE)
    for seed in range(5):
        plain, boxed = (
            CopyPaste(part=1.0, from_boxes=value).sample_parameters(both, sample_generator(0, 2, seed))
            for value in (False, True)
        )
        assert (plain is None) == (boxed is None)
        if plain is not None and boxed is not None:
            assert np.array_equal(plain.mask(), boxed.mask())


def test_yolov7_pastes_boxes_into_free_places() -> None:
    background = Instances(np.zeros((0, 4)), np.zeros(0, np.int64))
    pasted = Yolov7CopyPaste(1.0, from_boxes=True).sample_parameters(background, BOXES_ONLY, sample_generator(0, 0, 1))
    assert pasted and all(one.mask.all() for one in pasted)  # the whole box
    assert Yolov7CopyPaste(1.0).sample_parameters(background, BOXES_ONLY, sample_generator(0, 0, 1)) == ()


@pytest.mark.parametrize(
    "augment",
    [
        YoloxAugment(mix=CopyPaste(from_boxes=True, balance_classes=True)),
        Yolov7Augment(paste=Yolov7CopyPaste(1.0, from_boxes=True, balance_classes=True)),
    ],
    ids=["yolox", "yolov7"],
)
def test_a_whole_sample_has_valid_boxes(augment: YoloxAugment | Yolov7Augment) -> None:
    assert not augment.needs_polygons
    for index in range(4):
        sample = augment(WITHOUT[index], BOXES_ONLY, sample_generator(0, 1, index))
        assert sample.image.shape == (*SIZE, 3)
        assert sample.boxes.min(initial=0) >= 0 and sample.boxes.max(initial=0) <= SIZE[0]
        again = augment(WITHOUT[index], BOXES_ONLY, sample_generator(0, 1, index))
        assert np.array_equal(sample.image, again.image) and np.array_equal(sample.boxes, again.boxes)


def test_rare_classes_are_pasted_as_often_as_others() -> None:
    rare = replace(WITHOUT[0], labels=np.array([5, 5]))
    many = tuple(replace(sample, labels=np.zeros(len(sample.labels), np.int64)) for sample in WITHOUT)
    sampler = ListSampler((*many * 4, rare), SIZE)  # one image in 49 shows the rare class
    counts: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
    for balanced, found in counts.items():
        paste = CopyPaste(part=0.5, from_boxes=True, balance_classes=balanced)
        for seed in range(200):
            parameters = paste.sample_parameters(sampler, sample_generator(0, 0, seed))
            found.update([] if parameters is None else parameters.pasted.labels.tolist())
    assert counts[False][5] < 0.15 * counts[False][0]
    assert counts[True][5] > 0.4 * counts[True][0]


def test_a_class_is_drawn_first_and_then_an_image_that_shows_it(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / f"images/{number}.png", make.png(grey=number))
        put(tmp_path / f"labels/{number}.txt", "1 .5 .5 .2 .2\n" if number == 7 else "0 .5 .5 .2 .2\n")
    put(tmp_path / "classes.txt", "cat\ndog\nbird\n")
    dataset = onelook.open_dataset(tmp_path, "train", reporter=onelook.SilentReporter())
    rng = np.random.default_rng(0)
    draw = DrawImages(TrainingImages(dataset, range(20)), (64, 64))
    drawn = [draw.balanced(rng) for _ in range(200)]
    assert all(label in sample.labels for label, sample in drawn)
    assert 70 < sum(label == 1 for label, _ in drawn) < 130
    others = DrawImages(TrainingImages(dataset, [0, 1, 2]), (64, 64))  # what is not trained on is not drawn
    assert {others.balanced(rng)[0] for _ in range(20)} == {0}
    chosen = DrawImages(TrainingImages(dataset, range(20), np.array([1])), (64, 64))
    assert {chosen.balanced(rng)[0] for _ in range(20)} == {1}
    none = DrawImages(TrainingImages(dataset, range(20), np.array([2])), (64, 64))
    assert none.balanced(rng)[0] == -1
