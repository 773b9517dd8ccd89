"""What the objects of one image become: a drawn image, a table."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from onelook.draw import class_colour
from onelook.errors import MissingDependencyError, UserError
from onelook.types import Detections

GREY = 90
BOXES = np.array([[40.5, 60, 160, 180], [200, 30, 280, 150]], np.float32)


def image(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def found(**fields: object) -> Detections:
    scores, labels = np.array([0.75, 0.5], np.float32), np.array([1, 0])
    return Detections(BOXES, scores, labels, ("cat", "dog"), **fields)  # type: ignore[arg-type]


def test_a_plot_is_the_image_with_boxes_and_labels_drawn_on_a_copy() -> None:
    kept = image()
    drawn = found(image=kept).plot()
    assert drawn.shape == (240, 320, 3) and drawn.dtype == np.uint8 and (kept == GREY).all()
    assert tuple(drawn[120, 160]) == class_colour(1) and tuple(drawn[100, 280]) == class_colour(0)
    assert (drawn[120, 100] == GREY).all()  # inside a box
    assert (drawn[45:60, 40:100] != GREY).any()  # the label above it
    assert (Detections.empty().plot(kept) == GREY).all()


def test_a_plot_reads_the_image_again_or_draws_on_a_given_one() -> None:
    drawn = found(image=image()).plot()
    assert (found(read_image=image).plot() == drawn).all() and (found().plot(image()) == drawn).all()
    small = found(image=image(20, 30)).plot()
    assert small.shape == (20, 30, 3)  # of the image's own size, for what else is drawn on it


@pytest.mark.parametrize(
    "wrong", [image()[..., 0], image().astype(np.float32), image()[..., :2]], ids=["2d", "float", "2"]
)
def test_a_plot_needs_an_rgb_image(wrong: np.ndarray) -> None:
    with pytest.raises(UserError, match="uint8"):
        found().plot(wrong)
    with pytest.raises(UserError, match="hold no image"):
        found().plot()


def test_a_table_has_the_columns_and_values_of_the_csv(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    table = found().to_pandas()
    assert list(table.columns) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert [str(dtype) for dtype in table.dtypes[:6]] == ["float32"] * 5 + ["int64"]
    rows = list(csv.reader(io.StringIO(table.to_csv(index=False))))[1:]
    assert rows == [
        ["40.5", "60.0", "160.0", "180.0", "0.75", "1", "dog"],
        ["200.0", "30.0", "280.0", "150.0", "0.5", "0", "cat"],
    ]
    table.loc[0, "x1"] = 0
    assert found().boxes[0, 0] == 40.5  # a copy


def test_a_table_of_nothing_has_its_columns() -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    empty, full = Detections.empty().to_pandas(), found().to_pandas()
    assert len(empty) == 0 and list(empty.columns) == list(full.columns)
    assert (empty.dtypes[:6] == full.dtypes[:6]).all()


def test_a_missing_pandas_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="needs the package 'pandas'") as caught:
        found().to_pandas()
    assert "pip install" in caught.value.remedy and "pandas]" in caught.value.remedy
