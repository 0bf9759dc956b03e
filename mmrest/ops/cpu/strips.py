"""Convolutions one after the other, on a processor a strip of rows at a time.

A stem's maps are the largest of a backbone. In strips none of them is in memory as a whole, and
each strip is in the cache when the next convolution takes it. The rows that two strips of a later
map both see are computed twice. For inference: gradients would need the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the largest map's strip;
# docs/scripts/ablation.py --constants tries others.
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
    heights, width = [x.shape[2]], x.shape[3]
    largest = 0
    for convolution in convolutions:
        heights.append(convolution.size(heights[-1]))
        width = convolution.size(width)
        largest = max(largest, len(convolution.weight) * heights[-1] * width)
    out = x.new_empty(len(x), heights[-1], width, len(convolutions[-1].weight)).permute(0, 3, 1, 2)
    step = max(1, heights[-1] * _STRIP_ELEMENTS // largest)
    together = max(1, _STRIP_ELEMENTS // largest)
    for images, targets in zip(x.split(together), out.split(together), strict=True):
        for start in range(0, heights[-1], step):
            rows = slice(start, min(start + step, heights[-1]))
            targets[:, :, rows] = _strip(images, convolutions, heights, rows)
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
    given = given.contiguous(memory_format=torch.channels_last)
    above, below = seen.start - top, bottom - seen.stop
    if above == last.padding and below <= last.padding:
        # the convolution's own zeros do, and may make another row
        maps = F.conv2d(given, last.weight, last.bias, last.stride, last.padding)
        return maps[:, :, : rows.stop - rows.start]
    given = F.pad(given, (0, 0, above, below)) if above or below else given
    return F.conv2d(given, last.weight, last.bias, last.stride, (0, last.padding))
