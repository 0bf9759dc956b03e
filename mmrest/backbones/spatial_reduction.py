"""What PVT made common: embeddings of patches, and attention to keys from a reduced map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmrest.backbones.arch import HierarchicalArch, TransformerArch
from mmrest.backbones.hierarchical import HierarchicalBackbone
from mmrest.backbones.layers import TokenConv, apply_linear, as_tokens
from mmrest.backbones.pyramid import Size
from mmrest.errors import InputError
from mmrest.ops import attention, fill_up


@dataclass(frozen=True)
class SpatialReductionArch(TransformerArch):
    """Of families with spatial-reduction attention.

    Attributes:
        sr_ratios: Reduction of the keys' and values' map along each side.
    """

    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)


class PatchConv(TokenConv):
    """A convolution whose kernel is its stride.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Side of a patch.
        sizes: What becomes of rows and columns that do not fill a patch: ``'ceil'``, zeros fill it;
            ``'floor'``, they are dropped.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, sizes: str) -> None:
        super().__init__(in_channels, channels, stride, stride)
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, h, w, channels).

        Raises:
            InputError: Nothing is left.
        """
        stride, (height, width) = self.stride[0], x.shape[1:3]
        if self.sizes == 'ceil':
            x = fill_up(x, stride)
        elif not torch.compiler.is_compiling() and min(height, width) < stride:
            raise InputError(
                f"sizes='floor' leaves nothing of a map of {height}x{width} in patches of "
                f"{stride}: give larger images, or take sizes='ceil'"
            )
        return super().forward(x)


class PatchEmbed(nn.Module):
    """A convolution to a smaller map, and a LayerNorm.

    Args:
        proj: (B, H, W, in_channels) -> (B, h, w, channels).
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, proj: nn.Conv2d, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.proj = proj
        self.norm = nn.LayerNorm(proj.out_channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, channels)."""
        return self.norm(self.proj(as_tokens(x).contiguous()))


def overlapping_patches(in_channels: int, channels: int, is_stem: bool) -> TokenConv:
    """The convolutions of PVTv2 (arXiv 2106.13797), Section 3.2, to a quarter or a half."""
    if is_stem:
        return TokenConv(in_channels, channels, 7, stride=4, padding=3)
    return TokenConv(in_channels, channels, 3, stride=2, padding=1)


class SpatialReductionAttention(nn.Module):
    """Attention of all tokens to a reduced map (PVT, arXiv 2102.12122, Section 3.3).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr: Reduction of the keys' and values' map, (B, H, W, channels) -> (B, h, w, channels), with
            a LayerNorm behind it; None has neither.
        norm_eps: Of the LayerNorm.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        sr: nn.Module | None,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = sr
        self.sr_norm = None if sr is None else nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        q, k, v = self.project(x, self.reduce(x))
        attended = self.attend(*map(self.split_heads, (q, k, v)))
        return apply_linear(self.proj, join_heads(attended, x))

    def project(self, x: Tensor, reduced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as tokens.

        Args:
            x: (B, H, W, channels).
            reduced: What keys and values are made from, (B, h, w, channels).

        Returns:
            (B, H W, channels) and twice (B, h w, channels).
        """
        k, v = apply_linear(self.kv, reduced.flatten(1, 2)).chunk(2, dim=2)
        return apply_linear(self.q, x.flatten(1, 2)), k, v

    def reduce(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, h, w, channels)."""
        return x if self.sr is None else self.sr_norm(self.sr(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention proper.

        Args:
            q: Queries (B, heads, H W, head_dim).
            k: Keys (B, heads, h w, head_dim).
            v: Values of the same shape.

        Returns:
            (B, heads, H W, head_dim).
        """
        return attention(q, k, v)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, channels) -> (B, heads, N, head_dim)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def join_heads(attended: Tensor, like: Tensor) -> Tensor:
    """(B, heads, H W, head_dim) -> (B, H, W, channels), the shape of ``like``."""
    return attended.transpose(1, 2).reshape(like.shape)


def overlapping_reduction(channels: int, sr_ratio: int) -> TokenConv | None:
    """The strided depthwise convolution of ResT and ResTv2 (arXiv 2105.13677, Section 3.1)."""
    if sr_ratio == 1:
        return None
    return TokenConv(channels, channels, sr_ratio + 1, sr_ratio, sr_ratio // 2, groups=channels)


class PatchedBackbone(HierarchicalBackbone):
    """A trunk whose authors' code drops rows and columns at some sizes.

    Args:
        sizes: What becomes of rows and columns of a map that do not fill a patch: ``'ceil'``, zeros
            fill it; ``'floor'``, they are dropped as in the authors' code, which at sizes that are
            no multiples of the last stride is another function, has other maps' sizes than the
            contract and fails on small images. All other arguments are those of
            :class:`HierarchicalBackbone`.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | HierarchicalArch | None = None,
        sizes: str = 'ceil',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if sizes not in ('ceil', 'floor'):
            raise InputError(f"{type(self).__name__}: sizes={sizes!r} must be 'ceil' or 'floor'")
        self.sizes = sizes  # make_stage reads it
        super().__init__(
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    def map_sizes(self, size: Size) -> list[Size]:
        """See :meth:`PyramidBackbone.map_sizes`."""
        if self.sizes == 'ceil':
            return super().map_sizes(size)
        return [(size[0] // stride, size[1] // stride) for stride in self.out_strides]

    def make_reduction(self, channels: int, sr_ratio: int) -> PatchConv | None:
        """What keys and values are made from, if they are to be fewer than the queries."""
        return PatchConv(channels, channels, sr_ratio, self.sizes) if sr_ratio > 1 else None
