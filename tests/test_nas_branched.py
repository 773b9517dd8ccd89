"""Searching CSPDarknet and ELAN: what is traced is the network that is built, and all that is found can be trained."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import onelook
from onelook.api.search_latency import LatencyMeter
from onelook.cli.app import run
from onelook.errors import ConfigError
from onelook.layers.conv import ConvBnAct
from onelook.layers.csp import Bottleneck
from onelook.layers.spp import Spp
from onelook.nas.branched_space import DarknetSpace
from onelook.nas.cost import cost
from onelook.nas.evolution import Budgets, Task, random_structures
from onelook.nas.operators import backbone_operators
from onelook.nas.score import entropies, score
from onelook.nas.state import structure_of, structure_rows
from onelook.nas.trace import Trace, Walk, traced
from onelook.networks.branched_structure import DarknetStage, DarknetStructure
from onelook.networks.conv_shapes import conv_shapes
from onelook.networks.deploy import deploy
from onelook.networks.variants import VARIANTS, variant
from onelook.networks.yolov4.csp_darknet53 import DarknetUnit
from onelook.recipes.searches import FAMILIES, published_structures, search_form
from onelook.reporter import SilentReporter

FORMS = ("yolox-nano", "yolox-s", "yolov4", "yolov4-csp", "yolov7-tiny", "yolov7", "yolov7x")


def found(name: str, count: int = 1, seed: int = 5):
    form = search_form(name)
    return random_structures(Task(form.space(form.layers), Budgets(flops=4e8), 128), count, Random(seed))


CASES = [(name, one) for name in FORMS for one in (search_form(name).structure, *found(name))]
WORDS = [f"{name} {'published' if place % 2 == 0 else 'found'}" for place, (name, _) in enumerate(CASES)]


@pytest.mark.parametrize(("name", "structure"), CASES, ids=WORDS)
def test_the_trace_has_the_convolutions_and_parameters_of_the_built_backbone(name: str, structure) -> None:
    with torch.device("meta"):
        detector = search_form(name).detector(structure, (64, 64)).build()
        deployed = deploy(detector).backbone
    shapes = conv_shapes(deployed, torch.zeros(1, 3, 64, 64))
    assert Counter(map(tuple, shapes)) == Counter(map(tuple, backbone_operators(structure, 64)))
    assert cost(structure, 64).parameters == sum(one.numel() for one in detector.backbone.parameters())
    assert detector.backbone.channels == structure.level_channels()


def linear(backbone: nn.Module, generator: torch.Generator) -> nn.Module:
    """The backbone as the score sees it: convolutions with weights from N(0, 1) only, without borders."""
    for module in backbone.modules():
        if isinstance(module, ConvBnAct):
            module.bn, module.activation = nn.Identity(), nn.Identity()  # type: ignore[assignment]
            module.conv.padding_mode = "circular"
            module.conv._reversed_padding_repeated_twice = [module.conv.padding[0]] * 4
            module.conv.weight.data = torch.randn(module.conv.weight.shape, generator=generator)
        elif isinstance(module, Bottleneck):
            module.shortcut = False
        elif isinstance(module, DarknetUnit):
            module.join = OnlyFirst()
        elif hasattr(module, "stage5"):
            module.stage5 = nn.Sequential(*(one for one in module.stage5 if not isinstance(one, Spp)))
    return backbone.double()


class OnlyFirst(nn.Module):
    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return x


WIDE = DarknetStructure(
    32, tuple(DarknetStage(outputs, 1 + outputs // 96) for outputs in (32, 64, 96, 96, 128)), "plain_first", "mish"
)


@pytest.mark.parametrize("name", ["yolox-nano", "yolox-tiny", "yolov4-csp", "yolov7-tiny", "yolov7"])
def test_the_closed_form_is_the_deviation_of_the_built_network_s_features(name: str, monkeypatch) -> None:
    """Without activations, normalisation and shortcuts; max-pooling takes every second pixel, whose variance stays."""
    monkeypatch.setattr(F, "max_pool2d", lambda x, *rest, **settings: x[..., ::2, ::2])
    form, generator = search_form(name), torch.Generator().manual_seed(3)
    structure = WIDE if name == "yolov4-csp" else found(name, seed=11)[0] if name == "yolov7" else form.structure
    backbone = linear(form.detector(structure, (128, 128)).build().backbone, generator)
    images = torch.randn(2, 3, 128, 128, generator=generator).double()
    with torch.no_grad():
        pyramid = backbone(images)
    trace = traced(structure)
    noise = 0.5 if name == "yolox-nano" else 0.15  # nine weights of a depthwise kernel vary more than thousands do
    for stride, features in zip((8, 16, 32), pyramid):
        measured = float(features.std().log())
        (part,) = trace.levels[stride].parts
        assert measured == pytest.approx(part.log_deviation, abs=noise), stride
        assert part.channels == features.shape[1]
    assert entropies(structure) == trace.entropies


def test_the_variances_of_joined_branches_add_up() -> None:
    walk = Walk()
    image = walk.image(12)
    wide, deep = walk.conv(image, 16), walk.conv(walk.conv(image, 8), 8, 3)
    joined = walk.conv(walk.join(wide, deep), 32)
    variance = 16 * 12 + 8 * (12 * 8 * 9)
    assert joined.entropy == pytest.approx(0.5 * torch.tensor(variance).log().item() + torch.tensor(32).log().item())
    assert joined.layers == 3 and len(walk.convolutions) == 4


def test_sections_follow_one_another() -> None:
    """Of two sections in a row, the second's deviations and layers are added to the first's."""
    first, second = Walk(), Walk()
    trace = Trace()
    between = trace.add(first.section(first.end_level(first.conv(first.image(12, 16), 8, 3))))
    branches = second.image(8, 16)
    end = second.conv(second.join(second.conv(branches, 8, 3, 2), second.conv(second.pool(branches), 16)), 24)
    outputs = trace.add(second.section(second.end_level(end)))
    whole = Walk()
    x = whole.conv(whole.image(12, 16), 8, 3)
    direct = whole.conv(whole.join(whole.conv(x, 8, 3, 2), whole.conv(whole.pool(x), 16)), 24)
    assert outputs.entropy == pytest.approx(direct.entropy) and outputs.layers == direct.layers == 3
    assert between.layers == 1 and trace.levels.keys() == {2, 4}
    assert list(trace.convolutions) == whole.convolutions
    assert trace.parameters == whole.section(direct).parameters and trace.flops == whole.section(direct).flops


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(FORMS), seed=st.integers(0, 2**32), steps=st.integers(1, 40))
def test_children_stay_in_the_space(name: str, seed: int, steps: int) -> None:
    form, rng = search_form(name), Random(seed)
    space = form.space(form.layers)
    child = space.initial
    for _ in range(steps):
        child = space.mutate(child, rng)
        assert space.contains(child), child
    assert structure_of(structure_rows(child), form.structure) == child


def test_every_variant_has_a_space_with_its_own_structure_or_a_reason() -> None:
    for name, row in VARIANTS.items():
        if row.family == "DAMO-YOLO":
            continue
        if name in ("yolox-darknet53", "csresnext50-panet-spp") or (row.family == "YOLOv4" and "tiny" in name):
            with pytest.raises(ConfigError, match="does not cover"):
                search_form(name)
        elif name in ("yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e"):
            with pytest.raises(ConfigError, match="stride 64"):
                search_form(name)
        else:
            form = search_form(name)
            space = form.space(form.layers)
            assert all(map(space.contains, (space.initial, space.smallest, form.structure)))
            assert form.layers == cost(form.structure, 64).layers and form.remarks
            assert name in published_structures(form)
    assert {search_form(name).architecture.__class__.__name__ for name in FAMILIES.values()} >= {"Yolox", "Yolov7"}


def test_the_published_network_is_the_one_of_its_structure() -> None:
    for name in FORMS:
        form = search_form(name)
        with torch.device("meta"):
            own = form.detector(form.structure, form.size).build().state_dict()
            like = VARIANTS[name].architecture.build().state_dict()
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in like.items()}


@pytest.mark.parametrize("name", ["yolox-nano", "yolov4-csp", "yolov7-tiny", "yolov7x"])
def test_found_structures_build_a_detector_that_trains(name: str) -> None:
    (structure,) = found(name, seed=2)
    architecture = search_form(name).detector(structure, (64, 64))
    detector = architecture.build()
    features = detector.backbone(torch.rand(2, 3, 64, 64))
    assert [feature.shape[2] for feature in features] == [8, 4, 2]
    predictions = detector(torch.rand(2, 3, 64, 64) * 255)
    (predictions.boxes.mean() + predictions.classes.mean()).backward()
    assert all(one.grad is not None for one in detector.backbone.parameters())
    names = architecture.official_names()
    assert len(set(names.values())) == len(names) == len(detector.state_dict())


def test_a_space_names_a_wrong_number_of_depths() -> None:
    with pytest.raises(ValueError, match="a space of 4 stages"):
        DarknetSpace(search_form("yolox-s").structure, (1, 1))  # type: ignore[arg-type]


def test_the_command_line_searches_another_family(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["--like", "yolox-nano", "--budget", "flops=8M", "--size", "64", "--evaluations", "1"]
    assert run(["search", *arguments, "--out", str(tmp_path / "own")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "yolox-nano" in shown and "own.yaml" in shown and "SPP" in shown and "variances add up" in shown
    rest = onelook.search(out=tmp_path / "own", resume=True, evaluations=3000, reporter=SilentReporter())
    architecture = variant(str(rest.model)).architecture
    structure = DarknetStructure(architecture.stem, architecture.stages, "separable", "silu")
    assert rest.rows[0].score == score(structure) and rest.rows[0].within
    assert architecture.build().architecture == architecture
    assert len(rest.remarks) == 2 and rest.to_dict()["remarks"] == list(rest.remarks)


def test_latency_is_predicted_for_a_backbone_that_joins_branches(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(LatencyMeter, "operator_seconds", lambda meter, operator: 1e-6 * operator.outputs)
    for name in ("yolox-tiny", "yolov4", "yolov7-tiny"):
        form = search_form(name)
        meter = LatencyMeter(form, 64, "torch", 1)
        assert meter.model().total(form.structure) > sum(
            1e-6 * one.outputs for one in backbone_operators(form.structure, 64)
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolox-nano", "yolov4-csp", "yolov7-tiny"])
def test_a_found_model_is_trained_and_exported(name: str, tmp_path) -> None:
    from onelook.data.synthetic import Scenes, write_synthetic

    data = write_synthetic(tmp_path / "data", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    result = onelook.search(
        "flops=30M", like=name, size=64, evaluations=1, out=tmp_path / "found", reporter=SilentReporter()
    )
    trained = onelook.train(
        result.model, data, epochs=1, size=64, batch=2, out=tmp_path / "run", workers=0, reporter=SilentReporter()
    )
    exported = onelook.export(trained.folder, out=tmp_path / "found.onnx")
    assert exported.path.is_file()
    assert onelook.load(str(exported.path)).runtime.size == (64, 64)
