"""`onelook search` from end to end: budgets, the files it writes, resuming, and what uses the found model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import onelook
from onelook.api import search_session
from onelook.cli.app import run
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import ConfigError, UserError, WeightsError
from onelook.nas.budget import read_budgets
from onelook.nas.cost import cost
from onelook.nas.evolution import PART_EVALUATIONS, PARTS
from onelook.nas.score import score
from onelook.nas.state import STATE_FILE
from onelook.networks.damo_yolo.mae_nas import MAE_RESNET_T, MOBILE_NS
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes.searches import search_form
from onelook.reporter import SilentReporter
from onelook.training.interrupt import StopRequest

ROUND = PARTS * PART_EVALUATIONS


def find(folder: Path, budget: str = "flops=damo-yolo-t", **settings):
    return onelook.search(budget, out=folder, reporter=SilentReporter(), **settings)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> onelook.SearchResult:
    """A small mobile model."""
    folder = tmp_path_factory.mktemp("search") / "pocket"
    return find(folder, "flops=40M", like="damo-yolo-ns", size=128, evaluations=ROUND)


def test_the_search_surpasses_the_published_backbone_at_its_cost(tmp_path: Path) -> None:
    result = find(tmp_path / "t", evaluations=ROUND)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["t", "damo-yolo-t", "damo-yolo-s"]
    assert rows["damo-yolo-t"].score == pytest.approx(1015.1441063007652)
    assert rows["t"].score > 1015.2 and rows["t"].within and not rows["damo-yolo-s"].within
    assert rows["t"].flops <= rows["damo-yolo-t"].flops == cost(MAE_RESNET_T, 640).flops
    model = variant(str(result.model)).architecture
    assert score(model.backbone) == rows["t"].score
    assert json.loads((result.folder / "result.json").read_text()) == result.to_dict()
    assert result.chart.read_bytes().startswith(b"\x89PNG") and result.exit_code == 0


def test_every_form_has_a_space_that_holds_structures() -> None:
    for name, row in VARIANTS.items():
        if row.family != "DAMO-YOLO":  # the others: test_nas_branched.py
            continue
        form = search_form(name)
        space = form.space(form.layers)
        assert space.contains(space.initial) and space.contains(space.smallest)
        assert form.structure == row.architecture.backbone
        assert form.detector(form.structure, form.size) == row.architecture
    assert search_form("damo-yolo-t").space(20).contains(MAE_RESNET_T)
    assert search_form("damo-yolo-ns").space(28).contains(MOBILE_NS)


def test_a_resumed_search_finds_what_an_unbroken_one_finds(tmp_path: Path, monkeypatch) -> None:
    whole = find(tmp_path / "a", evaluations=2 * ROUND)
    monkeypatch.setattr(StopRequest, "__enter__", _stopped_after_one_round)
    part = find(tmp_path / "b", evaluations=2 * ROUND)
    monkeypatch.undo()
    assert part.interrupted and part.exit_code == 130 and part.evaluations == ROUND
    assert "resume=True" in str(part) and part.model.is_file()
    rest = onelook.search(out=tmp_path / "b", resume=True, reporter=SilentReporter())
    assert not rest.interrupted and rest.evaluations == 2 * ROUND
    assert (rest.rows[0].score, rest.rows[0].flops) == (whole.rows[0].score, whole.rows[0].flops)
    states = [json.loads((tmp_path / name / STATE_FILE).read_text()) for name in "ab"]
    assert states[0]["members"] == states[1]["members"] and states[0]["history"] == states[1]["history"]


def _stopped_after_one_round(request: StopRequest) -> StopRequest:
    class AfterOne:
        asked = 0

        @property
        def requested(self) -> bool:
            self.asked += 1
            return self.asked > 1

    return AfterOne()  # type: ignore[return-value]


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one = find(tmp_path / "one", evaluations=ROUND, seed=3)
    two = find(tmp_path / "two", evaluations=ROUND, seed=3, processes=2)
    states = [json.loads((result.folder / STATE_FILE).read_text()) for result in (one, two)]
    assert states[0]["members"] == states[1]["members"]


def test_the_state_is_saved_while_the_search_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(search_session, "_SAVE_EVERY", 0.0)
    saved = []
    monkeypatch.setattr(search_session, "write_text", lambda path, text: saved.append(json.loads(text)["turn"]))
    find(tmp_path / "t", evaluations=2 * ROUND)
    assert saved == [0, 1, 2, 2]


def test_the_found_model_is_listed_built_and_measured(found) -> None:
    file = str(found.model)
    (info,) = onelook.models(file)
    assert info.variant.name == "pocket" and info.variant.family == "DAMO-YOLO" and info.variant.published is None
    assert info.deploy_parameters == found.rows[0].detector_parameters
    assert info.gflops == pytest.approx(found.rows[0].gflops)
    detector = onelook.build(file, classes=3)
    assert detector.architecture.backbone == info.variant.architecture.backbone
    measured = onelook.benchmark(file, runs=1, warm_up=0)
    assert measured.setting.size == (128, 128)


def test_the_found_model_trains_by_the_recipe_of_its_family(found, tmp_path: Path) -> None:
    recipe = onelook.RecipeChoice(model=str(found.model), epochs=2).resolve(("a", "b"))
    like = onelook.RecipeChoice(model="damo-yolo-ns", epochs=2, size=128).resolve(("a", "b"))
    changed = {difference.path for difference in onelook.diff(like, recipe)}
    assert changed - {"size", "model.size"} and recipe.input_size == like.input_size == (128, 128)
    assert all(path.startswith("model.backbone") for path in changed - {"size", "model.size"})
    assert recipe.model.backbone == variant(str(found.model)).architecture.backbone


@pytest.mark.slow
def test_from_a_search_to_an_exported_detector(found, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", Scenes(size=(128, 128)), {"train": 8, "val": 4})
    result = onelook.train(
        found.model, data, epochs=1, batch=4, out=tmp_path / "run", workers=0, reporter=SilentReporter()
    )
    exported = onelook.export(result.folder, out=tmp_path / "pocket.onnx")
    assert exported.path.is_file()
    opened = onelook.load(str(found.model), weights=result.folder / "best.safetensors")
    assert opened.runtime.size == (128, 128)
    with pytest.raises(WeightsError, match="another network"):
        onelook.load(str(find(tmp_path / "t", evaluations=1).model), weights=result.folder / "best.safetensors")


BROKEN_FILES = {
    "no mapping": ("[1, 2]", "is no model"),
    "a recipe": ("type: Recipe\n", "is no model"),
    "an unknown setting": ("backbones", "has no setting 'backbones'"),
    "a negative depth": ("depth: -1", "depth of a stage"),
    "another family": ("like: yolox-s", "no model of the family"),
    "no architecture": ("architecture: 3", "architecture"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_damaged_model_file_is_named(found, tmp_path: Path, name: str) -> None:
    new, message = BROKEN_FILES[name]
    plain = yaml.safe_load(found.model.read_text())
    if name == "an unknown setting":
        plain["architecture"][new] = plain["architecture"].pop("backbone")
    elif name == "a negative depth":
        plain["architecture"]["backbone"]["stages"][0]["depth"] = -1
    elif name in ("another family", "no architecture"):
        plain |= yaml.safe_load(new)
    path = tmp_path / "broken.yaml"
    path.write_text(new if name in ("no mapping", "a recipe") else yaml.safe_dump(plain))
    with pytest.raises(UserError, match=message) as caught:
        onelook.models(str(path))
    assert "broken.yaml" in str(caught.value)


def test_a_model_file_without_weights_says_so(found) -> None:
    with pytest.raises(WeightsError, match="architecture only"):
        onelook.load(str(found.model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=4", "There is no budget 'speed'"),
        ("flop=4G", "Did you mean 'flops'"),
        ("flops", "has no value"),
        ("flops=4X", "unknown unit 'X'"),
        ("flops=4G,flops=3G", "given twice"),
        ("layers=20.5", "not possible"),
        ("parameters=0", "not possible"),
        ("flops=damo-yolo-x", "damo-yolo-x is no number"),
        ("flops=yolov7-w6", "does not cover"),
        ("layers=3", "smallest structure"),
        ("", "budget is missing"),
    ],
)
def test_a_budget_that_cannot_be_used_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(tmp_path / "t", text)
    assert not (tmp_path / "t").exists()


def test_budgets_have_units() -> None:
    budgets = read_budgets("flops=4G, parameters=1.5m,layers=20,latency=12ms", lambda kind, name: 0.0)
    assert (budgets.flops, budgets.parameters, budgets.layers) == (4e9, 1.5e6, 20)
    assert budgets.seconds == pytest.approx(0.012)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "yolo"}, "no search for the family 'yolo'"),
        ({"like": "yolov7-e6"}, "does not cover"),
        ({"like": "damo-yolo-q"}, "Did you mean"),
        ({"size": 100}, "multiple of 32"),
        ({"name": "yolox-s"}, "published model"),
        ({"evaluations": 0}, "at least 1"),
        ({"processes": 9}, "9 processes"),
        ({"resume": True}, "keeps its settings"),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(tmp_path / "t", **settings)


def test_a_folder_holds_one_search(found, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a search already"):
        find(found.folder)
    with pytest.raises(UserError, match="There is no search"):
        onelook.search(out=tmp_path, resume=True)
    (tmp_path / STATE_FILE).write_text('{"settings": {"like": "damo-yolo-t"}, "members": [[1, [8, []]]]}')
    with pytest.raises(UserError, match="is damaged"):
        onelook.search(out=tmp_path, resume=True)


def test_the_command_line_shows_the_comparison(tmp_path: Path, capsys) -> None:
    arguments = ["--budget", "flops=damo-yolo-t", "--evaluations", "100", "--out", str(tmp_path / "quick")]
    assert run(["search", *arguments, "--json", str(tmp_path / "a.json")]) == 0
    shown = capsys.readouterr().out
    assert "damo-yolo-t" in shown and "1015.1" in shown and "quick.yaml" in shown
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["name"] == "quick"
    assert run(["search", "--out", str(tmp_path / "quick"), "--resume", "--evaluations", "3000"]) == 0
    assert run(["models", str(tmp_path / "quick" / "quick.yaml")]) == 0
    capsys.readouterr()
    assert run(["search", "--budget", "speed=3", "--out", str(tmp_path / "other")]) == 2
    assert "There is no budget 'speed'" in capsys.readouterr().err
