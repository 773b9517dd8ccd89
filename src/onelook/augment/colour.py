"""Colour jitter in hue, saturation and value: the published forms of YOLOX and YOLOv7, and of Darknet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

STRIP = 40_000  # pixels of a strip: input and output fit into a processor's nearest caches
HsvChange = tuple[float, float, float]  # of hue, saturation and value: what is added, or the factor


@dataclass(frozen=True)
class HsvMap:
    """A change of 8-bit hue (degrees / 2), saturation and value: each times its factor, plus what is added.

    Results are rounded and clipped to 0 to 255; hue at 180 and above wraps when converted back.  reversed: red and blue
    are exchanged for the conversions, so that hues run backwards.
    """

    factors: HsvChange = (1.0, 1.0, 1.0)
    added: HsvChange = (0.0, 0.0, 0.0)
    reversed: bool = False

    def apply(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 RGB -> `out` (H, W, 3 or 4), or (H, W, 3).

        Strip by strip: what one step writes is then still in the cache when the next one reads it.
        """
        (a, b, c), (x, y, z) = self.factors, self.added
        matrix = np.array(((a, 0.0, 0.0, x), (0.0, b, 0.0, y), (0.0, 0.0, c, z)))
        to_hsv, from_hsv = cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
        if self.reversed:
            to_hsv, from_hsv = cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR
        height, width = image.shape[:2]
        result = np.empty((height, width, 3), np.uint8) if out is None else out
        rows = max(1, STRIP // max(width, 1))
        for top in range(0, height, rows):
            hsv = cv2.transform(cv2.cvtColor(image[top : top + rows], to_hsv), matrix)
            cv2.cvtColor(hsv, from_hsv, dst=result[top : top + rows], dstCn=result.shape[2])
        return result


@dataclass(frozen=True)
class HsvGain:
    """Multiplies hue, saturation and value (YOLOX's released weights; YOLOv7).

    hue, saturation, value: gains are 1 plus or minus at most this.  probability: of any change.
    """

    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    probability: float = 1.0

    def sample_parameters(self, rng: np.random.Generator) -> HsvChange | None:
        """The three gains, None for no change."""
        applies, (hue, saturation, value) = rng.random() < self.probability, rng.uniform(-1, 1, 3).tolist()
        return (1 + hue * self.hue, 1 + saturation * self.saturation, 1 + value * self.value) if applies else None

    def apply(self, image: np.ndarray, change: HsvChange | None, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 RGB -> `out`, or (H, W, 3). Results are truncated and clipped; hue wraps around."""
        return to_rgb(image, out) if change is None else self.map(change).apply(image, out)

    @staticmethod
    def map(change: HsvChange) -> HsvMap:
        """The map of three gains."""
        # OpenCV rounds to nearest; half less makes that truncation. Hue at 180 and above wraps when converted back.
        return HsvMap(change, (-0.4999,) * 3)

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        return replace(sample, image=self.apply(sample.image, self.sample_parameters(rng)))


@dataclass(frozen=True)
class HsvShift:
    """Adds to hue, saturation and value (YOLOX since October 2021).

    hue, saturation, value: whole numbers up to this are added or subtracted, each with probability 1/2.  probability:
    of any change.
    """

    hue: int = 5
    saturation: int = 30
    value: int = 30
    probability: float = 1.0

    def sample_parameters(self, rng: np.random.Generator) -> HsvChange | None:
        """The three numbers to add, None for no change."""
        applies, steps = rng.random() < self.probability, rng.uniform(-1, 1, 3)
        steps = steps * (self.hue, self.saturation, self.value) * rng.integers(0, 2, 3)
        hue, saturation, value = steps.astype(int).tolist()  # truncated towards 0
        return (hue, saturation, value) if applies else None

    def apply(self, image: np.ndarray, change: HsvChange | None, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 RGB -> `out`, or (H, W, 3). Hue wraps around, saturation and value are clipped."""
        return to_rgb(image, out) if change is None else self.map(change).apply(image, out)

    @staticmethod
    def map(change: HsvChange) -> HsvMap:
        """The map that adds three numbers."""
        # Hue wraps only at its upper end (when converted back). With red and blue exchanged hues run backwards, so that
        # a step down is a step up.
        return HsvMap(added=(abs(change[0]), *change[1:]), reversed=change[0] < 0)

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        return replace(sample, image=self.apply(sample.image, self.sample_parameters(rng)))


@dataclass(frozen=True)
class HsvScale:
    """Multiplies saturation and value, and adds to hue (Darknet).

    hue: part of the colour circle that is added or subtracted at most.  saturation, exposure: largest factor, or its
    inverse; a number below 1 means the same as its inverse. Hue below 0 is clipped, above 179 it wraps (official
    behaviour).
    """

    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5

    def __post_init__(self) -> None:
        if self.saturation <= 0 or self.exposure <= 0:
            raise ValueError("saturation and exposure are factors above 0")

    def sample_parameters(self, rng: np.random.Generator) -> HsvChange | None:
        """What is added to hue (degrees / 2), and the factors of saturation and value."""
        hue = 179.0 * rng.uniform(-self.hue, self.hue)
        largest = (self.saturation, self.exposure)
        saturation, exposure = (rng.uniform(1.0, max(factor, 1 / factor)) for factor in largest)
        inverts = rng.random(2) < 0.5
        return hue, 1 / saturation if inverts[0] else saturation, 1 / exposure if inverts[1] else exposure

    def apply(self, image: np.ndarray, change: HsvChange | None, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3 or 4) uint8 RGB -> `out`, or (H, W, 3)."""
        return to_rgb(image, out) if change is None else self.map(change).apply(image, out)

    @staticmethod
    def map(change: HsvChange) -> HsvMap:
        """The map of what is added to hue, and the factors of saturation and value."""
        hue, saturation, value = change
        return HsvMap((1.0, saturation, value), (hue, 0.0, 0.0))

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        return replace(sample, image=self.apply(sample.image, self.sample_parameters(rng)))


Hsv = HsvGain | HsvShift | HsvScale


def to_rgb(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) of an image with three or four channels; or the image copied into `out` (H, W, 3 or 4)."""
    if out is not None:
        if image.shape == out.shape:
            np.copyto(out, image)
            return out
        return cv2.cvtColor(image, cv2.COLOR_RGB2RGBA if image.shape[2] == 3 else cv2.COLOR_RGBA2RGB, dst=out)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)
