"""Attention in stripes with locally-enhanced positions, of CSWin and GPViT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrest.backbones.layers import TokenConv, apply_linear
from mmrest.ops import crop, cut_windows, join_windows, pad_map, window_attention


class StripeAttention(nn.Module):
    """Attention in stripes over the whole height or width of a map (CSWin, arXiv 2107.00652).

    To what is attended the values are added, convolved within each stripe ("LePE", Section 3.3).

    Args:
        channels: Channels of queries, keys and values.
        num_heads: Attention heads.
        width: Of a stripe, in tokens; 0 makes one stripe of the whole map.
        is_vertical: Stripes are columns, else rows.
        fills: Zeros at both sides fill the map up to whole stripes and take part, as in the
            authors' code of CSWin; else the last stripe is smaller.
    """

    def __init__(
        self, channels: int, num_heads: int, width: int, is_vertical: bool, fills: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.width = width
        self.is_vertical = is_vertical
        self.fills = fills
        self.conv = TokenConv(channels, channels, 3, padding=1, groups=channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three of (B, H, W, channels) -> (B, H, W, channels)."""
        height, width = q.shape[1:3]
        size, top, left = (None, None), 0, 0
        if self.width:
            size = (None, self.width) if self.is_vertical else (self.width, None)
        if self.width and self.fills:
            lacking = -(width if self.is_vertical else height) % self.width
            top, left = (0, lacking // 2) if self.is_vertical else (lacking // 2, 0)
            rows, columns = (0, lacking - left) if self.is_vertical else (lacking - top, 0)
            q, k, v = (pad_map(t, rows, columns, top, left) for t in (q, k, v))
        local = join_windows(self.conv(cut_windows(v, size)), v.shape[1:3], size)
        by_heads = (t.unflatten(3, (self.num_heads, -1)) for t in (q, k, v))
        attended = window_attention(*by_heads, size).flatten(3) + local
        return crop(attended[:, top:, left:], (height, width), dims=(1, 2))


class CrossShapedAttention(nn.Module):
    """Attention of half of the heads in columns and of the others in rows (CSWin, Section 3.2).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        width: Of the stripes; 0 attends to the whole map with all heads at once.
        fills: See :class:`StripeAttention`.
    """

    def __init__(self, channels: int, num_heads: int, width: int, fills: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        branches = 2 if width else 1
        self.branches = nn.ModuleList(
            StripeAttention(channels // branches, num_heads // branches, width, not i, fills)
            for i in range(branches)
        )
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        # of each branch its part of the queries, the keys and the values
        maps = apply_linear(self.qkv, x).unflatten(3, (3, len(self.branches), -1))
        parts = [
            branch(*(maps[:, :, :, j, i] for j in range(3)))
            for i, branch in enumerate(self.branches)
        ]
        return apply_linear(self.proj, torch.cat(parts, dim=3))
