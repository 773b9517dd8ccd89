"""The bodies of the open inference protocol v2: tensors as JSON, or as bytes behind the JSON (binary tensor data)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onelook.serving.networks import TensorSpec
from onelook.serving.service_error import ServiceError

HEADER_LENGTH = "Inference-Header-Content-Length"
_TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True)
class InferRequest:
    """feed: the tensors by name, in the runtime's types.  outputs: wanted names, and whether each is sent as bytes.

    timeout: seconds that the client allows; None where it does not say.
    """

    id: str
    feed: Mapping[str, np.ndarray]
    outputs: Mapping[str, bool]
    timeout: float | None = None


def read_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """The request in a body. header_length: the header's value, where bytes follow the JSON. ServiceError 400."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 15 or int(header_length) > len(body):
            raise _bad(f"{HEADER_LENGTH} is '{header_length[:40]}', and the body has {len(body)} bytes.")
        length = int(header_length)
    try:
        document: Any = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise _bad("The request is not JSON.") from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise _bad("The request has no list of 'inputs'.")
    parameters = _parameters(document)
    feed = _feed(document["inputs"], memoryview(body)[length:], {spec.name: spec for spec in inputs})
    timeout = parameters.get("timeout")
    return InferRequest(
        id=str(document.get("id", ""))[:200],
        feed=feed,
        outputs=_outputs(document.get("outputs"), parameters.get("binary_data_output") is True, outputs),
        timeout=timeout / 1e6 if isinstance(timeout, int) and 0 < timeout < 1 << 40 else None,
    )


def write_response(
    request: InferRequest, values: Sequence[np.ndarray], model: str, version: str
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it."""
    described, blobs = [], []
    for (name, binary), value in zip(request.outputs.items(), values):
        dtype = value.dtype.newbyteorder("<")
        entry: dict[str, Any] = {"name": name, "datatype": _NAMES[dtype], "shape": list(value.shape)}
        if binary:
            blobs.append(np.ascontiguousarray(value, dtype).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            if not np.isfinite(value).all():
                raise ServiceError(
                    422, "not_finite", f"'{name}' has values that JSON cannot hold.", "Ask for binary data."
                )
            entry["data"] = value.ravel().tolist()
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    text = json.dumps(answer).encode()
    return b"".join((text, *blobs)), len(text) if blobs else None


def _feed(entries: Sequence[Any], rest: memoryview, known: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    feed: dict[str, np.ndarray] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in known or name in feed:
            raise _bad(f"There is an input {str(name)[:80]!r}; the model has: {', '.join(known)}.")
        spec, shape = known[name], _shape(entry, name)
        if entry.get("datatype") != spec.datatype:
            raise _bad(f"The input '{name}' is {str(entry.get('datatype'))[:20]}; the model takes {spec.datatype}.")
        _check_shape(spec, shape)
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            value = _from_json(entry.get("data"), spec, shape)
        else:
            wanted = prod(shape) * _TYPES[spec.datatype].itemsize
            if size != wanted or wanted > len(rest):
                raise _bad(f"The input '{name}' of shape {list(shape)} has {wanted} bytes, not {str(size)[:20]}.")
            # A copy is aligned as any array is: on other addresses a runtime may add in another order.
            value = np.frombuffer(rest[:wanted], _TYPES[spec.datatype]).reshape(shape).copy()
            rest = rest[wanted:]
        feed[name] = value.reshape(()) if spec.optional else value
    if len(rest):
        raise _bad(f"{len(rest)} bytes at the end belong to no input.")
    if missing := [spec.name for spec in known.values() if not spec.optional and spec.name not in feed]:
        raise _bad(f"The input '{missing[0]}' is missing.")
    return feed


def _from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    try:
        value = np.asarray(data, np.float64).ravel()
    except (TypeError, ValueError):
        raise _bad(f"The data of the input '{spec.name}' are no numbers.") from None
    if value.size != prod(shape):
        raise _bad(f"The input '{spec.name}' of shape {list(shape)} has {value.size} numbers.")
    return value.astype(_TYPES[spec.datatype]).reshape(shape)


def _shape(entry: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = entry.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > 8
        or not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 31 for side in shape)
    ):
        raise _bad(f"The shape of the input '{name}' is no list of whole numbers.")
    return tuple(shape)


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if spec.optional:
        fits = prod(shape) == 1
    else:
        fits = len(shape) == len(spec.shape) and all(
            side == wanted or (wanted == -1 and side > 0) for side, wanted in zip(shape, spec.shape)
        )
    if not fits:
        raise _bad(f"The input '{spec.name}' has the shape {list(shape)}; the model takes {list(spec.shape)}.")


def _outputs(entries: Any, binary: bool, known: Sequence[TensorSpec]) -> dict[str, bool]:
    names = [spec.name for spec in known]
    if not entries:
        return dict.fromkeys(names, binary)
    if not isinstance(entries, list):
        raise _bad("'outputs' is no list.")
    wanted: dict[str, bool] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in names:
            raise _bad(f"There is no output {str(name)[:80]!r}; the model has: {', '.join(names)}.")
        parameters = _parameters(entry)
        if parameters.get("classification"):
            raise _bad("The classification extension is not served: boxes are not classes.")
        wanted[name] = parameters.get("binary_data", binary) is True
    return wanted


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _bad("'parameters' is no object.")
    if "shared_memory_region" in parameters:
        raise _bad("Shared memory is not served.")
    return parameters


def _bad(message: str) -> ServiceError:
    return ServiceError(400, "bad_request", message, "See the model's metadata.")
