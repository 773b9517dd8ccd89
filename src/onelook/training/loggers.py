"""Loggers of the metrics of a training: always `metrics.csv`, and TensorBoard, MLflow and W&B where chosen.

A service that fails is warned of once and not used again. Rows of `metrics.csv` that could not be written are written
with the next row, or when the run ends. Training goes on either way.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from onelook.errors import UserError, did_you_mean, missing_package, reason_of
from onelook.files import write_text


class MetricLogger(Protocol):
    """Writes the metrics of each epoch somewhere."""

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """Writes the metrics of an epoch (1-based)."""
        ...

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Writes an image, (H, W, 3) uint8 RGB, of an epoch (0 is before the first)."""
        ...

    def close(self) -> None: ...


class CsvLogger:
    """Writes `metrics.csv`: one row an epoch, the whole file each time. Columns may grow; missing values are empty.

    Rows of epochs that a resumed run repeats are replaced. A row that could not be written is written by the next
    `write` or `close`.
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
    """Writes TensorBoard events into the run's folder."""

    package: ClassVar = ("tensorboard", "tensorboard", "Logging to TensorBoard")  # module, package, and what needs it

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package(*self.package[1:]) from error
        self.writer: Any = SummaryWriter(str(folder))
        self.writer.add_text("recipe", f"```json\n{json.dumps(dict(settings), indent=1)}\n```", 0)

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self.writer.add_image(name, pixels, epoch, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MlflowLogger:
    """Logs to MLflow, at the address in its environment variables; without them, to `mlruns` in the run's folder.

    The default of MLflow 3 is a database in the working directory, for which `mlflow-skinny` has no driver; its file
    store must be enabled with MLFLOW_ALLOW_FILE_STORE.
    """

    package: ClassVar = ("mlflow", "mlflow-skinny", "Logging to MLflow")  # module, package, and what needs it

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing_package(*self.package[1:]) from error
        self.mlflow: Any = mlflow
        if not mlflow.is_tracking_uri_set():
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((folder.absolute() / "mlruns").as_uri())
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(dict(settings), "recipe.json")

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        # MLflow rejects metric names with "(" and similar characters.
        self.mlflow.log_metrics({name.replace("/", "_"): float(value) for name, value in row.items()}, step=epoch)

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self.mlflow.log_image(pixels, f"images/{name.replace(' ', '_')}_{epoch:04}.png")

    def close(self) -> None:
        self.mlflow.end_run()


class WandbLogger:
    """Logs to Weights & Biases, as its environment variables set it up."""

    package: ClassVar = ("wandb", "wandb", "Logging to Weights & Biases")  # module, package, and what needs it

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_package(*self.package[1:]) from error
        self.run: Any = wandb.init(project="onelook", name=folder.name, dir=str(folder), config=dict(settings))

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=epoch)

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels)}, step=epoch)

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], MetricLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}


class LoggerCollection:
    """A CSV logger (or None) and several services as one logger that raises no errors.

    `warn` is called for each service that fails and is dropped, and each time that the CSV cannot be written.
    """

    def __init__(
        self, csv_logger: CsvLogger | None, services: Mapping[str, MetricLogger], warn: Callable[[str], None]
    ) -> None:
        self._csv = csv_logger
        self._services = dict(services)
        self._warn = warn

    def write(self, epoch: int, row: Mapping[str, float | None]) -> None:
        """Gives the row to the CSV and to every service that still works; None is a number that nothing defines."""
        self._keep(
            lambda csv_logger: csv_logger.write(epoch, row), "Its rows are kept, and written with the next epoch's."
        )
        known = {name: value for name, value in row.items() if value is not None}
        self._each("write", lambda logger: logger.write(epoch, known))

    @property
    def takes_images(self) -> bool:
        """Whether any service is left to give images to."""
        return bool(self._services)

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Gives an image to every service that still works."""
        self._each("image", lambda logger: logger.image(name, pixels, epoch))

    def close(self) -> None:
        """Closes the CSV and every service that still works."""
        self._keep(
            lambda csv_logger: csv_logger.close(), "The checkpoint has its rows: a resumed training writes them."
        )
        self._each("close", lambda logger: logger.close())

    def _keep(self, do: Callable[[CsvLogger], None], otherwise: str) -> None:
        if self._csv is None:
            return
        try:
            do(self._csv)
        except OSError as error:
            self._warn(f"'{self._csv.path}' could not be written ({reason_of(error)}). {otherwise}")

    def _each(self, what: str, do: Callable[[MetricLogger], None]) -> None:
        for name, logger in list(self._services.items()):
            try:
                do(logger)
            except Exception as error:  # a logging service may raise anything; training goes on
                self._warn(f"{name}: {what} failed ({type(error).__name__}: {error}); nothing more is sent there.")
                del self._services[name]


def check_loggers(names: Sequence[str]) -> None:
    """UserError for an unknown name and for a service whose package is missing, before anything is opened or made."""
    for name in names:
        if name not in LOGGERS:
            raise UserError(
                f"There is no logger '{name}'.{did_you_mean(name, LOGGERS)}", f"Known: {', '.join(LOGGERS)}."
            )
        needed = getattr(LOGGERS[name], "package", None)
        if needed is not None and needed[0] not in sys.modules and find_spec(needed[0]) is None:
            raise missing_package(needed[1], needed[2])


def open_loggers(
    names: Sequence[str], csv_logger: CsvLogger, folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
) -> LoggerCollection:
    """Opens the CSV logger and the named services.

    UserError for an unknown name and for a service whose package is missing, before training starts. A service that
    cannot be reached is only warned of.
    """
    services: dict[str, MetricLogger] = {}
    check_loggers(names)
    for name in names:
        try:
            services[name] = LOGGERS[name](folder, settings)
        except UserError:
            raise
        except Exception as error:  # no network, no key, a full disk: none of them should stop a training
            warn(f"{name} could not be opened ({type(error).__name__}: {error}); nothing is sent there.")
    return LoggerCollection(csv_logger, services, warn)
