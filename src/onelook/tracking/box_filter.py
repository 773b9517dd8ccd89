"""A Kalman filter of one box with constant velocity (SORT, Bewley et al., ICIP 2016).

Centre and size are filtered independently of each other, each as position and velocity. The noise is relative to the
size of the box, as in DeepSORT (Wojke et al., ICIP 2017), so that images of all sizes are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_POSITION, _VELOCITY = 1 / 20, 1 / 160  # standard deviations of a frame, in sides of the box
_FIRST = (2.0, 10.0)  # of a new track: times as much


@dataclass(frozen=True, eq=False)
class BoxFilter:
    """The state. position: (4,) centre x, centre y, width, height in pixels.  velocity: (4,) of these, a frame.

    variance, covariance, velocity_variance: (4,), of the position, of position with velocity, and of the velocity.
    """

    position: np.ndarray
    velocity: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray
    velocity_variance: np.ndarray

    @staticmethod
    def begin(box: np.ndarray) -> BoxFilter:
        """A box (xyxy) that stands still."""
        position = centred(box)
        sides, zero = _sides(position), np.zeros(4)
        return BoxFilter(
            position, zero, (_FIRST[0] * _POSITION * sides) ** 2, zero, (_FIRST[1] * _VELOCITY * sides) ** 2
        )

    @property
    def box(self) -> np.ndarray:
        """(4,) xyxy."""
        centre, half = self.position[:2], np.maximum(self.position[2:], 1e-3) / 2
        return np.concatenate([centre - half, centre + half])

    def predicted(self, *, lost: bool = False) -> BoxFilter:
        """One frame later. lost: whether the object was not seen in the last frame; its size then stays."""
        velocity = self.velocity * (1, 1, 0, 0) if lost else self.velocity
        sides = _sides(self.position)
        return BoxFilter(
            self.position + velocity,
            velocity,
            self.variance + 2 * self.covariance + self.velocity_variance + (_POSITION * sides) ** 2,
            self.covariance + self.velocity_variance,
            self.velocity_variance + (_VELOCITY * sides) ** 2,
        )

    def corrected(self, box: np.ndarray) -> BoxFilter:
        """With a detected box (xyxy) of this frame."""
        measured = centred(box)
        total = self.variance + (_POSITION * _sides(self.position)) ** 2
        gain, velocity_gain = self.variance / total, self.covariance / total
        error = measured - self.position
        return replace(
            self,
            position=self.position + gain * error,
            velocity=self.velocity + velocity_gain * error,
            variance=(1 - gain) * self.variance,
            covariance=(1 - gain) * self.covariance,
            velocity_variance=self.velocity_variance - velocity_gain * self.covariance,
        )


def centred(box: np.ndarray) -> np.ndarray:
    """xyxy -> centre x, centre y, width, height."""
    box = box.astype(np.float64)
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])


def _sides(position: np.ndarray) -> np.ndarray:
    """(4,) width, height, width, height, 1 at least."""
    return np.maximum(np.tile(position[2:], 2), 1.0)
