"""PVT v2: Improved Baselines with Pyramid Vision Transformer.

Wang et al., Computational Visual Media 2022, arXiv 2106.13797; the authors' code is whai362/PVT
(Apache-2.0). Written anew from the paper; the last rows and columns of a map are not dropped from
keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mmrest.backbones.hierarchical import HierarchicalBackbone, Stage
from mmrest.backbones.layers import (
    Block,
    ConvMLP,
    DropPath,
    TokenConv,
    as_map,
    as_tokens,
    initialize_by_fan_out,
)
from mmrest.backbones.pyramid import Size, register_backbone
from mmrest.backbones.spatial_reduction import (
    PatchedBackbone,
    PatchEmbed,
    SpatialReductionArch,
    SpatialReductionAttention,
    overlapping_patches,
)
from mmrest.checkpoints import (
    MMCV_ATTENTION,
    Fresh,
    KeyMap,
    as_linear,
    counted_from_one,
    key_value_rows,
    query_rows,
)

POOL_SIZE = 7


class LinearReduction(TokenConv):
    """Keys and values from a map that is pooled to 7x7, whatever its size (Section 3.1).

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, 7, 7, channels)."""
        return super().forward(as_tokens(F.adaptive_avg_pool2d(as_map(x), POOL_SIZE)))


class LinearSpatialReductionAttention(SpatialReductionAttention):
    """Attention to a pooled map, linear in the tokens (Section 3.1)."""

    def reduce(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, 7, 7, channels)."""
        return F.gelu(super().reduce(x))


@dataclass(frozen=True)
class PVTV2Arch(SpatialReductionArch):
    """Of PVT v2 (Table 1).

    Attributes:
        linear: Keys and values are from a pooled map instead ("linear SRA"), and MLPs have one more
            ReLU, as the authors' code has it.
    """

    linear: bool = False


@register_backbone
class PVTV2(PatchedBackbone):
    """The backbone of PVT v2: ``'b0'`` to ``'b5'`` and ``'b2_linear'``.

    Arguments are those of :class:`PatchedBackbone`. ``sizes`` concerns the keys and values alone:
    maps are of ceil(size / stride) in the authors' code, too.
    """

    Arch = PVTV2Arch
    variants = {
        'b0': PVTV2Arch((32, 64, 160, 256), (2, 2, 2, 2)),
        'b1': PVTV2Arch((64, 128, 320, 512), (2, 2, 2, 2)),
        'b2': PVTV2Arch((64, 128, 320, 512), (3, 4, 6, 3)),
        'b2_linear': PVTV2Arch((64, 128, 320, 512), (3, 4, 6, 3), linear=True),
        'b3': PVTV2Arch((64, 128, 320, 512), (3, 4, 18, 3)),
        'b4': PVTV2Arch((64, 128, 320, 512), (3, 8, 27, 3)),
        'b5': PVTV2Arch((64, 128, 320, 512), (3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
    }
    default = 'b2'
    norm_eps = 1e-6
    initialize = staticmethod(initialize_by_fan_out)
    keys = KeyMap(
        rules=(
            (r'patch_embed(\d+)\.', counted_from_one('stages.{}.embed.')),
            (r'block(\d+)\.', counted_from_one('stages.{}.blocks.')),
            (r'norm(\d+)\.', counted_from_one('stages.{}.norm.')),
            # mmdet's
            (r'layers\.(\d+)\.0\.projection\.', r'stages.\1.embed.proj.'),
            (r'layers\.(\d+)\.0\.norm\.', r'stages.\1.embed.norm.'),
            (r'layers\.(\d+)\.1\.', r'stages.\1.blocks.'),
            (r'layers\.(\d+)\.2\.', r'stages.\1.norm.'),
            *MMCV_ATTENTION,
            (r'(.+)\.ffn\.layers\.0\.', r'\1.mlp.fc1.'),
            (r'(.+)\.ffn\.layers\.1\.', r'\1.mlp.conv.'),
            (r'(.+)\.ffn\.layers\.4\.', r'\1.mlp.fc2.'),
            (r'(.+\.attn)\.norm\.', r'\1.sr_norm.'),
            (r'(.+\.mlp)\.dwconv\.dwconv\.', r'\1.conv.'),
        ),
        drop=(r'head\.',),
        adapt={
            r'.+\.attn\.q\.': query_rows,
            r'.+\.attn\.kv\.': key_value_rows,
            r'.+\.mlp\.fc\d\.weight$': as_linear,
        },
        fresh=(Fresh(r'branch_norms\.', unless=r'branch_norms\.'),),
        signature=(
            r'patch_embed1\.|layers\.0\.0\.projection\.|stages\.0\.norm\.',
            r'(block1\.0\.mlp\.dwconv|layers\.0\.1\.0\.ffn\.layers\.1|stages\.0\.blocks\.0\.mlp\.conv)\.',
        ),
    )

    def map_sizes(self, size: Size) -> list[Size]:
        """See :meth:`PyramidBackbone.map_sizes`; they are the same in both readings."""
        return HierarchicalBackbone.map_sizes(self, size)

    def make_stage(
        self, index: int, in_channels: int, arch: PVTV2Arch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels = arch.embed_dims[index]
        embed = PatchEmbed(overlapping_patches(in_channels, channels, is_stem=not index))
        blocks = [self._make_block(index, arch, rate) for rate in drop_path_rates]
        return Stage(embed, blocks, nn.LayerNorm(channels, self.norm_eps))

    def _make_block(self, index: int, arch: PVTV2Arch, drop_path_rate: float) -> Block:
        channels, heads = arch.embed_dims[index], arch.num_heads[index]
        if arch.linear:
            reduction = LinearReduction(channels)
            attn = LinearSpatialReductionAttention(channels, heads, reduction, norm_eps=1e-5)
        else:
            reduction = self.make_reduction(channels, arch.sr_ratios[index])
            attn = SpatialReductionAttention(channels, heads, reduction, norm_eps=1e-5)
        hidden = int(channels * arch.mlp_ratios[index])
        act1 = nn.ReLU() if arch.linear else nn.Identity()
        return Block(
            norm1=nn.LayerNorm(channels, self.norm_eps),
            attn=attn,
            norm2=nn.LayerNorm(channels, self.norm_eps),
            mlp=ConvMLP(channels, hidden, act1, nn.GELU()),
            drop_path=DropPath(drop_path_rate),
        )
