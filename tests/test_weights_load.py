"""Weights of every origin into models of every form: one to one, and with the same answers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import filled_detector, manifest
from onelook.errors import MissingDependencyError, WeightsError, install_command
from onelook.networks.build import build
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.weights import load_weights, read_checkpoint, save_weights
from shared import fill_module, needs_shared, reference

OFFICIAL = "yolox_nano.onnx"


pytestmark = pytest.mark.usefixtures("one_thread")


def same(a: Detector, b: Detector) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def official_state(model: Detector) -> dict[str, Tensor]:
    assert model.architecture is not None
    names = model.architecture.official_names()
    return {names[name]: tensor for name, tensor in model.state_dict().items()}


def random_detector(seed: int = 0, classes: Any = None, name: str = "yolox-nano") -> Detector:
    """A detector whose every tensor, statistics too, differs from its initialisation."""
    torch.manual_seed(seed)
    model = build(name, classes=classes)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in key else torch.randn_like(tensor) * 0.1)
    return model.eval()


LARGE = ("yolox-m", "yolox-l", "yolox-x", "yolox-darknet53")


@needs_shared
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in manifest("yolox")]
)
def test_official_checkpoint_loads_into_every_model(name: str, tmp_path: Path) -> None:
    fill = fill_module().fill
    state = {
        official: torch.tensor(7) if official.endswith("tracked") else torch.from_numpy(fill(official, tuple(shape)))
        for official, shape in manifest("yolox")[name]["tensors"].items()
    }
    first = next(iter(state.values()))
    optimizer = {"state": {0: {"momentum_buffer": first}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    best = np.float64(0.4)
    torch.save(
        {"start_epoch": 300, "model": state, "optimizer": optimizer, "best_ap": best, "curr_ap": best},
        tmp_path / "x.pth",
    )
    model = build(name)
    report = load_weights(model, tmp_path / "x.pth")
    assert report.tensors == len(state)
    assert report.model == name
    assert all(torch.equal(tensor, state[key]) for key, tensor in official_state(model).items())


@needs_shared
def test_file_with_fill_values_gives_the_filled_detector(tmp_path: Path) -> None:
    filled = filled_detector("yolox-nano")
    torch.save(official_state(filled), tmp_path / "x.pth")
    model = build("yolox-nano")
    load_weights(model, tmp_path / "x.pth")
    assert same(model, filled)


@pytest.mark.parametrize(
    "word",
    ["zip", "stream", "bare", "module prefix", "without counters", "float16", "bfloat16", "float64", "own names"],
)
def test_layouts_of_torch_files(word: str, tmp_path: Path) -> None:
    source = random_detector()
    state = source.state_dict() if word == "own names" else official_state(source)
    if word == "module prefix":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if word == "without counters":
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if word in ("float16", "bfloat16", "float64"):
        kind = getattr(torch, word)
        state = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    value = state if word == "bare" else {"model": state, "best_ap": np.float64(0.1), "epoch": None}
    torch.save(value, tmp_path / "x.bin", _use_new_zipfile_serialization=word != "stream")
    model = build("yolox-nano")
    report = load_weights(model, tmp_path / "x.bin")
    exact = source if word not in ("float16", "bfloat16") else source.to(getattr(torch, word)).float()
    assert same(model, exact)
    assert ("converted" in str(report)) == (word in ("float16", "bfloat16", "float64"))


@needs_shared
def test_official_onnx_gives_its_own_answers_in_both_forms() -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = reference("yolox") / OFFICIAL
    training, deployed = build("yolox-nano").eval(), deploy(build("yolox-nano"))
    load_weights(training, path)
    load_weights(deployed, path)
    assert same(deploy(training), deployed)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.from_numpy(fill_module().image("onnx/eval", (1, 3, 416, 416), 255.0))
    expected = session.run(None, {"images": images.flip(1).numpy()})[0]
    for model in (training, deployed):
        with torch.no_grad():
            found = model(images)
        assert np.abs(found.regression.numpy() - expected[..., :4]).max() < 3e-4
        assert np.abs(found.scores().numpy() - expected[..., 4:5] * expected[..., 5:]).max() < 5e-5


@needs_shared
def test_folded_weights_can_be_trained() -> None:
    model = build("yolox-nano")
    load_weights(model, reference("yolox") / OFFICIAL)
    predictions = model.train()(torch.rand(2, 3, 64, 64) * 255)
    assert predictions.objectness is not None
    (predictions.boxes.mean() + predictions.classes.mean() + predictions.objectness.mean()).backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@needs_shared
def test_nodes_and_names_of_an_onnx_file_do_not_matter(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file = onnx.load(reference("yolox") / OFFICIAL)
    graph = file.graph
    names: dict[str, str] = {}
    for count, node in enumerate(graph.node):
        node.name = ""
        for place, name in enumerate(node.output):
            if name != graph.output[0].name:
                names[name] = f"value{count}_{place}"
    names |= {tensor.name: f"weight{count}" for count, tensor in enumerate(graph.initializer)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    # Any order in which values exist before they are used: here the last that can run runs first.
    waiting, order, known = list(graph.node), [], {"", "images", *names.values()}
    made = {name for node in waiting for name in node.output}
    known -= made
    while waiting:
        index = max(i for i, node in enumerate(waiting) if set(node.input) <= known)
        order.append(waiting.pop(index))
        known |= set(order[-1].output)
    del graph.node[:]
    graph.node.extend(order)
    onnx.save(file, tmp_path / "other.onnx")
    one, other = build("yolox-nano"), build("yolox-nano")
    load_weights(one, reference("yolox") / OFFICIAL)
    load_weights(other, tmp_path / "other.onnx")
    assert same(one, other)


@needs_shared
@pytest.mark.parametrize("kind", ["floats", "halves", "doubles"])
def test_numbers_of_an_onnx_file_may_be_listed(kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    number = {"floats": onnx.TensorProto.FLOAT, "halves": onnx.TensorProto.FLOAT16, "doubles": onnx.TensorProto.DOUBLE}
    file = onnx.load(reference("yolox") / OFFICIAL)
    expected = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    for tensor in file.graph.initializer:
        values = expected[tensor.name]
        if values.dtype == np.float32:
            listed = onnx.helper.make_tensor(tensor.name, number[kind], values.shape, values.flatten().tolist())
            expected[tensor.name] = onnx.numpy_helper.to_array(listed)
            tensor.CopyFrom(listed)
        elif values.dtype == np.int64:
            tensor.CopyFrom(
                onnx.helper.make_tensor(tensor.name, onnx.TensorProto.INT64, values.shape, values.flatten())
            )
    onnx.save(file, tmp_path / "x.onnx")
    found = read_checkpoint(tmp_path / "x.onnx").tensors
    for name, values in expected.items():
        assert np.array_equal(found[name].numpy(), values), name


@needs_shared
def test_a_missing_onnx_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError) as caught:
        read_checkpoint(reference("yolox") / OFFICIAL)
    assert install_command("onnx") in str(caught.value)


@pytest.mark.parametrize("source_form", ["training", "deploy"])
@pytest.mark.parametrize("target_form", ["training", "deploy"])
def test_forms_load_into_each_other(source_form: str, target_form: str, tmp_path: Path) -> None:
    original = random_detector()
    source = deploy(original) if source_form == "deploy" else original
    save_weights(source, tmp_path / "x.safetensors")
    target = build("yolox-nano").eval()
    target = deploy(target) if target_form == "deploy" else target
    report = load_weights(target, tmp_path / "x.safetensors")
    assert report.form == source_form
    assert same(target if target_form == "deploy" else deploy(target), deploy(original))


def test_folding_a_folded_checkpoint_of_official_names(tmp_path: Path) -> None:
    source = random_detector()
    folded = {}
    assert source.architecture is not None
    names = source.architecture.official_names()
    deployed = deploy(source)
    for name, tensor in deployed.state_dict().items():
        weight = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
        folded[names.get(name) or names[weight].removesuffix("weight") + "bias"] = tensor
    folded["backbone.backbone.stem.conv.conv.weight"] = (
        folded["backbone.backbone.stem.conv.conv.weight"].unflatten(1, (4, 3)).flip(2).flatten(1, 2)
    )
    torch.save({"model": folded}, tmp_path / "folded.pth")
    for target in (build("yolox-nano"), deploy(build("yolox-nano"))):
        load_weights(target, tmp_path / "folded.pth")
        assert same(deploy(target), deployed)


CLASS_CASES = [
    # word, names of the file, names of the model, which class of the file each class of the model takes
    ("the same", ("a", "b", "c"), ("a", "b", "c"), (0, 1, 2)),
    ("another order", ("a", "b", "c"), ("c", "a", "b"), (2, 0, 1)),
    ("case and space", ("Traffic Light", " dog"), ("dog ", "traffic light"), (1, 0)),
    ("fewer", ("a", "b", "c"), ("c",), (2,)),
    ("the first ones, in their order", ("a", "b", "c"), ("a", "b"), (0, 1)),
    ("more", ("a", "b"), ("x", "b", "y", "a"), (None, 1, None, 0)),
    ("none in common", ("a", "b"), ("x", "y"), (None, None)),
    ("the model has no names", ("a", "b", "c"), 3, (0, 1, 2)),
    ("the file has no names", 3, ("a", "b", "c"), (0, 1, 2)),
    ("no names, other counts", 2, 3, (None, None, None)),
]


@pytest.mark.parametrize(
    "case",
    [*CLASS_CASES, *(("deployed: " + case[0], *case[1:]) for case in CLASS_CASES[1:6:4])],
    ids=lambda case: case[0],
)
def test_class_rows_follow_names(case: tuple[str, Any, Any, tuple[int | None, ...]], tmp_path: Path) -> None:
    word, theirs, ours, expected = case
    deployed = word.startswith("deployed")
    source, target = random_detector(1, theirs), build("yolox-nano", classes=ours)
    save_weights(source, tmp_path / "x.safetensors")
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    target = deploy(target) if deployed else target
    report = load_weights(target, tmp_path / "x.safetensors")
    assert len(report.new_classes) == expected.count(None)
    assert target.head.levels[0].boxes.weight.equal(source.head.levels[0].boxes.weight)
    for level in range(3):
        for kind in ("weight", "bias"):
            name = f"head.levels.{level}.classes.{kind}"
            found, stored = target.state_dict()[name], source.state_dict()[name]
            for label, place in enumerate(expected):
                if place is not None:
                    assert torch.equal(found[label], stored[place])
                elif kind == "bias" or not deployed:
                    assert torch.equal(found[label], fresh[name][label])
    if isinstance(ours, int) and not isinstance(theirs, int) and len(theirs) == ours:
        assert target.class_names == theirs


@needs_shared
def test_coco_weights_serve_a_model_of_other_classes() -> None:
    model, coco = build("yolox-nano", classes=["Cat", "platelets", "dog"]), build("yolox-nano")
    report = load_weights(model, reference("yolox") / OFFICIAL)
    load_weights(coco, reference("yolox") / OFFICIAL)
    assert report.kept_classes == ("Cat", "dog")
    assert report.new_classes == ("platelets",)
    assert "2 of 3" in str(report)
    rows = [COCO_CLASSES.index("cat"), COCO_CLASSES.index("dog")]
    assert torch.equal(model.head.levels[0].classes.weight[[0, 2]], coco.head.levels[0].classes.weight[rows])


@pytest.mark.parametrize("classes", [1, 4, 5], ids=lambda count: f"{count} classes")
def test_checkpoints_of_any_class_count_load(classes: int, tmp_path: Path) -> None:
    source = random_detector(2, classes)
    torch.save({"model": official_state(source)}, tmp_path / "x.pth")
    model = build("yolox-nano", classes=classes)
    assert "in order" in str(load_weights(model, tmp_path / "x.pth"))
    assert same(model, source)


@pytest.mark.parametrize("kind", ["pth", pytest.param("onnx", marks=needs_shared), "safetensors"])
def test_another_network_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        path = reference("yolox") / OFFICIAL
    elif kind == "pth":
        torch.save({"model": official_state(build("yolox-nano"))}, path := tmp_path / "x.pth")
    else:
        save_weights(build("yolox-nano"), path := tmp_path / "x.safetensors")
    model = build("yolox-tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match="does not fit yolox-tiny") as caught:
        load_weights(model, path)
    assert "looks like yolox-nano" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_mismatch_lists_what_differs_in_the_file_s_own_names(tmp_path: Path) -> None:
    state = official_state(build("yolox-nano"))
    del state["head.obj_preds.1.bias"]
    state["extra.weight"] = torch.zeros(2)
    state["head.stems.0.bn.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        load_weights(build("yolox-nano"), tmp_path / "x.pth")
    message = str(caught.value)
    assert "1 missing: head.obj_preds.1.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of another shape: head.stems.0.bn.weight is [7], not [64]" in message


def test_mismatch_shows_the_first_dozen_and_counts(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in official_state(build("yolox-nano")).items() if "dark5" not in name}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"\d+ missing: .* and \d+ more") as caught:
        load_weights(build("yolox-nano"), tmp_path / "x.pth")
    assert len(re.findall("dark5", str(caught.value))) == 12


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    state = official_state(build("yolox-nano"))
    state["head.stems.0.conv.weight"] = state["head.stems.0.conv.weight"].to(torch.int8)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="int8"):
        load_weights(build("yolox-nano"), tmp_path / "x.pth")


def test_model_of_half_precision_keeps_it(tmp_path: Path) -> None:
    source = random_detector()
    save_weights(source, tmp_path / "x.safetensors")
    for target in (build("yolox-nano").half(), deploy(build("yolox-nano")).half()):
        load_weights(target, tmp_path / "x.safetensors")
        expected = deploy(source).half() if target.deployed else source.half()
        assert same(target, expected)
        source.float()
        load_weights(source, tmp_path / "x.safetensors")


def test_what_is_no_detector_in_memory_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    for call in (lambda: save_weights(torch.nn.Linear(1, 1), tmp_path / "a"), lambda: load_weights("a", tmp_path)):  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match=r"must be a Detector, not (Linear|str)\."):
            call()
