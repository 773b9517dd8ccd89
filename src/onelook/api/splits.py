"""Opens the splits of a data set that a training uses: one to train on, one to evaluate on."""

from __future__ import annotations

import os

from onelook.api.open import PathLike
from onelook.data import Dataset, open_dataset, splits
from onelook.data.split_names import usual_splits
from onelook.errors import UsageError
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
