"""Attention of ResT and ResTv2, to keys and values from a reduced map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrest.backbones.layers import Linear, TokenConv, can_fuse, recompute, unobserved
from mmrest.ops import attention
from mmrest.ops.products import even_step, prefers_onednn

# Elements of the queries that are attended at a time in inference.
_CHUNK_ELEMENTS = 2**21


class SpatialReductionAttention(nn.Module):
    """Projections of an attention whose keys and values come from a reduced map.

    The reduction is a strided depthwise convolution and a LayerNorm (ResT, Section 3.1).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
        norm_eps: Of the LayerNorm.
    """

    def __init__(
        self, channels: int, num_heads: int, sr_ratio: int, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(channels, channels)
        self.kv = Linear(channels, 2 * channels)
        self.proj = Linear(channels, channels)
        self.sr = self.sr_norm = None
        if sr_ratio > 1:
            self.sr = TokenConv(
                channels, channels, sr_ratio + 1, sr_ratio, sr_ratio // 2, groups=channels
            )
            self.sr_norm = nn.LayerNorm(channels, norm_eps)

    def project(self, x: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Queries, keys and values of a map.

        Args:
            x: (B, H, W, channels).
            norm: The LayerNorm in front of the attention.

        Returns:
            Queries (B, heads, H W, head_dim), keys and values (B, heads, h w, head_dim), and the
            reduced size (h, w).
        """
        return recompute(self._project, x, norm, ends=[self.q, self.kv])

    def _project(
        self, x: Tensor, norm: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        x = norm(x)
        return self._make_queries(x.flatten(1, 2)), *self._make_keys_and_values(x)

    def _make_queries(self, tokens: Tensor) -> Tensor:
        """(B, n, channels) -> (B, heads, n, head_dim)."""
        return self.q(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _make_keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """From a whole map (B, H, W, channels); and the reduced size."""
        reduced = x if self.sr is None else self.sr_norm(self.sr(x))
        kv = self.kv(reduced).flatten(1, 2).unflatten(2, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        return k, v, tuple(reduced.shape[1:3])

    def restore(self, v: Tensor, reduced_size: tuple[int, int], shape: torch.Size) -> Tensor | None:
        """What is added to plain attention before the projection; a family's own.

        Args:
            v: Values (B, heads, h w, head_dim).
            reduced_size: (h, w).
            shape: (B, H, W, channels).

        Returns:
            (B, H, W, channels); None where nothing is added.
        """
        return None

    def attend_plainly(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Plain attention, :meth:`restore` and the projection.

        Args:
            x: (B, H, W, channels).
            norm: The LayerNorm in front of the attention.

        Returns:
            (B, H, W, channels).
        """
        seen = norm, self.q, self.proj, self.kv if self.sr is None else self.sr
        # another module in the norm's place might return the map itself, which is needed
        if prefers_onednn(x) and can_fuse(norm) and unobserved(*seen):
            return self._attend_in_chunks(norm(x))
        q, k, v, reduced_size = self.project(x, norm)
        attended = attention(q, k, v).transpose(1, 2).reshape(x.shape)
        restored = self.restore(v, reduced_size, x.shape)
        return self.proj(attended if restored is None else attended + restored)

    def _attend_in_chunks(self, x: Tensor) -> Tensor:
        """A chunk of queries at a time, whose result takes the chunk's place in ``x``.

        Neither all queries nor all that is attended are then in memory.
        """
        k, v, reduced_size = self._make_keys_and_values(x)
        restored = self.restore(v, reduced_size, x.shape)
        tokens = x.flatten(1, 2)
        step = even_step(tokens.shape[1], max(1, _CHUNK_ELEMENTS // (len(x) * x.shape[3])))
        parts = tokens.split(step, dim=1)
        extras = [None] * len(parts) if restored is None else restored.flatten(1, 2).split(step, 1)
        for rows, extra in zip(parts, extras, strict=True):
            attended = attention(self._make_queries(rows), k, v).transpose(1, 2).flatten(2)
            rows.copy_(self.proj(attended if extra is None else attended.add_(extra)))
        return tokens.view(x.shape)
