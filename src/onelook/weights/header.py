"""The description that our weights files carry: one JSON document in the metadata of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from onelook.weights.problems import UnreadableFile, printable

HEADER_KEY = "onelook"
FORMAT = 1


@dataclass(frozen=True)
class Header:
    """The recorded facts of a weights file.

    model: name of the variant it is (of any class count), else the architecture's type.  architecture: its plain form
    (`config.to_plain`), from which the network is rebuilt.  class_names: empty where none are known.  size: (height,
    width) of the input that the weights were trained for.  preprocessing: what comes in ("rgb", 0..255) and the frame
    in plain form.  form: "training" has batch norm, "deploy" is folded.  recipe, metrics: of the training, plain.
    trained: when and on what: "date" (UTC, ISO 8601), "epoch", "training" and "validation" (name and format of the data
    set, split, number of images, objects of each class, digest of names, sizes and boxes), "initial" (the files that
    the training started from, newest first), "teacher"; of the best weights "per_class" (AP and AP50),
    "best_confidence" and "best_f1"; None where it is not known.
    """

    model: str
    architecture: Mapping[str, Any]
    class_names: tuple[str, ...]
    size: tuple[int, int]
    preprocessing: Mapping[str, Any]
    form: Literal["training", "deploy"]
    version: str
    recipe: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    format: int = FORMAT
    trained: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """One JSON object with exactly these fields."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Header:
        """The header in `text`. Raises UnreadableFile if it is damaged or newer than this version."""
        data = parse_json(text)
        if not isinstance(data, dict):
            raise UnreadableFile("its description is not a JSON object")
        if isinstance(data.get("format"), int) and data["format"] > FORMAT:
            reason = f"it has the format {data['format']}; this version reads up to {FORMAT}"
            raise UnreadableFile(reason, "Update Onelook.")
        wanted = [one.name for one in fields(Header)]
        data.setdefault("trained", None)  # files of the first version have none
        if missing := [name for name in wanted if name not in data]:
            raise UnreadableFile(f"'{missing[0]}' is missing in its description")
        for name, (accepts, expected) in _CHECKS.items():
            if not accepts(data[name]):
                raise UnreadableFile(f"'{name}' of its description is not {expected}")
        known = {name: data[name] for name in wanted}
        known["class_names"], known["size"] = tuple(data["class_names"]), tuple(data["size"])
        return Header(**known)


def parse_json(text: str) -> Any:
    """`json.loads` that refuses keys given twice. Raises UnreadableFile."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile("its header is damaged: it is not JSON") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise UnreadableFile(f"its header names '{printable(name)}' twice")
        values[name] = value
    return values


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number that may count sides, classes or versions."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_CHECKS = {
    "format": (is_count, "a positive whole number"),
    "model": (lambda value: isinstance(value, str), "text"),
    "architecture": (lambda value: isinstance(value, dict), "an object"),
    "class_names": (_is_names, "a list of class names"),
    "size": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_count, value)),
        "[height, width]",
    ),
    "preprocessing": (lambda value: isinstance(value, dict), "an object"),
    "form": (lambda value: value in ("training", "deploy"), "'training' or 'deploy'"),
    "version": (lambda value: isinstance(value, str), "text"),
    "recipe": (lambda value: value is None or isinstance(value, dict), "null or an object"),
    "metrics": (lambda value: isinstance(value, dict), "an object"),
    "trained": (lambda value: value is None or isinstance(value, dict), "null or an object"),
}
