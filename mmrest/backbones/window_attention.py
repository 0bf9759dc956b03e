"""Attention in windows of a map, of Twins and Swin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrest.backbones.layers import apply_linear
from mmrest.ops import attention, cut_windows, join_windows


class WindowAttention(nn.Module):
    """Attention in windows that do not overlap and begin at the top left.

    Zeros fill the last windows; :meth:`make_bias` may hide them.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        window_size: Side of a window in tokens.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        grid, size = x.shape[1:3], (self.window_size, self.window_size)
        windows = cut_windows(x, size).flatten(1, 2)
        parts = apply_linear(self.qkv, windows).chunk(3, dim=2)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in parts)
        bias = self.make_bias(x.shape[0], grid, q)
        attended = attention(q, k, v, bias).transpose(1, 2).flatten(2)
        return join_windows(apply_linear(self.proj, attended).unflatten(1, size), grid)

    def make_bias(self, batch: int, grid: torch.Size, q: Tensor) -> Tensor | None:
        """What is added to the logits.

        Args:
            batch: Images.
            grid: Height and width of the map.
            q: Queries (B windows, heads, n, head_dim), for dtype and device.

        Returns:
            Of a shape that broadcasts to (B windows, heads, n, n), or None.
        """
        return None
