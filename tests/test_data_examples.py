"""The examples of the pages on data formats are read: three images, the same objects in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_sets import put
from format_examples import PAGES, examples
from onelook.data import formats, open_dataset
from onelook.data.check import check
from onelook.reporter import SilentReporter

EXAMPLES = [pytest.param(files, id=f"{page}-{n}") for page in PAGES for n, files in enumerate(examples(page))]


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        put(root / name, content)
    return root


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


@pytest.mark.parametrize("files", EXAMPLES)
def test_an_example_holds_the_objects_that_all_of_them_hold(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    root = write(tmp_path / "data", files)
    for _ in range(2):  # built, then from the index
        dataset = open_dataset(root, "val", reporter=SilentReporter())
        assert dataset.names == ("cat", "dog") and dataset.sizes.tolist() == [[48, 64]] * 3
        assert [Path(dataset.file_name(i)).name for i in range(3)] == ["a.png", "b.png", "c.png"]
        np.testing.assert_allclose(dataset.boxes(0), [[8, 12, 24, 36], [32, 6, 56, 42]], atol=1e-4)
        np.testing.assert_allclose(dataset.boxes(1), [[16, 12, 48, 36]], atol=1e-4)
        assert dataset.labels(0).tolist() == [0, 1] and dataset.labels(1).tolist() == [1]
        assert not (dataset.labels(2)[~dataset.crowd(2)]).size
        assert dataset.sample(1).image.shape == (48, 64, 3)
    report = check(root, reporter=SilentReporter())
    assert report.summary["errors"] == 0 and set(report.summary["splits"]) == {"val"}
    assert {problem.code for problem in report.problems} <= {"image-without-labels"}


def test_every_format_with_a_page_has_an_example() -> None:
    assert {page.removeprefix("data_") for page in PAGES} <= {format.name for format in formats.FORMATS}
    assert len(EXAMPLES) == 9


def test_outlines_and_marks_are_read(tmp_path: Path) -> None:
    outlined = {"data_labelme", "data_cvat", "data_supervisely", "data_label_studio"}
    for page in sorted(outlined):
        dataset = open_dataset(write(tmp_path / page, examples(page)[0]), "val", reporter=SilentReporter())
        polygons = dataset.polygons(0)
        assert polygons is not None and not polygons[0]
        np.testing.assert_allclose(polygons[1][0], [[32, 6], [56, 6], [44, 42]], atol=1e-4)
    images = open_dataset(write(tmp_path / "o", examples("data_open_images")[0]), "val", reporter=SilentReporter())
    assert images.crowd(2).tolist() == [True] and images.index.object_flags.tolist()[:2] == [0, 8]
