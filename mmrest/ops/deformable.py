"""Attention to a few places, which each query chooses (Deformable DETR, arXiv 2010.04159)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    maps: Sequence[Tensor], locations: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    """Weighted sums of what maps hold at places between their pixels (equation 3).

    Between pixels maps are interpolated bilinearly; outside they are 0.

    Args:
        maps: (B, H, W, heads, head_dim), each of a size of its own.
        locations: Of every map (B, N, heads, points, 2): x and y, from 0 at a map's left or upper
            edge to 1 at the opposite one.
        weights: Of every map (B, N, heads, points).

    Returns:
        (B, N, heads, head_dim).
    """
    sums = 0
    for values, places, shares in zip(maps, locations, weights, strict=True):
        values = values.permute(0, 3, 4, 1, 2).flatten(0, 1)
        grid = 2 * places.transpose(1, 2).flatten(0, 1) - 1
        sampled = F.grid_sample(values, grid, 'bilinear', 'zeros', align_corners=False)
        sums = sums + (sampled * shares.transpose(1, 2).flatten(0, 1)[:, None]).sum(3)
    heads = maps[0].shape[3]
    return sums.unflatten(0, (-1, heads)).permute(0, 3, 1, 2)
