"""Options of a run that are not in its recipe (device, workers, cache). A resumed run keeps its saved options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from onelook import run_files
from onelook.devices import Layout, Precision
from onelook.errors import UsageError, UserError
from onelook.threads import check_threads
from onelook.training.budget import parse_budget
from onelook.training.checkpoint import read_notes
from onelook.training.train_state import RuntimeOptions

AugmentOn = Literal["cpu", "device"]  # where the images of a training are augmented


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options that a run saves for resuming and that are not in its recipe; None and () where not given.

    The fields are those of `onelook.train`. In a resumed run, "none" as cache or log removes what the run began with.
    """

    device: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    val_fraction: float | None = None
    workers: int | None = None
    cache: str | None = None
    augment_on: AugmentOn | None = None
    precision: Precision | None = None
    layout: Layout | None = None
    compile: bool | None = None
    deterministic: bool | None = None
    threads: int | None = None
    allow_size_mismatch: bool | None = None
    budget: str | None = None
    drop_suspicious: str | None = None
    log: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Here, not where the processes start: by then the run would have a folder.
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers is a number of processes, not {self.workers}.", "0 prepares images without any.")
        check_threads(self.threads)
        if self.budget is not None:
            parse_budget(self.budget)

    def after(self, before: Mapping[str, Any]) -> RunOptions:
        """Fills options that are not given with those that a run was started with (as `to_dict` returned them)."""
        known = {field.name for field in fields(self)}
        unsaid = {name for name in known if getattr(self, name) in (None, ())}
        found = {name: value for name, value in before.items() if name in unsaid}
        return replace(self, **found | ({"log": tuple(found["log"])} if "log" in found else {}))

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        return {**asdict(self), "log": list(self.log)}

    @property
    def loggers(self) -> tuple[str, ...]:
        """The services that the numbers are logged to as well."""
        return () if self.log == ("none",) else self.log

    @property
    def runtime(self) -> RuntimeOptions:
        """The options of the hardware: precision, memory layout, compilation."""
        channels_last = None if self.layout is None else self.layout == "channels-last"
        return RuntimeOptions(
            precision=self.precision,
            channels_last=channels_last,
            compile=bool(self.compile),
            deterministic=bool(self.deterministic),
        )


def options_of_run(folder: Path) -> Mapping[str, Any]:
    """The options that the run in a folder began with; {} where it has no state yet. UserError if it is damaged."""
    state = folder / run_files.CHECKPOINT
    if not state.is_file():
        return {}
    found = read_notes(state).get("flags")
    if not isinstance(found, dict):
        raise UserError(f"'{state}' does not hold how its run began.", "Start another run in another folder (out).")
    return found
