"""The report of a validation: numbers, thresholds, errors, and images with their detections, as one HTML file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from onelook.data.split import Dataset
from onelook.errors import UserError, reason_of
from onelook.evaluation.coco import Evaluation
from onelook.report.build import annotation_hints, example_images
from onelook.report.page import Report, write_report
from onelook.version import __version__


def report_validation(
    path: Path, evaluation: Evaluation, dataset: Dataset, model: str, facts: Mapping[str, str]
) -> Path:
    """Writes the report of a model's evaluation on a data set and returns its path.

    model: its name, for the title.  facts: what else the report says about the evaluation, by name. UserError where the
    file cannot be written.
    """
    worst, best = example_images(evaluation, dataset, evaluation.truth.names)
    report = Report(
        title=f"{model} on {dataset.described_by.name}",
        history=(),
        evaluation=evaluation,
        facts={
            **facts,
            "data": dataset.describe(),
            "best confidence": evaluation.best_confidence_text,
            "time": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in evaluation.seconds.items()),
            "software": f"Onelook {__version__}, Python {platform.python_version()}",
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        },
        worst=worst,
        best=best,
        notes=[*evaluation.notes, *annotation_hints(evaluation)],
    )
    try:
        return write_report(path, report)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Name another file.") from error
