"""How a training runs, beside its recipe: the flags that one which goes on need not be told again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from onelook.errors import UserError
from onelook.training.checkpoint import read_notes
from onelook.training.processes import ProcessGroup
from onelook.training.train_state import Precision, RuntimeOptions

Layout = Literal["channels-last", "contiguous"]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of `onelook train` that are neither the recipe nor the start; None and () where not given.

    cache, log: "none" takes back what a run began with.
    """

    device: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    workers: int | None = None
    cache: str | None = None
    precision: Precision | None = None
    layout: Layout | None = None
    compile: bool | None = None
    deterministic: bool | None = None
    log: tuple[str, ...] = ()

    def after(self, before: Mapping[str, Any]) -> Flags:
        """These flags, and where nothing is said, those that a run began with (as `to_dict` gave them)."""
        known = {field.name for field in fields(self)}
        unsaid = {name for name in known if getattr(self, name) in (None, ())}
        found = {name: value for name, value in before.items() if name in unsaid}
        return replace(self, **found | ({"log": tuple(found["log"])} if "log" in found else {}))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "log": list(self.log)}

    @property
    def loggers(self) -> tuple[str, ...]:
        """Where to log to as well."""
        return () if self.log == ("none",) else self.log

    @property
    def runtime(self) -> RuntimeOptions:
        """How this computer does the work."""
        channels_last = None if self.layout is None else self.layout == "channels-last"
        return RuntimeOptions(
            precision=self.precision,
            channels_last=channels_last,
            compile=bool(self.compile),
            deterministic=bool(self.deterministic),
        )


def flags_of_run(folder: Path) -> Mapping[str, Any]:
    """The flags that the run in a folder began with; none where there is no state yet. UserError if it is damaged."""
    state = folder / "state.pt"
    if not state.is_file():
        return {}
    found = read_notes(state).get("flags")
    if not isinstance(found, dict):
        raise UserError(f"'{state}' does not say how its run began.", "Start another run with --out in another folder.")
    return found


def again(data: str, folder: Path, process_group: ProcessGroup) -> str:
    """The command that goes on with a run."""
    rest = f"train {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"
    if process_group.size == 1:
        return f"onelook {rest}"
    if os.environ.get("LOCAL_WORLD_SIZE") == str(process_group.size):
        return f"torchrun --nproc-per-node {process_group.size} -m onelook {rest}"
    return f"torchrun as before on every node, with: -m onelook {rest}"
