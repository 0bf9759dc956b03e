"""PVT: Pyramid Vision Transformer, a Versatile Backbone for Dense Prediction without Convolutions.

Wang et al., ICCV 2021, arXiv 2102.12122; the authors' code is whai362/PVT (Apache-2.0). Written
anew from the paper. Tables of positions are resized to each map, where the authors' code fails or
mixes up rows at some sizes, and the last rows and columns of an image are not dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrest.backbones.hierarchical import Stage
from mmrest.backbones.layers import (
    fit_positions,
    initialize_linear,
    layer_norm_block,
    resize_positions,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import (
    PatchConv,
    PatchedBackbone,
    PatchEmbed,
    SpatialReductionArch,
    SpatialReductionAttention,
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


class PositionedPatchEmbed(PatchEmbed):
    """Patches with a table of absolute positions (Section 3.2).

    Args:
        proj: (B, H, W, in_channels) -> (B, h, w, channels).
        table_size: Side of the table.
    """

    def __init__(self, proj: PatchConv, table_size: int) -> None:
        super().__init__(proj)
        self.pos_embed = nn.Parameter(torch.empty(1, table_size**2, proj.out_channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, channels)."""
        x = super().forward(x)
        grid = tuple(x.shape[1:3])
        return x + resize_positions(self.pos_embed, grid, 'bilinear').unflatten(1, grid)


@dataclass(frozen=True)
class PVTArch(SpatialReductionArch):
    """Of PVT (Table 1).

    Attributes:
        image_size: Of the training, which the tables of positions are made for.
    """

    image_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_image_size(self.image_size)


def resize_table(table: Tensor, shape: torch.Size) -> Tensor:
    """A file's table of positions for an image of another size, without a class token's row."""
    cells = table.shape[1] if table.ndim == 3 else 0
    # the last stage's, in front of whose tokens is the class token
    if cells > 1 and math.isqrt(cells - 1) ** 2 == cells - 1:
        table = table[:, 1:]
    return fit_positions(table, shape, 'bilinear')


@register_backbone
class PVT(PatchedBackbone):
    """The backbone of PVT: ``'tiny'``, ``'small'``, ``'medium'`` and ``'large'``.

    Arguments are those of :class:`PatchedBackbone`.
    """

    Arch = PVTArch
    variants = {
        'tiny': PVTArch((64, 128, 320, 512), (2, 2, 2, 2)),
        'small': PVTArch((64, 128, 320, 512), (3, 4, 6, 3)),
        'medium': PVTArch((64, 128, 320, 512), (3, 4, 18, 3)),
        'large': PVTArch((64, 128, 320, 512), (3, 8, 27, 3)),
    }
    norm_eps = 1e-6
    initialize = staticmethod(initialize_linear)
    keys = KeyMap(
        rules=(
            (r'patch_embed(\d+)\.', counted_from_one('stages.{}.embed.')),
            (r'pos_embed(\d+)$', counted_from_one('stages.{}.embed.pos_embed')),
            (r'block(\d+)\.', counted_from_one('stages.{}.blocks.')),
            # mmdet's
            (r'layers\.(\d+)\.0\.projection\.', r'stages.\1.embed.proj.'),
            (r'layers\.(\d+)\.0\.norm\.', r'stages.\1.embed.norm.'),
            (r'layers\.(\d+)\.1\.0\.pos_embed$', r'stages.\1.embed.pos_embed'),
            (r'layers\.(\d+)\.1\.(\d+)\.', lambda m: f'stages.{m[1]}.blocks.{int(m[2]) - 1}.'),
            *MMCV_ATTENTION,
            (r'(.+)\.ffn\.layers\.0\.', r'\1.mlp.fc1.'),
            (r'(.+)\.ffn\.layers\.3\.', r'\1.mlp.fc2.'),
            (r'(.+\.attn)\.norm\.', r'\1.sr_norm.'),
        ),
        # the class token is the classifier's, and so is the norm
        drop=(r'head\.', r'norm\.', r'cls_token$'),
        adapt={
            r'.+\.pos_embed$': resize_table,
            r'.+\.attn\.q\.': query_rows,
            r'.+\.attn\.kv\.': key_value_rows,
            r'.+\.mlp\.fc\d\.weight$': as_linear,
        },
        fresh=(Fresh(r'branch_norms\.', unless=r'branch_norms\.'),),
        signature=(r'pos_embed1$|layers\.0\.1\.0\.pos_embed$|stages\.0\.embed\.pos_embed$',),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: PVTArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels = arch.embed_dims[index]
        patches = PatchConv(in_channels, channels, 2 if index else 4, self.sizes)
        table_size = arch.image_size // 4 // 2**index
        blocks = [
            layer_norm_block(
                channels,
                SpatialReductionAttention(
                    channels,
                    arch.num_heads[index],
                    self.make_reduction(channels, arch.sr_ratios[index]),
                    norm_eps=1e-5,
                ),
                arch.mlp_ratios[index],
                rate,
                self.norm_eps,
            )
            for rate in drop_path_rates
        ]
        return Stage(PositionedPatchEmbed(patches, table_size), blocks)
