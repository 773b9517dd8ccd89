"""What `--cache` asks for, and what it gets."""

from __future__ import annotations

import numpy as np
import pytest

from data_sets import HEIGHT, WIDTH, coco
from onelook.data import open_dataset
from onelook.data.cache_budget import plan_cache
from onelook.data.loader import Loader
from onelook.errors import UsageError

GIGABYTE = 10**9


class Large:
    """A data set of 1,000 images of 640 x 480."""

    sizes = np.full((1000, 2), (480, 640))


ALL = 1000 * 640 * 480 * 4  # three bytes a pixel, and a third more for the smaller decodings


@pytest.mark.parametrize(
    ("requested", "free", "budget"),
    [
        ("ram", 100 * GIGABYTE, ALL),
        ("ram", GIGABYTE, GIGABYTE // 2),
        ("disk", GIGABYTE, GIGABYTE // 2),
        ("500MB", GIGABYTE, 500 * 10**6),
        ("0.5g", 10 * GIGABYTE, 500 * 10**6),
        ("70000000", GIGABYTE, 70_000_000),
        ("4TB", 100 * GIGABYTE, ALL),
        ("400GB", GIGABYTE, 800 * 10**6),
    ],
)
def test_the_budget_is_what_is_asked_for_or_a_part_of_what_is_free(tmp_path, requested, free, budget):
    plan = plan_cache(requested, Large(), tmp_path / "run", free)
    assert plan.budget == budget
    assert plan.folder == (tmp_path / "run" if requested == "disk" else None)
    assert ("all fit" in str(plan)) == (budget >= ALL)


def test_a_size_that_is_not_free_is_said_to_be_less(tmp_path):
    said = str(plan_cache("400GB", Large(), tmp_path, GIGABYTE))
    assert said == "Decoded images are kept in memory: up to 800 MB, as 1 GB are free; all would need 1.23 GB."
    assert "free" not in str(plan_cache("400GB", Large(), tmp_path, 100 * GIGABYTE))
    much = Large()
    much.sizes = np.full((1000, 2), 1 << 20)  # more than any computer has
    assert plan_cache("4000TB", much, tmp_path).budget < 4000 * 10**12


@pytest.mark.parametrize("requested", ["rma", "-4", "4 apples", "12kB", ""])
def test_what_is_no_place_and_no_size_is_refused(tmp_path, requested):
    with pytest.raises(UsageError, match="--cache"):
        plan_cache(requested, Large(), tmp_path)


@pytest.mark.parametrize("requested", ["ram", "disk"])
def test_the_system_says_what_is_free_and_a_loader_fills_it(tmp_path, requested):
    dataset = open_dataset(coco(tmp_path / "data"))
    plan = plan_cache(requested, dataset, tmp_path / "run")
    assert plan.budget == plan.needed == 1 << 20 > 3 * 3 * WIDTH * HEIGHT
    with Loader(dataset, (64, 64), 3, cache=plan.budget, cache_folder=plan.folder) as loader:
        assert loader.cache is not None and loader.cache.used == 0
        list(
            loader.epoch(
                0,
                lambda sample, draw, rng: sample.__class__(
                    np.ascontiguousarray(sample.image), sample.boxes, sample.labels
                ),
                0,
            )
        )
        assert loader.cache.used >= 2 * 3 * WIDTH * HEIGHT
