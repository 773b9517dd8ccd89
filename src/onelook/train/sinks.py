"""Where the numbers of a training go besides its own `metrics.csv`.

A sink is a convenience: one that fails says so once and is left out from then on; training goes on.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onelook.errors import UserError, missing_package, nearest
from onelook.train.files import write_text


class Sink(Protocol):
    """Takes rows of numbers."""

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """The numbers of an epoch (1-based)."""
        ...

    def close(self) -> None: ...


class CsvSink:
    """`metrics.csv`: one row an epoch, always the whole file at once. Columns may grow; missing values are empty.

    Rows of epochs that a resumed run repeats are replaced.
    """

    def __init__(self, path: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path = path
        self.rows = [dict(row) for row in rows]

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        self.rows = [old for old in self.rows if int(old["epoch"]) < epoch] + [{"epoch": epoch, **row}]
        columns = list(dict.fromkeys(name for old in self.rows for name in old))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def close(self) -> None:
        pass


class TensorBoardSink:
    """TensorBoard events in the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", "tensorboard", "Logging to TensorBoard") from error
        self.writer: Any = SummaryWriter(str(folder))

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MlflowSink:
    """A run of MLflow, where its environment variables say; where they do not, `mlruns` in the run's folder.

    Left to itself, MLflow 3 writes a database into the working directory, for which `mlflow-skinny` has no driver; the
    files it can write it only writes where that is allowed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing_package("mlflow-skinny", "mlflow", "Logging to MLflow") from error
        self.mlflow: Any = mlflow
        if not mlflow.is_tracking_uri_set():
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((folder.absolute() / "mlruns").as_uri())
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(dict(settings), "recipe.json")

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        # "(" and the like are refused in metric names.
        self.mlflow.log_metrics({name.replace("/", "_"): float(value) for name, value in row.items()}, step=epoch)

    def close(self) -> None:
        self.mlflow.end_run()


class WandbSink:
    """A run of Weights & Biases, where its environment variables say."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_package("wandb", "wandb", "Logging to Weights & Biases") from error
        self.run: Any = wandb.init(project="onelook", name=folder.name, dir=str(folder), config=dict(settings))

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=epoch)

    def close(self) -> None:
        self.run.finish()


SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MlflowSink,
    "wandb": WandbSink,
}


class Sinks:
    """Several sinks as one that never fails. `warn` is told of each one that is given up."""

    def __init__(self, sinks: Mapping[str, Sink], warn: Callable[[str], None]) -> None:
        self._sinks = dict(sinks)
        self._warn = warn

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """Gives the row to every sink that still works."""
        self._each("write", lambda sink: sink.write(epoch, row))

    def close(self) -> None:
        """Closes every sink that still works."""
        self._each("close", lambda sink: sink.close())

    def _each(self, what: str, do: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                do(sink)
            except Exception as error:  # whatever a logging service does, training goes on
                self._warn(f"{name}: {what} failed ({type(error).__name__}: {error}); nothing more is sent there.")
                del self._sinks[name]


def open_sinks(
    names: Sequence[str], csv_sink: CsvSink, folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
) -> Sinks:
    """The run's CSV and the named services.

    UserError for an unknown name and for a service whose package is missing: those are mistakes of the command line,
    made before training starts. A service that cannot be reached is only warned of.
    """
    sinks: dict[str, Sink] = {"metrics.csv": csv_sink}
    for name in names:
        if name not in SINKS:
            raise UserError(f"There is no sink '{name}'.{nearest(name, SINKS)}", f"Known: {', '.join(SINKS)}.")
        try:
            sinks[name] = SINKS[name](folder, settings)
        except UserError:
            raise
        except Exception as error:  # no network, no key, a full disk: not a reason to leave the training undone
            warn(f"{name} could not be opened ({type(error).__name__}: {error}); nothing is sent there.")
    return Sinks(sinks, warn)
