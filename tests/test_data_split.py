"""Dividing a data set: shares, classes, and what belongs together on one side."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import data_sets as make
import onelook
from data_sets import put
from onelook.cli.app import run
from onelook.data import open_dataset, splits
from onelook.data.divide import divide
from onelook.data.near_duplicates import MOST_BITS, difference_hashes, near_duplicates, tiny_images
from onelook.data.sequences import named_sequences, runs_of_sequences
from onelook.data.split_names import usual_splits
from onelook.errors import DataError, UsageError
from onelook.reporter import SilentReporter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda file: None)


def photograph(rng: np.random.Generator) -> np.ndarray:
    """(48, 64, 3) an image of large coloured areas, unlike all others."""
    return cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)


def save(root: Path, name: str, image: np.ndarray, labels: list[int]) -> None:
    put(root / "images" / f"{name}.png", cv2.imencode(".png", image)[1].tobytes())
    put(root / "labels" / f"{name}.txt", "".join(f"{label} .5 .5 .25 .25\n" for label in labels))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """60 photographs, 5 of them also smaller and brighter; 2 sequences of 6; a rare class; YOLO text, undivided."""
    rng, root = np.random.default_rng(3), tmp_path / "data"
    for number in range(60):
        image = photograph(rng)
        save(root, f"{number:06d}", image, [0] * (number % 3) + [1] * (number % 2) + [2] * (number % 12 == 0))
        if number < 5:
            small = np.clip(cv2.resize(image, (50, 37)).astype(np.int16) + 6, 0, 255).astype(np.uint8)
            save(root, f"copy-{'abcde'[number]}", small, [0])
    for clip in range(2):
        for frame in range(6):
            save(root, f"clip{clip}_frame_{frame:03d}", photograph(rng), [1])
    put(root / "classes.txt", "cat\ndog\nbird\n")
    return root


def sides(folder: Path) -> dict[str, str]:
    """By the stem of each image its split."""
    return {Path(line).stem: file.stem for file in folder.glob("*.txt") for line in file.read_text().splitlines()}


def test_images_and_classes_are_shared_and_what_belongs_together_stays_together(data: Path, tmp_path: Path) -> None:
    result = onelook.split(data, val=0.2, test=0.2, out="out", reporter=SilentReporter())
    found = sides(tmp_path / "out")
    assert len(found) == 77 and list(result.splits) == ["train", "val", "test"]
    for split in ("val", "test"):
        assert 11 <= result.splits[split]["images"] <= 21
        assert result.classes["bird"][split] == 1
    assert result.classes["bird"]["train"] == 3
    for number in range(5):
        assert found[f"{number:06d}"] == found[f"copy-{'abcde'[number]}"]
    for clip in range(2):
        assert len({found[f"clip{clip}_frame_{frame:03d}"] for frame in range(6)}) == 1
    assert result.groups == {"near-duplicates": 10, "sequences": 12}
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_folder_of_lists_is_a_data_set(data: Path, tmp_path: Path) -> None:
    result = onelook.split(data, out="out", reporter=SilentReporter())
    whole = open_dataset(data, reporter=SilentReporter())
    assert splits("out") == ("train", "val")
    opened = {split: open_dataset("out", split, reporter=SilentReporter()) for split in splits("out")}
    paths = [str(part.path(i).resolve()) for part in opened.values() for i in range(len(part))]
    assert sorted(paths) == sorted(str(whole.path(i).resolve()) for i in range(len(whole)))
    assert {split: len(part) for split, part in opened.items()} == {s: n["images"] for s, n in result.splits.items()}
    assert onelook.check("out", reporter=SilentReporter()).exit_code == 0
    (tmp_path / "both").mkdir()
    for name in ("data", "out"):
        (tmp_path / name).rename(tmp_path / "both" / name)  # paths are relative
    assert len(open_dataset(tmp_path / "both/out", "val", reporter=SilentReporter())) == len(opened["val"])


def test_the_same_seed_divides_equally(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, reporter=SilentReporter())
    divisions = [divide(dataset, {"val": 0.3}, seed, SilentReporter()) for seed in (1, 1, 2)]
    first, same, other = (division.rows["val"].tolist() for division in divisions)
    assert first == same and first != other


def test_another_format_gets_links_or_copies(data: Path, tmp_path: Path) -> None:
    onelook.split(data, out="linked", to="coco", reporter=SilentReporter())
    onelook.split(data, out="copied", to="yolo", copy=True, reporter=SilentReporter())
    assert splits("linked") == ("train", "val")
    for folder, links in (("linked", 2), ("copied", 1)):
        image = next((tmp_path / folder).rglob("000007.png"))
        assert image.stat().st_nlink == links


def test_a_divided_data_set_is_divided_again_on_demand_only(tmp_path: Path) -> None:
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(4):
            put(root / split / "images" / f"{split}{number}.png", cv2.imencode(".png", photograph(rng))[1].tobytes())
            put(root / split / "labels" / f"{split}{number}.txt", "0 .5 .5 .2 .2\n")
    with pytest.raises(UsageError, match="divided already: it has train, val") as caught:
        onelook.split(root, reporter=SilentReporter())
    assert "--anew" in caught.value.remedy
    result = onelook.split(root, val=0.25, anew=True, out="anew", reporter=SilentReporter())
    assert {name: one["images"] for name, one in result.splits.items()} == {"train": 6, "val": 2}
    only_test = onelook.split(root, val=0, test=0.5, out="test", reporter=SilentReporter())
    assert {name: one["images"] for name, one in only_test.splits.items()} == {"train": 2, "test": 2, "val": 4}


def test_images_of_two_coco_files_that_number_alike_have_ids_of_their_own(tmp_path: Path) -> None:
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for split in ("train", "val"):
        names = [f"{split}{number}.png" for number in range(4)]
        for name in names:
            put(root / split / name, cv2.imencode(".png", photograph(rng))[1].tobytes())
        content = {
            "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names, 1)],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 16, 16]} for n in range(1, 5)],
            "categories": [{"id": 1, "name": "thing"}],
        }
        put(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    result = onelook.split(root, val=0.5, anew=True, out=tmp_path / "anew", reporter=SilentReporter())
    for split in ("train", "val"):
        dataset = open_dataset(result.out, split)
        assert len(dataset) == 4
        assert sorted(dataset.image_ids.tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": 0.6, "test": 0.5}, "leave no images to train on"),
        ({"val": 1.5}, "'val' must be a fraction between 0 and 1"),
        ({"val": 0.0}, "nothing to divide"),
        ({"copy": True}, "copy needs a format"),
        ({"val": 0.001}, "'val' would have no image"),
        ({"seed": -1}, "The seed is -1"),
    ],
)
def test_fractions_that_cannot_be_are_refused(tmp_path: Path, arguments: dict[str, float], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        onelook.split(make.yolo(tmp_path / "data"), out="out", **arguments, reporter=SilentReporter())
    assert not (tmp_path / "out").exists()


def test_the_command_shows_counts_and_writes_json(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["split", "data", "--val", "0.25", "--json", "r.json"]) == 0
    shown = capsys.readouterr().out
    assert "data-split" in shown and "kept on one side: 12 images that are parts of a sequence" in shown
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["splits"]["train"]["images"] + found["splits"]["val"]["images"] == 77
    assert run(["split", "data", "--val", "0.25", "--out", "data-split"]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert run(["split", "data-split", "--anew", "--val", "0.25"]) == 0
    assert "/onelook-" not in capsys.readouterr().err  # a temporary folder, which is gone already


def test_near_duplicates_are_found_among_unlike_images(tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(0), []
    for number in range(40):
        image = photograph(rng)
        for kind, one in (("a", image), ("b", cv2.GaussianBlur(image, (3, 3), 0)))[: 1 + (number % 4 == 0)]:
            paths.append(str(put(tmp_path / f"{kind}{number}.png", cv2.imencode(".png", one)[1].tobytes())))
    paths.append(str(put(tmp_path / "damaged.png", b"x")))
    tiny = tiny_images(paths)
    found = {(int(i), int(j)) for first, second in near_duplicates(tiny) for i, j in zip(first, second)}
    expected = {(row, row + 1) for row, path in enumerate(paths[:-1]) if Path(paths[row + 1]).name.startswith("b")}
    assert found == expected and len(found) == 10 and np.isnan(tiny[-1]).all()
    bits = np.unpackbits(difference_hashes(tiny[:-1]), axis=1).astype(int)
    distances = np.abs(bits[:, None] - bits[None]).sum(axis=2)
    slow = {(i, j) for i, j in zip(*np.nonzero(distances <= MOST_BITS)) if i < j}
    assert slow == expected


def test_names_with_running_numbers_are_sequences_where_they_or_the_images_say_so() -> None:
    names = ["v/a_1.png", "v/a_10.png", "v/a_2.png", "w/a_3.png", "b.png"]
    (sequence,) = named_sequences(names)
    assert (sequence.folder, sequence.stem, sequence.rows.tolist()) == ("v", "a_#", [0, 2, 1])
    unlike = np.random.default_rng(0).uniform(0, 255, (8, 9, 9)).astype(np.float32)
    alike = np.repeat(unlike[:1], 8, axis=0)

    def runs(stem: str, tiny: np.ndarray, longest: int = 8) -> list[list[int]]:
        given = [f"{stem}{number}.png" for number in range(8)]
        return [rows.tolist() for rows in runs_of_sequences(given, ["cat", "clip"], tiny, longest).rows]

    everything = [list(range(8))]
    assert runs("scene_", unlike) == everything and runs("IMG_", alike) == everything
    assert runs("IMG_", unlike) == runs("cat_", unlike) == runs("clip_", unlike) == []
    mixed = np.concatenate([unlike[:4], alike[:2], unlike[4:6]])
    assert runs("IMG_", mixed) == [[4, 5]]
    cut = runs_of_sequences([f"frame{n}.png" for n in range(8)], [], alike, 4)
    assert all(len(rows) <= 4 for rows in cut.rows) and cut.cut_from.tolist() == [0] * 8 and len(cut.notes) == 1


def test_the_splits_have_one_name_everywhere(tmp_path: Path) -> None:
    undivided = make.voc(tmp_path / "voc")
    (undivided / "ImageSets/Main/val.txt").unlink()
    assert usual_splits(("all",)) == ("train", "val")
    for name in ("val", "valid", "validation", "val2017"):
        assert open_dataset(undivided, name, reporter=SilentReporter()).split == "val"
    roboflow = make.yolo(tmp_path / "yolo", split="valid")
    assert splits(roboflow) == ("val",) and open_dataset(roboflow, "valid", reporter=SilentReporter()).split == "val"


def test_other_splits_of_a_divided_data_set_are_said_to_be_left_out(data: Path, capsys) -> None:
    for split in ("train", "minival"):
        make.coco(Path("divided"), split=split)
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png", "c.png"):
        put(Path("divided/train") / name, cv2.imencode(".png", photograph(rng))[1].tobytes())
    run(["split", "divided", "--val", "0.34", "--out", "made"])
    assert "'minival'" in capsys.readouterr().out


def test_a_split_of_few_boxes_is_told(tmp_path: Path) -> None:
    rng, root = np.random.default_rng(5), tmp_path / "uneven"
    for number in range(4):
        save(root, f"plot-{'abcd'[number]}", photograph(rng), [0] * (40 if number else 1))
    put(root / "classes.txt", "tree\n")
    notes = {}
    for seed in range(8):
        result = onelook.split(root, val=0.25, seed=seed, out=tmp_path / f"out{seed}", reporter=SilentReporter())
        notes[result.splits["val"]["boxes"]] = " ".join(result.notes)
    assert "'val' has 1 % of the boxes, not 25 %" in notes[1] and "of the boxes" not in notes[40]
