"""YOLOv7's trainings are the published ones."""

from __future__ import annotations

import json

import pytest

from onelook.training.ema import Ema
from onelook.training.schedule import OneCycle
from shared import needs_shared, reference


@needs_shared
@pytest.mark.parametrize(
    ("case", "schedule"),
    [
        ("cosine_p5_300_epochs", OneCycle()),
        ("cosine_p6_300_epochs", OneCycle(floor=0.2)),
        ("cosine_tiny_300_epochs", OneCycle(floor=0.01)),
        ("linear_p5_300_epochs", OneCycle(fall="line")),
    ],
)
def test_rates_fall_as_published(case, schedule):
    facts = json.loads((reference("yolov7") / "details.json").read_text())["schedules"]
    for epoch, scale in facts[case].items():
        assert schedule.at(int(epoch), 300) == pytest.approx(scale, rel=1e-12)


@needs_shared
def test_the_warm_up_is_the_published_one():
    facts = json.loads((reference("yolov7") / "details.json").read_text())["schedules"]
    warmup = facts["warmup_p5"]
    for row in warmup["rows"]:
        rates = OneCycle()(row["iteration"], warmup["batches_per_epoch"], warmup["epochs"])
        bias = rates.scale if rates.bias_scale is None else rates.bias_scale
        found = (0.01 * rates.scale, 0.01 * bias, rates.momentum)
        assert found == pytest.approx((row["lr_weights"], row["lr_bias"], row["momentum"]), rel=1e-12)
    for update, decay in facts["ema_decay"].items():
        assert Ema(0.9999, 2000).at(int(update)) == pytest.approx(decay, rel=1e-9)


def test_a_short_epoch_warms_up_for_a_thousand_steps():
    assert OneCycle()(999, 10, 300).bias_scale is not None
    assert OneCycle()(1000, 10, 300).bias_scale is None
    assert OneCycle(warmup_epochs=0, warmup_steps=0)(0, 10, 300).scale == 1.0
