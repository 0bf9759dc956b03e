"""Convolutions one after the other, a strip of rows at a time.

A stem's maps are the largest of a backbone. In strips none of them is in memory as a whole, and
each strip is in the cache when the next convolution takes it. A few rows are computed twice, where
two strips of a later map see them both. Without gradients, which need the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the largest map's strip.
_STRIP_ELEMENTS = 2**20


class Convolution(NamedTuple):
    """A convolution with a square kernel.

    Attributes:
        weight: (out_channels, in_channels, k, k).
        bias: (out_channels,).
        stride: Along both sides.
        padding: On all sides.
    """

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int

    def size(self, side: int) -> int:
        """A side of the map that it makes of a map with this one."""
        return (side + 2 * self.padding - self.weight.shape[2]) // self.stride + 1


def convolve_in_strips(x: Tensor, convolutions: Sequence[Convolution]) -> Tensor:
    """The convolutions with a ReLU between every two of them.

    Args:
        x: (B, in_channels, H, W).
        convolutions: In their order.

    Returns:
        (B, out_channels, h, w), in channels-last layout.
    """
    batch, _, *size = x.shape
    sizes, elements = [], []
    for convolution in convolutions:
        size = [convolution.size(side) for side in size]
        sizes.append(size)
        elements.append(batch * len(convolution.weight) * size[0] * size[1])
    height, width = size
    out = x.new_empty(batch, height, width, len(convolutions[-1].weight)).permute(0, 3, 1, 2)
    step = max(1, height * _STRIP_ELEMENTS // max(elements))
    heights = [x.shape[2], *(size[0] for size in sizes)]
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        out[:, :, rows] = _strip(x, convolutions, heights, rows)
    return out


def _strip(
    x: Tensor, convolutions: Sequence[Convolution], heights: Sequence[int], rows: slice
) -> Tensor:
    """Those rows of the last map; ``heights`` are those of the image and of all maps."""
    *earlier, last = convolutions
    height = heights[len(earlier)]
    top = rows.start * last.stride - last.padding
    bottom = (rows.stop - 1) * last.stride - last.padding + last.weight.shape[2]
    seen = slice(max(top, 0), min(bottom, height))
    given = _strip(x, earlier, heights, seen).relu_() if earlier else x[:, :, seen]
    # zeros above and below are those around the whole map
    given = F.pad(given, (0, 0, seen.start - top, bottom - seen.stop))
    given = given.contiguous(memory_format=torch.channels_last)
    return F.conv2d(given, last.weight, last.bias, last.stride, (0, last.padding))
