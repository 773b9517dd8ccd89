"""Priors of a head: the grid cells, or the anchor boxes, of every level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onelook.types import Priors


def grid_priors(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    offset: float = 0.5,
    anchors: Sequence[Sequence[tuple[float, float]] | Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Priors:
    """Makes one prior for each cell, or for each anchor of each cell, in rows: by level, then anchor, then row-major.

    shapes: (height, width) of every level in cells.  strides: pixels of a cell.  offset: position of the prior inside
    its cell: 0.5 is the centre, 0 the top-left corner.  anchors: for every level the (width, height) of its anchors in
    pixels (tensors on the device save a copy); None for anchor-free heads.
    """
    points, all_strides, levels, sizes = [], [], [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        x = (torch.arange(width, dtype=dtype, device=device) + offset) * stride
        y = (torch.arange(height, dtype=dtype, device=device) + offset) * stride
        cells = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).reshape(-1, 2)
        copies = 1
        if anchors is not None:
            copies = len(anchors[level])
            boxes = torch.as_tensor(anchors[level], dtype=dtype, device=device)
            sizes.append(boxes.repeat_interleave(height * width, 0))
        points.append(cells.repeat(copies, 1))
        rows = copies * height * width
        all_strides.append(torch.full((rows,), float(stride), dtype=dtype, device=device))
        levels.append(torch.full((rows,), level, dtype=torch.int64, device=device))
    return Priors(
        points=torch.cat(points),
        strides=torch.cat(all_strides),
        levels=torch.cat(levels),
        sizes=torch.cat(sizes) if sizes else None,
        shapes=tuple((int(height), int(width)) for height, width in shapes),
    )


def level_starts(priors: Priors) -> list[int]:
    """Returns the first row of every level, then the number of all rows; computed on the host, without device access.

    Raises TypeError for priors without grid shapes.
    """
    if not priors.shapes:
        raise TypeError("these priors have no grid shapes (`Priors.shapes` is empty)")
    cells = [height * width for height, width in priors.shapes]
    copies = len(priors.points) // sum(cells)
    return [copies * sum(cells[:level]) for level in range(len(cells) + 1)]


def grids(priors: Priors, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields each grid in the order of the rows: x of its columns (W,), y of its rows (H,), its stride (a scalar).

    A level with several anchors in a cell has one grid for each. Raises TypeError for priors without grid shapes.
    """
    starts = level_starts(priors)
    points, strides = priors.points.to(dtype), priors.strides.to(dtype)
    for (height, width), first, end in zip(priors.shapes, starts, starts[1:]):
        for start in range(first, end, height * width):
            cells = points[start : start + height * width]
            yield cells[:width, 0], cells[::width, 1], strides[start]


def flatten_levels(maps: Sequence[Tensor], anchors: int = 1) -> Tensor:
    """Flattens maps (B, anchors * R, H, W) of all levels to (B, N, R), with rows in the order of `grid_priors`.

    The channels of a map are anchor-major: the R values of the first anchor, then of the second.
    """
    rows = [
        level.unflatten(1, (anchors, -1)).flatten(3).transpose(2, 3).flatten(1, 2)
        if anchors > 1
        else level.flatten(2).transpose(1, 2)
        for level in maps
    ]
    return torch.cat(rows, 1)
