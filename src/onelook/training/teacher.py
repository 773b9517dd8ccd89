"""The teacher of a run with distillation: opened, recorded in the run's folder, and checked on resume."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from onelook import run_files
from onelook.config import to_plain
from onelook.errors import UsageError, UserError, WeightsError
from onelook.files import write_text
from onelook.networks.detector import Detector
from onelook.networks.variants import VARIANTS
from onelook.training.recipe import Recipe
from onelook.weights import open_detector

IN_MEMORY = "a detector in memory"  # what the record calls a teacher that was given as a value


@dataclass(frozen=True)
class TeacherRecord:
    """The content of `teacher.json`: name and files of the teacher, and a hash of it.

    model, weights: arguments of `open_detector`, files by absolute path.  fingerprint: hash of network and weights.
    """

    model: str
    weights: str | None
    fingerprint: str

    def __str__(self) -> str:
        return self.model if self.weights is None else f"{self.model} ({self.weights})"


def find_teacher(
    recipe: Recipe, folder: Path, teacher: str | Detector | None, weights: str | None, resume: bool
) -> tuple[Detector, TeacherRecord] | None:
    """Opens the teacher of a run; None where the recipe has none. UserError where the two do not agree."""
    if weights is not None and teacher is None:
        raise UsageError("The teacher's weights are given without its name.", "Give the name as teacher.")
    if recipe.distillation is None:
        if teacher is not None:
            raise UsageError("The recipe has no teacher.", "Leave the teacher away, or distillation=none.")
        return None
    if resume:
        return reopen_teacher(folder, teacher, weights)
    if teacher is None:
        raise UsageError("The recipe learns from a teacher.", "Give a teacher, or distillation=none.")
    return open_teacher(teacher, weights)


def open_teacher(model: str | Detector, weights: str | None = None) -> tuple[Detector, TeacherRecord]:
    """Opens a teacher: a name with weights, a weights file, a run's folder, or a detector; returns also its record.

    UserError as of `open_detector`, and for a model without weights.
    """
    if isinstance(model, Detector):
        return model, TeacherRecord(IN_MEMORY, None, fingerprint(model))
    row = None if weights is not None or Path(model).exists() else VARIANTS.get(model)
    if row is not None:
        source = f" The official ones are at {row.url}." if row.url else ""
        raise WeightsError(f"The teacher '{model}' has no weights.", f"Give a file as teacher_weights.{source}")
    detector = open_detector(model, weights).detector
    named = [
        None if name is None else str(Path(name).resolve()) if Path(name).exists() else name
        for name in (model, weights)
    ]
    return detector, TeacherRecord(named[0] or model, named[1], fingerprint(detector))


def fingerprint(detector: Detector) -> str:
    """SHA-256 of the architecture and all tensors; it does not depend on the file that they come from."""
    digest = hashlib.sha256(json.dumps(to_plain(detector.architecture), sort_keys=True).encode())
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return f"sha256:{digest.hexdigest()}"


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_teacher(folder: Path, record: TeacherRecord) -> None:
    """Writes `teacher.json` into a run's folder."""
    write_text(folder / run_files.TEACHER, json.dumps(asdict(record), indent=1) + "\n")


def reopen_teacher(folder: Path, model: str | Detector | None, weights: str | None) -> tuple[Detector, TeacherRecord]:
    """Opens the teacher of a resumed run, which must be the one that the run was started with.

    model, weights: its new place, None if it has not moved. UserError for another teacher.
    """
    before = read_teacher_record(folder)
    if model is None and before.model == IN_MEMORY:
        raise UserError(
            f"The run in '{folder}' learns from a teacher that was {IN_MEMORY}.", "Give the same teacher again."
        )
    files = [path for path in (before.model, before.weights) if path and os.path.isabs(path)]
    missing = [path for path in files if not os.path.exists(path)]
    if model is None and missing:
        raise UserError(
            f"The run in '{folder}' was distilled from the teacher '{missing[0]}', which does not exist any more.",
            "Give its new place as teacher: a file or a run's folder, or a name with teacher_weights.",
        )
    named = (before.model, before.weights) if model is None else (model, weights)
    detector, now = open_teacher(*named)
    if now.fingerprint != before.fingerprint:
        raise UserError(
            f"The run in '{folder}' has another teacher: {before} with {before.fingerprint[:19]}, not "
            f"{now.fingerprint[:19]}.",
            "Give the teacher with the same weights, or start a new run in another folder (out).",
        )
    return detector, before


def read_teacher_record(folder: Path) -> TeacherRecord:
    """Reads the record in a run's folder; UserError where there is none or it is damaged."""
    path = folder / run_files.TEACHER
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        record = TeacherRecord(**data)
        texts = (record.model, record.fingerprint, record.weights or "")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("its entries are not text")
    except FileNotFoundError:
        raise UserError(
            f"The run in '{folder}' has distillation, but no {run_files.TEACHER}.", "Start a new run."
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"'{path}' is damaged ({error}).", "Start a new run.") from error
    return record
