"""Data sets in tar files: what is written is read again, and nothing damaged or hostile gets further."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_sets as make
from data_sets import put
from onelook.cli.app import run
from onelook.data import open_dataset, remote, splits
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.formats.tar_samples import read_samples
from onelook.data.members import Member
from onelook.data.split import Dataset
from onelook.errors import DataError, ImageError, UsageError
from onelook.reporter import SilentReporter

QUIET = SilentReporter()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))
    monkeypatch.setattr("os.fsync", lambda file: None)  # nothing has to survive a loss of power, and a disk takes long


def shard(path: Path, members: Sequence[tuple[str, bytes | str]], **header: Any) -> Path:
    """A tar file of these members. header: further fields of every entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def annotation(name: str = "cat", box: Sequence[float] = (1, 2, 10, 20)) -> str:
    return json.dumps({"annotations": [{"bbox": list(box), "category": name}]})


def opened(data: Path | str, split: str = "train") -> Dataset:
    return open_dataset(data, split, reporter=QUIET)


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


# --- what is damaged or hostile ---------------------------------------------------------------------------------------


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def _overwrite(path: Path, place: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)


GOOD = [("a.png", make.png()), ("a.json", annotation()), ("b.png", make.png(grey=1)), ("b.json", annotation())]


def sample(*more: tuple[str, bytes | str]) -> Callable[[Path], Any]:
    return lambda path: shard(path, [*GOOD, *more])


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut inside an image": (lambda path: (sample()(path), _cut(path, 560)), r"train\.tar/a\.png' is cut short"),
    "cut between two members": (lambda path: (sample()(path), _cut(path, 2048)), "end mark is missing"),
    "damaged header": (lambda path: (sample()(path), _overwrite(path, 2048, b"\xff" * 200)), "damaged at byte 2,048"),
    "not a tar file": (lambda path: put(path, b"x" * 5000), "no tar file"),
    "empty": (lambda path: put(path, b""), "empty"),
    "compressed": (lambda path: put(path, gzip.compress(b"x")), "compressed"),
    "a path out of it": (sample(("../../x.png", make.png())), r"train\.tar': the name '\.\./\.\./x\.png'"),
    "an absolute path": (sample(("/x.png", make.png())), "must be a path inside"),
    "a control character": (sample(("x\n.png", make.png())), "must not hold"),
    "a link": (lambda path: shard(path, [("a.png", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "two images of a sample": (
        sample(("c.png", make.png()), ("c.jpg", make.png())),
        r"train\.tar/c\.jpg' is a second image of its sample",
    ),
    "XML": (sample(("c.png", make.png()), ("c.xml", "<annotation/>")), r"train\.tar/c\.xml' is an annotation in XML"),
    "JSON": (sample(("c.png", make.png()), ("c.json", "{")), r"train\.tar/c\.json: not valid JSON"),
    "JSON, deep": (sample(("c.png", make.png()), ("c.json", "[" * 100_000)), r"train\.tar/c\.json: not valid JSON"),
    "a list": (sample(("c.png", make.png()), ("c.json", "[]")), r"train\.tar/c\.json: the JSON must be an object"),
    "another layout": (
        sample(("c.png", make.png()), ("c.json", '{"boxes": [[1, 2, 3, 4]]}')),
        r"train\.tar/c\.json: there is 'boxes', but no 'annotations'",
    ),
    "a box of text": (
        sample(("c.png", make.png()), ("c.json", annotation(box="abcd"))),
        r"train\.tar/c\.json.*: annotations\[0\]: 'bbox' must be four finite numbers",
    ),
    "no class": (
        sample(("c.png", make.png()), ("c.json", '{"annotations": [{"bbox": [1, 2, 3, 4]}]}')),
        r"train\.tar/c\.json: annotations\[0\]: it needs a 'category'",
    ),
    "a row of text": (
        sample(("c.png", make.png()), ("c.txt", "0 .5 .5 .2 .2\n0 a b c d\n")),
        r"train\.tar/c\.txt:2: '0 a b c d' holds what is not a finite number",
    ),
    "no image": (sample(("c.png", "nothing")), r"train\.tar/c\.png' is not an image"),
    "a size that is none": (
        sample(("c.png", make.png()), ("c.json", '{"width": -3, "height": 4, "annotations": []}')),
        r"train\.tar/c\.json: images\[2\]: 'width' must be a positive number",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_shard_is_named_with_its_member(tmp_path: Path, what: str) -> None:
    write, message = HOSTILE[what]
    write(tmp_path / "data/train.tar")
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / "data")
    assert caught.value.remedy
    report = check(tmp_path / "data", reporter=QUIET)
    assert report.exit_code == 1 and any(str(tmp_path / "data/train.tar") in str(one) for one in report.problems)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"train.tar", ".onelook"}  # nothing was unpacked


def test_a_header_of_gigabytes_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """An extended header is read as one block, whose length the file states; a sparse file costs nothing to make."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with put(tmp_path / "train.tar", info.tobuf()).open("r+b") as file:
        file.truncate(4 << 30)
    with pytest.raises(DataError, match="an extended header of 3,221,225,472 bytes"):
        read_samples(str(tmp_path / "train.tar"))


@pytest.mark.parametrize("size", ["-512", "-99999", "9" * 30])
def test_a_size_that_leads_backwards_or_nowhere_ends(tmp_path: Path, size: str) -> None:
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": size}
        tar.addfile(info)
    with pytest.raises(DataError, match=r"train\.tar"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "has no 'splits'"),
        ('{"splits": {"train": ["../a.tar"]}, "classes": []}', "must be a list of tar files beside it"),
        ('{"splits": {"train": ["s3://b/a.tar"]}, "classes": [{"id": "a"}]}', "'classes' must be a list"),
        ('{"splits": {"train": ["a.tar"]}, "classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "one id"),
        ('{"splits": {"train": ["a.tar"]}, "classes": [{"id": 1, "name": "a"}]}', r"a\.tar' cannot be read: no such"),
    ],
)
def test_a_list_of_shards_that_is_wrong_says_what(tmp_path: Path, content: str, message: str) -> None:
    put(tmp_path / "shards.json", content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_classes_that_the_list_lacks_are_an_error(tmp_path: Path) -> None:
    put(tmp_path / "shards.json", '{"splits": {"train": ["a.tar"]}, "classes": [{"id": 4, "name": "dog"}]}')
    for entry, said in ((annotation("cat"), "the class 'cat'"), (annotation("cat").replace('"cat"', "3"), "it needs")):
        shard(tmp_path / "a.tar", [("a.png", make.png()), ("a.json", entry)])
        with pytest.raises(DataError, match=f"a\\.json: annotations\\[0\\]: {said}"):
            opened(tmp_path)


def test_a_shard_that_was_replaced_is_read_again_and_one_that_shrank_later_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.tar", GOOD)
    dataset = opened(tmp_path)
    assert len(dataset) == 2
    path.write_bytes(path.read_bytes()[:2200])
    with pytest.raises(ImageError, match=r"train\.tar/b\.png' is cut short"):
        dataset.image(1)
    shard(path, GOOD[:2])
    assert len(opened(tmp_path)) == 1
    path.unlink()
    with pytest.raises(ImageError, match=r"train\.tar/a\.png' cannot be read: no such file"):
        dataset.image(0)


def test_an_annotated_size_that_the_image_lacks_is_a_problem(tmp_path: Path) -> None:
    content = {"width": 10, "height": 10, "annotations": [{"bbox": [1, 2, 3, 4], "category": "cat"}]}
    shard(tmp_path / "train.tar", [("a.png", make.png()), ("a.json", json.dumps(content))])
    assert opened(tmp_path).sizes.tolist() == [[10, 10]]
    assert "image-size-mismatch" in {problem.code for problem in check(tmp_path, reporter=QUIET).problems}
    with pytest.raises(DataError, match=r"train\.tar/a\.png' is 64 x 48 pixels, but annotated as 10 x 10"):
        convert(tmp_path, to="coco", out=tmp_path / "out", reporter=QUIET)


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
        assert dataset.file(0) == Member("memory:///bucket/train-000000.tar", 512, 3013, "00.ppm")
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

    monkeypatch.setattr(remote, "_system", lambda url: (Store(), url))
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
