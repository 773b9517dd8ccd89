"""Files that an evaluation writes beside its numbers: their names are checked before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from onelook.api.open import PathLike
from onelook.data import Dataset
from onelook.errors import UserError
from onelook.evaluation import Evaluation


def suspect_paths(coco: PathLike | None, cvat: PathLike | None, label_studio: PathLike | None) -> dict[str, Path]:
    """The files to write suspect annotations to, by their kind."""
    given = {"coco": coco, "cvat": cvat, "label_studio": label_studio}
    return {kind: Path(path).expanduser() for kind, path in given.items() if path is not None}


def check_new(paths: Iterable[Path], *, overwrite: bool) -> None:
    """UserError for a path that is a folder, that is given twice, or that exists and may not be replaced."""
    seen: set[str] = set()
    for path in paths:
        if (real := os.path.realpath(path)) in seen:
            raise UserError(f"'{path}' was named for two files, of which one would be lost.", "Give each its own name.")
        seen.add(real)
        if path.is_dir():
            raise UserError(f"'{path}' is a folder, so nothing can be written to it.", "Give a file name.")
        if os.path.lexists(path) and not overwrite:
            raise UserError(f"'{path}' exists already.", "Choose another name, or replace it with --overwrite.")


def write_all_suspects(paths: Mapping[str, Path], dataset: Dataset, evaluation: Evaluation) -> tuple[Path, ...]:
    """Writes the suspect annotations of an evaluation to files of `suspect_paths`."""
    from onelook.report.suspects import write_suspects

    return tuple(write_suspects(kind, path, dataset, evaluation) for kind, path in paths.items())
