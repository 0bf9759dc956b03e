"""Attention of ResT and ResTv2, to keys and values from a reduced map."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mmrest.backbones.layers import TokenConv, apply_linear


class SpatialReductionAttention(nn.Module, ABC):
    """Projections of an attention whose keys and values come from a reduced map.

    The reduction is a strided depthwise convolution and a LayerNorm (ResT, Section 3.1).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, channels: int, num_heads: int, sr_ratio: int, norm_eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = self.sr_norm = None
        if sr_ratio > 1:
            self.sr = TokenConv(
                channels, channels, sr_ratio + 1, sr_ratio, sr_ratio // 2, groups=channels
            )
            self.sr_norm = nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        k, v, *extras = self.prepare(x)
        return self.attend(x.flatten(1, 2), k, v, *extras).view(x.shape)

    @abstractmethod
    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """What every query attends to, made from the whole map.

        Args:
            x: (B, H, W, channels).

        Returns:
            Keys and values (B, heads, h w, head_dim), then whatever :meth:`attend` takes of each
            token, (B, H W, ...).
        """

    @abstractmethod
    def attend(self, tokens: Tensor, k: Tensor, v: Tensor, *extras: Tensor) -> Tensor:
        """Attention of some or all tokens, (B, n, channels) -> (B, n, channels).

        Args:
            tokens: (B, n, channels).
            k: Keys, as :meth:`prepare` made them.
            v: Values.
            extras: What else it made, of these tokens.
        """

    def make_queries(self, tokens: Tensor) -> Tensor:
        """(B, n, channels) -> (B, heads, n, head_dim)."""
        return self.split_heads(apply_linear(self.q, tokens))

    def reduce(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values as maps, (B, H, W, channels) -> two of (B, h, w, channels)."""
        reduced = x if self.sr is None else self.sr_norm(self.sr(x))
        return apply_linear(self.kv, reduced).chunk(2, dim=3)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, n, channels) -> (B, heads, n, head_dim)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
