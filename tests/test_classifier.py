"""Classifiers of images: class folders, the loss, the training, and a detector that starts from the backbone."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from class_sets import write_class_folders
from descent import share_of_the_fall
from onelook.cli.app import run
from onelook.data import open_dataset, splits
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import ConfigError, UserError, WeightsError
from onelook.evaluation.classes import top_k
from onelook.losses.classifier import ClassLoss
from onelook.networks.build import build
from onelook.networks.classifier import Classification
from onelook.networks.flops import count_gflops
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes.classifier import published_classifier
from onelook.training.dropblock import DropBlock
from onelook.types import Targets
from onelook.weights import load_weights, open_detector, restore, save_weights
from training import TINY, changed


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("classes"), {"train": 32, "val": 10}, size=72)


# Data


def test_class_folders_are_a_data_set_of_whole_images(class_folders):
    assert set(splits(class_folders)) == {"train", "val"}
    training = open_dataset(class_folders, "train")
    assert len(training) == 96 and len(training.names) == 3 and list(training.names) == sorted(training.names)
    for row in (0, 40, 95):
        height, width = training.image(row).shape[:2]
        assert training.boxes(row).tolist() == [[0, 0, width, height]]
        assert training.file_name(row).split("/")[1] == training.names[training.labels(row)[0]]
    assert "boxes" not in training.describe()


def test_an_undivided_folder_is_split_by_the_stated_rule(tmp_path):
    root = write_class_folders(tmp_path, {"": 7})
    training, validation = open_dataset(root, "train"), open_dataset(root, "val")
    names = [[one.file_name(row) for row in range(len(one))] for one in (training, validation)]
    assert (len(names[0]), len(names[1])) == (18, 3) and not set(names[0]) & set(names[1])
    assert all(name.endswith("004.png") for name in names[1])
    assert any("each 5th image by name is val" in note for note in training.notes)


@pytest.mark.parametrize("folders", [("train", "val"), ("images",), ("one",)], ids=str)
def test_folders_of_images_without_classes_are_no_data_set(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="No data set was recognised"):
        splits(tmp_path)


def test_a_class_that_training_lacks_is_named(class_folders, tmp_path):
    root = write_class_folders(tmp_path, {"train": 2, "val": 2})
    (root / "val" / "zebra").mkdir()
    (next((root / "val").rglob("*.png"))).rename(root / "val" / "zebra" / "a.png")
    with pytest.raises(UserError, match=r"zebra.*training split does not have"):
        open_dataset(root, "val")


# Loss and network


@given(st.integers(2, 6), st.floats(0, 0.9))
def test_targets_are_distributions_and_one_class_is_darknet_s(classes, smoothing):
    loss = ClassLoss(smoothing)
    labels, valid = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[True, True], [True, False]])
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    wanted = loss.soft_targets(Targets(torch.zeros(2, 2, 4), labels, valid, shares), classes)
    assert torch.allclose(wanted.sum(1), torch.ones(2), atol=1e-5)
    others = torch.full((classes,), smoothing / (classes - 1))
    others[1] = 1 - smoothing
    assert torch.allclose(wanted[1], others, atol=1e-6)


def test_an_image_of_one_class_costs_its_cross_entropy():
    logits = torch.randn(5, 4)
    labels = torch.randint(0, 4, (5, 1))
    targets = Targets(torch.zeros(5, 1, 4), labels, torch.ones(5, 1) > 0)
    value = ClassLoss(smoothing=0)(logits, targets)["classes"]
    assert value.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels[:, 0]).item(), rel=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        next(n for n, row in VARIANTS.items() if row.family == f)
        for f in dict.fromkeys(row.family for row in VARIANTS.values())
    ],
)
def test_the_backbone_of_every_family_can_be_a_classifier_with_the_detector_s_names(name):
    recipe = published_classifier(variant(name))
    with torch.device("meta"):
        classifier, detector = recipe.model.build(), variant(name).architecture.build()
        logits = classifier(torch.zeros(1, 3, 128, 128))
    assert logits.shape == (1, 1000)
    inside = {key: tensor.shape for key, tensor in classifier.state_dict().items() if key.startswith("backbone.")}
    assert inside == {k: v.shape for k, v in detector.state_dict().items() if k.startswith("backbone.")} != {}


def test_the_arithmetic_of_a_classifier_is_that_of_its_backbones_convolutions():
    network = replace(variant("csresnext50-panet-spp").architecture, width=0.125)
    classifier, counted = Classification(network).build().eval(), []

    def count(layer, inputs, output):
        counted.append(2 * output.numel() * layer.weight[0].numel())

    for layer in classifier.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    classifier(torch.zeros(1, 3, 64, 96))
    assert count_gflops(Classification(network).build(), (64, 96)) == pytest.approx(sum(counted) / 1e9, rel=1e-12)


def test_losses_and_networks_of_different_tasks_are_refused():
    with pytest.raises(ValueError, match="needs a ClassLoss"):
        changed(model=Classification(TINY))
    with pytest.raises(ValueError, match="image classes"):
        changed(loss=ClassLoss(), closing=None)
    with pytest.raises(ConfigError, match="has no neck"):
        DropBlock(place="neck").insert(Classification(TINY).build())


# From images to a detector


def test_top_k_counts_what_is_among_the_best(class_folders):
    dataset = open_dataset(class_folders, "val")

    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[2.0, 1.0, 0.0]]).expand(len(images), 3)

    found = top_k(Constant(), dataset, (32, 32), torch.device("cpu"), batch=5)
    assert found == {"top1": pytest.approx(1 / 3), "top5": 1.0}


SMALL = ("--size", "64", "--batch", "16", "--device", "cpu", "--workers", "0")
NANO = (*SMALL, "--model", "yolox-nano", "--epochs", "1", "model.network.width=0.125", "model.network.activation=mish")


def train(*arguments):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(["train", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(class_folders, tmp_path_factory):
    """One epoch, which is enough for what does not ask how good it is."""
    out = tmp_path_factory.mktemp("run") / "nano"
    assert train(class_folders, *NANO, "--out", out) == 0
    return out


def test_a_classifier_reports_top_1_and_top_5_every_epoch(class_folders, tmp_path):
    network = ("model.network.width=0.25", "model.network.activation=mish", "model.network.norm_momentum=0.2")
    settings = (
        "augment.shorter=(1.0, 1.3)",
        "batch_augments.0.probability=0.3",
        "optimizer=AdamW(lr_per_image=0.0002)",
    )
    rest = ("accumulate=1", "schedule=Constant()", "--epochs", 2, "--out", tmp_path / "run")
    assert train(class_folders, *SMALL, "--model", "yolov4-tiny", *network, *settings, *rest) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(0 <= float(row["top1"]) <= float(row["top5"]) <= 1 for row in rows)
    assert all(math.isfinite(float(row["loss/classes"])) for row in rows)
    assert "top1 " in (tmp_path / "run" / "train.log").read_text()
    best = restore(tmp_path / "run" / "best.safetensors")
    assert best.architecture.network.activation == "mish" and len(best.class_names) == 3


def test_a_classifier_learns(class_folders):
    """A small step against the gradient of its loss lowers it by what it promises (in float64)."""
    dataset = open_dataset(class_folders, "train")
    rows = range(0, 96, 12)
    images = torch.stack([torch.from_numpy(dataset.image(row)).permute(2, 0, 1) for row in rows]).double()
    labels = torch.tensor([[int(dataset.labels(row)[0])] for row in rows])
    targets = Targets(torch.zeros(8, 1, 4), labels, torch.ones(8, 1, dtype=torch.bool))
    assert len(labels.unique()) == 3
    torch.manual_seed(0)
    classifier = Classification(TINY).build().train().double()
    share = share_of_the_fall(lambda: ClassLoss()(classifier(images), targets)["classes"], classifier.parameters())
    assert share == pytest.approx(1, abs=0.1)


def test_its_backbone_starts_a_detector(trained, tmp_path):
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 8, "val": 4})
    best, out = trained / "best.safetensors", tmp_path / "detector"
    settings = ("model.width=0.125", "model.activation=mish", "multiscale=none", "optimizer.lr_per_image=0")
    flags = ("--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", "1", "--device", "cpu")
    assert train(scenes, *flags, "--workers", 0, "--weights", best, "--out", out, *settings) == 0
    log = (out / "train.log").read_text()
    assert "a classifier" in log and "the backbone; " in log and "neck and head are initialised" in log
    ours, theirs = restore(out / "last.safetensors").state_dict(), restore(best).state_dict()
    kernels = [name for name in theirs if name.startswith("backbone.") and theirs[name].dim() == 4]
    assert kernels and all(torch.equal(ours[name], theirs[name]) for name in kernels)  # the rate was 0


def test_a_classifier_goes_on_where_it_was_stopped(class_folders, trained, tmp_path, monkeypatch):
    from onelook.training import run as runs

    class Once(runs.StopRequest):
        def __init__(self):
            super().__init__()
            self.requested = True  # as if Ctrl-C were pressed at once

    monkeypatch.setattr(runs, "StopRequest", Once)
    assert train(class_folders, *NANO, "--out", tmp_path / "broken") == 130
    monkeypatch.undo()
    assert train(class_folders, "--out", tmp_path / "broken", "--resume", "--device", "cpu", "--workers", 0) == 0
    whole, broken = (restore(folder / "last.safetensors").state_dict() for folder in (trained, tmp_path / "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_files_and_data_of_different_tasks_get_one_message(trained, class_folders, tmp_path, capsys):
    best = trained / "best.safetensors"
    with pytest.raises(WeightsError, match="holds an image classifier"):
        open_detector(best)
    with pytest.raises(WeightsError, match=r"does not fit the backbone of Yolox|does not fit the backbone of yolox"):
        load_weights(build("yolox-s"), best)
    detector = save_weights(build(TINY), tmp_path / "detector.safetensors")
    assert run(["val", str(class_folders), "--model", str(detector), "--device", "cpu"]) == 1
    assert "class folders and no boxes" in capsys.readouterr().err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((trained / "recipe.yaml").read_text())
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 2, "val": 2})
    assert train(scenes, "--recipe", recipe, "--out", tmp_path / "a") == 1
    assert "has boxes, and the recipe trains a classifier" in capsys.readouterr().err
