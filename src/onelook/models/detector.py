"""The detector that all families share, and the contracts of its parts.

A detector is `head(neck(backbone(pixels(images))))`. Parts tell each other their shapes: a backbone and a neck publish
`channels` and `strides`, and the next part is built from them. Assigners, losses and NMS are not here: a head only says
what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onelook.augment.letterbox import Resize
from onelook.errors import UserError
from onelook.ops.fold import fold_input_gain
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid


@dataclass(frozen=True)
class PixelFormat:
    """The pixels that weights were trained on: (x / divisor - mean) / std, of channels in `order`.

    divisor: 1 for 0..255, 255 for 0..1.  mean, std: one value a channel, in `order`, after the division.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    divisor: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Pixels(nn.Module):
    """RGB 0..255 -> the pixels that the weights expect. No parameters; its constants are not in the state."""

    def __init__(self, format: PixelFormat) -> None:
        super().__init__()
        self.format = format
        self.register_buffer("mean", torch.tensor(format.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(format.std)[:, None, None], persistent=False)
        self._flips = format.order == "bgr"
        self._shifts = any(format.mean)
        self._scales = set(format.std) != {1.0}

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if self._flips:
            images = images.flip(1)
        if self.format.divisor != 1.0:
            images = images / self.format.divisor
        if self._shifts:
            images = images - self.mean
        return images / self.std if self._scales else images

    def fold_into(self, convolution: nn.Conv2d) -> bool:
        """Makes `convolution`, the first of the network, do this module's work; False, and nothing done, if it cannot.

        A mean cannot be folded: the convolution pads with zeros after the mean is gone, so its border would change.
        """
        if self._shifts:
            return False
        order = (2, 1, 0) if self._flips else (0, 1, 2)
        std = torch.tensor(self.format.std, dtype=torch.float64)
        weight = fold_input_gain(convolution.weight, 1 / (std * self.format.divisor), order)
        convolution.weight = nn.Parameter(weight.detach())
        return True

    def unfold(self, weight: Tensor) -> Tensor:
        """The kernel that `fold_into` made `weight` of: what files of deployed models need to be trained again."""
        gains = torch.tensor(self.format.std, dtype=torch.float64) * self.format.divisor
        order = (2, 1, 0) if self._flips else (0, 1, 2)
        # Reversing the colours undoes itself, but the factors then belong to the colours as the file has them.
        return fold_input_gain(weight, gains[list(order)], order)


class FeaturePart(nn.Module):
    """A backbone or a neck: what the next part must know of its outputs, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Backbone(FeaturePart):
    """forward: (B, 3, H, W) pixels as the weights expect them -> Pyramid."""

    def first_convolution(self) -> nn.Conv2d | None:
        """The only convolution that sees the image, its input channels in blocks of the three colours; else None."""
        return None


class Neck(FeaturePart):
    """forward: Pyramid -> Pyramid. In training, levels for an auxiliary head follow those of the lead head.

    channels, strides: of the lead levels.  auxiliary_channels: of the others, finest first.
    """

    auxiliary_channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassRows:
    """Which rows of a prediction layer belong to classes: `anchors` blocks of `before` rows, C classes, `after` rows.

    YOLOX's class layers are ClassRows(); a YOLOv7 or YOLOv4 layer is ClassRows(anchors=3, before=5).  axis: where the
    rows lie; 0 in weights and biases.
    """

    anchors: int = 1
    before: int = 0
    after: int = 0
    axis: int = 0


class Head(nn.Module):
    """forward: Pyramid -> Predictions, decoded, in training and in evaluation."""

    num_classes: int

    def class_rows(self) -> dict[str, ClassRows]:
        """Every tensor (name inside the head) that grows with the class count, and where classes lie in it.

        What fine-tuning on another class list needs: all rows of classes both lists name, and all other rows, are kept.
        """
        raise TypeError(f"{type(self).__name__} does not say which of its rows belong to classes")


@runtime_checkable
class Architecture(Protocol):
    """A model as a value: frozen dataclasses such as `Yolox`. Everything that must travel with weights is here."""

    @property
    def num_classes(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) of the input the published weights were made for

    @property
    def frame(self) -> Resize: ...

    @property
    def provides(self) -> frozenset[str]:
        """What the head gives beside boxes and classes, in the words of the losses that need it.

        "objectness"; "cell offsets": raw regression as offsets in cells and logarithms of sides; "anchors": priors
        with sizes, "anchor-free": without; "one to one": which prior speaks for an object; "auxiliary": predictions of
        an auxiliary head, in training.
        """
        ...

    def build(self) -> Detector:
        """A freshly initialised detector in training form."""
        ...

    def official_names(self) -> dict[str, str]:
        """Our tensor name -> the official repository's, one to one, for the training form."""
        ...


@runtime_checkable
class Scalable(Protocol):
    """An architecture that is scaled as a whole: its depth and width are lists, and not factors among its settings."""

    def scaled(self, *, depth: float = 1.0, width: float = 1.0) -> Architecture:
        """A smaller or larger network of the same form: its blocks and channels times the factors."""
        ...


@dataclass(frozen=True, eq=False)
class OfficialFile:
    """An official checkpoint as one architecture reads it.

    architecture: the same with what the file fixes beside weights, such as anchors.  tensors: under the official names
    of the training form, without those constants.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]


@runtime_checkable
class ReadsOfficialFiles(Protocol):
    """An architecture whose official files hold more than the tensors of `official_names`, or number them otherwise."""

    def official_file(
        self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], kinds: frozenset[str]
    ) -> OfficialFile | None:
        """How this architecture reads a file; None if the file says that it is of another network.

        settings, kinds: what a pickled network says of itself, unchecked (`weights.modules.PickledModule`); empty for
        a state dict. Tensors with names that it does not know stay as they are.
        """
        ...


class Detector(nn.Module):
    """A whole detector. `architecture`, `class_names` and `deployed` say what it is; no part reads them.

    after_backbone, after_neck: what a training puts between the parts (Pyramid -> Pyramid, no parameters); nothing, and
    the identity in evaluation, for everybody else.
    """

    def __init__(self, pixels: nn.Module, backbone: Backbone, neck: Neck, head: Head) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        self.after_backbone: nn.Module = nn.Identity()
        self.neck = neck
        self.after_neck: nn.Module = nn.Identity()
        self.head = head
        self.architecture: Architecture | None = None
        self.class_names: tuple[str, ...] = ()
        self.deployed = False

    def check_sides(self, height: int, width: int) -> None:
        """UserError unless both sides of an image are multiples of the largest stride."""
        stride = max(self.backbone.strides)
        if height % stride or width % stride:
            raise UserError(
                f"Images of {height}x{width} do not fit this model.",
                f"Both sides must be multiples of {stride}, its largest stride.",
            )

    def features(self, images: Tensor) -> Pyramid:
        """(B, 3, H, W) RGB 0..255 -> the neck's outputs, finest first. UserError for images that do not fit."""
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise UserError(
                f"A batch of images is (B, 3, H, W) and of floating point, not {list(images.shape)} and {kind}.",
                "Give RGB of 0..255 as float32; for files and uint8 arrays use onelook.load(...).detect(...).",
            )
        self.check_sides(images.shape[2], images.shape[3])
        return self.after_neck(self.neck(self.after_backbone(self.backbone(self.pixels(images)))))

    def forward(self, images: Tensor) -> Predictions:
        """(B, 3, H, W) float RGB 0..255, sides multiples of the largest stride -> Predictions."""
        return self.head(self.features(images))
