"""The interface of a runtime, which runs a network, and the postprocessing of its output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from onelook.augment.letterbox import Resize
from onelook.errors import UsageError
from onelook.ops.nms import Nms, NmsKind, Postprocess, RawDetections, TopK, clips

PostprocessKind = Literal["nms", "best", "diou", "soft"]
"""How boxes become detections: NMS by overlap, the best rows as they are, NMS by overlap and distance, Soft-NMS."""


class Runtime(Protocol):
    """A network that is ready to run, with everything that belongs to it.

    size: (height, width) of its input.  frame: how images are fitted into the input.  class_names: by label; empty
    where unknown.  postprocess: how its output becomes detections.  evaluating: the same for validation, as the
    published numbers were made.
    """

    size: tuple[int, int]
    frame: Resize
    class_names: tuple[str, ...]
    postprocess: Postprocess
    evaluating: Postprocess

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        """(B, H, W, 3) uint8 RGB resized images -> the detections that `postprocess` keeps, in pixels of the input."""
        ...


def default_postprocess(*, one_to_one: bool, multi_label: bool) -> Postprocess:
    """NMS; the rows with the highest scores for a model that was trained one-to-one and needs no NMS."""
    return TopK(multi_label=multi_label) if one_to_one else Nms(multi_label=multi_label)


def postprocess_of_kind(kind: PostprocessKind, default: Postprocess) -> Postprocess:
    """The postprocessing of this kind: a form of NMS, or `TopK` for "best"; other settings are those of `default`."""
    multi_label = getattr(default, "multi_label", False)
    if kind == "best":
        return TopK(multi_label=multi_label, clip=clips(default))
    kinds: dict[str, NmsKind] = {"nms": "iou", "diou": "diou", "soft": "gaussian"}
    if kind not in kinds:
        raise UsageError(f"'postprocess' is {kind!r}.", f"Give one of: best, {', '.join(kinds)}.")
    if isinstance(default, Nms):
        return replace(default, kind=kinds[kind])
    return Nms(multi_label=multi_label, kind=kinds[kind], clip=clips(default))


def postprocess_steps_of(architecture: Any) -> tuple[Postprocess, Postprocess]:
    """The postprocessing steps of an architecture: for detection, and for validation.

    An architecture may define them (`detecting`, `evaluating`); else both follow from `one_to_one` and `multi_label`.
    """
    default = default_postprocess(
        one_to_one=getattr(architecture, "one_to_one", False), multi_label=getattr(architecture, "multi_label", False)
    )
    return getattr(architecture, "detecting", default), getattr(architecture, "evaluating", default)
