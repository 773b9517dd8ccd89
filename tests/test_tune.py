"""Tests of hyper-parameter search: it finds a known optimum, resumes after a kill, works on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import onelook
from onelook.api.trials import Launcher, create_study, record_result, run_study
from onelook.api.tune import TuneResult, finish, is_range
from onelook.cli.app import run
from onelook.cli.views.tune import show_tuning
from onelook.cluster.workers import ProcessCall
from onelook.config import get, read_yaml
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import ConfigError, UserError
from onelook.files import write_text
from onelook.recipes import default_recipe, read_recipe
from onelook.reporter import SilentReporter
from onelook.training.recipe import Recipe
from onelook.tuning.genes import Evolution, Gene, default_genes, read_gene
from onelook.tuning.study import Study
from training import changed

HERE = Path(__file__).parent
RATE, MOMENTUM, BOX = "optimizer.lr_per_image", "optimizer.momentum", "loss.terms.box.weight"
GENES = (Gene(RATE, 1e-6, 1e-2), Gene(MOMENTUM, 0.5, 0.99), Gene(BOX, 1.0, 9.0))
PLANTED = (1e-3, 0.9, 3.0)


def yolox() -> Recipe:
    return changed(augment=default_recipe("yolox-nano").augment)


def toy(values) -> float:
    """1 at the planted optimum, less the farther away (in places between the bounds)."""
    gaps = [gene.to_fraction(value) - gene.to_fraction(best) for gene, value, best in zip(GENES, values, PLANTED)]
    return float(np.exp(-4 * np.square(gaps).sum()))


def search(trials, seed, evolution=None):
    done, start = [], (1e-5, 0.6, 8.0)
    for number in range(trials):
        rng = np.random.default_rng((seed, number))
        values = (evolution or Evolution()).propose(GENES, start, done, rng, number)
        done.append((values, toy(values)))
    return done


def test_the_planted_optimum_is_found_better_than_by_chance():
    bests, chances = [], []
    for seed in range(5):
        done = search(60, seed)
        assert done[0][0] == (1e-5, 0.6, 8.0)  # the recipe itself comes first
        bests.append(max(fitness for _, fitness in done))
        chances.append(max(fitness for _, fitness in search(60, seed, Evolution(random_trials=60))))
    assert min(bests) > 0.97 and np.mean(bests) > np.mean(chances) + 0.005


@given(st.floats(1e-9, 1e3), st.floats(1.5, 1e4), st.floats(-1, 2), st.booleans())
def test_genes_stay_inside_their_bounds_and_fractions_are_inverted(low, factor, place, whole):
    bounds = (max(1.0, round(low)), round(low * factor) + 2.0) if whole else (low, low * factor)
    gene = Gene("x", *bounds, whole)
    value = gene.from_fraction(place)
    assert gene.low <= value <= gene.high
    if whole:
        assert isinstance(value, int)
    elif 0 <= place <= 1:
        assert gene.to_fraction(value) == pytest.approx(place, abs=1e-3)


def test_ranges_are_read_against_the_recipe():
    recipe = changed()
    assert read_gene("optimizer.momentum=0.8..0.98", recipe) == Gene(MOMENTUM, 0.8, 0.98)
    assert read_gene("epochs=1..9", recipe).whole
    assert is_range("a=1..2") and not is_range("a=1.2")
    for text, said in (("epochs=9..1", "below"), ("epochs=a..b", "no range"), ("model=1..2", "no number")):
        with pytest.raises(ConfigError, match=said):
            read_gene(text, recipe)
    with pytest.raises(ConfigError, match=r"Did you mean 'optimizer\.momentum'"):
        read_gene("optimizer.momentun=1..2", recipe)
    paths = {gene.path for gene in default_genes(recipe)}
    assert {RATE, MOMENTUM, BOX} <= paths and all(isinstance(get(recipe, path), float) for path in paths)


# A training that takes no time: its metric is the toy objective.
class Toy(Launcher):
    wait = 0.0

    def start(self, study, trial):
        from onelook.config import to_plain, write_yaml

        recipe = write_yaml(self.folder / f"{trial.name}.yaml", to_plain(study.recipe_of(trial)))
        # The objective is computed here: a process that imports torch would take seconds.
        values = tuple(study.settings(trial).values())
        code = (
            f"import json, time; time.sleep({self.wait}); "
            f"json.dump({{'best': {toy(values)}, 'reason': 'finished'}}, open({str(self.result(trial))!r}, 'w'))"
            if trial.number != 2
            else "raise SystemExit('RuntimeError: this one fails')"
        )
        assert recipe.is_file()
        with self.output(trial).open("ab") as output:
            return ProcessCall(subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=output))


def toy_search(folder: Path, trials: int, wait: float = 0.0) -> Study:
    """Starts or resumes a search with the toy objective."""
    Toy.wait = wait
    if (folder / "study.json").exists():
        study = Study.read(folder, read_recipe(folder / "base.yaml"), write_text)
    else:
        study = create_study(folder, yolox(), GENES, seed=3)
    run_study(study, trials, Toy("data", folder, {}), 1, SilentReporter())
    return study


def test_results_and_the_best_recipe_are_files_and_failures_are_rows(tmp_path):
    study = toy_search(tmp_path, 8)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows].count("failed") == 1 and rows[2]["status"] == "failed"
    assert study.trials[2].error == "RuntimeError: this one fails"
    best = max((row for row in rows if row["fitness"]), key=lambda row: float(row["fitness"]))
    recipe = read_recipe(tmp_path / "best.yaml")
    assert [get(recipe, gene.path) for gene in GENES] == [float(best[gene.path]) for gene in GENES]
    result = finish(study, interrupted=False)
    assert result.to_dict()["best"] == int(best["trial"])


def test_a_search_with_failed_trials_only_reports_the_cause(tmp_path):
    study = create_study(tmp_path, yolox(), GENES, seed=0)
    study.update_trial(study.start_trial(), status="failed", error="no memory")
    with pytest.raises(UserError, match="All 1 trials failed: no memory"):
        finish(study, interrupted=False)


def test_a_trial_with_an_undefined_metric_is_a_failure_with_a_message(tmp_path):
    study = create_study(tmp_path, yolox(), GENES, seed=0)
    launcher, trial = Launcher("data", tmp_path, {}), study.start_trial()
    launcher.result(trial).write_text('{"best": null, "reason": "finished"}')
    launcher.output(trial).write_text("Weights: somewhere")
    record_result(study, trial, launcher, 0, 1.0)
    with pytest.raises(UserError, match="All 1 trials failed: AP was never defined on the validation set"):
        finish(study, interrupted=False)


def test_a_search_by_an_undefined_metric_is_an_error(tmp_path, capsys):
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    search = ("tune", str(scenes), "--model", "yolox-nano", "--size", "64", "--device", "cpu", "metric=APl")
    assert run([*search, "--out", str(tmp_path / "search")]) == 1
    assert "no large objects (above 96x96 pixels): APl is undefined on it" in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_a_killed_search_resumes_with_the_same_trials(tmp_path):
    whole = toy_search(tmp_path / "whole", 7)
    broken = tmp_path / "broken"
    paths = os.pathsep.join(str(HERE.parent / part) for part in ("src", "tests", "benchmarks"))
    code = f"from pathlib import Path; from test_tune import toy_search; toy_search(Path({str(broken)!r}), 7, 0.4)"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (broken / "trial-003.yaml").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(json.loads((broken / "study.json").read_text())["trials"]) < 7
    again = toy_search(broken, 7)
    assert [trial.values for trial in again.trials] == [trial.values for trial in whole.trials]
    assert [trial.fitness for trial in again.trials] == [trial.fitness for trial in whole.trials]


def test_the_command_trains_in_parallel_and_its_best_recipe_trains(tmp_path, capsys):
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    out = tmp_path / "search"
    flags = ("--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", "1", "--workers", "0")
    settings = ("multiscale=none", "optimizer.momentum=0.8..0.95", "loss.terms.box.weight=1..10")
    search = ["tune", str(scenes), "--out", str(out), "--device", "cpu", "--trials", "2", "--parallel", "2"]
    assert run([*search, *flags, *settings]) == 0
    assert "The best recipe:" in capsys.readouterr().out
    recipe = read_yaml(out / "best.yaml")
    assert recipe["epochs"] == 1 and recipe["multiscale"] is None
    assert (out / "trial-000" / "best.safetensors").is_file() and (out / "trial-001" / "metrics.csv").is_file()
    assert read_recipe(out / "best.yaml").model.num_classes == len(Scenes().names)
    # A search that is over only shows its results again; one with settings is not gone on with.
    assert run([*search, "--resume"]) == 0
    for more, named in ((["epochs=2"], "epochs=2"), (["--epochs", "3", "--seed", "1"], "epochs, seed")):
        capsys.readouterr()
        assert run([*search, "--resume", *more]) == 2
        assert f"Leave away: {named};" in capsys.readouterr().err
    assert run([*search, *flags]) == 1 and "holds a search already" in capsys.readouterr().err


def test_a_search_is_resumed_with_its_first_flags(tmp_path, capsys, monkeypatch):
    scenes = write_synthetic(tmp_path / "my scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    out, seen = tmp_path / "search", []
    weights = str(onelook.save_weights(onelook.build("yolox-nano"), tmp_path / "w.safetensors"))

    def run_toys(study, trials, launcher, parallel, reporter):
        """Ends after the first trial, as if by Ctrl-C."""
        seen.append((trials, parallel, launcher.options, launcher.devices))
        study.update_trial(study.start_trial(), status="done", fitness=0.5)
        return True

    monkeypatch.setattr("onelook.api.tune.run_study", run_toys)
    search = ["tune", str(scenes), "--out", str(out)]
    flags = ["--trials", "3", "--parallel", "2", "--workers", "0", "--val-split", "val", "--device", "cpu,cpu"]
    assert run([*search, "--model", "yolox-nano", "--weights", weights, *flags]) == 130
    shown = capsys.readouterr().out
    assert f"To resume: onelook tune {shlex.quote(str(scenes))} --out {out} --resume" in shown
    assert run([*search, "--resume"]) == 130
    assert seen[0] == seen[1]
    trainings = {"weights": weights, "split": None, "validation": "val", "workers": 0}
    assert seen[0] == (3, 2, trainings, ["cpu", "cpu"])
    # What is given replaces what was, also for the time after.
    assert run([*search, "--resume", "--trials", "5", "--device", "cpu"]) == 130
    assert run([*search, "--resume"]) == 130
    assert seen[2] == seen[3] == (5, 2, trainings, ["cpu"])
    assert run([*search, "--resume", "--trials", "0"]) == 2


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_names_of_the_settings_are_shown_whole(width, tmp_path):
    names = ("optimizer.lr_per_image", "optimizer.lr_per_batch", "loss.terms.box.weight", "schedule.warmup_epochs")
    row = {"trial": 0, "status": "done", "fitness": 0.5, "seconds": 3.0, **dict.fromkeys(names, 0.25)}
    printed = io.StringIO()
    result = TuneResult(tmp_path, "AP", (row,), 0, False)
    show_tuning(result, Console(file=printed, width=width))
    lines = printed.getvalue().splitlines()
    table = lines[: next(number for number, line in enumerate(lines) if line.startswith("The best recipe"))]
    words = " ".join(table).split()
    assert all(part in words for name in names for part in name.replace(".", ". ").split())
    assert words.count("0.25") == 4 and max(map(len, table)) <= width and (words.count("trial") > 1) == (width < 80)


def test_by_default_a_search_has_thirty_trials_one_at_a_time(tmp_path, monkeypatch):
    seen = []
    create_study(tmp_path, yolox(), GENES, seed=0)
    file = tmp_path / "study.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "options"}))
    monkeypatch.setattr("onelook.api.tune.run_study", lambda study, *asked: seen.append(asked[:3:2]) or True)
    assert run(["tune", "data", "--out", str(tmp_path), "--resume", "--device", "cpu"]) == 130
    assert seen == [(30, 1)]


def test_a_trial_is_a_training_of_the_api_whose_mistakes_are_one_message(tmp_path):
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    study = create_study(tmp_path, yolox(), GENES, seed=0)
    trial = study.start_trial()
    launcher = Launcher(str(scenes), tmp_path, {"weights": str(tmp_path / "missing.pth"), "workers": 0}, ["cpu"])
    code = launcher.start(study, trial).result()
    record_result(study, trial, launcher, code, 1.0)
    assert code == 1 and study.trials[0].status == "failed" and "missing.pth' does not exist" in study.trials[0].error


def test_an_interrupted_trial_stays_unfinished(tmp_path):
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    study = create_study(tmp_path, yolox(), GENES, seed=0)
    trial = study.start_trial()
    launcher = Launcher(str(scenes), tmp_path, {"workers": 0}, ["cpu"])
    process = launcher.start(study, trial)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / trial.name / "train.log").exists():
        time.sleep(0.05)
    process.interrupt()
    code = process.result()
    record_result(study, trial, launcher, code, 1.0)
    assert study.unfinished() and code in (130, -signal.SIGTERM), launcher.output(trial).read_text()
