"""The form of a detector that is fastest to run: batch norm folded, branches merged, pixels in the stem."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

from onelook.models.classifier import Classifier
from onelook.models.detector import Detector, Pixels

Network = TypeVar("Network", bound=Detector | Classifier)


def deploy(detector: Network) -> Network:
    """A copy with the same answers in evaluation mode; the original is left as it is.

    A block says itself what it becomes: its `deploy()` returns an equal module, in which the walk goes on. All sums are
    made in float64, so the answers differ by the rounding of the new weights only. `Pixels` that the first convolution
    can absorb become the identity; then that convolution sees RGB, whatever order official weights expect. Deploying
    a deployed detector copies it.
    """
    return deploy_in_place(deepcopy(detector))


def deploy_in_place(detector: Network) -> Network:
    """The same without the copy: the detector itself is changed and returned. Its training form is lost."""
    _deploy_children(detector)
    pixels, stem = detector.pixels, detector.backbone.first_convolution()
    if isinstance(pixels, Pixels) and stem is not None and pixels.fold_into(stem):
        detector.pixels = nn.Identity()
    detector.deployed = True
    detector.eval().requires_grad_(False)
    return detector


def _deploy_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        own = getattr(child, "deploy", None)
        new = own() if callable(own) else child
        _deploy_children(new)
        setattr(module, name, new)
