"""MixUp's second image: invisible parts are neither decoded nor resized, and the visible pixels stay the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onelook.augment.lazy_sample import LazySample
from onelook.augment.letterbox import Letterbox
from onelook.augment.mix_image import sample_mix_image
from onelook.data.images import decode_image
from sampling import ListSampler, sample_generator


@pytest.mark.parametrize("sides", [(150, 220), (240, 130), (96, 96)])
def test_the_visible_part_is_that_of_the_whole_resized_image(sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(0, 256, (40, 40, 3), np.uint8), sides[::-1])
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    whole, heights = decode_image(data), []

    def read(level: int, rows: int | None) -> np.ndarray:
        image = decode_image(data, level=level, rows=rows)
        if not level:
            heights.append(len(image))
        return image

    boxes = np.array([(0, 0, sides[1], sides[0])], np.float32)
    draw = ListSampler([LazySample(read, boxes, np.zeros(1, np.int64), size=sides)], (96, 96))
    compared = 0
    for index in range(60):
        mix_image = sample_mix_image(Letterbox(), (0.5, 4.0), draw, sample_generator(0, 0, index))
        assert mix_image is not None
        height, width = mix_image.resized
        x1, y1, x2, y2 = mix_image.visible_rectangle()
        if x1 >= x2 or y1 >= y2 or max(height / sides[0], width / sides[1]) <= 0.5:
            continue  # is not seen, or is decoded at half the size
        resized = cv2.resize(whole, (width, height))
        resized = cv2.flip(resized, 1) if mix_image.is_flipped else resized
        x, y = mix_image.corner
        assert np.array_equal(mix_image.visible_pixels(), resized[y1 - y : y2 - y, x1 - x : x2 - x])
        compared += 1
    assert compared > 20
    assert min(heights) < sides[0] == max(heights)
