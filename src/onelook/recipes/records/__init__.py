"""The printed tables of the four papers, two of their figures, and what texts and releases state, as CSV files.

Cells are the printed text. The roadmaps train the tables that compare trainings; a model's own rows are shown by
`onelook models NAME`. YOLOv4's tables are not here: the text that the figures were taken from holds none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from onelook.errors import ConfigError, did_you_mean

_V100 = "V100, FP16, batch 1"
_T4 = "T4, TensorRT FP16"

# Table or figure -> (what it compares, how it was measured).
_TABLES: dict[str, tuple[str, str]] = {
    "yolox-table1": ("Coupled and decoupled heads, with and without NMS", "COCO; YOLOv3 with SPP on Darknet-53"),
    "yolox-table2": ("Roadmap of YOLOX-Darknet53", f"COCO val, 640x640; {_V100}, without NMS"),
    "yolox-table3": ("YOLOX and YOLOv5", f"COCO, 640x640; {_V100}"),
    "yolox-table4": ("Tiny and nano models", "COCO val, 416x416"),
    "yolox-table5": ("Data augmentation for models of different sizes", "COCO"),
    "yolox-table6": ("YOLOX and other detectors", "COCO test-dev; V100, speeds not controlled"),
    "yolox-figure3": (
        "Training curves with the YOLO head and the decoupled head",
        "COCO val; indicative: read from the drawing's data in another copy of the paper",
    ),
    "yolov7-table1": ("YOLOv7 and its predecessors", "COCO val"),
    "yolov7-table2": ("Real-time detectors", "COCO test and val; V100, batch 1, no TensorRT"),
    "yolov7-table3": ("Compound scaling of a concatenation-based model", "COCO val, 640x640"),
    "yolov7-table4": ("Planned re-parameterised convolution in a concatenation-based model", "COCO val"),
    "yolov7-table5": ("Planned re-parameterised convolution in a residual-based model", "COCO val"),
    "yolov7-table6": ("Label assignment of the auxiliary head", "COCO val, 1280x1280"),
    "yolov7-table7": ("Constrained auxiliary head", "COCO val, 1280x1280"),
    "yolov7-table8": ("Partial auxiliary head of E-ELAN", "COCO val, 1280x1280"),
    "yolov7-table9": ("More detectors", "COCO test and val; V100 or, where said, A100, batch 1, no TensorRT"),
    "yolov7-table10": ("Precision and the threshold of NMS, YOLOv7-X", "COCO val"),
    "damo-yolo-table1": ("Backbones", f"COCO; {_T4}"),
    "damo-yolo-table2": ("Depth and width of the neck", f"COCO; {_T4}"),
    "damo-yolo-table3": ("Links of the queen fusion", f"COCO; {_T4}"),
    "damo-yolo-table4": ("Fusion blocks of the neck", f"COCO; {_T4}"),
    "damo-yolo-table5": ("A deep neck against a deep head", f"COCO; {_T4}"),
    "damo-yolo-table6": ("Label assignment", "COCO val"),
    "damo-yolo-table7": ("Ways of distillation", "COCO val, 36 epochs"),
    "damo-yolo-table8": ("DAMO-YOLO and other detectors; * with distillation", f"COCO test-dev; {_T4}; FPS on a V100"),
    "damo-yolo-figure3": ("Weights of the distillation loss", "the drawing has curves, the text no AP"),
    "yolox-text": ("What the text states", "COCO; V100, FP16, batch 1"),
    "yolov4-text": ("What the text states", "COCO, where not ImageNet"),
    "yolov7-text": ("What the text states", "COCO; V100, batch 1, no TensorRT"),
    "damo-yolo-text": ("What the text states", f"COCO; {_T4}"),
    "yolov4-abstract": ("The result", "COCO; V100"),
    "yolov4-section2.3": ("What blocks gain and cost, by the papers that it cites", "as each of them measures"),
    "yolov4-section3.1": ("Backbones", "input size and classes not stated"),
    "yolov7-section8": ("YOLOv7-tiny and YOLOv6-n", "COCO; V100, batch 32"),
    "yolox-release": ("Released weights", "COCO val and test-dev; V100, FP16, batch 1"),
    "yolov4-release": ("Released weights", "COCO, for 608 pixels test-dev, else not said; Darknet"),
    "yolov4-pytorch": (
        "Other trainings, with an author's PyTorch code",
        "COCO test-dev, 640x640; boxes decoded otherwise",
    ),
    "yolov7-release": ("Released weights", "V100, batch 32"),
    "yolov7-readme": ("Released weights of YOLOv7", "COCO val; score 0.001, NMS 0.65, batch 32"),
    "yolov7-notebooks": ("Times of the authors' notebooks", "T4, batch 1"),
    "damo-yolo-release": ("Released weights", f"COCO val; {_T4}, batch 1, without NMS; Xeon: OpenVINO"),
    "damo-yolo-int8": ("Released INT8 engines", "COCO val; T4, TensorRT 8.4, partly quantised"),
    "yolox-files": ("Addresses of the released files", "Apache-2.0"),
    "yolov4-files": ("Addresses of the released files", "public domain"),
    "yolov7-files": ("Addresses of the released files", "GPL-3.0"),
    "damo-yolo-files": ("Addresses of the released files", "Apache-2.0"),
}
_ABLATIONS = ("yolox-table5", "damo-yolo-table1")  # their rows are about changed models, under the models' names
# Table of changed models -> {row, 0-based: the finished model that it is about}.
_FINISHED = {
    "yolox-table2": {6: "yolox-darknet53"},
    "yolox-table5": {0: "yolox-nano"},
    "yolov7-table3": {3: "yolov7x"},
    "yolov7-table6": {3: "yolov7-e6"},
    "yolov7-table7": {2: "yolov7-e6"},
    "yolov7-table8": {2: "yolov7-e6e"},
    "damo-yolo-table1": {1: "damo-yolo-s", 4: "damo-yolo-m"},
    "damo-yolo-table2": {3: "damo-yolo-s"},
    "damo-yolo-table3": {2: "damo-yolo-s"},
    "damo-yolo-table4": {3: "damo-yolo-s"},
    "damo-yolo-table5": {0: "damo-yolo-s"},
    "damo-yolo-table6": {3: "damo-yolo-s"},
}
_PLACES = {
    "text": "text",
    "release": "authors' release",
    "pytorch": "authors' README",
    "readme": "authors' README",
    "notebooks": "authors' notebooks",
    "int8": "authors' INT8 engines",
    "files": "authors' files",
}
_PAPERS = {"yolox": "YOLOX", "yolov7": "YOLOv7", "damo-yolo": "DAMO-YOLO", "yolov4": "YOLOv4"}


@dataclass(frozen=True)
class PrintedTable:
    """A printed table of a paper, or the numbers of a figure.

    name: such as yolox-table3.  title: its subject.  source: paper and table, figure or section; its text; or the
    authors' release of weights.  setting: data and hardware; of files, their licence.
    columns: their titles.  rows: the cells as printed; a cell is empty where the paper prints nothing.
    """

    name: str
    title: str
    source: str
    setting: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "setting": self.setting,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
        }

    def __str__(self) -> str:
        return "\n".join(", ".join(row) for row in (self.columns, *self.rows))


PRINTED_TABLES: Mapping[str, tuple[str, str]] = MappingProxyType(_TABLES)


def printed_table(name: str) -> PrintedTable:
    """A table of a paper as printed, such as "yolox-table3", cell by cell.

    ConfigError with the nearest names for an unknown one.
    """
    if name not in PRINTED_TABLES:
        known = ", ".join(PRINTED_TABLES)
        raise ConfigError(
            f"There is no printed table '{name}'.{did_you_mean(name, PRINTED_TABLES)}", f"Tables: {known}."
        )
    return _read(name)


@cache
def _read(name: str) -> PrintedTable:
    title, setting = PRINTED_TABLES[name]
    paper, kind = re.fullmatch(r"(.+)-(\w+[\d.]*)", name).groups()  # type: ignore[union-attr]
    place = re.sub(r"(\D)(\d)", r"\1 \2", kind, count=1).replace("section", "sec.")
    place = _PLACES.get(kind, place)
    text = (files(__name__) / f"{name}.csv").read_text(encoding="utf-8")
    columns, *rows = (tuple(row) for row in csv.reader(text.splitlines()))
    return PrintedTable(name, title, f"{_PAPERS[paper]}, {place}", setting, columns, tuple(rows))


def printed_rows(model: str) -> list[tuple[PrintedTable, tuple[str, ...]]]:
    """Every printed row about a model, such as yolox-s; of a table of changed models, the row of the finished one."""
    found = []
    for name in PRINTED_TABLES:
        table, finished = printed_table(name), _FINISHED.get(name, {})
        named = name not in _ABLATIONS and table.columns[0] in ("Model", "Models", "Method")
        found += [
            (table, row)
            for number, row in enumerate(table.rows)
            if finished.get(number) == model or (named and is_printed_name(row[0], model))
        ]
    return found


def is_printed_name(printed: str, model: str) -> bool:
    """Whether a printed name, such as YOLOv7-X or DAMO-YOLO-S*, is that of one of our models."""
    printed = printed.lower().removesuffix("*").partition(",")[0]
    aliases = {"yolox-t": "yolox-tiny", "yolov7-x": "yolov7x", "yolov7-t-silu": "yolov7-tiny-silu"}
    return aliases.get(printed, printed) == model
