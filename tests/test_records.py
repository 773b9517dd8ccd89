"""Tests of the papers' printed tables: they are read, shown, and equal the reference cell by cell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import onelook
from onelook.api.models import models
from onelook.cli.app import run
from onelook.errors import ConfigError
from onelook.recipes.records import PRINTED_TABLES, printed_rows, printed_table
from onelook.recipes.roadmaps import ROADMAPS
from shared import SHARED, needs_shared

# Figures of which the reference knows numbers, and where it has them.
FIGURES = {
    "yolox-figure3": r"holds the data behind Figure 3.*?at epoch 300\. ",
    "damo-yolo-figure3": r"\| 3 classification loss and AP curves \| [^|]*",
}


@pytest.mark.parametrize("name", PRINTED_TABLES)
def test_a_table_is_rectangular_and_has_figures(name: str) -> None:
    table = printed_table(name)
    assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}
    assert all(any(re.search(r"\d", cell) for cell in row) for row in table.rows)


def test_every_table_of_the_papers_is_a_roadmap_or_printed() -> None:
    counts = {"yolox": 6, "yolov7": 10, "damo-yolo": 8}
    tables = [f"{paper}-table{number}" for paper, count in counts.items() for number in range(1, count + 1)]
    assert [name for name in PRINTED_TABLES if name not in FIGURES] == tables and set(FIGURES) < set(PRINTED_TABLES)
    assert {name for name in ROADMAPS if not name.startswith("yolov4")} <= set(PRINTED_TABLES)


@needs_shared
@pytest.mark.parametrize("name", [name for name in PRINTED_TABLES if name not in FIGURES])
def test_every_printed_figure_is_in_its_table(name: str) -> None:
    assert SHARED is not None
    paper, _, number = name.rpartition("-table")
    heading = {"yolox": "YOLOX", "yolov7": "YOLOv7", "damo-yolo": "DAMO-YOLO"}[paper]
    text = (SHARED / "reference" / "paper_tables.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {heading} Table {number}:.*?(?=^### |^## )", text, re.M | re.S)
    assert section is not None
    lines = [line for line in section[0].splitlines() if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.replace("(?)", "").strip() for cell in line.strip("|").split("|")] for line in lines]
    header, *printed = cells
    ours = [list(row) for row in printed_table(name).rows]
    if name == "yolov7-table9":  # two blocks there, with the graphics card in the heading
        printed = [row for row in printed if row[0] != header[0]]
        ours = [[*row[:4], *row[5:]] for row in ours]
    assert ours == printed


@needs_shared
@pytest.mark.parametrize("name", FIGURES)
def test_what_is_known_of_a_figure_is_in_its_record(name: str) -> None:
    assert SHARED is not None
    text = (SHARED / "reference" / "paper_tables.md").read_text(encoding="utf-8")
    said = re.search(FIGURES[name], text, re.S)
    assert said is not None
    table = printed_table(name)
    cells = " ".join(" ".join(row) for row in (table.columns, *table.rows))
    assert _numbers(said[0].partition("3")[2]) == _numbers(cells)  # behind the number of the figure


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


# Sections with what the code cites; figures, tables and equations up to these numbers.
SECTIONS = {
    "YOLOX": ("2.1 2.2 3 4", {"table": 6, "fig": 3, "eq": 1}),
    "YOLOv4": ("2.1 2.2 2.3 3.1 3.2 3.3 3.4 4.1 4.2 4.3 4.4 4.5", {"table": 10, "fig": 8, "eq": 0}),
    "YOLOv7": ("3.1 3.2 4.1 4.2 4.3 5.1 5.2 5.3 5.4.1 5.4.2 5.4.3 8", {"table": 10, "fig": 11, "eq": 0}),
    "DAMO-YOLO": ("2.1 2.2 2.3 2.4 3", {"table": 8, "fig": 3, "eq": 2}),
}


@pytest.mark.parametrize("paper", SECTIONS)
def test_what_is_cited_of_a_paper_is_in_it(paper: str) -> None:
    sections, last = SECTIONS[paper]
    found = 0
    root = Path(__file__).resolve().parents[1]
    for file in [*(root / "src").rglob("*.py"), *(root / "docs").glob("*.md")]:
        text = re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))
        for kind, number in re.findall(rf"(?<![\w-]){paper},? (sec|fig|table|eq)s?\.? ?(\d[\d.]*\d|\d)", text):
            found += 1
            known = number in sections.split() if kind == "sec" else int(number) <= last[kind]
            assert known, f"{file}: {paper} {kind} {number}"
    assert found > 3


def test_the_sections_of_damo_yolos_parts_are_the_papers() -> None:
    for module, said in (
        ("assign/align_ota.py", "(DAMO-YOLO sec. 2.3, eq. 2)"),
        ("training/distillation.py", "(DAMO-YOLO sec. 2.4)"),
        ("networks/yolov4/head.py", '"eliminate grid sensitivity", sec. 4.3'),
        ("tuning/genes.py", "(YOLOv4 sec. 3.3 and 4.1)"),
    ):
        assert said in (Path(onelook.__file__).parent / module).read_text(encoding="utf-8")


def test_a_model_shows_what_the_papers_print_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row[0] for _, row in printed_rows("damo-yolo-s")] == ["DAMO-YOLO-S", "DAMO-YOLO-S*"]
    assert run(["models", "damo-yolo-s"]) == 0
    shown = capsys.readouterr().out
    assert "3.83" in shown and "46.8" in shown and "FPS V100 325" in shown
    assert models("damo-yolo-s")[0].to_dict()["printed"][1]["cells"]["AP"] == "46.8"
    assert printed_rows("damo-yolo-l") == []


def test_tables_of_finished_models_are_shown_and_not_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["roadmap", "yolox-table3", "--json", str(tmp_path / "table.json")]) == 0
    assert "YOLOv5-S" in capsys.readouterr().out
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0][:2] == ["YOLOv5-S", "36.7"]
    assert run(["roadmap", "yolox-table3", str(tmp_path)]) == 1
    assert "nothing to train" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="yolox-table6"):
        printed_table("yolox-tabel6")
