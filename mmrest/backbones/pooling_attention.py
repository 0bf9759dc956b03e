"""Pooling attention of MViTv2 (arXiv 2112.01526), over maps and in windows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrest.backbones.layers import apply_linear, are_untouched, can_fuse
from mmrest.ops import (
    attention,
    attention_with_positions,
    cut_windows,
    join_windows,
    joint_logits,
    linear,
    pool_heads,
    position_logits,
)
from mmrest.ops.dispatch import uses_onednn
from mmrest.ops.recomputing import recompute

Grid = tuple[int, int]


def split_class_token(x: Tensor, grid: Grid) -> tuple[Tensor | None, Tensor]:
    """Tokens (B, [1 +] rows columns, ...) -> the class token, if any, and the map's tokens."""
    cells = grid[0] * grid[1]
    if not torch.compiler.is_compiling() and x.shape[1] == cells:
        return None, x
    return x[:, :-cells], x[:, -cells:]


def pooled(grid: Grid, stride: int) -> Grid:
    """Size of a map after a convolution or a pooling of this stride."""
    return tuple((side + stride - 1) // stride for side in grid)


class HeadConv(nn.Conv2d):
    """A depthwise 3x3 convolution of each head's map, with the same kernels for all heads.

    Args:
        head_dim: Channels of a head.
        stride: Of the convolution.
    """

    def __init__(self, head_dim: int, stride: int) -> None:
        super().__init__(head_dim, head_dim, 3, stride, padding=1, groups=head_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, heads, head_dim) -> (B, h, w, heads, head_dim)."""
        return pool_heads(x, self.weight, self.stride[0])


class Pool(nn.Module):
    """Pooling of queries, keys or values: a convolution of each head's map and a LayerNorm.

    The class token is not convolved.

    Args:
        head_dim: Channels of a head.
        stride: Of the convolution.
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, head_dim: int, stride: int, norm_eps: float) -> None:
        super().__init__()
        self.conv = HeadConv(head_dim, stride)
        self.norm = nn.LayerNorm(head_dim, norm_eps)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, [1 +] H W, heads, head_dim) -> (B, [1 +] h w, heads, head_dim)."""
        cls_token, cells = split_class_token(x, grid)
        cells = self.conv(cells.unflatten(1, grid)).flatten(1, 2)
        return self.norm(cells if cls_token is None else torch.cat([cls_token, cells], dim=1))

    def project(
        self,
        x: Tensor,
        grid: Grid,
        weight: Tensor,
        bias: Tensor | None,
        kernels: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
    ) -> Tensor:
        """``forward`` of a linear layer's output, of tensors in the place of the parameters.

        Args:
            x: (B, [1 +] H W, in_channels).
            grid: (H, W).
            weight: Of the linear layer, (heads head_dim, in_channels).
            bias: Of the linear layer, (heads head_dim,).
            kernels: Of the convolution, (head_dim, 1, 3, 3).
            norm_weight: Of the LayerNorm, (head_dim,).
            norm_bias: As ``norm_weight``.

        Returns:
            (B, [1 +] h w, heads, head_dim).
        """
        cls_token, cells = split_class_token(x, grid)
        given = weight, bias, kernels, norm_weight, norm_bias
        heads = recompute(self._project, cells.unflatten(1, grid), *given).flatten(1, 2)
        if cls_token is None:
            return heads
        cls_heads = linear(cls_token, weight, bias).unflatten(2, heads.shape[2:])
        return torch.cat([self._normalize(cls_heads, norm_weight, norm_bias), heads], dim=1)

    def _project(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        kernels: Tensor,
        *norm: Tensor | None,
    ) -> Tensor:
        """(B, H, W, in_channels) -> (B, h, w, heads, head_dim)."""
        heads = linear(x, weight, bias).unflatten(3, (-1, len(kernels)))
        return self._normalize(pool_heads(heads, kernels, self.conv.stride[0]), *norm)

    def _normalize(
        self, heads: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None
    ) -> Tensor:
        norm = self.norm
        return F.layer_norm(heads, norm.normalized_shape, norm_weight, norm_bias, norm.eps)


class RelativePositions(nn.Module):
    """Relative positions, decomposed into rows and columns.

    Args:
        distances: Of each table.
        head_dim: Channels of a head.
    """

    def __init__(self, distances: int, head_dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(distances, head_dim))
        self.columns = nn.Parameter(torch.empty(distances, head_dim))
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, q: Tensor, key_grid: Grid) -> tuple[Tensor, Tensor]:
        """See :func:`mmrest.ops.position_logits`."""
        return position_logits(q, key_grid, self.rows, self.columns)


class JointPositions(nn.Module):
    """Relative positions with a vector for each pair of distances, of the ablation alone.

    Args:
        distances: Of the table along each axis.
        head_dim: Channels of a head.
    """

    def __init__(self, distances: int, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(distances, distances, head_dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, q: Tensor, key_grid: Grid) -> Tensor:
        """See :func:`mmrest.ops.joint_logits`."""
        return joint_logits(q, key_grid, self.table)


class PoolingAttention(nn.Module):
    """Attention of pooled queries to pooled keys and values, all or in windows.

    ``softmax(q k^T / sqrt(head_dim) + positions) v + q``. The positions are those of queries that
    are not scaled, as in the authors' code (in Eq. 3 the square root divides both). Windows
    ("Hwin") are cut out of the pooled maps; cells that fill the last ones are zeros,
    which queries see, as in detectron2. The class token has no position and no ``+ q``.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the attention and of the output.
        num_heads: Attention heads.
        q_stride: Of the queries' pooling.
        kv_stride: Of the keys' and the values' pooling.
        window_size: Side of a window in tokens of the input; 0 is the whole map.
        positions: Relative positions; None has none.
        residual: Add the pooled queries ("residual pooling").
        pool_every_q: Pool queries by a convolution also where that leaves their number.
        norm_eps: Of the LayerNorms.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_heads: int,
        q_stride: int,
        kv_stride: int,
        window_size: int,
        positions: RelativePositions | JointPositions | None,
        residual: bool,
        pool_every_q: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        head_dim = channels // num_heads
        self.num_heads = num_heads
        self.q_stride = q_stride
        self.kv_stride = kv_stride
        self.window_size = window_size
        self.residual = residual
        self.qkv = nn.Linear(in_channels, 3 * channels)
        has_q_pool = pool_every_q or q_stride > 1
        self.q_pool = Pool(head_dim, q_stride, norm_eps) if has_q_pool else None
        self.k_pool = Pool(head_dim, kv_stride, norm_eps)
        self.v_pool = Pool(head_dim, kv_stride, norm_eps)
        self.positions = positions
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, [1 +] H W, in_channels) -> (B, [1 +] h w, channels)."""
        q, k, v = self._project(x, grid)
        grids = pooled(grid, self.q_stride), pooled(grid, self.kv_stride)
        attend = self._attend_in_windows if self.window_size else self._attend
        attended = attend(q, k, v, *grids)
        if self.residual:
            cls_token, cells = split_class_token(q, grids[0])
            if cls_token is not None:
                cells = F.pad(cells, (0, 0, 0, 0, cls_token.shape[1], 0))
            attended = attended + cells
        return apply_linear(self.proj, attended.flatten(2))

    def _project(self, x: Tensor, grid: Grid) -> Iterator[Tensor]:
        """Queries, keys and values, (B, [1 +] cells, heads, head_dim), pooled one after the other.

        Where linear layers are oneDNN's, the maps before the pooling are computed again in the
        backward pass.
        """
        pools = self.q_pool, self.k_pool, self.v_pool
        if not self._recomputes(x):
            parts = apply_linear(self.qkv, x).chunk(3, dim=-1)
            for part, pool in zip(parts, pools, strict=True):
                heads = part.unflatten(2, (self.num_heads, -1))
                yield heads if pool is None else pool(heads, grid)
            return
        biases = [None] * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        for pool, weight, bias in zip(pools, self.qkv.weight.chunk(3), biases, strict=True):
            if pool is None:
                yield linear(x, weight, bias).unflatten(2, (self.num_heads, -1))
            else:
                given = pool.conv.weight, pool.norm.weight, pool.norm.bias
                yield pool.project(x, grid, weight, bias, *given)

    def _recomputes(self, x: Tensor) -> bool:
        if not can_fuse(self.qkv) or torch.compiler.is_compiling() or not uses_onednn(x):
            return False
        pools = [pool for pool in (self.q_pool, self.k_pool, self.v_pool) if pool is not None]
        parts = [part for pool in pools for part in (pool, *pool.children())]
        # what somebody put there may draw numbers, or count its calls
        known = [type(part) for part in parts] == [Pool, HeadConv, nn.LayerNorm] * len(pools)
        return known and are_untouched(*parts)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, q_grid: Grid, kv_grid: Grid) -> Tensor:
        """Of all queries to all keys.

        Args:
            q: Queries (B, [1 +] cells, heads, head_dim).
            k: Keys (B, [1 +] cells, heads, head_dim).
            v: Values of the same shape.
            q_grid: (rows, columns) of the queries.
            kv_grid: Those of keys and values.

        Returns:
            (B, [1 +] cells, heads, head_dim) of the queries.
        """
        by_heads = tuple(t.transpose(1, 2) for t in (q, k, v))
        if self.positions is None:
            return attention(*by_heads).transpose(1, 2)
        cls_token, cells = split_class_token(q, q_grid)
        logits = self.positions(cells.unflatten(1, q_grid), kv_grid)
        if isinstance(logits, Tensor):
            if cls_token is not None:
                logits = F.pad(logits, (cls_token.shape[1], 0) * 2)
            return attention(*by_heads, logits).transpose(1, 2)
        parts = [t.flatten(1, 2) for t in logits]  # (B, h w, heads, n)
        if cls_token is not None:
            parts = [F.pad(t, (0, 0, 0, 0, cls_token.shape[1], 0)) for t in parts]
        attended = attention_with_positions(*by_heads, *(t.transpose(1, 2) for t in parts))
        return attended.transpose(1, 2)

    def _attend_in_windows(
        self, q: Tensor, k: Tensor, v: Tensor, q_grid: Grid, kv_grid: Grid
    ) -> Tensor:
        """As :meth:`_attend`, to the keys of the same window."""
        sides = self.window_size // self.q_stride, self.window_size // self.kv_stride
        sizes = [(side, side) for side in sides]
        cells = [
            cut_windows(t.unflatten(1, grid), size).flatten(1, 2)
            for t, grid, size in (
                (q, q_grid, sizes[0]),
                (k, kv_grid, sizes[1]),
                (v, kv_grid, sizes[1]),
            )
        ]
        windows = self._attend(*cells, *sizes).unflatten(1, sizes[0])
        return join_windows(windows, q_grid).flatten(1, 2)
