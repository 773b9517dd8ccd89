"""A format is one file and one line: what that promises, and that nothing else in the package names a format."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import data_sets as make
from data_sets import put
from onelook.cli.app import run
from onelook.data import formats, open_dataset, splits
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.errors import DataError, UsageError
from onelook.reporter import Progress, SilentReporter
from table_format import TABLE

PACKAGE = Path(formats.__file__).parents[2]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


@pytest.fixture
def with_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, TABLE))


def table_data(root: Path, rows: str = "a.png,dog,1,2,10,20\na.png,cat,5,6,7,8\nb.png,cat,0,0,64,48\n") -> Path:
    for grey, name in enumerate(("a.png", "b.png")):
        put(root / "val" / name, make.png(grey=grey))
    put(root / "val.table", f"image,class,left,top,width,height\n{rows}")
    return root


def test_a_folder_of_an_added_format_is_opened(tmp_path: Path, with_table: None) -> None:
    root = table_data(tmp_path / "data")
    assert splits(root) == ("val",)
    for _ in range(2):  # built, then from the index
        dataset = open_dataset(root)
        assert (dataset.format, dataset.names, len(dataset)) == ("table", ("cat", "dog"), 2)
        assert dataset.boxes(0).tolist() == [[1, 2, 11, 22], [5, 6, 12, 14]] and dataset.labels(0).tolist() == [1, 0]
        assert dataset.sample(1).image.shape == (48, 64, 3)
    assert dataset.describe() == f"Table '{root}', split 'val': 2 images, 3 boxes, 2 classes"
    put(root / "val.table", "image,class,left,top,width,height\na.png,dog,1,2,10,20\n")
    assert open_dataset(root).num_objects.tolist() == [1, 0]


def test_an_added_format_is_checked(tmp_path: Path, with_table: None) -> None:
    root = table_data(tmp_path / "data", "a.png,dog,1,2,10,20\nx.png,dog,1,2,3,4\nb.png,cat,5,6,0,8\n")
    put(root / "val.table.bak", "")
    report = check(root)
    found = {(problem.code, problem.line) for problem in report.problems}
    assert found == {("unknown-image", 3), ("box-degenerate", 4), ("backup", None)}
    assert report.summary["format"] == "Table" and report.exit_code == 1
    with pytest.raises(DataError, match=r"x\.png") as caught:
        open_dataset(root)
    assert "val.table:3" in str(caught.value)


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "cvat", "labelme", "csv"])
def test_an_added_format_is_converted_from_and_to(tmp_path: Path, with_table: None, to: str) -> None:
    root = table_data(tmp_path / "data")
    convert(root, to=to, out=tmp_path / to)
    result = convert(tmp_path / to, to="table", out=tmp_path / "back")
    assert (result.format, result.format_title, result.lost) == ("table", "Table", {})
    first, last = open_dataset(root), open_dataset(tmp_path / "back")
    assert (last.format, last.names) == ("table", first.names)
    for i in range(2):
        np.testing.assert_allclose(first.boxes(i), last.boxes(i), atol=1e-4)


def test_a_folder_of_two_formats_names_the_unused_one(tmp_path: Path, with_table: None) -> None:
    dataset = open_dataset(table_data(make.coco(tmp_path / "data")))
    assert dataset.format == "coco" and "also holds Table annotations" in " ".join(dataset.notes)


def test_what_is_looked_for_is_named_by_the_formats_themselves(tmp_path: Path, with_table: None) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No data set was recognised") as caught:
        open_dataset(tmp_path / "empty")
    for format in formats.FORMATS:
        assert f"{format.title} ({format.layout})" in caught.value.remedy
    assert "Table ({split}.table beside {split}/)" in caught.value.remedy


def test_only_formats_that_can_be_written_are_targets(tmp_path: Path) -> None:
    for name in ("classes", "edited", "coc"):
        with pytest.raises(UsageError, match=f"no format '{name}'") as caught:
            convert(make.coco(tmp_path / name), to=name, out=tmp_path / "out")
        offered = "shards, label_studio, coco, voc, yolo, open_images, cvat, supervisely, labelme, csv, parquet"
        assert caught.value.remedy == f"The formats are {offered}."
    assert not (tmp_path / "out").exists()


def test_the_command_line_offers_the_formats_that_can_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(format.name in shown for format in formats.FORMATS if format.write) and "classes" not in shown


def test_results_and_data_sets_are_one_readable_line(tmp_path: Path) -> None:
    root = make.coco(tmp_path / "in", make.changed(annotations_0={"bbox": [1, 2, 0, 5]}))
    report = check(root)
    assert str(report) == f"COCO JSON data set '{root}': 0 errors, 1 warning"
    (problem,) = report.problems
    assert str(problem).startswith("warning [box-degenerate] ") and problem.message in str(problem)
    result = convert(root, to="voc", out=tmp_path / "out")
    assert str(result) == f"Pascal VOC data set in '{tmp_path}/out', from '{root}': val 3 images, 2 boxes"
    dataset = open_dataset(root)
    assert repr(dataset) == f"<Dataset: {dataset.describe()}>"


def test_names_of_formats_are_words_and_differ() -> None:
    names = [format.name for format in formats.FORMATS]
    assert names == sorted(set(names), key=names.index) and all(name.isidentifier() for name in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_else_compares_with_the_name_of_a_format(path: Path) -> None:
    """What depends on the format is a property of it: no `if format ==` outside of its file."""
    names = {format.name for format in formats.FORMATS}
    if path.parent == Path(formats.__file__).parent:
        return
    assert not format_comparisons(ast.parse(path.read_text(encoding="utf-8")), names)


def format_comparisons(tree: ast.AST, names: set[str]) -> list[str]:
    """Comparisons with the names of data formats of what is called a format."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            asked = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            asked |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if texts & names and asked & {"format", "to", "kind"}:
                found.append(ast.unparse(node))
    return found


def test_a_comparison_with_the_name_of_a_format_is_found() -> None:
    code = 'a = source.format == "coco"\nb = to in ("yolo", "x")\nc = name == "coco"\nd = format == "table"'
    assert format_comparisons(ast.parse(code), {"coco", "yolo"}) == [
        "source.format == 'coco'",
        "to in ('yolo', 'x')",
    ]


class Recorder(SilentReporter):
    """A reporter that remembers the titles of what it is shown."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def progress(self, title: str):  # type: ignore[no-untyped-def]
        self.titles.append(title)
        return super().progress(title)


def test_long_work_goes_to_the_reporter_and_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, reporter = make.coco(tmp_path / "data"), Recorder()
    open_dataset(root, reporter=reporter)
    check(root, reporter=reporter)
    convert(root, to="voc", out=tmp_path / "out", reporter=reporter)
    assert reporter.titles == [
        "Indexing data (val)",
        "Reading val",
        "Checking images",
        "Comparing the images' sizes",
        "Writing val",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_progress_ends_with_all_that_there_is(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []

    class Counting(SilentReporter):
        def progress(self, title: str):  # type: ignore[no-untyped-def]
            from contextlib import nullcontext

            def show(done: float, total: float, detail: str = "") -> None:
                seen.append((done, total))

            shown: Progress = show
            return nullcontext(shown)

    convert(make.yolo(tmp_path / "data"), to="coco", out=tmp_path / "out", reporter=Counting())
    assert seen[-1] == (3, 3)


def test_a_data_set_one_folder_below_is_named(tmp_path):
    make.coco(tmp_path / "unpacked/data")
    with pytest.raises(DataError, match="There is one in its folder 'data': name that folder"):
        open_dataset(tmp_path / "unpacked")


def test_xml_files_beside_csv_files_are_told(tmp_path):
    put(tmp_path / "a.png", make.png())
    put(tmp_path / "a.xml", make.voc_xml())
    put(tmp_path / "val.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n")
    found = open_dataset(tmp_path)
    assert found.format == "csv" and "also holds Pascal VOC annotations" in " ".join(found.notes)


def test_a_class_that_a_list_lacks_names_the_list(tmp_path):
    put(tmp_path / "a.png", make.png())
    put(tmp_path / "val.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n")
    put(tmp_path / "classes.csv", "dog,0\n")
    with pytest.raises(DataError, match=r"classes\.csv: The class 'cat' is not in the list"):
        open_dataset(tmp_path)
