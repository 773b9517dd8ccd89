"""Tests of the search within a budget: Optuna's trials, early stops, resuming, and the comparison by other seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onelook.api.trials import Launcher, create_study, run_study
from onelook.api.tune import SearchPlan, TuneResult, tune
from onelook.api.tune_budget import Clock, Phase, search_and_compare
from onelook.cli.app import run
from onelook.config import get, to_plain, write_yaml
from onelook.errors import MissingDependencyError, UsageError, UserError
from onelook.files import write_text
from onelook.recipes import default_recipe, read_recipe
from onelook.reporter import SilentReporter
from onelook.training.duration import parse_duration
from onelook.training.recipe import Recipe
from onelook.tuning.genes import Gene
from onelook.tuning.study import Study, Trial
from onelook.tuning.verdict import Verdict, check_seeds, compare_seeds
from training import changed

RATE, MOMENTUM = "optimizer.lr_per_image", "optimizer.momentum"
GENES = (Gene(RATE, 1e-6, 1e-2), Gene(MOMENTUM, 0.5, 0.99))
EPOCHS = 8


def recipe(rate: float = 1e-5) -> Recipe:
    chosen = changed(augment=default_recipe("yolox-nano").augment)
    return replace(chosen, epochs=EPOCHS, optimizer=replace(chosen.optimizer, lr_per_image=rate, momentum=0.6))


def quality(rate: float, momentum: float) -> float:
    """1 at a rate of 1e-3 and a momentum of 0.9, less the farther away."""
    gaps = [
        gene.to_fraction(value) - gene.to_fraction(best)
        for gene, value, best in zip(GENES, (rate, momentum), (1e-3, 0.9))
    ]
    return float(np.exp(-4 * np.square(gaps).sum()))


class ToyCall:
    """A training that does one epoch each time it is looked at."""

    process = None

    def __init__(self, folder: Path, result: Path, quality: float, epochs: int) -> None:
        self.folder, self.file, self.quality, self.epochs, self.interrupted = folder, result, quality, epochs, False
        folder.mkdir(exist_ok=True)
        self.epoch = self.done_before()

    def done_before(self) -> int:
        file = self.folder / "metrics.csv"
        return len(file.read_text().splitlines()) - 1 if file.exists() else 0

    def work(self) -> None:
        if not self.interrupted and self.epoch < self.epochs:
            self.epoch += 1
            rows = [f"{epoch},{self.quality * epoch / self.epochs}" for epoch in range(1, self.epoch + 1)]
            (self.folder / "metrics.csv").write_text("\n".join(["epoch,AP", *rows]) + "\n")

    def done(self) -> bool:
        return self.interrupted or self.epoch == self.epochs

    def result(self) -> int:
        if self.epoch == self.epochs:
            self.file.write_text(json.dumps({"best": self.quality, "reason": "finished"}))
            return 0
        return 130

    def interrupt(self) -> None:
        self.interrupted = True


class ToyWorkers:
    def __init__(self, stop_after: float = float("inf")) -> None:
        self.looks, self.stop_after = 0, stop_after

    def wait(self, calls, seconds: float) -> None:
        self.looks += 1
        if self.looks > self.stop_after:
            os.kill(os.getpid(), 2)
            self.stop_after = float("inf")
        for call in calls:
            call.work()


class Toy(Launcher):
    """Trainings that take no time. luck: added to the quality, by the seed."""

    def __init__(self, folder: Path, workers: ToyWorkers, luck=lambda seed: 0.0) -> None:
        super().__init__("data", folder, {}, workers=workers)  # type: ignore[arg-type]
        self.luck, self.started = luck, []

    def start(self, study: Study, trial: Trial) -> ToyCall:  # type: ignore[override]
        made = study.recipe_of(trial)
        write_yaml(self.folder / f"{trial.name}.yaml", to_plain(made))
        self.started.append(trial.number)
        value = quality(get(made, RATE), get(made, MOMENTUM)) + self.luck(made.seed)
        return ToyCall(self.folder / trial.name, self.result(trial), value, EPOCHS)


def tpe_study(folder: Path, **start: float) -> Study:
    pytest.importorskip("optuna", reason="needs the extra tune")
    from onelook.tuning.tpe import TpeProposer

    if (folder / "study.json").exists():
        study = Study.read(folder, read_recipe(folder / "base.yaml"), write_text)
    else:
        study = create_study(folder, recipe(**start), GENES, seed=3)
    study.proposer = TpeProposer(folder, study, EPOCHS)
    return study


def test_the_search_starts_from_the_recipe_finds_better_ones_and_stops_bad_ones(tmp_path: Path) -> None:
    study = tpe_study(tmp_path)
    launcher = Toy(tmp_path, ToyWorkers())
    assert not run_study(study, 25, launcher, 1, SilentReporter())
    assert study.trials[0].values == (1e-5, 0.6) and study.trials[0].status == "done"
    statuses = [trial.status for trial in study.trials]
    assert statuses.count("stopped") >= 5 and {*statuses} == {"done", "stopped"}
    # A stopped one has not trained to its end, and is no candidate for the best.
    for trial in study.trials:
        epochs = len((tmp_path / trial.name / "metrics.csv").read_text().splitlines()) - 1
        assert (epochs < EPOCHS) == (trial.status == "stopped") and epochs >= 2
    assert study.best is not None and study.best.fitness is not None
    assert study.best.fitness > quality(1e-5, 0.6) + 0.1
    stopped = [quality(*trial.values) for trial in study.trials if trial.status == "stopped"]
    assert max(stopped) < study.best.fitness


def test_an_interrupted_search_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    expected = tpe_study(whole)
    run_study(expected, 12, Toy(whole, ToyWorkers()), 1, SilentReporter())
    assert run_study(tpe_study(broken), 12, Toy(broken, ToyWorkers(stop_after=20)), 1, SilentReporter())
    assert 0 < len(json.loads((broken / "study.json").read_text())["trials"]) < 12
    resumed = tpe_study(broken)
    assert not run_study(resumed, 12, Toy(broken, ToyWorkers()), 1, SilentReporter())
    assert [(t.values, t.status, t.fitness) for t in resumed.trials] == [
        (t.values, t.status, t.fitness) for t in expected.trials
    ]


def test_trials_that_only_one_of_the_two_records_has_are_not_lost(tmp_path: Path) -> None:
    study = tpe_study(tmp_path)
    run_study(study, 4, Toy(tmp_path, ToyWorkers()), 1, SilentReporter())
    # Killed after Optuna proposed a trial and before the study had saved it.
    values = study.proposer.propose(study, 4)
    study = tpe_study(tmp_path)
    assert study.start_trial().values == values
    # Without Optuna's journal the search goes on from its own record.
    (tmp_path / "optuna.log").unlink()
    study = tpe_study(tmp_path)
    run_study(study, 8, Toy(tmp_path, ToyWorkers()), 1, SilentReporter())
    assert len(study.trials) == 8 and not study.unfinished()
    (tmp_path / "optuna.log").write_text("no journal\nat all\n")
    with pytest.raises(UserError, match=r"optuna\.log.*cannot be read[^\n]*\nRemove that file"):
        tpe_study(tmp_path)


def searched(study: Study, workers: ToyWorkers, seconds: float | None = None, luck=lambda seed: 0.0, trials: int = 12):
    return search_and_compare(
        study,
        lambda folder: Toy(folder, workers, luck),
        trials=trials,
        parallel=1,
        seeds=3,
        seconds=seconds,
        reporter=SilentReporter(),
    )


def test_the_best_is_compared_with_the_start_by_seeds_of_their_own(tmp_path: Path) -> None:
    study = tpe_study(tmp_path)
    interrupted, verdict, note = searched(study, ToyWorkers(), luck=lambda seed: 0.01 * seed)
    assert not interrupted and not note and verdict is not None and study.best is not None
    assert verdict.seeds == (1, 2, 3) and study.recipe.seed == 0 and verdict.trial == study.best.number
    assert verdict.beats and verdict.difference == pytest.approx(
        quality(*study.best.values) - quality(1e-5, 0.6), abs=1e-9
    )
    assert json.loads((tmp_path / "verdict.json").read_text())["beats"] is True
    # Called again, nothing is trained: the result is there.
    workers = ToyWorkers()
    assert searched(tpe_study(tmp_path), workers)[1] == verdict and workers.looks == 0


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    looks = ToyWorkers()
    searched(tpe_study(tmp_path / "whole"), looks)
    interrupted, verdict, _ = searched(tpe_study(tmp_path / "broken"), ToyWorkers(stop_after=looks.looks - 20))
    assert interrupted and verdict is None
    study = tpe_study(tmp_path / "broken")
    assert study.options["searched"] is True
    trials = len(study.trials)
    interrupted, verdict, _ = searched(study, ToyWorkers())
    assert not interrupted and verdict is not None and len(study.trials) == trials


def test_a_search_that_finds_nothing_better_says_so(tmp_path: Path) -> None:
    study = tpe_study(tmp_path, rate=1e-3)
    study.recipe = replace(study.recipe, optimizer=replace(study.recipe.optimizer, momentum=0.9))
    _, verdict, note = searched(study, ToyWorkers(), trials=5)
    assert verdict is None and note == "The starting recipe was not beaten by 4 other trials: keep base.yaml."


class FakeClock(Clock):
    """The time is set by the test."""

    now = 0.0

    @property
    def spent(self) -> float:
        return self.now


def test_a_budget_starts_only_what_ends_in_time_and_keeps_time_for_the_comparison(tmp_path: Path) -> None:
    study = create_study(tmp_path, recipe(), GENES, seed=0)
    clock = FakeClock(study, 100.0)
    phase = Phase(clock, lambda: 10.0, lambda: 50.0)
    for now, room, exhausted in (
        (0, True, False),
        (38, True, False),
        (40, False, False),
        (98, False, False),
        (99, False, True),
    ):
        clock.now = now
        assert (phase.has_room(study), phase.exhausted) == (room, exhausted)
    assert phase.progress() == (99, 100.0)
    clock.now = 0
    for number in range(4):
        assert phase.has_room(study) is (number < 3)
        study.update_trial(study.start_trial(), status="failed")


def test_a_budget_that_no_trial_fits_in_is_an_error_and_the_trial_is_kept(tmp_path: Path) -> None:
    study = tpe_study(tmp_path)
    study.start_trial()
    with pytest.raises(UserError, match="ended before the first trial did, which is saved"):
        searched(tpe_study(tmp_path), ToyWorkers(), seconds=1e-6)
    assert len(study.unfinished()) == 1
    study = tpe_study(tmp_path)
    assert searched(study, ToyWorkers(), seconds=3600.0, trials=6)[1] is not None


@pytest.mark.parametrize(
    ("start", "best", "said", "beats"),
    [
        ((0.5, 0.51, 0.49), (0.55, 0.57, 0.54), "beats the starting recipe: +0.0533", True),
        ((0.5, 0.51, 0.49), (0.50, 0.53, 0.49), "does not beat the starting recipe: +0.0067", False),
        ((0.5, 0.51, 0.49), (0.45, 0.46, 0.44), "it is worse: -0.0500", False),
        ((0.5, 0.5), (0.51, 0.52), "does not beat", False),
        ((0.5, 0.5), (0.5, 0.5), "does not beat", False),
    ],
)
def test_the_verdict_is_the_interval_of_the_differences(start, best, said, beats) -> None:
    verdict = Verdict(7, "AP", tuple(range(1, len(start) + 1)), start, best)
    assert said in str(verdict) and verdict.beats is beats
    assert ("base.yaml" in str(verdict)) is not beats
    low, high = verdict.interval
    assert low <= verdict.difference <= high


def test_the_interval_is_that_of_student() -> None:
    # Differences of 1 to 5 hundredths: mean 3, variance 2.5, five of them; t with 4 degrees of freedom is 2.776.
    verdict = Verdict(1, "AP", (1, 2, 3, 4, 5), (0.0,) * 5, (0.01, 0.02, 0.03, 0.04, 0.05))
    assert verdict.interval == pytest.approx((0.03 - 2.776 * 0.01 * 0.5**0.5, 0.03 + 2.776 * 0.01 * 0.5**0.5))


def test_pairs_with_a_failed_training_do_not_count() -> None:
    def trial(number: int, fitness: float | None) -> Trial:
        return Trial(number, (0.1, 1 + number // 2), "failed" if fitness is None else "done", fitness)

    trials = [trial(n, f) for n, f in enumerate((0.1, 0.2, None, 0.3, 0.2, 0.4, 0.3))]
    verdict = compare_seeds(trials, 5, "AP")
    assert verdict is not None and verdict.seeds == (1, 3) and verdict.best == (0.2, 0.4)
    assert compare_seeds(trials[:4], 5, "AP") is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("10 min", 600), (12.5, 12.5)]
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text, "budget") == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0m", "1d", "30m1h", "nan", float("nan"), 0.0])
def test_what_is_no_duration_is_an_error(text: str | float) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_duration(text, "budget")


def test_options_that_are_not_given_depend_on_the_budget() -> None:
    assert SearchPlan.of({}, 1) == SearchPlan("genetic", 30, 1, 0, None) and SearchPlan.of({}, 1).is_plain
    budget = SearchPlan.of({"budget": 60.0}, 2)
    assert (budget.method, budget.parallel, budget.seeds) == ("tpe", 2, 3) and not budget.is_plain
    assert SearchPlan.of({"budget": 60.0, "method": "genetic"}, 1).method == "genetic"
    assert SearchPlan.of({"method": "tpe"}, 1).trials == 30
    for seeds in (1, -1, 11):
        with pytest.raises(UsageError, match="2 to 10"):
            check_seeds(seeds)


def test_without_optuna_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    out = tmp_path / "search"
    with pytest.raises(MissingDependencyError, match=r"(?s)optuna.*\[tune\]"):
        tune("yolox-nano", tmp_path, budget="10m", out=out)
    assert not out.exists()


def test_another_method_of_a_resumed_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_study(tmp_path, recipe(), GENES, seed=0)
    search = ["tune", "data", "--out", str(tmp_path), "--resume", "--device", "cpu"]
    pytest.importorskip("optuna", reason="needs the extra tune")
    assert run([*search, "--method", "tpe"]) == 2
    assert "is by method genetic, not tpe" in capsys.readouterr().err


def test_the_result_tells_the_verdict(tmp_path: Path) -> None:
    verdict = Verdict(7, "AP", (1, 2), (0.5, 0.5), (0.6, 0.7))
    row = {"trial": 7, "status": "done", "fitness": 0.7, "seconds": 3.0, RATE: 0.1}
    result = TuneResult(tmp_path, "AP", (row,), 7, False, verdict=verdict)
    assert str(verdict) in str(result) and result.to_dict()["verdict"]["seeds"] == [1, 2]
    noted = TuneResult(tmp_path, "AP", (row,), 7, False, note="not compared")
    assert "not compared" in str(noted) and noted.to_dict()["verdict"] is None


@pytest.mark.slow
def test_a_real_search_ends_within_its_budget(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs the extra tune")
    from onelook.data.synthetic import Scenes, write_synthetic

    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 16, "val": 8})
    out = tmp_path / "search"
    command = [sys.executable, "-m", "onelook", "tune", str(scenes), "--model", "yolox-nano", "--size", "64"]
    command += ["--batch", "8", "--epochs", "4", "--workers", "0", "--device", "cpu", "--out", str(out), "--budget"]
    done = subprocess.run([*command, "3m"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = json.loads((out / "study.json").read_text())
    assert study["options"]["spent"] <= 180 and len(study["trials"]) >= 2
    assert "starting recipe" in done.stdout
