"""Where augmentations get further random images of the data set from: the interface."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from onelook.types import Sample


class ImageSampler(Protocol):
    """Returns further random images of the data set; also holds the input's size and the progress of the training.

    size: (height, width) of the training input.  progress: 0 to 1, the part of the training that is done.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def progress(self) -> float: ...

    def __call__(self, rng: np.random.Generator) -> Sample: ...

    def balanced(self, rng: np.random.Generator) -> tuple[int, Sample]:
        """A random class, each equally likely, and a random image that shows it."""
        ...
