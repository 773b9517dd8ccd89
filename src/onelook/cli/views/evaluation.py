"""Prints an evaluation."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.evaluation import Evaluation
from onelook.types import NOTHING

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


def show_evaluation(evaluation: Evaluation, console: Console, *, thresholds: bool = True) -> None:
    """Prints the twelve numbers, the classes and the time.

    thresholds: also which confidence reaches what, which takes as long as all the rest.
    """
    stats = evaluation.stats
    images, objects = len(evaluation.truth.image_ids), int(evaluation.objects.sum())
    counts = ((images, "image"), (objects, "object"), (len(evaluation.results), "detection"))
    shown = (f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    console.print(", ".join(shown), highlight=False)
    numbers = Table(box=None, pad_edge=False)
    for heading in ("", "AP", "AR"):
        numbers.add_column(heading, justify="right" if heading else "left")
    for name, *keys in _ROWS:
        numbers.add_row(name, *(_number(stats[key]) if key else "" for key in keys))
    console.print(numbers)
    _show_classes(evaluation, console)
    if thresholds:
        _show_thresholds(evaluation, console)
    if evaluation.seconds:
        stages = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.seconds.items())
        console.print(f"seconds: {stages}", highlight=False)
    for note in evaluation.notes:
        console.print(Text(f"Note: {note}"), style="yellow")
    for path in evaluation.written:
        console.print(Text(f"Written: {path}"), soft_wrap=True)


def _show_thresholds(evaluation: Evaluation, console: Console) -> None:
    """Prints the confidence with the best F1, and which confidence reaches which recall."""
    if not evaluation.objects.any():
        return
    if evaluation.finds_nothing:
        console.print("best confidence: none, as no detection is right", highlight=False)
        return
    curve = evaluation.f1_curve
    best = f"best confidence: {curve.best_confidence:.2f}, where the mean F1 of the classes is {curve.best_f1:.3f}"
    error = evaluation.calibration.error
    console.print(best + ("" if error is None else f"; calibration error {error:.3f}"), highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("for a recall of", "confidence", "precision"):
        table.add_column(heading, justify="right")
    for point in evaluation.operating_points():
        if point.confidence is None or point.precision is None:
            table.add_row(f"{point.recall_target:.2f}", "not reached", "")
        else:
            table.add_row(f"{point.recall_target:.2f}", f"{point.confidence:.3f}", f"{point.precision:.3f}")
    console.print(table)


def _show_classes(evaluation: Evaluation, console: Console) -> None:
    counts = dict(zip(evaluation.truth.names, evaluation.objects.tolist()))
    defined = [name for name, values in evaluation.per_class.items() if values["AP"] >= 0]
    ranked = sorted(defined, key=lambda name: -evaluation.per_class[name]["AP"])
    shortened = len(ranked) > _ALL_CLASSES
    rows = [*ranked[:_EXTREMES], None, *ranked[-_EXTREMES:]] if shortened else ranked
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for heading in ("objects", "AP", "AP50"):
        table.add_column(heading, justify="right")
    for name in rows:
        if name is None:
            table.add_row(f"... {len(ranked) - 2 * _EXTREMES} more", "", "", "")
            continue
        values = evaluation.per_class[name]
        table.add_row(Text(name), str(counts[name]), _number(values["AP"]), _number(values["AP50"]))
    if ranked:
        console.print(table)
    if absent := len(evaluation.per_class) - len(defined):
        console.print(f"classes without objects here, which do not count: {absent}", highlight=False, markup=False)


def _number(value: float) -> str:
    return NOTHING if value < 0 else f"{value:.4f}"
