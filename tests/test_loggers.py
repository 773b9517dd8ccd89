"""The services that a training can log to, where their packages are installed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from onelook.errors import MissingDependencyError, UserError
from onelook.training.loggers import LOGGERS, check_loggers

ROWS = {1: {"loss/total": 2.5, "AP": 0.25}, 2: {"loss/total": 1.5, "AP": 0.5}}


def log(name, folder):
    logger = LOGGERS[name](folder, {"model": {"type": "Yolox"}, "epochs": 2})
    for epoch, row in ROWS.items():
        logger.write(epoch, row)
    logger.image("first batch", np.full((8, 12, 3), 200, np.uint8), 0)
    logger.close()


@pytest.mark.filterwarnings("ignore")  # of the packages themselves
def test_mlflow_writes_into_the_run_folder_without_a_tracking_address(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(None)
    log("mlflow", tmp_path / "run")
    (loss,) = (tmp_path / "run" / "mlruns").glob("*/*/metrics/loss_total")
    assert [float(line.split()[1]) for line in loss.read_text().splitlines()] == [2.5, 1.5]
    (recipe,) = (tmp_path / "run" / "mlruns").glob("*/*/artifacts/recipe.json")
    assert json.loads(recipe.read_text())["epochs"] == 2


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_writes_events_into_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("AP")] == [(1, 0.25), (2, 0.5)]
    assert [(event.step, event.height, event.width) for event in events.Images("first batch")] == [(0, 8, 12)]
    (recipe,) = events.Tensors("recipe/text_summary")
    assert b'"epochs": 2' in recipe.tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")
def test_wandb_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log("wandb", tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_a_missing_package_is_said_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr("onelook.training.loggers.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    with pytest.raises(MissingDependencyError, match="Logging to TensorBoard needs the package 'tensorboard'"):
        check_loggers(["tensorboard"])
    with pytest.raises(UserError, match="Did you mean 'wandb'"):
        check_loggers(["wanbd"])
