"""The page of `onelook view`: a data set's statistics and its images with their boxes, filtered and page by page.

Boxes and names are in the page, as arrays in base64; images are referred to, and a browser reads those that it shows.
So 100,000 images with 700,000 objects make a page of about 15 MB that shows its first images at once.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import numpy as np

from onelook.data.index import CROWD
from onelook.data.problem_places import ImageProblems
from onelook.data.problems import Problem
from onelook.data.split import Dataset
from onelook.data.statistics import Statistics, statistics
from onelook.evaluation.coco import Evaluation
from onelook.report.style import STYLE
from onelook.report.view_charts import chart_sections
from onelook.types import counted

_KINDS = {"|u1": "u8", "<u2": "u16", "<u4": "u32", "<f4": "f32"}
_MISSED = 2  # a flag of an object beside CROWD
_FAULTY = 4  # another one
_MOST_PROBLEMS = 31  # kinds of problem that have a bit
_SHOWN_PROBLEMS = 50  # of each kind, in the list
_MOST_MESSAGES = 5000  # below images
_MESSAGES_OF_IMAGE = 6
_STYLE = """
main { max-width: 1500px; }
.filters { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; position: sticky; top: 0; z-index: 2;
  background: #fff; padding: 8px 0; }
.filters select, .filters input, .filters button { font: inherit; padding: 5px 8px; border: 1px solid var(--line);
  border-radius: 6px; background: #fff; color: inherit; max-width: 230px; }
.filters button:disabled { color: #b6bec9; }
#gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 14px; }
#gallery.compared { grid-template-columns: repeat(auto-fill, minmax(min(560px, 100%), 1fr)); }
.pair { display: flex; gap: 4px; }
.frame { position: relative; flex: 1 1 0; min-width: 0; height: 260px; background: #f0f2f5; border-radius: 6px; }
.frame img, .frame svg { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.broken { position: absolute; inset: 45% 0 auto; text-align: center; color: var(--muted); font-size: 12.5px; }
figcaption b { color: var(--ink); font-weight: 600; }
#charts .charts { grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); }
.facts { color: var(--muted); }
.wrong { color: #b42318; }
#problems li { margin: 3px 0; overflow-wrap: anywhere; }
.chip { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 4px; }
#legend { margin: 6px 0 12px; }
#legend i { display: inline-block; width: 18px; border-top: 3px solid; margin: 0 5px 3px 12px; }
"""
_PARTS = ("class", "split", "size", "problem", "mistake", "order")


@dataclass(frozen=True, eq=False)
class View:
    """What a page shows.

    splits: of one data set, with equal classes.  problems: by split and row of the image.  listed: all problems of the
    data set.  evaluated: for the name of a split, an evaluation on it.  served: whether the page comes from the server
    of `onelook view --serve`, which the images come from as well.
    """

    title: str
    splits: Sequence[Dataset]
    problems: Mapping[tuple[str, int], ImageProblems]
    evaluated: tuple[str, Evaluation] | None = None
    notes: Sequence[str] = ()
    listed: Sequence[Problem] = ()
    served: bool = False


def render_view(view: View, beside: Path) -> str:
    """The page as HTML. beside: the folder that it is written to; images are named relative to it where they can be."""
    gallery = _Gallery(view, beside)
    found = [(split.split, statistics(split.index, split.names, labels_of(split))) for split in view.splits]
    data = "".join(
        f'<script type="application/octet-stream" id="array-{name}">{_base64(array)}</script>'
        for name, array in gallery.arrays.items()
    )
    meta = json.dumps(gallery.meta, ensure_ascii=True).replace("<", "\\u003c")
    selects = "".join(f'<select id="{part}" aria-label="{part}"></select>' for part in _PARTS)
    filters = (
        f'<div class="filters">{selects}<input id="text" type="search" placeholder="file name" aria-label="file name">'
        '<button id="before">previous</button><button id="after">next</button><span id="count"></span></div>'
    )
    legend = (
        '<p class="lead" id="legend">Left the labels, right the detections.'
        '<i style="color:#2ea043"></i>found<i style="color:#e11d2e;border-top-style:dashed"></i>missed'
        '<i style="color:#e8590c"></i>false positive<i style="color:#8a94a3"></i>does not count</p>'
    )
    script = files("onelook.report").joinpath("view.js").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(view.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{_STYLE}</style></head><body><main><h1>{escape(view.title)}</h1>"
        f"{_summary(found, view.notes)}"
        f"{_problems(view.listed)}"
        f'<section id="images"><h2>Images</h2>{filters}{legend}<div id="gallery"></div></section>'
        f'<div id="charts">{"".join(chart_sections(found))}</div>'
        f'<script type="application/json" id="meta">{meta}</script>{data}<script>{script}</script>'
        "</main></body></html>"
    )


def _summary(found: Sequence[tuple[str, Statistics]], notes: Sequence[str]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("split", "images", "without objects", "objects", "small", "medium", "large")
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{value:,}</td>" for value in (one.images, one.empty_images, one.objects, *one.sizes))
        + "</tr>"
        for name, one in found
    )
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    listed = f"<ul>{listed}</ul>" if notes else ""
    link = '<p><a href="#charts">Classes, sizes, places, and how the splits differ</a></p>'
    return f'<section><table class="numbers"><tr>{head}</tr>{rows}</table>{listed}{link}</section>'


def _problems(listed: Sequence[Problem]) -> str:
    """The problems by kind, errors first, with the first ones of each."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in listed:
        kinds.setdefault((problem.severity, problem.code), []).append(problem)
    if not kinds:
        return ""
    errors = sum(problem.severity == "error" for problem in listed)
    lead = f"{counted(errors, 'error')}, {counted(len(listed) - errors, 'warning')}."
    lead += " Entries with errors are not among the images and boxes of this page." if errors else ""
    parts = []
    for (severity, code), found in sorted(kinds.items()):
        shown = "".join(
            f"<li><b>{escape(problem.place)}</b>: {escape(problem.message)} {escape(problem.remedy)}</li>"
            for problem in found[:_SHOWN_PROBLEMS]
        )
        more = len(found) - _SHOWN_PROBLEMS
        shown += f"<li>and {more:,} more: onelook check --json lists all</li>" if more > 0 else ""
        opened = " open" if severity == "error" else ""
        summary = f"<summary>{severity} {escape(code)}: {len(found):,}</summary>"
        parts.append(f"<details{opened}>{summary}<ul>{shown}</ul></details>")
    return f'<section id="problems"><h2>Problems</h2><p class="lead">{lead}</p>{"".join(parts)}</section>'


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


class _Gallery:
    """The images of all splits as arrays (I images, M objects, K detections), and what is no number.

    Boxes are xyxy in parts of 65535 of the image, cut to it.
    """

    def __init__(self, view: View, beside: Path) -> None:
        found_codes = {key: [one.code for one in found.problems] for key, found in view.problems.items()}
        codes = sorted({code for found in found_codes.values() for code in found})[:_MOST_PROBLEMS]
        names = list(view.splits[0].names)
        listed, roots = [], []
        parts: dict[str, list[np.ndarray]] = {}
        for number, split in enumerate(view.splits):
            listed += [split.file_name(row) for row in range(len(split))]
            roots.append({"name": split.split, "root": _address(split.root, beside)})
            evaluation = view.evaluated[1] if view.evaluated and view.evaluated[0] == split.split else None
            columns = {"split": np.full(len(split), number, np.uint8), **_objects(split)}
            columns["problems"] = np.array(
                [_bits(found_codes.get((split.split, row), ()), codes) for row in range(len(split))], np.uint32
            )
            faulty = [thing for (of, _), one in view.problems.items() if of == split.split for thing in one.things]
            columns["flags"][faulty] |= _FAULTY
            if view.evaluated is not None:
                columns |= _nothing_found(split) if evaluation is None else _found(split, evaluation)
            for name, values in columns.items():
                parts.setdefault(name, []).append(values)
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        for counts, offsets in (("counts", "offsets"), ("foundCounts", "foundOffsets")):
            if counts in joined:
                joined[offsets] = np.concatenate([[0], np.cumsum(joined.pop(counts))]).astype(np.uint32)
        self.arrays = joined
        self.meta = {
            "names": names,
            "files": listed,
            "splits": roots,
            "problems": codes,
            "messages": _messages(view),
            "served": view.served,
            "detections": view.evaluated is not None,
            "arrays": {name: _KINDS[array.dtype.str] for name, array in joined.items()},
        }


def _messages(view: View) -> list[tuple[int, list[str]]]:
    """(number of the image, what is wrong with it), of the first images with problems."""
    found, first, left = [], 0, _MOST_MESSAGES
    for split in view.splits:
        for row in range(len(split)):
            one = view.problems.get((split.split, row))
            if one is not None and left > 0:
                texts = [f"{problem.severity}: {problem.message}" for problem in one.problems[:_MESSAGES_OF_IMAGE]]
                found.append((first + row, texts))
                left -= len(texts)
        first += len(split)
    return found


def _bits(found: Sequence[str], codes: Sequence[str]) -> int:
    return sum(1 << codes.index(code) for code in set(found) if code in codes)


def _address(root: Path, beside: Path) -> str:
    """The folder of images as an address that ends with a slash: relative where the page is in or beside it."""
    root, beside = root.resolve(), beside.resolve()
    if root == beside:
        return "./"
    for up, folder in enumerate((beside, *beside.parents[:2])):
        if folder != Path(folder.anchor) and root.is_relative_to(folder):
            return quote("../" * up + root.relative_to(folder).as_posix()) + "/"
    return root.as_uri() + "/"


def _objects(split: Dataset) -> dict[str, np.ndarray]:
    index, sizes = split.index, split.sizes.astype(np.uint32)
    image_of = np.repeat(np.arange(len(split)), np.diff(index.object_offsets))
    return {
        "heights": sizes[:, 0].copy(),
        "widths": sizes[:, 1].copy(),
        "counts": np.diff(index.object_offsets).astype(np.uint32),
        "boxes": _fixed(index.boxes, split.sizes[image_of]),
        "labels": labels_of(split).astype(np.uint16),
        "flags": (index.object_flags & CROWD).astype(np.uint8),
    }


def labels_of(split: Dataset) -> np.ndarray:
    """(M,) the labels of all objects of a split, which index its names."""
    labels = split.index.labels.astype(np.int64)
    return labels if split.relabel is None else split.relabel[labels]


def _fixed(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N, 4) left, top, width, height and the (N, 2) sizes of their images -> (4 N,) uint16 xyxy."""
    scale = np.maximum(sizes[:, [1, 0, 1, 0]], 1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / scale
    return np.round(np.clip(np.nan_to_num(corners), 0, 1) * 65535).astype(np.uint16).ravel()


def _nothing_found(split: Dataset) -> dict[str, np.ndarray]:
    count = len(split)
    empty = {name: np.zeros(0, kind) for name, kind in _FOUND.items()}
    flags = {"evaluated": np.zeros(count, np.uint8), "suspect": np.zeros(count, np.uint8)}
    return {**empty, **flags, "foundCounts": np.zeros(count, np.uint32), "loss": np.zeros(count, np.float32)}


_FOUND = {"foundBoxes": np.uint16, "foundLabels": np.uint16, "foundScores": np.uint8, "foundRight": np.uint8}


def _found(split: Dataset, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """The columns of an evaluated split, whose objects are those that the evaluation compares with."""
    count, truth = len(split), evaluation.truth
    verdicts = evaluation.verdicts()
    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    rows = np.array([row_of[int(image_id)] for image_id in truth.image_ids], np.int64)  # of the truth's images
    labels = np.array([split.category_ids.index(number) for number in truth.category_ids], np.int64)
    objects, results = rows[truth.images], verdicts.results
    order = np.argsort(objects, kind="stable")
    flags = truth.crowds.astype(np.uint8) * CROWD + (verdicts.found == 0).astype(np.uint8) * _MISSED
    images = rows[results.images]
    by_image = np.lexsort((-results.scores, images))
    loss = np.bincount(objects, verdicts.found == 0, minlength=count)
    costs = np.where(verdicts.right == 1, 1 - results.scores, np.where(verdicts.right == 0, results.scores, 0.0))
    loss = loss + np.bincount(images, costs, minlength=count)
    suspects = {row_of[one.image_id] for one in evaluation.label_suspects()}
    return {
        "counts": np.bincount(objects, minlength=count).astype(np.uint32),
        "boxes": _fixed(truth.boxes[order], split.sizes[objects[order]]),
        "labels": labels[truth.labels[order]].astype(np.uint16),
        "flags": flags[order],
        "foundCounts": np.bincount(images, minlength=count).astype(np.uint32),
        "foundBoxes": _fixed(results.boxes[by_image], split.sizes[images[by_image]]),
        "foundLabels": labels[results.labels[by_image]].astype(np.uint16),
        "foundScores": np.round(np.clip(results.scores[by_image], 0, 1) * 255).astype(np.uint8),
        "foundRight": verdicts.right[by_image],
        "evaluated": np.bincount(rows, minlength=count).astype(np.uint8),
        "suspect": np.array([row in suspects for row in range(count)], np.uint8),
        "loss": loss.astype(np.float32),
    }
