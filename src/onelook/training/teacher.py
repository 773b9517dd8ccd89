"""Which teacher a run has: found like any model, recorded in the run's folder, and known again when the run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onelook.config import to_plain
from onelook.errors import UserError, WeightsError
from onelook.models.variants import VARIANTS
from onelook.training.files import write_text
from onelook.weights import open_detector

if TYPE_CHECKING:
    from onelook.models.detector import Detector

TEACHER_FILE = "teacher.json"


@dataclass(frozen=True)
class TeacherRecord:
    """What `teacher.json` holds: how the teacher was named, and what it was.

    model, weights: as `open_detector` takes them, files by absolute path.  fingerprint: of its network and weights.
    """

    model: str
    weights: str | None
    fingerprint: str

    def __str__(self) -> str:
        return self.model if self.weights is None else f"{self.model} ({self.weights})"


def open_teacher(model: str, weights: str | None = None) -> tuple[Detector, TeacherRecord]:
    """The detector of a name with weights, a weights file or a run's folder, and its record.

    UserError as `open_detector` has it: a teacher without weights has nothing to teach.
    """
    row = None if weights is not None or Path(model).exists() else VARIANTS.get(model)
    if row is not None:
        where = f" The official ones are at {row.url}." if row.url else ""
        raise WeightsError(f"The teacher '{model}' has no weights yet.", f"Give a file: --teacher-weights FILE.{where}")
    detector = open_detector(model, weights).detector
    named = [
        None if name is None else str(Path(name).resolve()) if Path(name).exists() else name
        for name in (model, weights)
    ]
    return detector, TeacherRecord(named[0] or model, named[1], fingerprint(detector))


def fingerprint(detector: Detector) -> str:
    """SHA-256 of the architecture and all tensors: the same for the same weights, whatever file they come from."""
    digest = hashlib.sha256(json.dumps(to_plain(detector.architecture), sort_keys=True).encode())
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return f"sha256:{digest.hexdigest()}"


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_teacher(folder: Path, record: TeacherRecord) -> None:
    """Writes `teacher.json` into a run's folder."""
    write_text(folder / TEACHER_FILE, json.dumps(asdict(record), indent=1) + "\n")


def reopen_teacher(folder: Path, model: str | None, weights: str | None) -> tuple[Detector, TeacherRecord]:
    """The teacher of a run that goes on: the one it was started with, found where it was or where it is now.

    model, weights: where it is now, None if it has not moved. UserError where another one is found.
    """
    before = read_teacher(folder)
    gone = [place for place in (before.model, before.weights) if place and os.path.isabs(place)]
    gone = [place for place in gone if not os.path.exists(place)]
    if model is None and gone:
        raise UserError(
            f"The run in '{folder}' learns from a teacher that was at '{gone[0]}', where nothing is any more.",
            "Say where it is now: --teacher FILE (or a run's folder), or --teacher NAME --teacher-weights FILE.",
        )
    detector, now = open_teacher(*((before.model, before.weights) if model is None else (model, weights)))
    if now.fingerprint != before.fingerprint:
        raise UserError(
            f"The run in '{folder}' learns from another teacher: {before}, which was {before.fingerprint[:19]} and not "
            f"{now.fingerprint[:19]}.",
            "Name the same weights with --teacher, or start a new run with --out in another folder.",
        )
    return detector, before


def read_teacher(folder: Path) -> TeacherRecord:
    """The record in a run's folder; UserError where there is none or it is damaged."""
    path = folder / TEACHER_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        record = TeacherRecord(**data)
        texts = (record.model, record.fingerprint, record.weights or "")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("its entries are no text")
    except FileNotFoundError:
        raise UserError(
            f"The run in '{folder}' learns from a teacher, but its {TEACHER_FILE} is gone.", "Start a new run."
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"'{path}' is damaged ({error}).", "Start a new run.") from error
    return record
