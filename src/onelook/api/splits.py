"""Opens the splits of a data set that a training uses: one to train on, one to evaluate on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from onelook import run_files
from onelook.api.open import PathLike
from onelook.data import Dataset, open_dataset, splits
from onelook.data.divide import divide
from onelook.data.paths import LIST_LIMIT, read_text
from onelook.data.split_names import WHOLE, usual_splits
from onelook.data.splitting import write_lists
from onelook.errors import DataError, UsageError
from onelook.reporter import Reporter


def open_splits(
    data: Dataset | PathLike,
    split: str | None = None,
    validation: Dataset | str | None = None,
    *,
    reporter: Reporter | None = None,
) -> tuple[Dataset, Dataset | None, list[str]]:
    """Opens the split to train on and the one to evaluate on, its classes in the same order; adds notes on both.

    data: a data set, or its folder or file.  split: of that folder or file; None is train, or trainval where that is
    what there is.  validation: a data set, or the name of a split in the same place; None is val, or test where that is
    what there is; "none" evaluates nothing.  reporter: shows the progress of a data set's first opening.
    """
    training, place = open_training_split(data, split, reporter=reporter)
    notes = [f"Training on {training.describe()}."]
    validation_set = validation if isinstance(validation, Dataset) else _validation(place, validation, reporter)
    if validation_set is None:
        return training, None, [*notes, "Nothing to evaluate on: the last weights will count as the best."]
    validation_set = validation_set.with_names(training.names)
    return training, validation_set, [*notes, f"Evaluating on {validation_set.describe()}."]


def open_training_split(
    data: Dataset | PathLike, split: str | None, *, reporter: Reporter | None = None
) -> tuple[Dataset, PathLike]:
    """Opens the split to train on (see `open_splits`); returns it and the path where the other splits are."""
    if isinstance(data, Dataset):
        if split is not None:
            raise UsageError(f"The data set is opened already, so '{split}' cannot be chosen.", "Open that split.")
        return data, data.described_by
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            f"A value of type '{type(data).__name__}' is no data set.", "Give a path, or a Dataset of open_dataset()."
        )
    usual, _ = usual_splits(splits(os.fspath(data)))
    return open_dataset(os.fspath(data), split or usual, reporter=reporter), data


def _validation(place: PathLike, split: str | None, reporter: Reporter | None) -> Dataset | None:
    """Opens the split to evaluate on; None where there is none."""
    there = splits(os.fspath(place))
    _, usual = usual_splits(there)
    if split == "none" or (split is None and usual not in there):
        return None
    return open_dataset(os.fspath(place), split or usual, reporter=reporter)


def open_divided(
    data: Dataset | PathLike, split: str | None, fraction: float, folder: Path, *, reporter: Reporter
) -> tuple[Dataset, Dataset, list[str]]:
    """Divides the split to train on (see `onelook.data.divide`), or as the run in a folder has divided it.

    fraction: the share to evaluate on.  folder: of the run; see `remember_division`. Raises UsageError where the data
    set has a split to evaluate on, and DataError where images of the run's list are missing.
    """
    if not isinstance(data, Dataset):
        there = splits(os.fspath(data))
        _, usual = usual_splits(there)
        if usual in there:
            raise UsageError(
                f"'{data}' has a split '{usual}' to evaluate on, so nothing is divided.",
                "Leave --val-fraction (in Python val_fraction) away. To divide all images again: onelook split --anew.",
            )
        split = WHOLE if split is None and there == (WHOLE,) else split
    whole, _ = open_training_split(data, split, reporter=reporter)
    kept = folder / run_files.SPLIT / "val.txt"
    if kept.is_file():
        rows = _rows_of_list(whole, kept)
        notes = [f"Divided as before, by the lists in '{kept.parent}'."]
    else:
        division = divide(whole, {"val": fraction}, 0, reporter)
        rows = division.rows["val"]
        notes = [
            f"Divided: {100 * fraction:g} % of the images are for evaluation, listed in '{kept}'.",
            *division.notes,
        ]
    others = np.setdiff1d(np.arange(len(whole)), rows)
    training, validation = (replace(whole.view(part), split=name) for part, name in ((others, "train"), (rows, "val")))
    notes += [f"Training on {training.describe()}.", f"Evaluating on {validation.describe(notes=False)}."]
    return training, validation, notes


def _rows_of_list(dataset: Dataset, file: Path) -> np.ndarray:
    """The rows of the images in a list of paths; where the data set was moved, by the ends of the paths."""
    rows = {dataset.file_name(row): row for row in range(len(dataset))}
    found = []
    for line, text in enumerate(read_text(file, LIST_LIMIT).splitlines(), 1):
        parts = text.strip().split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        row = next((rows[end] for end in ends if end in rows), None)
        if row is None:
            raise DataError(
                f"{file}:{line}: the image '{text.strip()[:200]}' is not in '{dataset.described_by}'.",
                "Resume with the data set that the run was started with.",
            )
        found.append(row)
    return np.unique(np.array(found, np.int64))


def remember_division(folder: Path, training: Dataset, validation: Dataset) -> None:
    """Writes the lists of a divided data set to the folder of a run, for resuming, and for `onelook val`."""
    target = folder / run_files.SPLIT
    parts = {"train": training, "val": validation}
    write_lists(target, target.absolute(), os.path.abspath(training.described_by), parts)


def without_validation(data: Dataset | PathLike) -> str:
    """The warning of a training that has nothing to evaluate on."""
    shown = data.described_by if isinstance(data, Dataset) else data
    return (
        f"'{shown}' has no split 'val': nothing will show how the model does on new images, and the last weights count "
        "as the best. Hold a part of the images back with --val-fraction 0.2 (in Python val_fraction=0.2), or divide "
        f"them with: onelook split {shown}. If it is meant so: --val-split none."
    )
