"""The latency model: its convolutions are those of the built network, and the table interpolates what it measured."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.nas.evolution import Budgets, Task, random_structures
from onelook.nas.latency import GRID, OperatorTable, calibrate, rank_correlation
from onelook.nas.operators import Operator, backbone_operators
from onelook.networks.conv_shapes import conv_shapes
from onelook.networks.damo_yolo import mae_nas
from onelook.networks.damo_yolo.architecture import DamoYolo
from onelook.networks.damo_yolo.rep_gfpn import RepGfpn
from onelook.networks.deploy import deploy
from test_nas_search import SPACES

PUBLISHED = {
    name: getattr(mae_nas, name) for name in ("MAE_RESNET_T", "MAE_RESNET_S", "MAE_CSP_M", "MAE_CSP_L", "MOBILE_NS")
}
FOUND = {
    f"{name} {place}": one
    for name, space in SPACES.items()
    for place, one in enumerate(random_structures(Task(space, Budgets(), 128), 2, Random(5)))
}


@pytest.mark.parametrize("name", [*PUBLISHED, *FOUND])
def test_operators_are_the_convolutions_of_the_deployed_backbone(name: str) -> None:
    structure = (PUBLISHED | FOUND)[name]
    with torch.device("meta"):
        backbone = deploy(DamoYolo(structure, RepGfpn((16, 16, 16))).build()).backbone
    found = conv_shapes(backbone, torch.zeros(1, 3, 64, 64))
    assert Counter(map(tuple, found)) == Counter(map(tuple, backbone_operators(structure, 64)))


@settings(max_examples=50, deadline=None)
@given(inputs=st.integers(1, 512), outputs=st.integers(1, 512), side=st.sampled_from((10, 80)))
def test_a_table_interpolates_what_is_linear_in_the_channels_exactly(inputs: int, outputs: int, side: int) -> None:
    def measure(operator: Operator) -> float:
        return 3.0 + operator.inputs * operator.outputs * operator.side**2

    table = OperatorTable(measure)
    operator = Operator(3, 1, 8 * inputs, 8 * outputs, side)
    assert table.seconds(operator) == pytest.approx(measure(operator))
    assert table.added == len(table.known) <= 4 and {one.inputs for one in table.known} <= set(GRID)
    table.seconds(operator)
    assert table.added == len(table.known)


def test_a_depthwise_convolution_keeps_its_groups() -> None:
    table = OperatorTable(lambda operator: float(operator.inputs))
    assert table.seconds(Operator(5, 2, 72, 72, 40, depthwise=True)) == pytest.approx(72)
    assert all(one.inputs == one.outputs and one.depthwise for one in table.known)


def test_the_image_s_three_channels_are_measured_as_they_are() -> None:
    table = OperatorTable(lambda operator: 1.0)
    table.seconds(Operator(3, 2, 3, 16, 640))
    assert {one.inputs for one in table.known} == {3}


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0.1, 10), rest=st.floats(0, 1), seed=st.integers(0, 99))
def test_calibration_finds_what_the_measurements_follow(scale: float, rest: float, seed: int) -> None:
    sums = np.random.default_rng(seed).uniform(0.5, 2, 12)
    found = calibrate(sums, scale * sums + rest)
    assert found.scale == pytest.approx(scale, rel=1e-5) and found.rest == pytest.approx(rest, abs=1e-5 * scale + 1e-6)
    assert found.correlation == pytest.approx(1) and found.reliable
    assert found.predicted == pytest.approx(found.measured)


def test_calibration_has_no_negative_parts() -> None:
    sums = np.array([1.0, 2.0, 3.0])
    below = calibrate(sums, sums - 0.5)
    assert below.rest == 0 and below.scale > 0
    against = calibrate(sums, 4 - sums)
    assert against.scale > 0 and against.correlation == pytest.approx(-1) and not against.reliable


def test_rank_correlation_is_spearman_s() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert rank_correlation([1, 1, 2], [1, 1, 5]) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
