"""Data sets in tar files: what is written is read again, and what other tools write is read, from disks and URLs."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_sets as make
from data_sets import put
from onelook.cli.app import run
from onelook.data import remote, splits
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.members import Member
from onelook.data.split import Dataset
from onelook.data.splitting import split as divide
from onelook.errors import DataError, UsageError
from shard_files import QUIET, annotation, opened, shard


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))
    monkeypatch.setattr("os.fsync", lambda file: None)  # nothing has to survive a loss of power, and a disk takes long


def contents(dataset: Dataset) -> list[tuple[Any, ...]]:
    """By image, all that training and evaluation use."""
    return [
        (dataset.file_name(i), dataset.boxes(i).tolist(), dataset.labels(i).tolist(), dataset.image(i).tobytes())
        for i in range(len(dataset))
    ]


# --- what is written is read again ------------------------------------------------------------------------------------


def test_everything_goes_round(tmp_path: Path) -> None:
    result = convert(make.coco(tmp_path / "in"), to="shards", out=tmp_path / "shards", reporter=QUIET)
    assert result.lost == {"the fields 'info' of the annotation file": 1}
    before, after = opened(tmp_path / "in", "val"), opened(tmp_path / "shards", "val")
    assert contents(before) == contents(after) and before.coco_ground_truth() == after.coco_ground_truth()
    assert before.names == after.names and before.identity() == after.identity()
    convert(tmp_path / "shards", to="coco", out=tmp_path / "back", reporter=QUIET)
    first, last = (
        json.loads((tmp_path / place / "annotations/instances_val.json").read_text()) for place in ("in", "back")
    )
    for key in ("images", "categories"):
        assert sorted(first[key], key=lambda entry: entry["id"]) == sorted(last[key], key=lambda entry: entry["id"])
    assert (tmp_path / "in/val/a.png").read_bytes() == (tmp_path / "back/val/a.png").read_bytes()
    assert check(tmp_path / "shards", reporter=QUIET).problems == []


def test_the_same_data_give_the_same_files(tmp_path: Path) -> None:
    root = make.coco(tmp_path / "in")
    for name in ("one", "two"):
        convert(root, to="shards", out=tmp_path / name, shard_size=10_000, reporter=QUIET)
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]


def large(root: Path, count: int = 12) -> Path:
    """Images of 3 kB and more of noise, two classes."""
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, 3000, np.uint8).tobytes()
        put(root / "train" / f"{number:02d}.ppm", b"P6 40 25 255\n" + pixels)
        images.append({"id": number + 1, "file_name": f"{number:02d}.ppm", "width": 40, "height": 25})
        box = [number % 5, 2, 10, 12]
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": number % 2, "bbox": box})
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "fork"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    put(root / "annotations/instances_train.json", json.dumps(whole))
    return root


def test_a_shard_is_as_long_as_it_was_asked_to_be(tmp_path: Path) -> None:
    convert(large(tmp_path / "in"), to="shards", out=tmp_path / "out", shard_size="15kB", reporter=QUIET)
    files = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in files] == [
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
        "train-000003.tar",
    ]
    with tarfile.open(files[1]) as tar:
        assert [name for name in tar.getnames() if name.endswith("ppm")] == ["03.ppm", "04.ppm", "05.ppm"]
    assert contents(opened(tmp_path / "in")) == contents(opened(tmp_path / "out"))


def test_a_name_with_dots_is_written_without(tmp_path: Path) -> None:
    content = make.changed(images_0={"file_name": "a.b.png"})
    put(make.coco(tmp_path / "in", content) / "val/a.b.png", make.png(grey=9))
    result = convert(tmp_path / "in", to="shards", out=tmp_path / "out", reporter=QUIET)
    assert opened(tmp_path / "out", "val").file_name(0) == "a_b.png"
    assert any("1 images of 'val' have a new name" in note for note in result.notes)


@pytest.mark.parametrize("size", ["1", "many", 99, "-5MB"])
def test_a_shard_size_that_is_none_is_refused(tmp_path: Path, size: int | str) -> None:
    with pytest.raises(UsageError, match="no size of a shard"):
        convert(make.coco(tmp_path / "in"), to="shards", out=tmp_path / "out", shard_size=size, reporter=QUIET)
    with pytest.raises(UsageError, match="COCO JSON has no shards"):
        convert(tmp_path / "in", to="coco", out=tmp_path / "out", shard_size="1GB", reporter=QUIET)


def test_the_command_line_converts_checks_and_names_the_problem(tmp_path: Path, capfd: Any) -> None:
    root = large(tmp_path / "in")
    assert run(["convert", str(root), "--to", "shards", "--shard-size", "15kB", "--out", str(tmp_path / "out")]) == 0
    assert "train: 12 images, 12 boxes" in capfd.readouterr().out
    assert run(["check", str(tmp_path / "out/train-{000000..000003}.tar")]) == 0
    shard(tmp_path / "out/train-000001.tar", [("x.ppm", "P6 nothing"), ("x.json", annotation())])
    assert run(["check", str(tmp_path / "out")]) == 1
    assert "train-000001.tar/x.ppm" in capfd.readouterr().out.replace("\n", "")


# --- shards of other tools --------------------------------------------------------------------------------------------


def test_rows_of_yolo_text_and_a_list_of_classes(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", [("a.png", make.png()), ("a.txt", "1 .5 .5 .25 .5\n"), ("b.png", make.png(grey=1))])
    put(tmp_path / "classes.txt", "cat\ndog\n")
    dataset = opened(tmp_path)
    assert dataset.names == ("cat", "dog") and dataset.labels(0).tolist() == [1]
    assert dataset.boxes(0).tolist() == [[24, 12, 40, 36]] and dataset.labelled.tolist() == [True, False]
    assert "background: 1" in " ".join(dataset.notes)


def test_classes_are_those_of_the_annotations(tmp_path: Path) -> None:
    for split, names in (("train", ("dog", "cat")), ("val", ("cat",))):
        members = [
            part for i, name in enumerate(names) for part in ((f"{i}.png", make.png()), (f"{i}.json", annotation(name)))
        ]
        shard(tmp_path / split / "000.tar", members)
    train, val = opened(tmp_path), opened(tmp_path, "val")
    assert splits(tmp_path) == ("train", "val") and train.names == ("cat", "dog")
    assert val.with_names(train.names).labels(0).tolist() == [0] and train.labels(0).tolist() == [1]
    numbered = {"annotations": [{"bbox": [1, 2, 3, 4], "category_id": number} for number in (90, 7)]}
    shard(tmp_path / "test.tar", [("a.png", make.png()), ("a.json", json.dumps(numbered))])
    assert opened(tmp_path / "test.tar", "test").category_ids == (7, 90)


def test_ids_that_repeat_are_numbered_anew(tmp_path: Path) -> None:
    for number in range(2):
        content = {"id": 5, "annotations": [{"id": 1, "bbox": [1, 2, 3, 4], "category": "cat"}]}
        shard(tmp_path / f"{number}.tar", [("a.png", make.png(grey=number)), ("a.json", json.dumps(content))])
    dataset = opened(str(tmp_path / "*.tar"))
    assert dataset.image_ids.tolist() == [1, 2] and [dataset.annotation_ids(i).tolist() for i in range(2)] == [[1], [2]]


def test_other_members_folders_and_masks_are_passed_over(tmp_path: Path) -> None:
    members = [("./x/a.png", make.png()), ("./x/a.seg.png", b"mask"), ("./x/a.json", annotation()), ("./x/a.cls", "3")]
    shard(tmp_path / "train.tar", [("README", "no sample"), (".hidden.png", "x"), *members])
    dataset = opened(tmp_path)
    assert [dataset.file_name(i) for i in range(len(dataset))] == ["x/a.png"]


def test_shards_are_not_divided_or_edited_as_they_are(tmp_path: Path) -> None:
    convert(large(tmp_path / "in"), to="shards", out=tmp_path / "out", reporter=QUIET)
    with pytest.raises(DataError, match="is in shards, which are not divided"):
        divide(tmp_path / "out", val=0.5, out=tmp_path / "divided", reporter=QUIET)
    put(tmp_path / "edit.yaml", "from: out\n")
    with pytest.raises(DataError, match="is in shards, which are not edited"):
        opened(tmp_path / "edit.yaml")


# --- patterns and URLs ------------------------------------------------------------------------------------------------


def test_patterns_that_name_nothing_say_so(tmp_path: Path) -> None:
    for pattern, said in (
        ("x-*.tar", "No shard matches"),
        ("x-{0..9.tar", "not closed"),
        ("{0..9999999}.tar", "million|1,000,000"),
    ):
        with pytest.raises(DataError, match=said):
            opened(f"{tmp_path}/{pattern}")
    with pytest.raises(DataError, match=r"0\.tar' cannot be read: no such file"):
        opened(f"{tmp_path}/{{0..3}}.tar")


def test_an_object_store_is_read_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    convert(large(tmp_path / "in"), to="shards", out=tmp_path / "out", shard_size="15kB", reporter=QUIET)
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "out"), "/bucket", recursive=True)
    try:
        expected = contents(opened(tmp_path / "in"))
        for url in ("memory://bucket", "memory://bucket/train-{000000..000003}.tar", "memory://bucket/*.tar"):
            dataset = opened(url)
            assert contents(dataset) == expected and str(dataset.described_by) == url
            assert contents(opened(Path(url))) == expected  # which has lost a slash
        assert dataset.image_file(0) == Member("memory:///bucket/train-000000.tar", 512, 3013, "00.ppm")
        asked: list[tuple[int, int]] = []
        read = type(store).cat_file
        monkeypatch.setattr(
            type(store), "cat_file", lambda *a, **k: asked.append((k["start"], k["end"])) or read(*a, **k)
        )
        dataset.image(4)
        (one,) = asked
        assert one[1] - one[0] == 3013
        store.rm("/bucket/train-000002.tar")
        with pytest.raises(DataError, match=r"train-000002\.tar' cannot be read: FileNotFoundError"):
            opened("memory://bucket/train-{000000..000003}.tar")
    finally:
        store.rm("/bucket", recursive=True)


def test_a_read_that_fails_for_the_moment_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    answers: list[Any] = [TimeoutError("slow"), ConnectionError(), b"there"]

    class Store:
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(remote, "file_system", lambda url: (Store(), url))
    assert remote.read_range("s3://b/a.tar", 0, 5) == b"there" and waits == [1.0, 3.0]
    answers[:] = [TimeoutError("slow")] * 4
    with pytest.raises(DataError, match=r"'s3://b/a\.tar' cannot be read: TimeoutError: slow"):
        remote.read_range("s3://b/a.tar", 0, 5)
    answers[:] = [FileNotFoundError("gone")]
    with pytest.raises(DataError, match="gone"):
        remote.read_range("s3://b/a.tar", 0, 5)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://b/a.tar", "s3://b/a.tar"),
        (Path("s3://b/a.tar"), "s3://b/a.tar"),
        ("file:///tmp/a.tar", "file:///tmp/a.tar"),
        (Path("file:///tmp/a.tar"), "file:///tmp/a.tar"),
        ("filecache::s3://b/{0..9}.tar", "filecache::s3://b/{0..9}.tar"),
        ("C:/data/a.tar", None),
        ("/data/a.tar", None),
        ("data/a:b.tar", None),
    ],
)
def test_urls_are_told_from_paths(given: str | Path, url: str | None) -> None:
    assert remote.url_of(given) == url


@pytest.mark.slow
def test_a_training_from_shards_is_that_from_the_folder(tmp_path: Path) -> None:
    """The same weights, bit for bit, and the same numbers of `val`, from a folder, from shards, and from a URL."""
    import onelook
    from onelook.data.synthetic import Scenes, write_synthetic

    data = write_synthetic(tmp_path / "data", Scenes(size=(64, 64)), {"train": 16, "val": 6})
    convert(data, to="shards", out=tmp_path / "out", shard_size=20_000, reporter=QUIET)
    found = {}
    for name, place in {"folder": data, "shards": tmp_path / "out", "url": f"file://{tmp_path}/out"}.items():
        settings: Any = {"size": 64, "batch": 4, "epochs": 2, "device": "cpu", "workers": 1, "threads": 1}
        result = onelook.train("yolox-nano", place, out=tmp_path / name, **settings, reporter=QUIET)
        measured = onelook.validate(result.weights, place, device="cpu", reporter=QUIET)
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors(result.weights)))
        found[name] = (digest.hexdigest(), result.metrics, measured.stats)
        assert check(place, reporter=QUIET).exit_code == 0
    assert found["folder"] == found["shards"] == found["url"]


def tensors(weights: Path | None) -> list[Any]:
    """The tensors of a weights file, by name."""
    from safetensors.torch import load_file

    assert weights is not None
    return [tensor for _, tensor in sorted(load_file(weights).items())]
