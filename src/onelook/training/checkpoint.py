"""Saves and loads the checkpoint of a training (`state.pt`): tensors and JSON, written atomically, never unpickled.

`state.pt` is in the safetensors format. The names of tensors begin with their owner: "model/...", "average/..." (EMA),
"align/..." (align module of distillation), "memory/..." (buffers that layers keep between steps),
"optimizer/<parameter>/<buffer>", "statistics" (of every process where there are several). Numbers, a checksum of the
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

from onelook import run_files
from onelook.errors import UserError, reason_of
from onelook.files import replacing
from onelook.training.processes import restore_statistics
from onelook.training.train_state import TrainState
from onelook.weights.safetensors_file import save_tensors

FORMAT = "onelook-state-2"


def save_checkpoint(
    path: Path, train_state: TrainState, notes: dict[str, Any], statistics: Tensor | None = None
) -> None:
    """Writes a checkpoint with the caller's notes (any JSON), atomically.

    statistics: of every process, from `gather_statistics`.
    """
    numbers = {
        "steps": train_state.steps,
        "average_updates": train_state.ema.updates if train_state.ema is not None else None,
        "scaler": train_state.scaler.state_dict() if train_state.scaler is not None else None,
    }
    named = _tensors(train_state) | ({} if statistics is None else {"statistics": statistics})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    numbers["checksum"] = _checksum(tensors)
    metadata = {"format": FORMAT, "numbers": json.dumps(numbers), "notes": json.dumps(notes)}
    try:
        with replacing(path) as temporary:
            save_tensors(tensors, temporary, metadata)
    except OSError as error:
        raise UserError(
            f"'{path}' could not be written: {reason_of(error)}.",
            "The checkpoint before it, if there was one, is intact: free space on the disk or correct its permissions, "
            "then resume.",
        ) from error


def read_notes(path: Path) -> dict[str, Any]:
    """The caller's notes in a checkpoint; UserError if the file is none."""
    return _open(path)[1]


def load_checkpoint(path: Path, train_state: TrainState) -> dict[str, Any]:
    """Loads a checkpoint into `train_state` and returns its notes. Raises UserError if the two do not fit."""
    numbers, notes = _open(path)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    if numbers.get("checksum") != _checksum(found):
        raise _damaged(path, "its checksum is wrong")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "align": {}, "average": {}, "memory": {}, "optimizer": {}}
    for name, tensor in found.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    try:
        train_state.detector.load_state_dict(parts["model"])
        if train_state.align is not None:
            train_state.align.load_state_dict(parts["align"])
        if train_state.ema is not None:
            train_state.ema.load_state_dict(parts["average"], int(numbers["average_updates"]))
        for name, buffer in train_state.non_persistent_buffers.items():
            buffer.copy_(parts["memory"][name])
        if "statistics" in found:
            restore_statistics(found["statistics"], train_state.process_group, *train_state.models)
        if train_state.scaler is not None and numbers["scaler"] is not None:
            train_state.scaler.load_state_dict(numbers["scaler"])
    except (RuntimeError, KeyError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        first = (
            lines[min(1, len(lines) - 1)].strip().rstrip(".")
        )  # PyTorch's first line is a heading, if there are more
        raise UserError(f"'{path}' is the checkpoint of another model ({first}).", _REMEDY) from error
    _load_optimizer(train_state, parts["optimizer"], path)
    train_state.steps = int(numbers["steps"])
    return notes


_REMEDY = (
    "Resume with the data set (its classes are the model's outputs) and the recipe that the run was started with, or "
    "start a new run in another folder."
)


def latest_weights_hint(folder: Path) -> str:
    """Part of a remedy: how to start another run with the last weights of a run; "" where there are none yet."""
    last = folder / run_files.LAST_WEIGHTS
    return f"; it can start with the weights so far: {shlex.quote(str(last))}" if last.is_file() else ""


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')}")
        return json.loads(metadata["numbers"]), json.loads(metadata["notes"])
    except FileNotFoundError:
        raise UserError(f"There is no '{path}' to resume from.", "Start the training without resume.") from None
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    remedy = f"Start another run in another folder (out){latest_weights_hint(path.parent)}."
    return UserError(f"'{path}' is damaged or no checkpoint ({why}).", remedy)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all tensors' bytes, in the order of their names."""
    found = 0
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _tensors(train_state: TrainState) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in train_state.detector.state_dict().items()}
    if train_state.align is not None:
        tensors |= {f"align/{name}": tensor for name, tensor in train_state.align.state_dict().items()}
    if train_state.ema is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in train_state.ema.state_dict().items()}
    tensors |= {f"memory/{name}": tensor for name, tensor in train_state.non_persistent_buffers.items()}
    for name, parameter in _parameters(train_state).items():
        for key, value in train_state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def _parameters(train_state: TrainState) -> dict[str, nn.Parameter]:
    """All parameters of the optimizer by unique names: no part of a detector is called "align"."""
    parameters = dict(train_state.detector.named_parameters())
    if train_state.align is not None:
        parameters |= train_state.align.named_parameters(prefix="align")
    return parameters


def _load_optimizer(train_state: TrainState, saved: dict[str, Tensor], path: Path) -> None:
    parameters = _parameters(train_state)
    for name, value in saved.items():
        owner, _, key = name.rpartition("/")
        parameter = parameters.get(owner)
        if parameter is None or not (value.ndim == 0 or value.shape == parameter.shape):
            raise UserError(f"'{path}' holds '{key}' of '{owner}', which this model does not have.", _REMEDY)
        # In the memory layout of the parameter, as the optimizer creates it; step counts on the device it expects.
        like = torch.empty_like(parameter) if value.ndim else value.to(_step_device(train_state, parameter))
        train_state.optimizer.state[parameter][key] = like.copy_(value)


def _step_device(train_state: TrainState, parameter: Tensor) -> torch.device:
    return parameter.device if train_state.optimizer.defaults.get("fused") else torch.device("cpu")
