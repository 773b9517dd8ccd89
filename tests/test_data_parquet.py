"""Data sets in Parquet files: what is found, read and written, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_sets as make
from format_examples import examples
from parquet_files import ROWS, as_structures, row, write

pa = pytest.importorskip("pyarrow", reason="needs the extra parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

from onelook.data import open_dataset, parquet_file, splits  # noqa: E402
from onelook.data.check import check  # noqa: E402
from onelook.data.convert import convert  # noqa: E402
from onelook.data.split import Dataset  # noqa: E402
from onelook.errors import DataError, ImageError, UserError  # noqa: E402
from onelook.reporter import SilentReporter  # noqa: E402

QUIET = SilentReporter()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def opened(data: Path, split: str = "val") -> Dataset:
    return open_dataset(data, split, reporter=QUIET)


def holds_the_objects(dataset: Dataset) -> None:
    assert dataset.names == ("cat", "dog") and dataset.sizes.tolist() == [[48, 64]] * 3
    assert dataset.boxes(0).tolist() == [[8, 12, 24, 36], [32, 6, 56, 42]]
    assert dataset.labels(0).tolist() == [0, 1] and dataset.labels(1).tolist() == [1] and not len(dataset.labels(2))
    assert [dataset.sample(i).image[0, 0, 0] for i in (2, 0, 1)] == [80, 0, 40]


@pytest.mark.parametrize("name", ["data/validation-00000-of-00001", "val", "validation/0000"])
def test_lists_of_values_are_read_from_every_place(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.parquet", ROWS)
    for _ in range(2):  # built, then from the index
        holds_the_objects(opened(tmp_path))
    assert splits(tmp_path) == ("val",)
    report = check(tmp_path, reporter=QUIET)
    assert report.summary["errors"] == 0


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    (files,) = examples("data_parquet")
    for name, content in files.items():
        make.put(tmp_path / name, content)
    subprocess.run([sys.executable, "make.py"], cwd=tmp_path, check=True)
    for place in (tmp_path, tmp_path / "validation.parquet"):
        holds_the_objects(opened(place))


def test_a_list_of_structures_and_texts_are_read(tmp_path: Path) -> None:
    rows = [as_structures(one) for one in ROWS]
    holds_the_objects(opened(write(tmp_path / "a.parquet", rows)))
    for one in rows:
        for thing in one["objects"]:
            thing["category"] = ("cat", "dog")[thing["category"]]
    holds_the_objects(opened(write(tmp_path / "b.parquet", rows, None)))


def test_texts_of_all_splits_are_one_list_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [row(0, [(0, 0, 9, 9)], ["zebra"])], None)
    write(tmp_path / "test.parquet", [row(0, [(0, 0, 9, 9)], ["ant"])], None)
    assert opened(tmp_path, "train").names == opened(tmp_path, "test").names == ("ant", "zebra")
    assert opened(tmp_path, "train").labels(0).tolist() == [1]


def test_numbers_need_names(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ROWS, None)
    with pytest.raises(DataError, match="which classes they are") as caught:
        opened(tmp_path)
    assert caught.value.remedy is not None and "classes.txt" in caught.value.remedy
    make.put(tmp_path / "classes.txt", "cat\ndog\n")
    holds_the_objects(opened(tmp_path, "train"))


def test_further_fields_are_read(tmp_path: Path) -> None:
    first = as_structures(row(0, [(1, 2, 10, 20)], [1], image_id=7, width=64, height=48), id=12, area=55.5, iscrowd=1)
    bare = row(9, image_id=3, width=64, height=48) | {"objects": None}
    dataset = opened(write(tmp_path / "train.parquet", [first, bare]), "train")
    index = dataset.index
    assert index.image_ids.tolist() == [7, 3] and index.annotation_ids.tolist() == [12]
    assert index.areas.tolist() == [55.5] and dataset.crowd(0).tolist() == [True]
    assert dataset.labelled.tolist() == [True, False]


def test_files_of_a_split_follow_one_another_and_row_groups_are_found(tmp_path: Path) -> None:
    for number in range(3):
        rows = [row(10 * number + i) for i in range(5)]
        write(tmp_path / f"data/train-{number:05d}-of-00004.parquet", rows, row_group_size=2)
    dataset = opened(tmp_path, "train")
    assert dataset.notes and "4 Parquet files" in dataset.notes[0]
    order = np.random.default_rng(0).permutation(15).tolist()
    assert [dataset.sample(i).image[0, 0, 0] for i in order] == [10 * (i // 5) + i % 5 for i in order]
    assert dataset.index.member_places[7, :2].tolist() == [1, 2]
    assert len(parquet_file._kept) <= 2
    assert str(dataset.image_file(7)).endswith("train-00001-of-00004.parquet, row 2")


@pytest.mark.parametrize(
    "wrong, code",
    [
        (row() | {"image": {"bytes": None, "path": "a.png"}}, "image-missing"),
        (row() | {"image": {"bytes": b"no image", "path": "a.png"}}, "image-unreadable"),
        (row(0, [(1, 2, 10, 20)], [5]), "unknown-category"),
        (row(0, [(1, 2, 10, 20)], [-1]), "unknown-category"),
        (row(0, [(1, 2, -10, 20)], [0]), "box"),
        (row(0, [(1, 2, 10)], [0]), "box"),
        (row(0, [(1, 2, float("nan"), 3)], [0]), "box"),
        (row(0, [(1, 2, 3, 4)], []), "not-a-list"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, wrong: dict[str, Any], code: str) -> None:
    write(tmp_path / "val.parquet", [*ROWS, wrong])
    report = check(tmp_path, reporter=QUIET)
    errors = [problem for problem in report.problems if problem.code.startswith(code)]
    assert errors and str(errors[0].file).endswith("val.parquet, row 3"), report.problems
    with pytest.raises(DataError):
        opened(tmp_path)


def test_other_parquet_files_are_told(tmp_path: Path) -> None:
    table = pa.table({"source": ["a"], "boxes": [[]], "scores": [[]], "labels": [[]]})
    parquet.write_table(table, tmp_path / "shard-00000000.parquet")
    for place in (tmp_path, tmp_path / "shard-00000000.parquet"):
        with pytest.raises(DataError, match="detections that"):
            opened(place)
    other = tmp_path / "other"
    other.mkdir()
    parquet.write_table(pa.table({"a": [1]}), other / "train.parquet")
    with pytest.raises(DataError, match="No data set was recognised"):
        opened(other)
    with pytest.raises(DataError, match="has the columns a"):
        opened(other / "train.parquet")


def test_without_pyarrow_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow") as caught:
        opened(tmp_path)
    assert caught.value.remedy is not None and "parquet" in caught.value.remedy
    make.coco(tmp_path)  # is found first, without it
    assert opened(tmp_path).names == ("cat", "dog")


def test_damage_is_an_error(tmp_path: Path) -> None:
    content = write(tmp_path / "val.parquet", ROWS, write_page_checksum=True).read_bytes()
    place = tmp_path / "damaged" / "val.parquet"
    rng = np.random.default_rng(1)
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 3:
            for spot in rng.integers(0, len(content), 1 + trial % 5):
                damaged[spot] = rng.integers(256)
        else:
            damaged = damaged[: rng.integers(len(content))]
        make.put(place, bytes(damaged))
        try:
            dataset = opened(place)
            for i in range(len(dataset)):
                dataset.sample(i)
        except UserError as error:
            assert error.message


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "GROUP_LIMIT", 20_000)
    big = row() | {"image": {"bytes": make.png() + bytes(1000), "path": "a.png"}}
    path = write(tmp_path / "val.parquet", [big] * 100)  # one value of a dictionary: the file itself is small
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="limit is 20,000"):
        opened(path)
    assert len(opened(write(tmp_path / "b/val.parquet", [big] * 100, row_group_size=10))) == 100


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "val.parquet", ROWS)
    dataset = opened(path)
    write(path, [row() | {"image": {"bytes": make.png(8, 8), "path": "a.png"}}])
    with pytest.raises(ImageError, match="row 1"):
        dataset.sample(1)
    with pytest.raises(ImageError, match="no longer"):
        dataset.sample(0)


def same(first: Dataset, second: Dataset) -> None:
    assert first.names == second.names and first.labelled.tolist() == second.labelled.tolist()
    for name in ("sizes", "boxes", "labels", "areas", "object_flags", "object_offsets", "image_ids", "annotation_ids"):
        assert getattr(first.index, name).tolist() == getattr(second.index, name).tolist(), name
    for i in range(len(first)):
        assert first.file_name(i).rpartition("/")[2] == second.file_name(i).rpartition("/")[2]
        assert np.array_equal(first.sample(i).image, second.sample(i).image)


def test_what_is_written_is_read_equal_and_written_equal(tmp_path: Path) -> None:
    source = make.coco(tmp_path / "coco")
    first = convert(source, to="parquet", out=tmp_path / "a", reporter=QUIET)
    assert set(first.lost) == {"outlines (boxes are kept)", "category ids (classes are numbered from 0)"}
    path = tmp_path / "a/data/validation-00000-of-00001.parquet"
    assert [one for one in (tmp_path / "a").rglob("*") if one.is_file()] == [path]
    same(opened(source), opened(tmp_path / "a"))
    second = convert(tmp_path / "a", to="parquet", out=tmp_path / "b", reporter=QUIET)
    assert not set(second.lost) - {"category ids (classes are numbered from 0)"}
    convert(source, to="parquet", out=tmp_path / "c", reporter=QUIET)
    for other in ("b", "c"):
        assert (tmp_path / other / "data" / path.name).read_bytes() == path.read_bytes()


def test_the_schema_is_that_of_datasets(tmp_path: Path) -> None:
    convert(make.coco(tmp_path / "coco"), to="parquet", out=tmp_path / "a", reporter=QUIET)
    schema = parquet.read_schema(tmp_path / "a/data/validation-00000-of-00001.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names and features["image"] == {"_type": "Image"}
    label = features["objects"]["feature"]["category"]
    assert label["_type"] == "ClassLabel" and sorted(label["names"]) == ["cat", "dog"]
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("objects").type.field("bbox").type == pa.list_(pa.list_(pa.float64(), 4))


def test_files_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(30):  # images with some thousand bytes behind their end
        image = {"bytes": make.png(grey=number) + rng.bytes(3000), "path": f"{number:02d}.png"}
        rows.append(row(number, [(1, 2, 10, 20)], [number % 2]) | {"image": image})
    source = write(tmp_path / "train.parquet", rows)
    monkeypatch.setattr("onelook.data.formats.parquet_writer._GROUP_ROWS", 2)
    convert(source, to="parquet", out=tmp_path / "a", shard_size=10_000, reporter=QUIET)
    files = sorted((tmp_path / "a/data").iterdir())
    assert [one.name for one in files] == [f"train-{i:05d}-of-00010.parquet" for i in range(10)]
    assert all(parquet.ParquetFile(one).metadata.num_row_groups == 2 for one in files)
    same(opened(source, "train"), opened(tmp_path / "a", "train"))
    convert(tmp_path / "a", to="coco", out=tmp_path / "back", reporter=QUIET)
    same(opened(source, "train"), opened(tmp_path / "back", "train"))


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = make.coco(tmp_path / "coco")
    (source / "val/c.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        convert(source, to="parquet", out=tmp_path / "a", reporter=QUIET)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_reads_parquet_files(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("torch")
    import onelook

    for split in ("train", "val"):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", [*ROWS, *ROWS], row_group_size=4)
    run = tmp_path / "run"
    onelook.train("yolox-nano", tmp_path, epochs=1, batch=2, size=64, workers=workers, out=run, reporter=QUIET)
    assert (run / "best.safetensors").is_file()
