"""Running a model over a data set: the pipeline, the shards, the classes."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.errors import DataError, ImageError, UsageError
from onelook.evaluation import evaluate
from onelook.evaluation.frames import resized_batches
from onelook.evaluation.rectangular import Rectangular, square_groups
from onelook.ops.nms import Nms, TopK


@dataclass
class Rectangles:
    """Grey images with one bright rectangle each, as a data set; odd images hold a "dog", even ones a "cat"."""

    count: int = 23
    names: tuple[str, ...] = ("cat", "dog")
    category_ids: tuple[int, ...] = (5, 2)  # not in the order of the labels
    broken: int | None = None
    pause: float = 0.0

    def __len__(self) -> int:
        return self.count

    @property
    def image_ids(self) -> np.ndarray:
        return np.arange(self.count)[::-1] * 10 + 7  # not ascending

    def box(self, row: int) -> tuple[int, int, int, int]:
        rng = np.random.default_rng(row)
        x, y = rng.integers(0, 100, 2)
        width, height = rng.integers(60, 120, 2)
        return int(x), int(y), int(width), int(height)

    def image(self, row: int) -> np.ndarray:
        time.sleep(self.pause)
        if row == self.broken:
            raise ImageError("'broken.jpg' cannot be decoded.")
        rng = np.random.default_rng(1000 + row)
        height, width = rng.integers(220, 400, 2)
        image = np.full((height, width, 3), 40, np.uint8)
        x, y, w, h = self.box(row)
        image[y : y + h, x : x + w] = 200 + row % 2 * 50
        return image

    @property
    def sizes(self) -> np.ndarray:
        return np.array([self.image(row).shape[:2] for row in range(self.count)])

    def coco_ground_truth(self) -> dict[str, Any]:
        ids = self.image_ids.tolist()
        return {
            "images": [{"id": key, "file_name": f"{key}.png"} for key in ids],
            "categories": [{"id": key, "name": name} for key, name in zip(self.category_ids, self.names)],
            "annotations": [
                {"id": row, "image_id": key, "category_id": self.category_ids[row % 2], "bbox": list(self.box(row))}
                for row, key in enumerate(ids)
            ],
        }


@dataclass
class FindsBright:
    """A model that sees exactly the bright rectangle, and a weak false alarm; it is no good at dogs."""

    size: tuple[int, int] = (320, 288)
    frame: Resize = Letterbox(fill=0)
    class_names: tuple[str, ...] = ("dog", "cat")
    largest_batch: int = 0

    def __call__(self, batch: np.ndarray, postprocess: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        assert batch.dtype == np.uint8 and batch.shape[1:] == (*self.size, 3)
        self.largest_batch = max(self.largest_batch, len(batch))
        return [self.find(image.copy()) for image in batch]

    def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ys, xs = np.nonzero(image[:, :, 0] > 120)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        is_cat = int(image.max() < 230)
        boxes = np.stack([box, box[[1, 0, 3, 2]] * 0.5])
        score = np.float32(0.9 if is_cat else 0.1)
        return boxes, np.array([score, 0.25], np.float32), np.array([is_cat, is_cat])


@pytest.mark.parametrize("batch", [1, 4, 23, 50])
@pytest.mark.parametrize(
    "frame", [Letterbox(fill=0), Letterbox(fill=0, anchor="centre"), Stretch()], ids=lambda f: repr(f)[:30]
)
def test_boxes_come_back_to_the_images_and_classes_to_their_names(frame: Resize, batch: int) -> None:
    told: list[int] = []
    model = FindsBright(frame=frame)
    found = evaluate(model, Rectangles(), None, batch=batch, progress=told.append)
    assert found.per_class["cat"]["AP50"] == pytest.approx(1)
    assert 0.4 < found.per_class["dog"]["AP50"] < 0.6
    assert len(found.results) == 46 and sum(told) == 23
    assert model.largest_batch == min(batch, 23)
    assert found.notes == ()
    assert set(found.seconds) == {"waiting", "model", "score", "decoding"}
    json.dumps(found.to_dict(), allow_nan=False)


@dataclass
class AtTheBorders(Rectangles):
    """The same, with rectangles that reach the left and the upper border."""

    def box(self, row: int) -> tuple[int, int, int, int]:
        _, _, width, height = super().box(row)
        return 0, 0, width, height


@dataclass
class FindsWholeObjects(FindsBright):
    """A model that sees an object at the border go on beyond it, by 40 pixels of its input."""

    def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores, labels = super().find(image)
        return boxes - np.array([40, 40, 0, 0], np.float32), scores, labels


@pytest.mark.parametrize("kind", [Nms, TopK])
@pytest.mark.parametrize("frame", [Letterbox(fill=0), Letterbox(fill=0, anchor="centre"), Stretch()])
def test_boxes_beyond_the_border_are_exact_once_they_are_clipped(frame: Resize, kind: type[Nms] | type[TopK]) -> None:
    model = FindsWholeObjects(frame=frame)
    free, clipped = (evaluate(model, AtTheBorders(), kind(clip=clip)) for clip in (False, True))
    assert free.results.boxes[:, :2].min() < 0
    assert clipped.results.boxes[:, :2].min() == 0
    assert clipped.per_class["cat"]["AP"] > 0.95 and free.per_class["cat"]["AP"] < 0.5


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_rectangles_find_the_same_in_smaller_inputs(batch: int) -> None:
    @dataclass
    class TakesAnySize(FindsBright):
        stride: int = 32
        pixels: int = 0

        def __call__(self, batch: np.ndarray, postprocess: Any) -> Any:
            self.pixels += batch.size
            assert max(batch.shape[1:3]) == 352  # 320, a half cell, rounded up
            return [self.find(image.copy()) for image in batch]

    square, rectangles = TakesAnySize(size=(352, 352)), TakesAnySize(size=(320, 320))
    evaluate(square, Rectangles(), None, batch=batch)
    found = evaluate(rectangles, Rectangles(), None, batch=batch, rectangular=Rectangular())
    assert found.per_class["cat"]["AP50"] == pytest.approx(1)
    assert len(found.results) == 46
    # A batch of all images has tall and wide ones, and is square.
    assert rectangles.pixels <= square.pixels and (batch == 50 or rectangles.pixels < 0.95 * square.pixels)


def test_model_of_one_size_takes_no_rectangles() -> None:
    with pytest.raises(UsageError, match="images of one size only"):
        evaluate(FindsBright(), Rectangles(), None, rectangular=Rectangular())


def test_batch_and_threads_change_nothing() -> None:
    one = evaluate(FindsBright(), Rectangles(), None, batch=1, workers=1)
    many = evaluate(FindsBright(), Rectangles(pause=0.002), None, batch=5, workers=7)
    assert one.stats == many.stats
    for name in ("images", "labels", "boxes", "scores"):
        assert np.array_equal(getattr(one.results, name), getattr(many.results, name))


def test_a_data_set_without_images_is_undefined() -> None:
    assert set(evaluate(FindsBright(), Rectangles(count=0), None).stats.values()) == {-1.0}


def test_classes_are_matched_by_name() -> None:
    data = Rectangles()
    with pytest.raises(DataError, match=r"no class in common: \[bird\] and \[cat, dog\]"):
        evaluate(FindsBright(class_names=("bird",)), data, None)
    partly = evaluate(FindsBright(class_names=("bird", "cat")), data, None)
    assert partly.per_class["cat"]["AP50"] == pytest.approx(1) and partly.per_class["dog"]["AP"] == 0
    assert len(partly.results) == 24  # detections of birds are no false cats or dogs
    assert "[dog]" in partly.notes[0] and "[bird]" in partly.notes[1]
    nameless = evaluate(FindsBright(class_names=()), replace(data, names=("dog", "cat"), category_ids=(2, 5)), None)
    assert nameless.stats["AP50"] < 0.1 and "no class names" in nameless.notes[0]
    with pytest.raises(DataError, match="class number 1, but there are 1 classes"):
        evaluate(FindsBright(class_names=("cat",)), data, None)


def test_what_is_no_number_is_left_out_and_said() -> None:
    class Diverged(FindsBright):
        def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            boxes, scores, labels = super().find(image)
            boxes[1, 2] = np.inf
            return boxes, scores, labels

    found = evaluate(Diverged(), Rectangles(), None)
    assert len(found.results) == 23 and found.notes[0].startswith("23 detections were left out")


@dataclass
class Counting(Rectangles):
    """Counts the images that are decoded."""

    decoded: int = 0

    def image(self, row: int) -> np.ndarray:
        self.decoded += 1
        return super().image(row)


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("onelook-decode")]


def test_an_undecodable_image_and_an_interruption_end_the_threads() -> None:
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        evaluate(FindsBright(), Rectangles(broken=9), None, batch=2)
    assert not decoding_threads()

    class Interrupted(FindsBright):
        def __call__(self, batch: np.ndarray, postprocess: Any) -> Any:
            raise KeyboardInterrupt

    data = Counting(count=1000, pause=0.01)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(), data, None, batch=2)
    assert not decoding_threads() and data.decoded < 100


def test_only_a_few_batches_are_decoded_ahead() -> None:
    data = Counting(count=100)
    batches = resized_batches(data, square_groups(range(100), (64, 64), 4), Letterbox())
    next(batches)
    time.sleep(0.2)
    assert data.decoded <= 12
    batches.close()  # type: ignore[attr-defined]
    assert not decoding_threads()


def one_of_two(rank: int, folder: str, out: Any) -> None:
    import torch.distributed as dist

    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    told: list[int] = []
    found = evaluate(FindsBright(), Rectangles(), None, batch=4, progress=told.append)
    dist.destroy_process_group()
    out.put((rank, sum(told), found.stats, found.results))


def test_two_processes_share_the_images_and_agree_with_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=one_of_two, args=(rank, str(tmp_path), out)) for rank in range(2)]
    for process in processes:
        process.start()
    answers = sorted((out.get(timeout=60) for _ in processes), key=lambda answer: answer[0])
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    alone = evaluate(FindsBright(), Rectangles(), None)
    assert [answer[1] for answer in answers] == [12, 11]
    for _, _, stats, results in answers:
        assert stats == alone.stats
        for name in ("images", "labels", "boxes", "scores"):
            assert np.array_equal(getattr(results, name), getattr(alone.results, name))
