"""Our own files: what goes in comes out, alone from the file, and a crash leaves the old one whole."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hostile_weights import safetensors_bytes
from onelook.errors import WeightsError
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import ClassRows
from onelook.weights import load_weights, read_checkpoint, read_header, restore, save_weights
from onelook.weights.classes import copy_class_rows, plan_classes
from onelook.weights.header import Header


@pytest.mark.parametrize(
    ("form", "kind"),
    [("training", torch.float32), ("training", torch.float16), ("deploy", torch.float32), ("deploy", torch.float64)],
    ids=str,
)
def test_restore_gives_the_detector_back(form: str, kind: torch.dtype, tmp_path: Path) -> None:
    model = build("yolox-nano", classes=["zèbre", "x"]).eval()
    model = (deploy(model) if form == "deploy" else model).to(kind)
    path = save_weights(model, tmp_path / "a" / "x.safetensors", metrics={"AP": 0.25}, size=(320, 640))
    found = restore(path)
    assert found.architecture == model.architecture
    assert found.class_names == ("zèbre", "x")
    assert found.deployed == model.deployed
    states = model.state_dict(), found.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    images = torch.rand(1, 3, 64, 64, dtype=kind) * 255
    with torch.no_grad():
        assert torch.equal(model(images).boxes, found.eval()(images).boxes)


def test_header_says_all_of_the_contract(tmp_path: Path) -> None:
    model = build("yolox-nano")
    path = save_weights(model, tmp_path / "x.safetensors", recipe={"type": "Recipe", "epochs": 3}, metrics={"AP": 0.5})
    header = read_header(path)
    assert header.trained is None
    assert header.model == "yolox-nano"
    assert header.class_names == model.class_names
    assert header.size == (416, 416)
    assert header.preprocessing["frame"]["type"] == "Letterbox"
    assert header.recipe == {"type": "Recipe", "epochs": 3}
    assert header.metrics == {"AP": 0.5}
    assert header.form == "training"
    with safe_open(str(path), "pt") as file:
        assert json.loads(file.metadata()["onelook"])["version"] == header.version


def test_when_and_on_what_weights_were_trained_is_kept_and_may_be_missing(tmp_path: Path) -> None:
    trained = {"date": "2026-01-01T00:00:00+00:00", "training": {"images": 3}, "best_confidence": 0.4}
    path = save_weights(build("yolox-nano"), tmp_path / "x.safetensors", trained=trained)
    assert read_header(path).trained == trained
    content = json.loads(read_header(path).to_json())
    del content["trained"]  # as files of earlier versions are
    assert Header.from_json(json.dumps(content)).trained is None


def test_files_are_those_of_the_safetensors_package(tmp_path: Path) -> None:
    model = build("yolox-nano")
    save_weights(model, tmp_path / "x.safetensors")
    theirs = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())
    tensors = {"a": torch.arange(5, dtype=torch.uint8), "b": torch.rand(3, 2).bfloat16(), "c": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "y.safetensors")
    ours = read_checkpoint(tmp_path / "y.safetensors").tensors
    assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_safetensors_of_a_bare_state_dict_load(tmp_path: Path) -> None:
    model = build("yolox-nano")
    assert model.architecture is not None
    official = model.architecture.official_names()
    save_file({official[name]: tensor for name, tensor in model.state_dict().items()}, tmp_path / "x.safetensors")
    other = build("yolox-nano")
    assert "official names" in load_weights(other, tmp_path / "x.safetensors").format
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_weights(build("yolox-nano"), path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WeightsError, match="no space left"):
        save_weights(build("yolox-nano"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    path = save_weights(build("yolox-nano"), tmp_path / "x.safetensors")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_overwriting_the_file_a_model_was_restored_from_is_safe(tmp_path: Path) -> None:
    path = save_weights(build("yolox-nano"), tmp_path / "x.safetensors")
    model = restore(path)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_weights(build("yolox-nano"), path)
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def rewritten(path: Path, **new: Any) -> Path:
    """The file with other values in our header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    content = json.loads(data[8 : 8 + length])
    header = json.loads(content["__metadata__"]["onelook"])
    for key, value in new.items():
        if isinstance(value, dict):
            header[key] |= value
        else:
            header[key] = value
    content["__metadata__"]["onelook"] = json.dumps(header)
    other = path.with_name("other.safetensors")
    other.write_bytes(safetensors_bytes(content, data[8 + length :]))
    return other


@pytest.mark.parametrize(
    ("word", "new"),
    [
        ("enormous width", {"architecture": {"width": 1e6}}),
        ("enormous depth", {"architecture": {"depth": 1e8}}),
        ("infinite depth", {"architecture": {"depth": "inf"}}),
        ("width of zero", {"architecture": {"width": 0.0}}),
        ("negative width", {"architecture": {"width": -1.0}}),
        ("another width", {"architecture": {"width": 0.5}}),
        ("other classes", {"architecture": {"num_classes": 81}}),
        ("enormous classes", {"architecture": {"num_classes": 10**12}}),
        ("no classes", {"architecture": {"num_classes": 0}}),
        ("text for a number", {"architecture": {"depth": "x"}}),
        ("unknown setting", {"architecture": {"surprise": 1}}),
        ("unknown type", {"architecture": {"type": "os.system"}}),
        ("a type that is no architecture", {"architecture": {"type": "Letterbox"}}),
        ("unknown activation", {"architecture": {"activation": "eval"}}),
        ("a frame that is none", {"architecture": {"frame": 3}}),
        ("architecture of text", {"architecture": "x"}),
        ("form of nothing", {"form": "x"}),
        ("wrong form", {"form": "deploy"}),
        ("names of numbers", {"class_names": [1, 2]}),
        ("too few names", {"class_names": ["a"]}),
        ("size of text", {"size": "x"}),
        ("huge size", {"size": [1 << 40, 3]}),
        ("metrics of text", {"metrics": "x"}),
        ("training of text", {"trained": "x"}),
        ("newer", {"format": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_header_that_lies_is_an_error(word: str, new: dict[str, Any], tmp_path: Path) -> None:
    path = rewritten(save_weights(build("yolox-nano"), tmp_path / "x.safetensors"), **new)
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        restore(path)


def test_file_without_our_header_cannot_be_restored(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    for read in (restore, read_header):
        with pytest.raises(WeightsError, match=r"x\.safetensors"):
            read(tmp_path / "x.safetensors")


def test_changed_architecture_is_named_by_its_type(tmp_path: Path) -> None:
    architecture: Any = build("yolox-nano").architecture
    path = save_weights(build(replace(architecture, width=0.125)), tmp_path / "x.safetensors")
    assert read_header(path).model == "Yolox"
    assert restore(path).architecture == replace(architecture, width=0.125)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), unique=True, min_size=1)


@settings(deadline=None, max_examples=60)
@given(NAMES, NAMES, st.integers(1, 3), st.integers(0, 5), st.integers(0, 2))
def test_carried_rows_are_those_of_the_same_name(
    ours: list[str], theirs: list[str], anchors: int, before: int, after: int
) -> None:
    rows = ClassRows(anchors, before, after)
    plan = plan_classes(ours, len(ours), theirs, len(theirs))
    current = torch.zeros(anchors * (before + len(ours) + after), 2)
    stored = torch.arange(anchors * (before + len(theirs) + after) * 2.0).reshape(-1, 2) + 1
    found = copy_class_rows(plan, rows, current, stored).unflatten(0, (anchors, -1))
    blocks = stored.unflatten(0, (anchors, -1))
    assert torch.equal(found[:, :before], blocks[:, :before])
    assert torch.equal(found[:, before + len(ours) :], blocks[:, before + len(theirs) :])
    for label, name in enumerate(ours):
        expected = blocks[:, before + theirs.index(name)] if name in theirs else torch.zeros(anchors, 2)
        assert torch.equal(found[:, before + label], expected)
    assert (current == 0).all()


@pytest.mark.parametrize("spaces", range(4), ids=lambda spaces: f"{spaces} bytes off")
def test_tensors_at_odd_places_are_read(spaces: int, tmp_path: Path) -> None:
    values = torch.arange(6.0)
    header = json.dumps({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}).encode() + b" " * spaces
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(header, values.numpy().tobytes()))
    found = read_checkpoint(tmp_path / "x.safetensors").tensors["a"]
    assert torch.equal(found, values)
    assert found.data_ptr() % 4 == 0


def test_writing_to_a_tensor_of_a_file_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    read_checkpoint(tmp_path / "x.safetensors").tensors["a"].add_(1)
    assert (tmp_path / "x.safetensors").read_bytes() == before
