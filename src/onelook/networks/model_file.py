"""Files that name a model which is in no table: an architecture, and the variant whose training it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onelook.config import from_plain, read_yaml, read_yaml_lines, to_plain, write_yaml
from onelook.errors import ConfigError
from onelook.networks.detector import Architecture

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class ModelFile:
    """A named architecture.

    like: name of the variant of the same family whose recipe, classes and frame it has.
    """

    name: str
    like: str
    architecture: Architecture


def is_model_file(name: object) -> bool:
    """Whether this is the path of a model file; other files, and files that cannot be read, are none."""
    path = Path(str(name))
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    try:
        found = read_yaml(path)
    except ConfigError:
        return False
    return isinstance(found, dict) and found.get("type") == ModelFile.__name__


def read_model_file(path: str | Path, types: Mapping[str, type]) -> ModelFile:
    """Reads a model file. Raises ConfigError with file and line.

    types: the types that an architecture may contain, by name; nothing else is made.
    """
    data, lines = read_yaml_lines(path)
    if not isinstance(data, dict) or data.get("type") != ModelFile.__name__:
        raise ConfigError(
            f"{path}: is no model: it does not begin with 'type: {ModelFile.__name__}'.",
            "Give a file that `onelook search` wrote, or the name of a model (see `onelook models`).",
        )
    found = from_plain(data, {**types, ModelFile.__name__: ModelFile}, str(path), lines)
    if not isinstance(found.architecture, Architecture):
        raise ConfigError(f"{path}: the architecture is a {type(found.architecture).__name__}, not a network.")
    assert isinstance(found, ModelFile)
    return found


def write_model_file(path: str | Path, model: ModelFile) -> Path:
    """Writes a model file, whole or not at all; returns its path."""
    return write_yaml(path, to_plain(model))
