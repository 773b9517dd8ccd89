"""Formats the result of `onelook detect` as plain text, because importing Rich takes a third of its time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from onelook.api.detect import DetectResult
from onelook.types import Detections, counted

SHOWN_DETECTIONS, SHOWN_CLASSES, SHOWN_FAILURES = 20, 20, 10


def text_of_result(result: DetectResult) -> str:
    """A table of the detections of one image, or of the classes of several; then what failed and what was written."""
    table = _classes(result) if result.only is None else _detections(result.only)
    return "\n".join([*table, str(result), *_failures(result), *_written(result)])


def _detections(found: Detections) -> Iterator[str]:
    names = found.names[:SHOWN_DETECTIONS]
    if not names:
        return
    widest = max(map(len, ("class", *names)))
    yield f"{'class':<{widest}}  score  box (x1, y1, x2, y2)"
    for name, score, box in zip(names, found.scores.tolist(), found.boxes.tolist()):
        yield f"{name:<{widest}}  {score:>5.2f}  {', '.join(f'{side:.0f}' for side in box)}"
    if (more := len(found) - len(names)) > 0:
        yield f"and {more} more with lower scores"


def _classes(result: DetectResult) -> Iterator[str]:
    common = result.per_class.most_common()
    rows = [(name, count, f"{result.best_scores[name]:.2f}") for name, count in common[:SHOWN_CLASSES]]
    if rest := sum(count for _, count in common[SHOWN_CLASSES:]):
        rows.append((f"{len(common) - SHOWN_CLASSES} more classes", rest, ""))
    if not rows:
        return
    widest = max(len("class"), *(len(name) for name, _, _ in rows))
    yield f"{'class':<{widest}}  detections  share  best score"
    for name, count, best in rows:
        yield f"{name:<{widest}}  {count:>10,}  {count / result.detections:>5.0%}  {best:>10}".rstrip()


def _failures(result: DetectResult) -> Iterator[str]:
    if not result.failures:
        return
    yield f"{counted(len(result.failures), 'source')} could not be read, or not to the end:"
    yield from (f"  {failure['message']}" for failure in result.failures[:SHOWN_FAILURES])
    if (more := len(result.failures) - SHOWN_FAILURES) > 0:
        yield f"  and {more} more (--json has them all)"


def _written(result: DetectResult) -> Iterator[str]:
    if result.can_resume:
        import shlex  # for this line alone

        is_part = re.fullmatch("[0-9]+-of-[0-9]+", result.folder.name)
        folder = result.folder.parent if is_part else result.folder
        yield f"The same command with --out {shlex.quote(str(folder))} --resume continues."
    yield from (f"note: {note}" for note in result.notes[:SHOWN_FAILURES])
    for path in result.written:
        yield f"wrote {path}{os.sep if path.is_dir() else ''}"
