"""Reads a pickled `torch.nn.Module` as a state dict, class names and settings; its code is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onelook.weights.problems import UnreadableFile, printable
from onelook.weights.safe_globals import Placeholder
from onelook.weights.torch_file import StoredTensor

# Whose classes may appear in a file, as inert records: torch's own modules, and the packages in which the official
# repositories of pickled detectors keep theirs.
MODULE_PACKAGES = ("torch.nn.modules.", "models.", "utils.")
_DEEPEST = 64
_MOST_PARTS = 100_000  # modules, tensors, class names
_LONGEST_NAME = 256


@dataclass(frozen=True)
class PickledModule:
    """The content of a pickled network.

    tensors: parameters and persistent buffers by name, in the order of `state_dict()`.  class_names: by label, () where
    it has none.  settings: the plain values that it was configured with, unchecked.  kinds: the names of the classes
    of all modules in it.
    """

    tensors: dict[str, StoredTensor]
    class_names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()


def read_module(module: Placeholder) -> PickledModule:
    """The content of a pickled module. Raises UnreadableFile for what is no module, or nested without end."""
    tensors: dict[str, StoredTensor] = {}
    kinds = set()
    for count, (prefix, part) in enumerate(_walk(module, "", 0)):
        kinds.add(part.kind)
        tensors.update(_own_tensors(prefix, part))
        if max(count, len(tensors)) > _MOST_PARTS:
            raise UnreadableFile(f"its network has more than {_MOST_PARTS} parts")
    if not tensors:
        raise UnreadableFile(f"its '{printable(module.kind)}' has no tensors")
    settings = module.state.get("yaml")
    return PickledModule(
        tensors,
        _class_names(module.state.get("names")),
        settings if isinstance(settings, dict) else {},
        frozenset(kinds),
    )


def _walk(module: Placeholder, prefix: str, depth: int) -> Iterator[tuple[str, Placeholder]]:
    """The module and all below it, each with the prefix of its tensors."""
    if depth > _DEEPEST:
        raise UnreadableFile(f"its network is nested deeper than {_DEEPEST} levels")
    yield prefix, module
    for name, child in _table(module, "_modules").items():
        if child is not None:
            if not isinstance(child, Placeholder):
                raise UnreadableFile(f"its module '{printable(prefix + name)}' is a {type(child).__name__}")
            yield from _walk(child, f"{prefix}{name}.", depth + 1)


def _own_tensors(prefix: str, module: Placeholder) -> dict[str, StoredTensor]:
    passing = _set(module.state.get("_non_persistent_buffers_set"))
    found = {}
    for table in ("_parameters", "_buffers"):
        for name, tensor in _table(module, table).items():
            if tensor is None or (table == "_buffers" and name in passing):
                continue
            if not isinstance(tensor, StoredTensor):
                raise UnreadableFile(f"its tensor '{printable(prefix + name)}' is a {type(tensor).__name__}")
            found[f"{prefix}{name}"] = tensor
    return found


def _set(names: Any) -> set[Any]:
    """A set of names, which older pickle protocols write as the call of a class; older torch has none at all."""
    if isinstance(names, Placeholder) and len(names.arguments) == 1:
        (names,) = names.arguments
    return {name for name in names if isinstance(name, str)} if isinstance(names, set | list) else set()


def _table(module: Placeholder, name: str) -> dict[str, Any]:
    found = module.state.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(key, str) and len(key) <= _LONGEST_NAME for key in found):
        raise UnreadableFile(f"its '{printable(module.kind)}' is a damaged module")
    return found


def _class_names(names: Any) -> tuple[str, ...]:
    """Names as a list, or as a table by label; () for anything else."""
    if isinstance(names, dict) and names.keys() == set(range(len(names))):
        names = [names[label] for label in range(len(names))]
    if isinstance(names, list | tuple) and 0 < len(names) <= _MOST_PARTS:
        found = tuple(str(name) for name in names if isinstance(name, str | int))
        return found if len(found) == len(names) == len(set(found)) else ()
    return ()
