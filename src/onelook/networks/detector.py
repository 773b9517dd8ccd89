"""The detector class of all families, and the interfaces of its parts.

A detector is `head(neck(backbone(pixels(images))))`. Backbone and neck have `channels` and `strides`, and the next part
is built from them. A head only predicts: assigners, losses and NMS are separate.
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
    """The pixel normalisation that weights were trained with: (x / divisor - mean) / std, channels in `order`.

    divisor: 1 for 0..255, 255 for 0..1.  mean, std: one value for each channel, in `order`, after the division.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    divisor: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Pixels(nn.Module):
    """Converts RGB 0..255 to the `PixelFormat` of the weights. No parameters; its constants are not in the state."""

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
        """Folds this module into `convolution`, the first of the network; returns False, without change, if it cannot.

        A mean cannot be folded: the convolution pads with zeros after the subtraction, so outputs at the border would
        change.
        """
        if self._shifts:
            return False
        order = (2, 1, 0) if self._flips else (0, 1, 2)
        std = torch.tensor(self.format.std, dtype=torch.float64)
        weight = fold_input_gain(convolution.weight, 1 / (std * self.format.divisor), order)
        convolution.weight = nn.Parameter(weight.detach())
        return True

    def unfold(self, weight: Tensor) -> Tensor:
        """Inverse of `fold_into`: returns the kernel before folding, to train deployed files again."""
        gains = torch.tensor(self.format.std, dtype=torch.float64) * self.format.divisor
        order = (2, 1, 0) if self._flips else (0, 1, 2)
        # Reversing the channel order is its own inverse, but the factors are then in the order of the file.
        return fold_input_gain(weight, gains[list(order)], order)


class FeaturePart(nn.Module):
    """A backbone or a neck, with channels and strides of its outputs, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Backbone(FeaturePart):
    """Base class of backbones; forward: pixels (B, 3, H, W) as the weights expect them -> Pyramid."""

    def first_convolution(self) -> nn.Conv2d | None:
        """Returns the only convolution on the image if its input channels are blocks of three colours, else None."""
        return None


class Neck(FeaturePart):
    """Base class of necks; forward: Pyramid -> Pyramid.

    In training, levels for an auxiliary head follow those of the lead head.  channels, strides: of the lead levels.
    auxiliary_channels: of the auxiliary levels, finest first.
    """

    auxiliary_channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassRows:
    """The class rows of a prediction layer: `anchors` blocks, each of `before` rows, C class rows, `after` rows.

    YOLOX's class layers are ClassRows(); a YOLOv7 or YOLOv4 layer is ClassRows(anchors=3, before=5).  axis: of the rows
    in the tensor; 0 in weights and biases.
    """

    anchors: int = 1
    before: int = 0
    after: int = 0
    axis: int = 0


class Head(nn.Module):
    """Base class of heads; forward: Pyramid -> Predictions, decoded, in training and in evaluation."""

    num_classes: int

    def class_rows(self) -> dict[str, ClassRows]:
        """Returns the class rows of every tensor (by its name inside the head) whose size depends on the class count.

        Needed to fine-tune on other classes: rows of classes in both lists, and rows of no class, are kept.
        """
        raise TypeError(f"{type(self).__name__} does not implement class_rows()")


@runtime_checkable
class Architecture(Protocol):
    """A model as a frozen dataclass, such as `Yolox`: all settings that are saved with the weights."""

    @property
    def num_classes(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) of the input that the published weights are evaluated at

    @property
    def frame(self) -> Resize: ...

    @property
    def provides(self) -> frozenset[str]:
        """What the head provides besides boxes and classes, in the words of `Term.needs`.

        "objectness"; "cell offsets": raw regression as offsets in cells and logarithms of sides; "anchors": priors
        with sizes, "anchor-free": without; "one to one": logits of the one prior for each object; "auxiliary":
        predictions of an auxiliary head, in training.
        """
        ...

    def build(self) -> Detector:
        """Builds a newly initialised detector in training form."""
        ...

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to those of the official repository, one to one, for the training form."""
        ...


@runtime_checkable
class Scalable(Protocol):
    """An architecture with depth and width given as lists, which only `scaled` changes as a whole."""

    def scaled(self, *, depth: float = 1.0, width: float = 1.0) -> Architecture:
        """Returns a smaller or larger network of the same form: numbers of blocks and channels times the factors."""
        ...


@dataclass(frozen=True, eq=False)
class OfficialFile:
    """An official checkpoint as read by an architecture.

    architecture: with the settings stored in the file, such as anchors.  tensors: by the official names of the training
    form, without these constants.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]


@runtime_checkable
class ReadsOfficialFiles(Protocol):
    """An architecture whose official files have more tensors than `official_names`, or number them differently."""

    def official_file(
        self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], kinds: frozenset[str]
    ) -> OfficialFile | None:
        """Reads a file as this architecture; returns None if its content shows that it is another network.

        settings, kinds: attributes and class names of a pickled network, unchecked (`weights.modules.PickledModule`);
        empty for a state dict. Tensors with unknown names are kept.
        """
        ...


class Detector(nn.Module):
    """A complete detector. No part reads the attributes `architecture`, `class_names` and `deployed`.

    `after_backbone` and `after_neck` are modules without parameters that a training puts between the parts (Pyramid ->
    Pyramid), such as DropBlock; they are the identity in evaluation.
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
        """Raises UserError unless both sides of an image are multiples of the largest stride."""
        stride = max(self.backbone.strides)
        if height % stride or width % stride:
            raise UserError(
                f"Images of {height}x{width} do not fit this model.",
                f"Both sides must be multiples of {stride}, its largest stride.",
            )

    def features(self, images: Tensor) -> Pyramid:
        """Returns the neck's outputs, finest first, for images (B, 3, H, W) RGB 0..255; UserError for other shapes."""
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise UserError(
                f"A batch of images is (B, 3, H, W) and of floating point, not {list(images.shape)} and {kind}.",
                "Give RGB of 0..255 as float32; for files and uint8 arrays use onelook.load(...).detect(...).",
            )
        self.check_sides(images.shape[2], images.shape[3])
        return self.after_neck(self.neck(self.after_backbone(self.backbone(self.pixels(images)))))

    def forward(self, images: Tensor) -> Predictions:
        """Predicts for images (B, 3, H, W), float RGB 0..255, with sides that are multiples of the largest stride."""
        return self.head(self.features(images))
