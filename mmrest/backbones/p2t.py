"""P2T: Pyramid Pooling Transformer for Scene Understanding.

Wu et al., IEEE TPAMI 2023, arXiv 2106.12011. Written anew from a description of the model, as the
authors' code (yuhuan-wu/P2T) and weights are under CC BY-NC-SA 4.0: whoever uses the *weights* is
bound to non-commercial use by that licence. Any image size works, where the authors' dense code
takes multiples of 32, of 65 pixels or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrest.backbones.arch import TransformerArch
from mmrest.backbones.hierarchical import HierarchicalBackbone, Stage
from mmrest.backbones.layers import (
    Block,
    ConvMLP,
    DropPath,
    TokenConv,
    apply_linear,
    as_map,
    as_tokens,
    initialize_by_fan_out,
    run_layers,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import (
    PatchEmbed,
    SpatialReductionAttention,
    join_heads,
    overlapping_patches,
)
from mmrest.checkpoints import Fresh, KeyMap, as_linear, counted_from_one
from mmrest.ops import adaptive_average


def pooled_side(side: int, ratio: int) -> int:
    """``round(side / ratio)``, 1 at least: the authors' code fails where nothing is left.

    In whole numbers, which compilers and exporters can follow; halves go to the even number.
    """
    nearest, rest = (2 * side + ratio) // (2 * ratio), (2 * side + ratio) % (2 * ratio)
    return max(1, nearest - nearest % 2 * (1 - min(1, rest)))


class PyramidPooling(nn.Module):
    """Means of a map over areas of several sizes, each with a depthwise convolution added.

    Args:
        channels: Channels of the map.
        ratios: Sides of the areas, about.
    """

    def __init__(self, channels: int, ratios: Sequence[int]) -> None:
        super().__init__()
        self.ratios = tuple(ratios)
        self.convs = nn.ModuleList(
            TokenConv(channels, channels, 3, padding=1, groups=channels) for _ in ratios
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, N, channels) of all areas, those of the first ratio first."""
        levels = []
        for ratio, conv in zip(self.ratios, self.convs, strict=True):
            size = tuple(pooled_side(side, ratio) for side in x.shape[1:3])
            pooled = as_tokens(adaptive_average(as_map(x), size))
            levels.append((pooled + conv(pooled)).flatten(1, 2))
        return torch.cat(levels, dim=1)


class PyramidPoolingAttention(SpatialReductionAttention):
    """Attention of all tokens to a pyramid of pooled maps.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__(channels, num_heads, None, norm_eps=1e-5)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, pooling: PyramidPooling) -> Tensor:
        """(B, H, W, channels) and what the blocks of a stage share -> (B, H, W, channels)."""
        pooled = self.norm(pooling(x))
        k, v = apply_linear(self.kv, pooled).chunk(2, dim=2)
        q = apply_linear(self.q, x.flatten(1, 2))
        attended = self.attend(*map(self.split_heads, (q, k, v)))
        return apply_linear(self.proj, join_heads(attended, x))


class PyramidPoolingStage(Stage):
    """A stage whose blocks share the convolutions of their pooling.

    Args:
        embed: (B, in_channels, H, W) -> (B, h, w, C).
        blocks: (B, h, w, C) -> (B, h, w, C).
        pooling: Which they share.
    """

    def __init__(
        self, embed: nn.Module, blocks: Iterable[nn.Module], pooling: PyramidPooling
    ) -> None:
        super().__init__(embed, blocks)
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, C)."""
        x = self.embed(x).contiguous()
        return run_layers(self.blocks, x, self.pooling, with_cp=self.with_cp)


@dataclass(frozen=True)
class P2TArch(TransformerArch):
    """Of P2T; fields per stage.

    Attributes:
        pool_ratios: Sides of the areas that keys and values are pooled over, about.
    """

    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    pool_ratios: tuple[tuple[int, ...], ...] = (
        (12, 16, 20, 24),
        (6, 8, 10, 12),
        (3, 4, 5, 6),
        (1, 2, 3, 4),
    )


@register_backbone
class P2T(HierarchicalBackbone):
    """The backbone of P2T: ``'tiny'``, ``'small'``, ``'base'`` and ``'large'``.

    Arguments are those of :class:`HierarchicalBackbone`. The authors' weights are for
    non-commercial use alone.
    """

    Arch = P2TArch
    variants = {
        'tiny': P2TArch((48, 96, 240, 384), (2, 2, 6, 3)),
        'small': P2TArch((64, 128, 320, 512), (2, 2, 9, 3)),
        'base': P2TArch((64, 128, 320, 512), (3, 4, 18, 3)),
        'large': P2TArch((64, 128, 320, 640), (3, 8, 27, 3)),
    }
    norm_eps = 1e-6
    initialize = staticmethod(initialize_by_fan_out)
    keys = KeyMap(
        rules=(
            (r'patch_embed(\d+)\.', counted_from_one('stages.{}.embed.')),
            (r'd_convs(\d+)\.', counted_from_one('stages.{}.pooling.convs.')),
            (r'block(\d+)\.', counted_from_one('stages.{}.blocks.')),
            (r'(.+\.attn)\.(q|kv)\.0\.', r'\1.\2.'),
        ),
        drop=(r'head\.',),
        adapt={r'.+\.mlp\.fc\d\.weight$': as_linear},
        fresh=(Fresh(r'branch_norms\.', unless=r'branch_norms\.'),),
        signature=(r'd_convs1\.|stages\.0\.pooling\.',),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: P2TArch, drop_path_rates: list[float]
    ) -> PyramidPoolingStage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels = arch.embed_dims[index]
        embed = PatchEmbed(overlapping_patches(in_channels, channels, is_stem=not index))
        hidden = int(channels * arch.mlp_ratios[index])
        blocks = [
            Block(
                norm1=nn.LayerNorm(channels, self.norm_eps),
                attn=PyramidPoolingAttention(channels, arch.num_heads[index]),
                norm2=nn.LayerNorm(channels, self.norm_eps),
                mlp=ConvMLP(channels, hidden, nn.Hardswish(), nn.Hardswish()),
                drop_path=DropPath(rate),
            )
            for rate in drop_path_rates
        ]
        return PyramidPoolingStage(embed, blocks, PyramidPooling(channels, arch.pool_ratios[index]))
