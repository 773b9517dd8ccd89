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
from onelook.networks.variants import VARIANTS
from onelook.recipes.records import PRINTED_TABLES, is_printed_name, printed_rows, printed_table
from onelook.recipes.roadmaps import ROADMAPS
from shared import SHARED, needs_shared

# Figures of which the reference knows numbers, and where it has them.
FIGURES = {
    "yolox-figure3": r"holds the data behind Figure 3.*?at epoch 300\. ",
    "damo-yolo-figure3": r"\| 3 classification loss and AP curves \| [^|]*",
}
# What the texts say, and where: every number of the lines is in the record, and no other.
TEXTS = {
    "yolov4-abstract": r"^\| result \| ([^|]*)",
    "yolov4-section2.3": r"^\| (?:SPP|RFB|SE|SAM) effect on ([^|]*\|[^|]*)",
    "yolov4-section3.1": r"^\| CSP\w+ \| ([^|]*)",
    "yolov7-section8": r"^\| speed against YOLOv6-n \| V100, batch 32: ([^|]*)",
}
# The releases: which columns of a line of the family's facts a record has, and how the facts call its models.
RELEASES = {
    "yolox": ((1, 2, 3, 5), lambda name: name.removeprefix("yolox-")),
    "yolov7": ((1, 7), lambda name: name.replace("yolov7-x", "yolov7x")),
    "damo-yolo": ((1, 2, 3), lambda name: name.removeprefix("damo-yolo-")),
}
# Other figures of the releases: where the family's facts have them, and in which columns of the record they begin.
RELEASED = {
    "yolov4-pytorch": (r"test-dev AP/AP50 at 640: (.*?)\n", 1),
    "yolov7-readme": (r"batch 32\):\n(AP 0\.51206.*?)\n", 2),
    "yolov7-notebooks": (r"Official notebooks on a T4 (.*?)\n", 2),
    "damo-yolo-int8": (r"partial quantisation, TensorRT 8\.4\): (.*?)under", 1),
}
# Records of whole texts: where a paper's part of the reference has rows with statements of the text, and in which
# columns; rows whose figures a record of TEXTS has are left to it.
STATED = (("Settings the text states", (1, 2)), ("Text against tables", (0,)), ("Figures in the text[^\n]*", (0, 1)))
PAPERS = {"yolox": "YOLOX", "yolov7": "YOLOv7", "damo-yolo": "DAMO-YOLO", "yolov4": "YOLOv4"}
TABLES = [name for name in PRINTED_TABLES if "-table" in name]


@pytest.mark.parametrize("name", PRINTED_TABLES)
def test_a_table_is_rectangular_and_has_figures(name: str) -> None:
    table = printed_table(name)
    assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}
    assert name.endswith("-files") or all(any(re.search(r"\d", cell) for cell in row) for row in table.rows)


def test_every_table_of_the_papers_is_a_roadmap_or_printed() -> None:
    counts = {"yolox": 6, "yolov7": 10, "damo-yolo": 8}
    tables = [f"{paper}-table{number}" for paper, count in counts.items() for number in range(1, count + 1)]
    assert tables == TABLES
    others = {*FIGURES, *TEXTS, *RELEASED}
    others |= {f"{family}-{kind}" for family in PAPERS for kind in ("text", "release", "files")}
    assert others == set(PRINTED_TABLES) - set(TABLES)
    assert {name for name in ROADMAPS if not name.startswith("yolov4")} <= set(PRINTED_TABLES)


@needs_shared
@pytest.mark.parametrize("name", TABLES)
def test_every_printed_figure_is_in_its_table(name: str) -> None:
    assert SHARED is not None
    paper, _, number = name.rpartition("-table")
    text = (SHARED / "reference" / "paper_tables.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {PAPERS[paper]} Table {number}:.*?(?=^### |^## )", text, re.M | re.S)
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


@needs_shared
@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_states_is_in_its_record(name: str) -> None:
    assert SHARED is not None
    text = (SHARED / "reference" / "paper_tables.md").read_text(encoding="utf-8")
    paper = text[text.index(f"\n# {'YOLOv4' if name.startswith('yolov4') else 'YOLOv7'}\n") :]
    said = " ".join(re.findall(TEXTS[name], paper, re.M))
    cells = " ".join(" ".join(row) for row in printed_table(name).rows)
    assert said and _figures(said) == _figures(cells)


@needs_shared
@pytest.mark.parametrize("paper", PAPERS)
def test_every_figure_of_a_text_is_in_its_record(paper: str) -> None:
    assert SHARED is not None
    whole = (SHARED / "reference" / "paper_tables.md").read_text(encoding="utf-8")
    part = whole[whole.index(f"\n# {PAPERS[paper]}\n") :].partition("\n-----")[0]
    told = [pattern for name, pattern in TEXTS.items() if name.startswith(paper)]
    said = []
    for heading, columns in STATED:
        found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", part, re.M | re.S)
        for line in [] if found is None else re.findall(r"^\| .*", found[1], re.M)[1:]:
            cells = line.strip("|").split("|")
            if heading.startswith("Settings"):
                is_of_text = not any(re.search(pattern, line) for pattern in told)
            else:  # other lines hold one table against another
                is_of_text = (
                    heading.startswith("Figures") or re.match(r" (abstract|[\d.]+)[^:]*:", line[1:]) is not None
                )
            if is_of_text:
                said.append(_sorted_numbers(" ".join(cells[column] for column in columns)))
    groups: dict[tuple[str, str], list[str]] = {}
    for _, section, about, stated in printed_table(f"{paper}-text").rows:
        groups.setdefault((section, about), []).append(stated)
    if paper == "yolox":  # the one figure of another edition
        (later,) = groups.pop(("table 4, later edition", "YOLOX-Tiny"))
        assert f"(a later edition of the paper) prints {later}." in part
    assert said and sorted(said) == sorted(
        _sorted_numbers(" ".join([section, *stated])) for (section, _), stated in groups.items()
    )


@needs_shared
@pytest.mark.parametrize("name", RELEASED)
def test_other_figures_of_releases_are_in_their_records(name: str) -> None:
    pattern, expected = RELEASED[name]
    found = re.search(pattern, _facts(name.rpartition("-")[0]), re.S)
    assert found is not None
    cells = [cell for row in printed_table(name).rows for cell in row[expected:]]
    assert cells and re.findall(r"\d+\.\d+", found[1]) == cells


@needs_shared
@pytest.mark.parametrize("family", PAPERS)
def test_addresses_are_those_of_the_releases(family: str) -> None:
    facts = _facts(family)
    rows = printed_table(f"{family}-files").rows
    assert len({row[2] for row in rows}) == len(rows)
    for model, content, address in rows:
        base, _, file = address.rpartition("/")
        stem, _, kind = file.rpartition(".")
        if address.startswith("Google Drive"):
            assert address.split(", ")[1] in facts
        elif family == "damo-yolo":
            root = base.removeprefix("https://idstcv.oss-cn-zhangjiakou.aliyuncs.com/DAMO-YOLO/")
            assert root != base and f"{root}/" in facts, address
            number = re.search(r"_(\d+|T|S|M|L|N[sml])$", stem)
            parts = [stem] if number is None else [stem.split("_")[1].replace("tinynas", ""), number[0]]
            assert all(one in facts for one in parts), (model, content, address)
        else:
            assert base.split("/")[-1] in facts and base.split("//")[1].split("/")[0] in facts, address
            assert stem in facts and (kind == "onnx" or kind in ("pth", "pt", "weights") or file in facts), address
    for variant in VARIANTS.values():  # the address of a model's weights is one of them
        if variant.family == PAPERS[family] and variant.url is not None:
            assert variant.url in {row[2] for row in rows if is_printed_name(row[0], variant.name)}


@needs_shared
def test_distilled_weights_of_damo_yolo_have_addresses() -> None:
    lines = {line[0]: line for line in _lines("damo-yolo")}
    known = {(model, content): address for model, content, address in printed_table("damo-yolo-files").rows}
    for size in "TSML":
        plain, distilled = re.findall(r"`([^`]*)`", lines[size][4])
        address = known[f"DAMO-YOLO-{size}", "weights"]
        assert address.endswith(plain)
        assert known[f"DAMO-YOLO-{size}", "weights with distillation"] == address.replace(plain[-8:], distilled)


@needs_shared
@pytest.mark.parametrize("family", RELEASES)
def test_what_is_released_is_in_its_record(family: str) -> None:
    columns, called = RELEASES[family]
    facts = {line[0].lower(): line for line in _lines(family)}
    for model, *cells in printed_table(f"{family}-release").rows:
        line = facts[called(model.lower())]
        said = [line[column].replace("\N{EN DASH}", "-").removesuffix(" CPU") for column in columns]
        assert cells[: len(columns)] == said


@needs_shared
def test_what_is_released_of_yolov4_is_in_its_record() -> None:
    facts = {line[0].lower(): line for line in _lines("yolov4") if re.match(r"\S+ \d+( / \d+)*$", line[0])}
    known = {}
    for name, line in facts.items():
        sizes = re.findall(r" (\d+)", name)
        v100, rtx = (re.findall(r"\d+", _before(line[3], card)) for card in (" (V100)", " (RTX2070)"))
        gtx = re.findall(r"\d+", _before(line[3], " (1080Ti)"))
        other = [line[3]] if line[3].isdigit() else []
        columns = [line[2].split(" / "), line[1].split(" / "), v100, rtx, gtx, other, line[4].split(" / ")]
        for place, size in enumerate(sizes):
            known[name.split()[0].removesuffix("-original-optimal"), size] = [
                column[place] if column and place < len(column) else "-" for column in columns
            ]
    for model, size, *cells in printed_table("yolov4-release").rows:
        assert cells == known[model.lower().partition(",")[0], size], model


def _before(text: str, card: str) -> str:
    """The figures that are said of a graphics card: those in front of its name."""
    return text.partition(card)[0].rpartition(",")[2] if card in text else ""


def _lines(family: str) -> list[list[str]]:
    """The cells of all lines of tables in a family's facts; of a first cell that comes twice, the last."""
    text = _facts(family)
    start = {"yolox": "| model | size | AP val", "yolov4": "| model, size |", "yolov7": "### Published accuracy"}
    text = text[text.index(start.get(family, "| model | AP (weights)")) :].partition("\n\nURL")[0]
    text = text.partition("\nBase URL")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def _facts(family: str) -> str:
    assert SHARED is not None
    return (SHARED / "reference" / family.replace("-", "_") / "facts.md").read_text(encoding="utf-8")


def _sorted_numbers(text: str) -> list[str]:
    """Every number of a text, those in names too, as text."""
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text))


def _figures(text: str) -> list[str]:
    """The numbers outside of names and beside "3x3", in order."""
    return sorted(re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-]*[A-Za-wyz])", text.replace("3x3", "")))


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
    rows = [row[0] for table, row in printed_rows("damo-yolo-s") if table.name == "damo-yolo-table8"]
    assert rows == ["DAMO-YOLO-S", "DAMO-YOLO-S*"]
    assert run(["models", "damo-yolo-s"]) == 0
    shown = capsys.readouterr().out
    assert "3.83" in shown and "46.8" in shown and "FPS V100 325" in shown
    assert "AP with distillation 47.7" in shown and "authors' release" in shown
    printed = models("damo-yolo-s")[0].to_dict()["printed"]
    assert "46.8" in [row["cells"].get("AP") for row in printed if row["source"] == "DAMO-YOLO, table 8"]
    (large,) = [row for table, row in printed_rows("damo-yolo-l") if table.name == "damo-yolo-release"]
    assert large == ("DAMO-YOLO-L", "50.8", "51.9", "7.95", "T4")
    assert {table.name for table, _ in printed_rows("yolov4")} >= {"yolov4-abstract", "yolov4-release"}


@pytest.mark.parametrize("model", VARIANTS)
def test_a_model_has_every_row_that_names_it(model: str) -> None:
    found = printed_rows(model)
    for name in PRINTED_TABLES:
        table = printed_table(name)
        if table.columns[0] in ("Model", "Models", "Method") and name not in ("yolox-table5", "damo-yolo-table1"):
            rows = [row for row in table.rows if re.sub(r"\*$|,.*", "", row[0].lower()) == model]
            assert all((table, row) in found for row in rows), name
    assert found


def test_a_finished_model_has_its_row_in_the_tables_of_changed_models() -> None:
    expected = {
        "yolox-darknet53": {"yolox-table2": "47.3 (+2.3)"},
        "yolox-nano": {"yolox-table5": "25.3"},
        "yolov7x": {"yolov7-table3": "52.9"},
        "yolov7-e6": {"yolov7-table6": "55.9", "yolov7-table7": "55.9"},
        "yolov7-e6e": {"yolov7-table8": "56.8"},
        "damo-yolo-s": {f"damo-yolo-table{number}": "45.6" for number in range(1, 7)},
        "damo-yolo-m": {"damo-yolo-table1": "48.7"},
    }
    for model, tables in expected.items():
        found = {table.name: row for table, row in printed_rows(model)}
        for name, ap in tables.items():
            assert ap in found[name], (model, name)


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
