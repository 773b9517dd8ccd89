"""Official YOLOv7 checkpoints: pickled networks and state dicts, in every form, into every form of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hostile_torch import named, text, with_pickle
from networks import Golden
from onelook.errors import WeightsError
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.variants import variant
from onelook.networks.yolov7.architecture import Yolov7
from onelook.weights import load_weights, open_detector, restore, save_weights
from onelook.weights.checkpoint import Checkpoint
from onelook.weights.identify import identify
from onelook.weights.modules import PickledModule
from shared import fill_module, needs_shared, reference

NARROW = {"width_multiple": 0.125, "num_classes": 3}
STRIPPED = "yolov7-tiny-official-layout.pt"
UNSTRIPPED = "yolov7-tiny-quarter-training-layout.pt"


def narrow(name: str, **changes: Any) -> Yolov7:
    architecture = variant(name).architecture
    assert isinstance(architecture, Yolov7)
    return replace(architecture, **NARROW | changes)


def random_detector(architecture: Yolov7) -> Detector:
    """A detector whose every tensor, statistics too, differs from its initialisation."""
    torch.manual_seed(0)
    model = architecture.build()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                spread = torch.randn_like(tensor) * (0.5 if tensor.dim() == 4 else 0.1)
                tensor.copy_(spread.abs() + 0.5 if "bn.weight" in key or "var" in key else spread)
    return model.eval()


def official_state(model: Detector) -> dict[str, Tensor]:
    """The training form's state dict as the official repository has it, anchors too."""
    architecture = model.architecture
    assert isinstance(architecture, Yolov7)
    names = architecture.official_names()
    state = {names[name]: tensor.clone() for name, tensor in model.state_dict().items()}
    head = next(name.rsplit(".m.", 1)[0] for name in state if ".m.0." in name)
    pixels = torch.tensor(architecture.anchors)
    strides = torch.tensor([8.0 * 2**level for level in range(len(pixels))])
    state[f"{head}.anchors"] = pixels / strides[:, None, None]
    state[f"{head}.anchor_grid"] = pixels[:, None, :, None, None, :]
    return state


def deployed_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the official re-parameterisation makes of it: no implicit knowledge, no auxiliary head; batch norm stays."""
    head = int(next(name.split(".")[1] for name in state if ".m.0." in name))
    levels = len({name for name in state if ".ia." in name})
    gone = [head - index for index in range(1, levels + 1)] if any(".m2." in name for name in state) else []
    found = {}
    for name, tensor in state.items():
        index, _, rest = name.removeprefix("model.").partition(".")
        if int(index) != head:
            if int(index) not in gone:
                found[name] = tensor
        elif rest.startswith("m."):
            _, level, kind = rest.split(".")
            add = state[f"model.{head}.ia.{level}.implicit"].double().flatten()
            multiply = state[f"model.{head}.im.{level}.implicit"].double().flatten()
            weight, bias = (state[f"model.{head}.m.{level}.{one}"].double() for one in ("weight", "bias"))
            folded = (
                multiply[:, None, None, None] * weight
                if kind == "weight"
                else multiply * (bias + weight.flatten(1) @ add)
            )
            found[f"model.{head - len(gone)}.{rest}"] = folded.float()
        elif rest in ("anchors", "anchor_grid"):
            found[f"model.{head - len(gone)}.{rest}"] = tensor
    return found


def fused_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with batch norm folded and the branches of re-parameterised convolutions merged."""

    def folded(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        mean, var, gain, shift = (
            state[f"{norm}.{kind}"].double() for kind in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gain / (var + 1e-3).sqrt()
        return state[f"{conv}.weight"].double() * factor[:, None, None, None], shift - mean * factor

    found = {name: tensor for name, tensor in state.items() if ".bn." not in name and ".rbr_" not in name}
    for name in state:
        if name.endswith(".bn.weight"):
            place = name.removesuffix(".bn.weight")
            weight, bias = folded(f"{place}.conv", f"{place}.bn")
            found |= {f"{place}.conv.weight": weight.float(), f"{place}.conv.bias": bias.float()}
        elif name.endswith(".rbr_dense.0.weight"):
            place = name.removesuffix(".rbr_dense.0.weight")
            dense, point = (folded(f"{place}.{one}.0", f"{place}.{one}.1") for one in ("rbr_dense", "rbr_1x1"))
            weight = dense[0] + nn.functional.pad(point[0], (1, 1, 1, 1))
            found |= {
                f"{place}.rbr_reparam.weight": weight.float(),
                f"{place}.rbr_reparam.bias": (dense[1] + point[1]).float(),
            }
    return found


FORMS = {
    "training": lambda state: state,
    "deploy": deployed_state,
    "deploy, fused": lambda state: fused_state(deployed_state(state)),
    "fused in place": fused_state,
}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("yolov7-tiny", "training"),
        ("yolov7", "deploy"),
        ("yolov7", "deploy, fused"),
        ("yolov7", "fused in place"),
        ("yolov7-w6", "training"),
        ("yolov7-w6", "deploy"),
        pytest.param("yolov7-w6", "deploy, fused", marks=pytest.mark.slow),
        pytest.param("yolov7-e6e", "deploy", marks=pytest.mark.slow),
        pytest.param("yolov7-e6e", "fused in place", marks=pytest.mark.slow),
    ],
)
def test_every_official_form_loads_into_both_of_ours_with_the_same_answers(
    name: str, form: str, tmp_path: Path
) -> None:
    architecture = narrow(name)
    source = random_detector(architecture)
    state = FORMS[form](official_state(source))
    torch.save({"model": state}, tmp_path / "file.pt")
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    wanted = source.double()(images)
    for target in (architecture.build().eval(), deploy(architecture.build())):
        report = load_weights(target, tmp_path / "file.pt")
        found = target.double()(images)
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores(), wanted.scores(), rtol=1e-4, atol=1e-6)
        lacks = any("no auxiliary head" in note for note in report.notes)
        assert lacks == (architecture.auxiliary is not None and form.startswith("deploy"))


@contextmanager
def official_classes() -> Iterator[Any]:
    """The packages `models.yolo` and `models.common`, as far as a pickle names them, while a file is written."""
    modules = {name: ModuleType(name) for name in ("models", "models.yolo", "models.common")}
    classes = {}
    for module, name in (("models.yolo", "Model"), ("models.yolo", "IDetect"), ("models.common", "Conv")):
        classes[name] = type(name, (nn.Module,), {"__module__": module})
        setattr(modules[module], name, classes[name])
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def pickled(state: dict[str, Tensor], path: Path, *, activation: nn.Module, **attributes: Any) -> None:
    """Writes a network of the official classes in half precision, with these tensors, as a finished training does."""
    with official_classes() as classes:
        root = classes["Model"]()
        for name, tensor in state.items():
            *places, leaf = name.split(".")
            part = root
            for place in places:
                if place not in part._modules:
                    part.add_module(place, classes["Conv"]())
                part = part._modules[place]
            if "running" in leaf or "num_" in leaf or "anchor" in leaf:
                part.register_buffer(leaf, tensor)
            else:
                part.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        root.add_module("act", activation)
        for name, value in attributes.items():
            setattr(root, name, value)
        torch.save({"epoch": -1, "model": root.half(), "ema": None, "optimizer": None}, path)


@pytest.mark.parametrize("form", ["training", "deploy, fused"])
def test_pickled_networks_are_opened_with_their_width_anchors_and_names(form: str, tmp_path: Path) -> None:
    anchors = tuple(
        tuple((w + 1.0, h) for w, h in level)
        for level in variant("yolov7").architecture.anchors  # type: ignore[attr-defined]
    )
    source = random_detector(narrow("yolov7", anchors=anchors))
    state = FORMS[form](official_state(source))
    path = tmp_path / "yolov7-mine.pt"
    settings = {"nc": 3, "width_multiple": 0.125}
    pickled(state, path, activation=nn.SiLU(), names=["a", "b", "c"], yaml=settings)
    opened = open_detector(path)
    assert opened.detector.architecture == source.architecture
    assert (opened.name, opened.size, opened.detector.class_names) == ("yolov7-mine", (640, 640), ("a", "b", "c"))
    assert next(opened.detector.parameters()).dtype == torch.float32
    images = torch.rand(1, 3, 64, 64) * 255
    found, wanted = opened.detector.eval()(images), source(images)
    # The file is of half precision.
    assert (found.scores() - wanted.scores()).abs().mean() < 2e-3
    assert (found.boxes - wanted.boxes).abs().mean() < 0.5
    restored = restore(save_weights(opened.detector, tmp_path / "mine.safetensors"))
    assert restored.architecture == source.architecture
    assert torch.equal(restored.eval()(images).boxes, found.boxes)


def test_model_of_other_anchors_keeps_them_and_says_so(tmp_path: Path) -> None:
    state = official_state(random_detector(narrow("yolov7-tiny")))
    torch.save(state, tmp_path / "file.pt")
    levels = narrow("yolov7-tiny").anchors
    other = replace(narrow("yolov7-tiny"), anchors=(levels[0], levels[1], ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))))
    model = other.build()
    report = load_weights(model, tmp_path / "file.pt")
    assert any("anchors" in note for note in report.notes)
    assert model.architecture == other


@pytest.mark.parametrize("form", ["training", "deploy"])
@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7-tiny-silu", "yolov7", "yolov7-w6", "yolov7-d6"])
def test_released_files_are_recognised_whatever_they_are_called(name: str, form: str) -> None:
    with torch.device("meta"):
        model = build(name)
        state = official_state(model)
    if form == "deploy":
        head = next(key.split(".")[1] for key in state if ".m.0." in key)
        levels = len({key for key in state if ".m2." in key}) // 2
        gone = tuple(f"model.{int(head) - index}." for index in range(1, levels + 1))
        state = {
            key.replace(f".{head}.", f".{int(head) - levels}."): tensor
            for key, tensor in state.items()
            if not key.startswith(gone) and "implicit" not in key and ".m2." not in key
        }
    kind = "LeakyReLU" if name == "yolov7-tiny" else "SiLU"
    said = PickledModule({}, kinds=frozenset({f"torch.nn.modules.activation.{kind}"}))
    state = {key: tensor for key, tensor in state.items() if "anchor" not in key}
    found = identify(Checkpoint("best.pt", "a file", state, False, pickled=said))
    assert found == (name, model.architecture)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.asarray(fill_module().fill(name, shape))).half().float()


@needs_shared
def test_real_stripped_checkpoint_gives_the_official_values_and_output() -> None:
    opened = open_detector(reference("yolov7") / STRIPPED)
    model = opened.detector.eval()
    assert model.architecture == variant("yolov7-tiny").architecture
    golden = Golden.load("yolov7", "yolov7-tiny")
    names = model.architecture.official_names()
    for ours, tensor in model.state_dict().items():
        if "num_batches" not in ours:
            stored = golden.arrays.get(names[ours])
            wanted = filled(names[ours], tuple(tensor.shape)) if stored is None else torch.from_numpy(stored).half()
            assert torch.equal(tensor, wanted.float()), ours
    predictions = model(torch.from_numpy(golden.image) * 255)
    assert predictions.objectness is not None
    found = predictions.objectness.sigmoid()[0, golden.arrays["rows"]].detach().numpy()
    # Half precision of all weights moves the outputs of a network with random weights by about a per mille.
    np.testing.assert_allclose(found, golden.arrays["predictions"][:, 4], rtol=0, atol=0.02)


@needs_shared
def test_real_unstripped_checkpoint_gives_its_moving_average() -> None:
    model = open_detector(reference("yolov7") / UNSTRIPPED).detector
    assert model.architecture == replace(variant("yolov7-tiny").architecture, width_multiple=0.25)
    names = model.architecture.official_names()
    for ours, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "running" not in ours:
            assert torch.equal(tensor, filled(f"ema.{names[ours]}", tuple(tensor.shape))), ours


BUILD = b"}" + text("_modules") + b"}s" + text("_parameters") + b"}s" + text("_buffers") + b"}sb"
MODEL = named("models.yolo.Model") + b")\x81"
HOSTILE = {
    "a call": (b"\x80\x02" + MODEL + named("os.system") + text("touch touched") + b"\x85R0" + BUILD + b".", "system"),
    "eval": (b"\x80\x02" + named("builtins.eval") + text("1") + b"\x85R.", "builtins.eval"),
    "a package that only looks like one": (b"\x80\x02" + named("modelsx.yolo.Model") + b")\x81.", "modelsx"),
    "a method of torch": (b"\x80\x02" + named("torch.hub.load") + text("a") + b"\x85R.", "torch.hub.load"),
    "no tensors": (b"\x80\x02}" + text("model") + MODEL + BUILD + b"s.", "no tensors"),
    "itself inside": (
        b"\x80\x02}" + text("model") + MODEL + b"q\x01}" + text("_modules") + b"}" + text("a") + b"h\x01ssbs.",
        "nested deeper",
    ),
    "a module that is none": (
        b"\x80\x02}" + text("model") + MODEL + b"}" + text("_modules") + b"}" + text("a") + b"K\x01ssbs.",
        "is a int",
    ),
    "modules that are no table": (
        b"\x80\x02}" + text("model") + MODEL + b"}" + text("_modules") + b"K\x01sbs.",
        "damaged module",
    ),
    "doubled at every level": (
        b"\x80\x02}" + text("model") + MODEL + b"q\x00}" + text("_modules") + b"}" + text("a") + b"Nssb0" + b"h\x00"
        + b"".join(
            b"q%c0" % level + MODEL + b"}" + text("_modules") + b"}" + text("a") + b"h%c" % level + b"s"
            + text("b") + b"h%c" % level + b"ssb"
            for level in range(1, 40)
        )
        + b"s.",
        "more than 100000 parts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_pickles_end_in_one_error_that_says_why(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, said = HOSTILE[word]
    path = tmp_path / "hostile.pt"
    path.write_bytes(with_pickle(program))
    with pytest.raises(WeightsError, match=said):
        open_detector(path)
    assert not (tmp_path / "touched").exists()
