"""Converts a network to its deploy form for fast inference: batch norms folded, branches merged."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

from onelook.networks.classifier import Classifier
from onelook.networks.detector import Detector, Pixels

Network = TypeVar("Network", bound=Detector | Classifier)


def deploy(detector: Network) -> Network:
    """Returns a copy of the network in deploy form, with equal outputs in evaluation mode.

    Each block that has a `deploy()` method is replaced by the equal module that it returns, recursively. Weights are
    computed in float64, so outputs differ only by the rounding of the new weights. If `Pixels` can be folded into the
    first convolution, they become the identity, and this convolution takes RGB for all weights. Deploying a deployed
    detector copies it.
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
