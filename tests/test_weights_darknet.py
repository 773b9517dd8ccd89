"""Darknet's files: read, refused and written back byte for byte."""

from __future__ import annotations

import struct
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from networks import Golden
from onelook.api.export import export
from onelook.errors import WeightsError
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.variants import variant
from onelook.networks.yolov4.architecture import CSP, TINY, Yolov4
from onelook.weights import load_weights, open_detector
from onelook.weights.darknet import DarknetHeader, header_of, layout, write_darknet
from shared import needs_shared, reference

SMALL = replace(TINY, width=0.125, num_classes=3, size=(64, 64))


def trained(architecture: Yolov4 = SMALL, seed: int = 0) -> Detector:
    """A detector with statistics of its own."""
    torch.manual_seed(seed)
    detector = build(architecture)
    for name, tensor in detector.state_dict().items():
        if name.endswith(("running_mean", "bn.weight", "bn.bias")):
            torch.nn.init.normal_(tensor)
        elif name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2)
    return detector.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_darknet(trained(), tmp_path / "small.weights", DarknetHeader(seen=640))


def same(first: Detector, second: Detector) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(one, theirs[name]) for name, one in first.state_dict().items() if one.is_floating_point())


@needs_shared
def test_official_file_gives_the_golden_output_and_is_written_back_identical(tmp_path: Path) -> None:
    path = reference("yolov4") / "yolov4-tiny.weights"
    golden = Golden.load("yolov4", "yolov4-tiny")
    opened = open_detector(path)  # recognised by its length
    assert opened.name == "yolov4-tiny" and opened.detector.class_names[0] == "person"
    with torch.no_grad():
        found = opened.detector.eval()(torch.from_numpy(golden.image) * 255)
    expected = golden.arrays["predictions"]
    scores = found.scores()[0, golden.arrays["rows"]].numpy()
    np.testing.assert_allclose(scores, expected[:, 4:5] * expected[:, 5:], atol=1e-4)
    result = export(path, "darknet", out=tmp_path / "again.weights")
    assert result.to_dict()["bytes"] == path.stat().st_size
    assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("header", [DarknetHeader(), DarknetHeader((0, 1, 0), 123), DarknetHeader((0, 2, 0), 2**40)])
def test_both_versions_of_the_header_come_back(tmp_path: Path, header: DarknetHeader) -> None:
    detector, path = trained(), tmp_path / "a.weights"
    write_darknet(detector, path, header)
    assert header_of(path) == header
    other = trained(seed=1)
    load_weights(other, path)
    assert same(other, detector)
    write_darknet(other, tmp_path / "b.weights", header_of(path))
    assert (tmp_path / "b.weights").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "architecture",
    [
        replace(CSP, width=0.125, depth=0.1, num_classes=2),
        Yolov4(width=0.125, depth=0.1, num_classes=2, residual="per_channel", attention="pointwise"),
        Yolov4(width=0.125, depth=0.1, num_classes=2, gaussian=True),
    ],
    ids=["csp", "weighted", "gaussian"],
)
def test_every_kind_of_network_comes_back(tmp_path: Path, architecture: Yolov4) -> None:
    detector, other = trained(architecture), trained(architecture, seed=1)
    path = write_darknet(detector, tmp_path / "a.weights")
    load_weights(other, path)
    assert same(other, detector)


def test_layers_lie_in_the_file_as_darknet_writes_them(file: Path) -> None:
    layers = layout(SMALL)
    assert layers is not None
    assert [layer.name for layer in layers[:6]] == [
        *("bn0.bias", "bn0.weight", "bn0.running_mean", "bn0.running_var", "conv0.weight", "bn1.bias")
    ]
    values = np.frombuffer(file.read_bytes()[20:], np.float32)
    state = trained().state_dict()
    first = next(iter(name for name in state if name.endswith("bn.bias")))
    np.testing.assert_array_equal(values[:4], state[first])
    last = state["head.levels.0.predict.weight"]
    np.testing.assert_array_equal(values[-last.numel() :], last.flatten())


def test_rows_of_another_class_count_are_found(tmp_path: Path) -> None:
    many = build(replace(SMALL, num_classes=80))
    path = write_darknet(many, tmp_path / "coco.weights")
    few = build(SMALL, ["dog", "zebra", "thing"])
    report = load_weights(few, path)
    assert report.kept_classes == ("dog", "zebra") and report.new_classes == ("thing",)
    rows = [
        part.detach().unflatten(0, (3, -1))
        for part in (few.head.levels[0].predict.weight, many.head.levels[0].predict.weight)
    ]
    torch.testing.assert_close(rows[0][:, :7], rows[1][:, [0, 1, 2, 3, 4, 5 + 16, 5 + 22]])


@pytest.mark.parametrize(
    ("name", "file", "convolutions", "size"),
    [
        ("yolov4", "yolov4.conv.137", 92, 170_038_676),
        ("yolov4-tiny", "yolov4-tiny.conv.29", 17, 19_789_716),
        ("yolov4-csp", "yolov4-csp.conv.142", 93, 146_548_116),
        ("yolov4x-mish", "yolov4x-mish.conv.166", 111, 277_307_668),
        ("csresnext50-panet-spp", "csresnext50-panet-spp.conv.112", 78, 140_311_316),
    ],
)
def test_published_backbone_files_end_between_two_layers(name: str, file: str, convolutions: int, size: int) -> None:
    layers = layout(variant(name).architecture)
    assert layers is not None and (variant(name).backbone or "").rpartition("/")[2] == file
    held = [layer for layer in layers if int(layer.name.partition(".")[0].lstrip("convb")) < convolutions]
    assert 20 + 4 * sum(prod(layer.shape(80)) for layer in held) == size
    assert held == list(layers[: len(held)]) and layers[len(held)].begins


def test_the_first_layers_alone_start_a_training(file: Path) -> None:
    layers = layout(SMALL)
    assert layers is not None
    held = [
        layer
        for layer in layers
        if layer.name.startswith(tuple(f"{kind}{n}." for kind in ("conv", "bn") for n in range(5)))
    ]
    size = 20 + 4 * sum(int(np.prod(layer.sides)) for layer in held)
    backbone = file.with_name("small.conv.7")
    backbone.write_bytes(file.read_bytes()[:size])
    other = trained(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    report = load_weights(other, backbone)
    assert "first 25 tensors" in str(report)
    taken = {layer.own for layer in held}
    for name, tensor in trained().state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor if name in taken else before[name])
    backbone.write_bytes(file.read_bytes()[: size - 4])
    with pytest.raises(WeightsError, match=r"ends in the layer 'conv4\.weight'"):
        load_weights(other, backbone)


def _cut(data: bytes) -> bytes:
    return data[: 20 + 4 * 1000]


HOSTILE = {
    "cut inside a layer": (_cut, r"ends in the layer 'conv2\.weight', after 524 of 576 numbers"),
    "cut inside a number": (lambda data: data[:-1], "3 of 4 bytes"),
    "one number short": (lambda data: data[:-4], r"ends in the layer 'conv20\.weight'"),
    "longer than the network": (lambda data: data + bytes(40), r"goes on behind .* last layer 'conv20\.weight', by 10"),
    "header only": (lambda data: data[:20], r"ends in the layer 'bn0\.bias'"),
    "old header before new numbers": (
        lambda data: struct.pack("<3i", 0, 1, 0) + data[12:],
        r"goes on behind the network's last layer",
    ),
    "not a number": (lambda data: data[:-4] + struct.pack("<f", float("nan")), "not finite"),
    "negative variance": (lambda data: data[: 20 + 4 * 12] + struct.pack("<f", -1) + data[24 + 4 * 12 :], "negative"),
    "an unknown version": (lambda data: struct.pack("<i", 7777) + data[4:], "not a weights file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files_are_refused_in_one_message(file: Path, name: str) -> None:
    damage, message = HOSTILE[name]
    file.write_bytes(damage(file.read_bytes()))
    detector = trained(seed=1)
    before = trained(seed=1)
    with pytest.raises(WeightsError, match=message):
        load_weights(detector, file)
    assert same(detector, before)


def test_a_file_of_no_known_network_is_named(file: Path) -> None:
    with pytest.raises(WeightsError, match="does not say which model"):
        open_detector(file)


def test_other_networks_have_no_darknet_file(file: Path) -> None:
    with pytest.raises(WeightsError, match="Yolox has none"):
        load_weights(build("yolox-nano", 3), file)
    with pytest.raises(WeightsError, match="Yolox cannot be written"):
        write_darknet(build("yolox-nano", 3), file)
