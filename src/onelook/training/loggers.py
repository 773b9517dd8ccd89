"""Where the numbers of a training go: always `metrics.csv`, and services that are asked for.

A service is a convenience: one that fails says so once and is left out from then on. `metrics.csv` is not: what could
not be written is written with the next row, or in the end. Training goes on either way.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onelook.errors import UserError, missing_package, did_you_mean
from onelook.training.files import write_text


class MetricLogger(Protocol):
    """Takes rows of numbers."""

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """The numbers of an epoch (1-based)."""
        ...

    def close(self) -> None: ...


class CsvLogger:
    """`metrics.csv`: one row an epoch, always the whole file at once. Columns may grow; missing values are empty.

    Rows of epochs that a resumed run repeats are replaced. A row whose writing fails is not lost: the next `write` or
    `close` writes it as well.
    """

    def __init__(self, path: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path = path
        self.rows = [dict(row) for row in rows]
        self._waiting = bool(self.rows)  # the file of a resumed run may be older than its rows

    def write(self, epoch: int, row: Mapping[str, float | None]) -> None:
        self.rows = [old for old in self.rows if int(old["epoch"]) < epoch] + [{"epoch": epoch, **row}]
        self._waiting = True
        self._write()

    def close(self) -> None:
        if self._waiting:
            self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for old in self.rows for name in old))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
        self._waiting = False


class TensorBoardLogger:
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


class MlflowLogger:
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


class WandbLogger:
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


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], MetricLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}


class LoggerCollection:
    """A CSV (where there is one) and several services as one sink that never fails.

    `warn` is told of each service that is given up, and of each time that the CSV cannot be written.
    """

    def __init__(
        self, csv_sink: CsvLogger | None, services: Mapping[str, MetricLogger], warn: Callable[[str], None]
    ) -> None:
        self._csv = csv_sink
        self._services = dict(services)
        self._warn = warn

    def write(self, epoch: int, row: Mapping[str, float | None]) -> None:
        """Gives the row to the CSV and to every service that still works; None is a number that nothing defines."""
        self._keep(lambda csv_sink: csv_sink.write(epoch, row), "Its rows are kept, and written with the next epoch's.")
        known = {name: value for name, value in row.items() if value is not None}
        self._each("write", lambda sink: sink.write(epoch, known))

    def close(self) -> None:
        """Closes the CSV and every service that still works."""
        self._keep(lambda csv_sink: csv_sink.close(), "The state has its rows: --resume writes them.")
        self._each("close", lambda sink: sink.close())

    def _keep(self, do: Callable[[CsvLogger], None], otherwise: str) -> None:
        if self._csv is None:
            return
        try:
            do(self._csv)
        except OSError as error:
            self._warn(f"'{self._csv.path}' could not be written ({error.strerror or error}). {otherwise}")

    def _each(self, what: str, do: Callable[[MetricLogger], None]) -> None:
        for name, sink in list(self._services.items()):
            try:
                do(sink)
            except Exception as error:  # whatever a logging service does, training goes on
                self._warn(f"{name}: {what} failed ({type(error).__name__}: {error}); nothing more is sent there.")
                del self._services[name]


def open_loggers(
    names: Sequence[str], csv_sink: CsvLogger, folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
) -> LoggerCollection:
    """The run's CSV and the named services.

    UserError for an unknown name and for a service whose package is missing: those are mistakes of the command line,
    made before training starts. A service that cannot be reached is only warned of.
    """
    sinks: dict[str, MetricLogger] = {}
    for name in names:
        if name not in LOGGERS:
            raise UserError(f"There is no sink '{name}'.{did_you_mean(name, LOGGERS)}", f"Known: {', '.join(LOGGERS)}.")
        try:
            sinks[name] = LOGGERS[name](folder, settings)
        except UserError:
            raise
        except Exception as error:  # no network, no key, a full disk: not a reason to leave the training undone
            warn(f"{name} could not be opened ({type(error).__name__}: {error}); nothing is sent there.")
    return LoggerCollection(csv_sink, sinks, warn)
