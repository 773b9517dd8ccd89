"""The range of each feature tensor of an ONNX model that 8 bits are spread over: the one with the least error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Range = tuple[float, float]

VALUES = 512  # of each tensor of each image
LARGEST_SAMPLE = 1 << 14  # values of a tensor that ranges are compared on
_FRACTIONS = np.geomspace(0.05, 1.0, 16)  # of the least and of the greatest value, that are tried as ends


def least_error_ranges(
    model: ModelProto, names: Iterable[str], batches: Iterable[np.ndarray], *, symmetric: bool
) -> dict[str, Range]:
    """The range of each tensor of a model, on batches of images (B, 3, H, W): 0 is always inside.

    The error is the mean square of what rounding to 256 steps and clipping change behind the activation function that
    the tensor goes through, as large negative values do not matter before a SiLU. symmetric: 0 is in the middle.
    """
    wanted = sorted(set(names))
    generator = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    ends = dict.fromkeys(wanted, (0.0, 0.0))
    run = _tapped(model, wanted)
    for batch in batches:
        for name, values in run(batch).items():
            flat = values.ravel()
            samples[name].append(flat[generator.integers(flat.size, size=VALUES)])
            low, high = ends[name]
            ends[name] = min(low, float(np.min(flat))), max(high, float(np.max(flat)))
    users = _users(model)
    return {
        name: _least_error(np.concatenate(samples[name]), ends[name], _activation(users.get(name, [])), symmetric)
        for name in wanted
    }


def _tapped(model: ModelProto, names: list[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Runs a model in ONNX Runtime, and returns these tensors."""
    import onnx
    import onnxruntime

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    inner = [name for name in names if name != "images"]
    del changed.graph.output[:]
    changed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(changed.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = dict(zip(inner, session.run(inner, {"images": batch})))
        return found | ({"images": batch} if len(inner) < len(names) else {})

    return run


def _users(model: ModelProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _activation(users: list[NodeProto]) -> Callable[[np.ndarray], np.ndarray]:
    """The activation function that a tensor goes through, from the nodes that use it; else the identity."""
    kinds = sorted(node.op_type for node in users)
    if kinds == ["Mul", "Sigmoid"]:
        return lambda values: values / (1 + np.exp(-values.clip(-80, 80)))  # SiLU
    if kinds == ["Relu"]:
        return lambda values: np.maximum(values, 0)
    if kinds == ["LeakyRelu"]:
        slope = next((one.f for one in users[0].attribute if one.name == "alpha"), 0.01)
        return lambda values: np.where(values < 0, slope * values, values)
    return lambda values: values


def _least_error(
    values: np.ndarray, ends: Range, activation: Callable[[np.ndarray], np.ndarray], symmetric: bool
) -> Range:
    values = values[:: -(-values.size // LARGEST_SAMPLE)]
    expected = activation(values)
    best, least = ends, np.inf
    for low in np.unique(_FRACTIONS * ends[0]):  # one value where the end is 0
        for high in np.unique(_FRACTIONS * ends[1]):
            chosen = (-max(-low, high), max(-low, high)) if symmetric else (low, high)
            error = float(np.mean((activation(rounded(values, *chosen)) - expected) ** 2))
            if error < least:
                best, least = chosen, error
    return float(best[0]), float(best[1])


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values on 256 equal steps of a range, one of which is 0; beyond the range, the nearest of them."""
    step = max(high - low, 1e-12) / 255
    zero = round(-low / step)
    return ((values / step).round().clip(-zero, 255 - zero)) * step
