"""Label Studio: one JSON list of tasks (export JSON or JSON-MIN), with rectangles and polygons in percent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from onelook.data.formats.base import (
    Arrays,
    Destination,
    Format,
    Losses,
    Part,
    Source,
    count_class_list,
    count_lost,
    names_used,
    single_outline,
    split_folder,
)
from onelook.data.formats.bounded_xml import REMEDY
from onelook.data.formats.collector import (
    Collector,
    annotations_and_images,
    check_unlisted,
    in_splits,
    read_collected,
    read_number,
    turned,
)
from onelook.data.jsonstream import JsonStream, Single
from onelook.data.paths import entries_ending, first_bytes, is_image
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits
from onelook.errors import DataError
from onelook.reporter import Progress

_PEEK = 1 << 16  # bytes
_USUAL_KEYS = ("image", "img", "photo", "url")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what precedes the name of an uploaded file
_TASKS = msgspec.json.Decoder(list[dict[str, Any]])
_LABELS = ("rectanglelabels", "polygonlabels", "labels")
_NOT_BOXES = ("ellipselabels", "brushlabels", "keypointlabels")


def find(root: Path) -> Source | None:
    """Label Studio in a folder: JSON lists of tasks, one for each split; None where there is none."""
    for folder in (root, root / "annotations"):
        if files := _exports(entries_ending(folder, ".json")):
            return _source(root, {path.stem: Part(path) for path in files}, files)
    return None


def find_flat(root: Path) -> Source | None:
    """The same in `{split}/`; apart, since it lists all folders of images."""
    files = in_splits(_exports(sorted(root.glob("*/*.json"))))
    return _source(root, {path.parent.name: Part(path) for path in files}, files) if files else None


def _exports(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if not path.name.startswith(".") and _holds_tasks(path)]


def _source(root: Path, parts: dict[str, Part], files: Sequence[Path]) -> Source:
    if len(parts) < len(files):
        raise DataError(f"'{root}' has several exports for one split.", f"Give one, such as '{files[0]}'.")
    return Source(LABEL_STUDIO, root, root, named_splits(parts))


def find_file(path: Path) -> Source | None:
    """The data set of one export; None for other files."""
    if path.suffix.lower() != ".json" or not _holds_tasks(path):
        return None
    return Source(LABEL_STUDIO, path.parent, path, named_splits({path.stem: Part(path)}))


def _holds_tasks(path: Path) -> bool:
    """Whether a file begins as a list of objects, with keys of Label Studio."""
    start = first_bytes(path, _PEEK).removeprefix(b"\xef\xbb\xbf").lstrip()
    is_list = re.match(rb"\[\s*\{", start) is not None
    return (
        is_list and re.search(rb'"(rectanglelabels|polygonlabels|was_cancelled|total_annotations)"', start) is not None
    )


def _tasks(path: Path, progress: Progress) -> Iterator[tuple[int, Any]]:
    """(line, task) of an export."""
    with JsonStream(path, progress) as stream:
        for part in stream.only_list("tasks", _TASKS.decode):
            if isinstance(part, Single):
                yield part.line, part.element
            else:
                yield from zip(part.lines(), part.found)


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    path = source.annotations_of(split)
    for number, (line, task) in enumerate(_tasks(path, progress)):
        place = {"file": str(path), "line": line}
        if not isinstance(task, dict):
            collector.problems.error("task-format", f"tasks[{number}] must be an object.", REMEDY, **place)
            continue
        results = _results(task)
        shapes = [shape for shape in results or () if isinstance(shape, dict)]
        sizes = [(shape.get("original_height"), shape.get("original_width")) for shape in shapes]
        address = _address(task)
        if address is None:
            collector.problems.error("file-name", f"tasks[{number}] names no image in 'data'.", REMEDY, **place)
            continue
        row = collector.image(
            _name(address, collector), sizes[0] if sizes else (None, None), labelled=results is not None, **place
        )
        if row is None:
            continue
        for shape in shapes:
            _add(shape, row, number, collector, place)


def _results(task: Mapping[str, Any]) -> list[Any] | None:
    """The shapes of a task: of its last annotation that was not cancelled; None where it has none."""
    annotations = task.get("annotations", task.get("completions"))
    if isinstance(annotations, list):
        kept = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        found = kept[-1].get("result") if kept else None
        return found if isinstance(found, list) else None
    lists = [value for value in task.values() if isinstance(value, list)]  # JSON-MIN: one for each kind of shape
    known = (*_LABELS, *_NOT_BOXES)
    flat = [one for shapes in lists for one in shapes if isinstance(one, dict) and _label_of(one, known) is not None]
    return flat if flat or "annotation_id" in task else None


def _address(task: Mapping[str, Any]) -> str | None:
    """The text in the data of a task that leads to its image."""
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    assert isinstance(data, Mapping)
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    usual = [texts[key] for key in _USUAL_KEYS if key in texts]
    return next((text for text in (*usual, *texts.values()) if is_image(_path(text))), None)


def _path(address: str) -> str:
    """The path in an address: of an upload, of a local file (`?d=`), of a storage, or on the web."""
    if "?d=" in address:
        return unquote(address.partition("?d=")[2].partition("&")[0])
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    return unquote(parts.path) if parts.scheme or address.startswith("/") else unquote(address)


def _name(address: str, collector: Collector) -> str:
    """The image of an address, below the data set's folder where it is there."""
    path = _path(address)
    if (found := collector.find(path)) is not None:
        return found
    file = path.rpartition("/")[2]
    return collector.find(_UPLOAD.sub("", file)) or file


def _add(shape: Mapping[str, Any], row: int, number: int, collector: Collector, place: Mapping[str, Any]) -> None:
    """Adds one shape of a task; relations, choices and texts are passed over."""
    value = shape.get("value") if isinstance(shape.get("value"), dict) else shape
    assert isinstance(value, Mapping)
    label = _label_of(value, _LABELS)
    if label is None:
        if (other := _label_of(value, _NOT_BOXES)) is not None:
            _warn(other, number, collector, place)
        return
    height, width = (read_number(shape.get(side)) for side in ("original_height", "original_width"))
    in_pixels = bool(height and width)
    scale_x, scale_y = (float(width or 1) / 100, float(height or 1) / 100)
    if isinstance(value.get("points"), list):
        pairs = [point if isinstance(point, list) and len(point) == 2 else (None, None) for point in value["points"]]
        numbers = [(read_number(x), read_number(y)) for x, y in pairs]
        points = [(None if x is None else x * scale_x, None if y is None else y * scale_y) for x, y in numbers]
        collector.outline(row, label, points, fractions=not in_pixels, **place)
        return
    if "width" not in value or "height" not in value:
        _warn(label, number, collector, place)
        return
    given = [read_number(value.get(key)) for key in ("x", "y", "width", "height")]
    if None in given:
        collector.box(row, label, [value.get(key) for key in ("x", "y", "width", "height")], **place)  # reports it
        return
    left, top, w, h = (number or 0.0 for number in given)
    corners = (left * scale_x, top * scale_y, (left + w) * scale_x, (top + h) * scale_y)
    degrees = read_number(value.get("rotation") or 0)
    if degrees is None or (degrees and not in_pixels):
        message = f"tasks[{number}]: a turned box of '{str(label)[:60]}' needs its angle, and the size of its image."
        collector.problems.error("box-format", message, "Export it with original_width and original_height.", **place)
        return
    if degrees:  # about its first corner
        collector.outline(row, label, turned(corners, degrees, corners[:2]), **place)
        return
    collector.box(row, label, corners, fractions=not in_pixels, **place)


def _label_of(value: Mapping[str, Any], keys: Sequence[str]) -> object:
    """The first label of a shape under one of the keys; None where it has none."""
    return next((value[key][0] for key in keys if isinstance(value.get(key), list) and value[key]), None)


def _warn(label: object, number: int, collector: Collector, place: Mapping[str, Any]) -> None:
    message = f"tasks[{number}]: a shape of '{str(label)[:60]}' has no box."
    collector.problems.warning("shape-without-box", message, "It is not used.", **place)


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    path = source.annotations_of(split)
    own = [] if path.parent == source.root else [path.parent.name, f"{path.parent.name}/images"]
    return read_collected(_parse, source, split, problems, progress, [*own, split, f"images/{split}", "images"])


class LabelStudioWriter:
    """Writes `{split}.json`, tasks as Label Studio exports and imports them, beside `{split}/` with the images.

    An image is named by its path below the data set's folder, which Label Studio serves (`/data/local-files/?d=`).
    Objects with one outline become polygons.
    """

    one_file_an_image = True  # it has none; but the images must be known as such by their endings

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._losses = Losses()

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the tasks of one split; one that is not labelled has no annotation."""
        count_lost(dataset, losses, crowds=True)
        self._losses, labelled = losses, dataset.labelled
        with open(out / f"{split_folder(split)}.json", "w", encoding="utf-8") as file:
            file.write("[")
            for i, place in enumerate(places):
                file.write(",\n" if i else "\n")
                results = shapes(dataset, i, losses) if labelled[i] else None
                file.write(json.dumps(task(i + 1, f"{place.folder}/{place.name}", results), ensure_ascii=False))
            file.write("\n]\n")
        self._used |= names_used(dataset)

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Counts what the tasks do not say about the classes."""
        count_class_list(names, self._used, self._losses)


def task(number: int, image: str, results: Sequence[Mapping[str, Any]] | None, **more: Any) -> dict[str, Any]:
    """One task. image: its path in the folder that is served.  results: the shapes of its annotation, or None."""
    annotations = [] if results is None else [{"id": number, "was_cancelled": False, "result": list(results)}]
    address = f"/data/local-files/?d={quote(image)}"
    counts = {"total_annotations": len(annotations), "cancelled_annotations": 0}
    return {"id": number, "data": {"image": address}, "annotations": annotations, **more, **counts}


def rectangle(
    identity: str, label: str, box: Sequence[float], size: tuple[int, int], points: Sequence[Sequence[float]] = ()
) -> dict[str, Any]:
    """A shape of a task: a rectangle, or the polygon of `points`.

    box: left, top, width, height in pixels.  size: (height, width) of the image.  points: x, y in pixels.
    """
    height, width = size
    kind = "polygonlabels" if len(points) else "rectanglelabels"
    value: dict[str, Any] = {kind: [label]}
    if len(points):
        value["points"] = [[100 * x / width, 100 * y / height] for x, y in points]
    else:
        left, top, w, h = box
        value |= {"x": 100 * left / width, "y": 100 * top / height}
        value |= {"width": 100 * w / width, "height": 100 * h / height, "rotation": 0}
    sizes = {"original_width": width, "original_height": height, "image_rotation": 0}
    return {"id": identity, "type": kind, "from_name": "label", "to_name": "image", **sizes, "value": value}


def shapes(dataset: Dataset, i: int, losses: Losses) -> list[dict[str, Any]]:
    """The objects of an image as shapes of a task."""
    height, width = dataset.sizes[i].tolist()
    span, found = dataset.span(i), []
    boxes, labels = dataset.index.boxes[span].tolist(), dataset.labels(i).tolist()
    for number, (label, box) in enumerate(zip(labels, boxes)):
        ring = single_outline(dataset, span.start + number, losses)
        found.append(rectangle(f"{i + 1}-{number + 1}", dataset.names[label], box, (height, width), ring))
    return found


LABEL_STUDIO = Format(
    name="label_studio",
    title="Label Studio JSON",
    layout="a JSON export (JSON or JSON-MIN) beside the images or images/",
    find=find,
    find_flat=find_flat,
    find_file=find_file,
    files_of=annotations_and_images,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: str(source.annotations_of(split)),
    write=LabelStudioWriter,
    check=check_unlisted,
)
