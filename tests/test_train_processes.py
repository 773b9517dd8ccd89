"""Several processes train as one would with the same global batch."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from onelook.training.processes import SyncedBatchNorm, synchronise_batch_norm
from shared import needs_shared

HERE = Path(__file__).parent


def launch(folder: Path, processes: int, script: str = "two_processes.py", **environment: str) -> list[dict]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.pathsep.join(str(HERE.parent / part) for part in ("src", "tests", "benchmarks"))
    done = subprocess.run(
        [*start, str(HERE / script), str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"ACCUMULATE": "1"}, {"ACCUMULATE": "2"}, {"TEACHER": "features"}, {"TEACHER": "predictions"}], ids=str
)
def test_two_processes_train_like_one_with_the_same_batch(tmp_path, how):
    alone = launch(tmp_path, 1, **how)[0]
    both = launch(tmp_path, 2, **how)
    assert both[0]["curve"] == pytest.approx(alone["curve"], rel=1e-8)
    assert both[0]["weights"] == pytest.approx(alone["weights"], rel=1e-6, abs=2e-7)
    assert both[0] == both[1]


@pytest.mark.slow
def test_the_losses_of_a_run_are_those_of_all_processes(tmp_path):
    (alone,), both = launch(tmp_path, 1, RUN="1")[0], launch(tmp_path, 2, RUN="1")
    expected = {name: value for name, value in alone.items() if name.startswith("loss/")}
    for (row,) in both:  # a share alone differs by percents
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(("precision", "equal"), [("float64", 1e-10), ("float32", 1e-4)])
def test_two_processes_fine_tune_like_one_for_twenty_steps(tmp_path, precision, equal):
    alone, both = (launch(tmp_path, processes, FINE_TUNE=precision)[0]["curve"] for processes in (1, 2))
    assert len(both) == 20
    assert both == pytest.approx(alone, rel=equal)
    assert alone[-1] < 0.8 * alone[0]  # it learns


@pytest.mark.slow
def test_two_processes_resumed_inside_an_epoch_are_bit_equal(tmp_path):
    one, two = launch(tmp_path, 2, GO_ON="1")
    assert one == two == ["interrupted", 7, "finished", 12]
    whole, broken = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert not [name for name, tensor in whole.items() if not torch.equal(tensor, broken[name])]
    columns = [[row["loss/total"] for row in rows_of(tmp_path / name)] for name in ("whole", "broken")]
    assert columns[0] == columns[1]


@pytest.mark.slow
def test_a_nonfinite_loss_in_another_process_is_reported_by_the_main_one(tmp_path):
    main, other = launch(tmp_path, 2, BREAK_DOWN="1")
    assert main[0] == other[0] == "finished"
    logged = (tmp_path / "skip" / "train.log").read_text()
    assert "The loss of step 0 (epoch 1) is not finite: " in logged and "The step was skipped." in logged
    assert main[1].startswith("NonFiniteLossError: The loss of step 0 (epoch 1) is not finite: ")
    assert other[1].startswith("OtherProcessError: ")
    images = re.findall(r"pic-\d+", main[1])
    assert len(images) == 4  # the other process's share


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_synchronised_batch_norm_keeps_names_and_is_ordinary_with_one_process():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    images = torch.randn(2, 3, 5, 5)
    names = list(model.state_dict())
    expected = model(images)
    synchronise_batch_norm(model, torch.device("cpu"))
    assert type(model[1]) is SyncedBatchNorm and list(model.state_dict()) == names
    torch.testing.assert_close(model(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_processes_of_a_computer_share_one_cache(tmp_path, cache):
    """Each shows its own images in an epoch, and finds those of the other in the next one."""
    both = launch(tmp_path, 2, "cache_in_two_processes.py", CACHE=cache)
    assert both[0]["seen"] != both[1]["seen"]
    assert all(found["there"] == [0, 1, 2] and found["names"] == 0 for found in both)
    assert both[0]["file"] == both[1]["file"] and both[0]["budget"] == both[1]["budget"] == 1 << 20
