"""The score and the cost of MAE-NAS are those of the official searcher; random passes agree with the closed form."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_goldens import CASES, structure
from onelook.nas.cost import cost
from onelook.nas.random_score import random_log_deviations, random_score
from onelook.nas.score import MAE_DET_WEIGHTS, entropies, log_deviations, score
from onelook.networks.structure import Stage, Structure

BLOCKS = ("k1kx", "kxkx", "k1kxk1", "k1dwk1")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_score_and_cost_are_those_of_the_official_searcher(case) -> None:
    assert score(case.structure) == pytest.approx(case.score, rel=1e-12)
    stages = entropies(case.structure)
    assert (stages[2], stages[3], 16 * stages[4]) == pytest.approx(case.weighted, rel=1e-12)
    counted = cost(case.structure, case.size)
    assert (counted.layers, counted.parameters) == (case.layers, case.parameters)
    assert counted.flops == pytest.approx(case.flops, rel=1e-12)


def test_weights_of_the_stages_can_be_chosen() -> None:
    stages = entropies(CASES["T"].structure)
    assert score(CASES["T"].structure, MAE_DET_WEIGHTS) == pytest.approx(stages[2] + stages[3] + 6 * stages[4])
    assert score(CASES["T"].structure, (1, 0, 0, 0, 0)) == pytest.approx(log(12 * 9) / 2 + log(24))


@pytest.mark.parametrize("name", ["initial k1kx", pytest.param("T", marks=pytest.mark.slow)])
def test_random_passes_agree_with_the_recorded_ones(name: str) -> None:
    case = CASES[name]
    assert case.random is not None
    mean, deviation = case.random
    found = random_score(case.structure, case.size, batch=1, repetitions=2)
    assert found == pytest.approx(mean, abs=6 * deviation) and found < case.score


@pytest.mark.parametrize("block", BLOCKS)
def test_every_kind_of_block_has_the_variance_that_the_closed_form_states(block) -> None:
    wide = structure(24, block, (48, 40, 2, 2), (48, 64, 2, 1), (64, 64, 2, 1), (96, 48, 1, 1), (96, 96, 2, 1))
    measured = random_log_deviations(wide, 256, torch.Generator().manual_seed(0), batch=2)
    # Zeros around a small image lower the variance of 3x3 convolutions: by a sixth at 8 x 8 pixels.
    assert measured == pytest.approx(log_deviations(wide), abs=0.3)
    assert random_score(wide, 256, batch=2, repetitions=1) == pytest.approx(score(wide), rel=0.02)


STAGES = st.tuples(
    *(
        st.builds(
            Stage,
            st.integers(1, 40).map(lambda count: 8 * count),
            st.integers(1, 40).map(lambda count: 8 * count),
            st.just(stride),
            st.integers(1, 5),
            st.sampled_from(BLOCKS),
            st.sampled_from((3, 5)),
        )
        for stride in (2, 2, 2, 1, 2)
    )
)


@settings(max_examples=50, deadline=None)
@given(stages=STAGES, place=st.integers(0, 4), focus=st.booleans())
def test_more_of_anything_scores_higher_and_costs_more(stages, place: int, focus: bool) -> None:
    base = Structure(16, stages, focus=focus)
    assert score(base) == pytest.approx(
        sum(weight * entropy for weight, entropy in zip((0, 0, 1, 1, 16), entropies(base)))
    )
    assert len(log_deviations(base)) == 1 + sum(stage.depth for stage in stages)
    stage = stages[place]
    for change in ({"depth": stage.depth + 1}, {"bottleneck": stage.bottleneck + 8}, {"kernel": stage.kernel + 2}):
        more = replace(base, stages=(*stages[:place], replace(stage, **change), *stages[place + 1 :]))
        assert score(more) > score(base)
        before, after = cost(base, 320), cost(more, 320)
        assert after.flops > before.flops and after.parameters > before.parameters and after.layers >= before.layers


def test_multiply_adds_grow_with_the_area_of_the_image() -> None:
    for case in CASES.values():
        assert cost(case.structure, 640).flops == pytest.approx(4 * cost(case.structure, 320).flops)
