"""A batch of augmented images rendered on the device: one bilinear warp, blend and colour change for all of them.

The descriptions come from `onelook.augment.image_plan`. Every output pixel looks for the front layer that covers it
and interpolates that one only: a mosaic costs as much as a single image, whatever the number of its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Columns of `WarpBatch.layers`.
_OFFSET, _WIDTH, _HEIGHT, _MATRIX, _COVERED, _RECTANGLE = 0, 1, 2, slice(3, 9), slice(9, 13), slice(13, 17)
LAYER_COLUMNS = 17
# Columns of `WarpBatch.images`.
_FILLS, _SHARE, _APPLIES, _REVERSED, _FACTORS, _ADDED, _COLOURED = 0, 2, 3, 4, slice(5, 8), slice(8, 11), slice(11, 15)
IMAGE_COLUMNS = 15


@dataclass(frozen=True, eq=False)
class WarpBatch:
    """The descriptions of B images, as three tensors: few copies carry them to a device.

    pixels: (S, 3) uint8 RGB, all source images one after the other, row by row.
    layers: (B, L, 17) float64: place of the source in `pixels`, its width and height; the (2, 3) matrix from indices of
        output pixels to those of source pixels; the covered range of source indices (x1, y1, x2, y2); the rectangle of
        the output. The first `first` layers are those of the first canvas, from the back to the front; an empty
        rectangle is no layer.
    images: (B, 15) float64: both canvases' grey; the first one's share; whether colours change; whether red and blue
        are exchanged meanwhile; factors and addends of hue, saturation and value; the rectangle that is changed.
    size: (height, width) of the output.
    """

    pixels: Tensor
    layers: Tensor
    images: Tensor
    size: tuple[int, int]
    first: int

    def __reduce__(self) -> tuple[Any, ...]:
        # Tables are few bytes: they go in the message itself (see `onelook.data.loader.Batch`).
        return _unpickled, (self.pixels, self.layers.numpy(), self.images.numpy(), self.size, self.first)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, *args: Any, **kwargs: Any) -> WarpBatch:
        """The same on another device (`Tensor.to` arguments that do not change the dtype)."""
        pixels, layers, images = (one.to(*args, **kwargs) for one in (self.pixels, self.layers, self.images))
        return replace(self, pixels=pixels, layers=layers, images=images)

    def pin_memory(self) -> WarpBatch:
        """A copy in page-locked memory."""
        pixels, layers, images = (one.pin_memory() for one in (self.pixels, self.layers, self.images))
        return replace(self, pixels=pixels, layers=layers, images=images)

    def render(self) -> Tensor:
        """(B, 3, H, W) uint8 RGB, channels last in memory, on the device of the tensors; nothing is read from it."""
        image = self._canvas(self.layers[:, : self.first], self.images[:, _FILLS])
        if self.layers.shape[1] > self.first:
            second = self._canvas(self.layers[:, self.first :], self.images[:, _FILLS + 1])
            share = self.images[:, _SHARE].float().view(-1, 1, 1, 1)
            # Rounded down as published; the addend keeps whole results whole.
            image = (image * share + second * (1 - share) + 1e-4).floor_()
        return change_colours(image, self.images).to(torch.uint8).permute(0, 3, 1, 2)

    def _canvas(self, layers: Tensor, fill: Tensor) -> Tensor:
        """(B, H, W, 3) float32 whole numbers: layers (B, L, 17) on a background (B,)."""
        height, width = self.size
        x = torch.arange(width, device=fill.device, dtype=torch.float32).view(1, 1, -1)
        y = torch.arange(height, device=fill.device, dtype=torch.float32).view(1, -1, 1)
        shape = (len(layers), height, width)
        source_x, source_y = x.new_zeros(shape), x.new_zeros(shape)
        front = torch.full(shape, -1, dtype=torch.int64, device=fill.device)
        for number in range(layers.shape[1]):
            row = layers[:, number].float()
            a, b, c, d, e, f = row[:, _MATRIX, None, None].unbind(1)
            x1, y1, x2, y2 = row[:, _COVERED, None, None].unbind(1)
            left, top, right, bottom = row[:, _RECTANGLE, None, None].unbind(1)
            u, v = a * x + (b * y + c), d * x + (e * y + f)
            covers = (u >= x1) & (u < x2) & (v >= y1) & (v < y2)
            covers &= ((x >= left) & (x < right)) & ((y >= top) & (y < bottom))
            source_x, source_y = torch.where(covers, u, source_x), torch.where(covers, v, source_y)
            front = front.masked_fill(covers, number)
        found = self._interpolated(layers, front.clamp(min=0).flatten(1), source_x.flatten(1), source_y.flatten(1))
        background = fill.float().view(-1, 1, 1)
        return torch.where((front.flatten(1) >= 0).unsqueeze(2), found, background).unflatten(1, self.size)

    def _interpolated(self, layers: Tensor, number: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(B, H * W, 3) float32 whole numbers: pixels (x, y) of layer `number`, each (B, H * W), bilinear."""
        if not layers.shape[1]:
            return x.new_zeros(*x.shape, 3)
        offset, width, height = (layers[..., column].gather(1, number) for column in (_OFFSET, _WIDTH, _HEIGHT))
        x = x.clamp(min=0).minimum(width.float() - 1).clamp_(min=0)
        y = y.clamp(min=0).minimum(height.float() - 1).clamp_(min=0)
        left, top = x.floor(), y.floor()
        part_x, part_y = (x - left).unsqueeze(2), (y - top).unsqueeze(2)
        columns = width.to(torch.int64)
        corner = offset.to(torch.int64) + top.to(torch.int64) * columns + left.to(torch.int64)
        right = (left + 1 < width).to(torch.int64)  # 0 at the border, which is repeated
        below = torch.where(top + 1 < height, columns, 0)
        upper = torch.lerp(self._read(corner), self._read(corner + right), part_x)
        lower = torch.lerp(self._read(corner + below), self._read(corner + below + right), part_x)
        return torch.lerp(upper, lower, part_y).add_(0.5).floor_()

    def _read(self, index: Tensor) -> Tensor:
        return self.pixels.index_select(0, index.flatten()).unflatten(0, index.shape).float()


def _unpickled(pixels: Tensor, layers: np.ndarray, images: np.ndarray, size: tuple[int, int], first: int) -> WarpBatch:
    return WarpBatch(pixels, torch.from_numpy(layers), torch.from_numpy(images), size, first)


def change_colours(image: Tensor, images: Tensor) -> Tensor:
    """(B, H, W, 3) float32 whole numbers 0 to 255 with the hue, saturation and value of each image changed.

    images: as in `WarpBatch`. Hue (degrees / 2), saturation and value are rounded to whole numbers before the change
    and after it, as 8-bit images have them.
    """
    height, width = image.shape[1:3]
    row = images.float()
    reversed_ = (row[:, _REVERSED] > 0).view(-1, 1, 1, 1)
    rgb = torch.where(reversed_, image.flip(3), image)
    hsv = rgb_to_hsv(rgb) * row[:, _FACTORS].view(-1, 1, 1, 3) + row[:, _ADDED].view(-1, 1, 1, 3)
    changed = hsv_to_rgb(hsv.round_().clamp_(0, 255))
    changed = torch.where(reversed_, changed.flip(3), changed)
    left, top, right, bottom = row[:, _COLOURED, None, None].unbind(1)
    x = torch.arange(width, device=image.device, dtype=torch.float32).view(1, 1, -1)
    y = torch.arange(height, device=image.device, dtype=torch.float32).view(1, -1, 1)
    applies = ((x >= left) & (x < right)) & ((y >= top) & (y < bottom)) & (row[:, _APPLIES] > 0).view(-1, 1, 1)
    return torch.where(applies.unsqueeze(3), changed, image)


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """(..., 3) of 0 to 255 -> hue (degrees / 2, 0 to 179), saturation and value (0 to 255); whole numbers.

    Smith 1978: value is the largest channel, saturation the spread relative to it, hue the place on the hexagon.
    """
    red, green, blue = rgb.unbind(-1)
    value, spread = rgb.amax(-1), rgb.amax(-1) - rgb.amin(-1)
    saturation = (255 * spread / value.clamp(min=1)).add_(0.5).floor_()
    unit = spread.clamp(min=1)
    hue = torch.where(
        value == red,
        (green - blue) / unit,
        torch.where(value == green, (blue - red) / unit + 2, (red - green) / unit + 4),
    )
    hue = (30 * hue + 0.5).floor_()
    hue = torch.where(hue < 0, hue + 180, hue)
    return torch.stack((torch.where(spread > 0, hue, 0.0), saturation, value), -1)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`, rounded to whole numbers; hue wraps at 180."""
    hue, saturation, value = hsv[..., :1] / 30, hsv[..., 1:2] / 255, hsv[..., 2:]
    # Every channel is the value less a part that is a trapezoid of the hue: 0 near its own colour, 1 opposite of it.
    shift = 5 - 2 * torch.arange(3, device=hsv.device, dtype=hsv.dtype)  # made there: a copy from the host would wait
    place = torch.remainder(hue + shift, 6)
    part = torch.minimum(place, 4 - place).clamp(0, 1)
    return (value - value * saturation * part).add_(0.5).floor_()


def pack_pixels(sources: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
    """Source images (h, w, 3) uint8 as (S, 3) pixels one after the other, and the place of each."""
    counts = [source.shape[0] * source.shape[1] for source in sources]
    pixels = np.empty((max(sum(counts), 1), 3), np.uint8)
    places, start = [], 0
    for source, count in zip(sources, counts):
        pixels[start : start + count].reshape(source.shape)[:] = source
        places.append(start)
        start += count
    return torch.from_numpy(pixels), places
