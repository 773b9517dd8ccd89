"""Formats an evaluation as plain text: `onelook score` is done sooner than Rich is imported."""

from __future__ import annotations

from collections.abc import Iterator

from onelook.cli.views.text_table import one_line, text_table
from onelook.evaluation import Evaluation
from onelook.types import NOTHING, counted

_ALL_CLASSES = 20  # up to so many classes are listed; of more, the best and the worst
_EXTREMES = 6
_ROWS = (
    ("IoU 0.50:0.95, 100 detections", "AP", "AR100"),
    ("  small objects", "APs", "ARs"),
    ("  medium objects", "APm", "ARm"),
    ("  large objects", "APl", "ARl"),
    ("IoU 0.50", "AP50", ""),
    ("IoU 0.75", "AP75", ""),
    ("10 detections", "", "AR10"),
    ("1 detection", "", "AR1"),
)


def text_of_evaluation(evaluation: Evaluation, *, thresholds: bool = True) -> str:
    """The twelve numbers, the classes and the time.

    thresholds: also which confidence reaches what, which takes as long as all the rest.
    """
    return "\n".join(_lines(evaluation, thresholds))


def _lines(evaluation: Evaluation, thresholds: bool) -> Iterator[str]:
    images, objects = len(evaluation.truth.image_ids), int(evaluation.objects.sum())
    counts = ((images, "image"), (objects, "object"), (len(evaluation.results), "detection"))
    yield ", ".join(counted(count, noun) for count, noun in counts)
    stats = evaluation.stats
    rows = [(name, *(_number(stats[key]) if key else "" for key in keys)) for name, *keys in _ROWS]
    yield from text_table(("", "AP", "AR"), rows)
    yield from _classes(evaluation)
    if thresholds:
        yield from _thresholds(evaluation)
    if evaluation.seconds:
        yield "seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in evaluation.seconds.items())
    yield from (f"Note: {one_line(note)}" for note in evaluation.notes)
    yield from (f"Written: {path}" for path in evaluation.written)


def _thresholds(evaluation: Evaluation) -> Iterator[str]:
    """The confidence with the best F1, and which confidence reaches which recall."""
    if not evaluation.objects.any():
        return
    if evaluation.finds_nothing:
        yield "best confidence: none, as no detection is right"
        return
    curve = evaluation.f1_curve
    best = f"best confidence: {curve.best_confidence:.2f}, where the mean F1 of the classes is {curve.best_f1:.3f}"
    error = evaluation.calibration.error
    yield best + ("" if error is None else f"; calibration error {error:.3f}")
    rows = []
    for point in evaluation.operating_points():
        if point.confidence is None or point.precision is None:
            rows.append((f"{point.recall_target:.2f}", "not reached", ""))
        else:
            rows.append((f"{point.recall_target:.2f}", f"{point.confidence:.3f}", f"{point.precision:.3f}"))
    yield from text_table(("for a recall of", "confidence", "precision"), rows)


def _classes(evaluation: Evaluation) -> Iterator[str]:
    counts = dict(zip(evaluation.truth.names, evaluation.objects.tolist()))
    defined = [name for name, values in evaluation.per_class.items() if values["AP"] >= 0]
    ranked = sorted(defined, key=lambda name: -evaluation.per_class[name]["AP"])
    shortened = len(ranked) > _ALL_CLASSES
    rows = []
    for name in [*ranked[:_EXTREMES], None, *ranked[-_EXTREMES:]] if shortened else ranked:
        if name is None:
            rows.append((f"... {len(ranked) - 2 * _EXTREMES} more", "", "", ""))
            continue
        values = evaluation.per_class[name]
        rows.append((name, str(counts[name]), _number(values["AP"]), _number(values["AP50"])))
    if rows:
        yield from text_table(("class", "objects", "AP", "AP50"), rows)
    if absent := len(evaluation.per_class) - len(defined):
        yield f"classes without objects here, which do not count: {absent}"


def _number(value: float) -> str:
    return NOTHING if value < 0 else f"{value:.4f}"
