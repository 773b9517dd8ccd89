"""What resuming needs, in one file: tensors and JSON, written whole or not at all, and never unpickled.

`state.pt` is in the safetensors format. Tensors are named after what they belong to ("model/...", "average/...",
"align/..." of a training with a teacher, "memory/..." of layers that remember earlier steps,
"optimizer/<parameter>/<buffer>", "statistics" of every process where there are several); numbers, a checksum of the
tensors and the caller's notes are JSON in its header.
"""

from __future__ import annotations

import json
import shlex
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from onelook.errors import UserError
from onelook.training.files import replacing
from onelook.training.train_state import TrainState
from onelook.training.processes import restore_statistics
from onelook.weights.safetensors_file import save_tensors

FORMAT = "onelook-state-2"


def save_checkpoint(path: Path, learner: TrainState, notes: dict[str, Any], statistics: Tensor | None = None) -> None:
    """Writes the learner, and the caller's JSON-able notes, atomically.

    statistics: of every process, as `gather_statistics` gives them.
    """
    numbers = {
        "steps": learner.steps,
        "average_updates": learner.average.updates if learner.average is not None else None,
        "scaler": learner.scaler.state_dict() if learner.scaler is not None else None,
    }
    named = _tensors(learner) | ({} if statistics is None else {"statistics": statistics})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    numbers["checksum"] = _checksum(tensors)
    metadata = {"format": FORMAT, "numbers": json.dumps(numbers), "notes": json.dumps(notes)}
    try:
        with replacing(path) as temporary:
            save_tensors(tensors, temporary, metadata)
    except OSError as error:
        raise UserError(
            f"'{path}' could not be written: {error.strerror or error}.",
            "The state before is whole, if there was one: make room on the disk, or mend the place, and go on with "
            "--resume.",
        ) from error


def read_notes(path: Path) -> dict[str, Any]:
    """The caller's notes of a state file; UserError if it is none."""
    return _open(path)[1]


def load_checkpoint(path: Path, learner: TrainState) -> dict[str, Any]:
    """Puts a learner where a state file left off, in place; returns the notes. UserError where they do not fit."""
    numbers, notes = _open(path)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    if numbers.get("checksum") != _checksum(found):
        raise _damaged(path, "its checksum does not agree")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "align": {}, "average": {}, "memory": {}, "optimizer": {}}
    for name, tensor in found.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    try:
        learner.detector.load_state_dict(parts["model"])
        if learner.align is not None:
            learner.align.load_state_dict(parts["align"])
        if learner.average is not None:
            learner.average.load_state_dict(parts["average"], int(numbers["average_updates"]))
        for name, buffer in learner.memory.items():
            buffer.copy_(parts["memory"][name])
        if "statistics" in found:
            restore_statistics(found["statistics"], learner.world, *learner.models)
        if learner.scaler is not None and numbers["scaler"] is not None:
            learner.scaler.load_state_dict(numbers["scaler"])
    except (RuntimeError, KeyError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        first = (
            lines[min(1, len(lines) - 1)].strip().rstrip(".")
        )  # PyTorch's first line is a heading, if there are more
        raise UserError(f"'{path}' is the state of another model ({first}).", _REMEDY) from error
    _load_optimizer(learner, parts["optimizer"], path)
    learner.steps = int(numbers["steps"])
    return notes


_REMEDY = (
    "Resume with the data set, whose classes are the model's outputs, and the recipe that the run was started with, or "
    "start a new run in another folder."
)


def latest_weights_hint(folder: Path) -> str:
    """How another run begins with the weights of the run in a folder; "" where it has not written any yet."""
    last = folder / "last.safetensors"
    return f"; it can begin with the weights so far: --weights {shlex.quote(str(last))}" if last.is_file() else ""


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')}")
        return json.loads(metadata["numbers"]), json.loads(metadata["notes"])
    except FileNotFoundError:
        raise UserError(f"There is no '{path}' to resume from.", "Start the training without --resume.") from None
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    remedy = f"Start another run with --out in another folder{latest_weights_hint(path.parent)}."
    return UserError(f"'{path}' is damaged or no training state ({why}).", remedy)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all tensors' bytes, in the order of their names."""
    found = 0
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _tensors(learner: TrainState) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in learner.detector.state_dict().items()}
    if learner.align is not None:
        tensors |= {f"align/{name}": tensor for name, tensor in learner.align.state_dict().items()}
    if learner.average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in learner.average.state_dict().items()}
    tensors |= {f"memory/{name}": tensor for name, tensor in learner.memory.items()}
    for name, parameter in _parameters(learner).items():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def _parameters(learner: TrainState) -> dict[str, nn.Parameter]:
    """All that the optimizer may hold, by a name of its own: no part of a detector is called "align"."""
    parameters = dict(learner.detector.named_parameters())
    if learner.align is not None:
        parameters |= learner.align.named_parameters(prefix="align")
    return parameters


def _load_optimizer(learner: TrainState, saved: dict[str, Tensor], path: Path) -> None:
    parameters = _parameters(learner)
    for name, value in saved.items():
        owner, _, key = name.rpartition("/")
        parameter = parameters.get(owner)
        if parameter is None or not (value.ndim == 0 or value.shape == parameter.shape):
            raise UserError(f"'{path}' holds '{key}' of '{owner}', which this model has not.", _REMEDY)
        # In the memory layout of the parameter, as the optimizer made it; step counts lie where optimizers want them.
        like = torch.empty_like(parameter) if value.ndim else value.to(_step_device(learner, parameter))
        learner.optimizer.state[parameter][key] = like.copy_(value)


def _step_device(learner: TrainState, parameter: Tensor) -> torch.device:
    return parameter.device if learner.optimizer.defaults.get("fused") else torch.device("cpu")
