"""CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows.

Dong et al., CVPR 2022, arXiv 2107.00652; the authors' code is microsoft/CSWin-Transformer (MIT).
Written anew from the paper and a description of their segmentation code, which it equals wherever
that keeps ceil(size / stride).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmrest.backbones.arch import TransformerArch
from mmrest.backbones.hierarchical import HierarchicalBackbone, Stage
from mmrest.backbones.layers import TokenConv, initialize_linear, layer_norm_block
from mmrest.backbones.pyramid import Size, register_backbone
from mmrest.backbones.spatial_reduction import PatchedBackbone, PatchEmbed
from mmrest.backbones.stripes import CrossShapedAttention
from mmrest.checkpoints import Fresh, KeyMap, counted_from_one
from mmrest.errors import InputError
from mmrest.ops import fill_up


class StemConv(TokenConv):
    """7x7, stride 4, with a padding of only 2.

    Args:
        in_channels: Channels of the images.
        channels: Channels of the map.
        sizes: See :class:`CSWin`.
    """

    def __init__(self, in_channels: int, channels: int, sizes: str) -> None:
        super().__init__(in_channels, channels, 7, stride=4, padding=2)
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, h, w, channels).

        Raises:
            InputError: Nothing is left.
        """
        height, width = x.shape[1:3]
        if self.sizes == 'ceil':
            x = fill_up(x, 4)
        elif not torch.compiler.is_compiling() and min(height, width) < 3:
            raise InputError(
                f"sizes='floor' leaves nothing of an image of {height}x{width}: give larger "
                "images, or take sizes='ceil'"
            )
        return super().forward(x)


@dataclass(frozen=True)
class CSWinArch(TransformerArch):
    """Of CSWin (Table 1); fields per stage.

    Attributes:
        num_heads: Attention heads, an even number but in the last stage.
        stripe_widths: In tokens; the last stage attends to the whole map whatever its width is.
    """

    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    stripe_widths: tuple[int, ...] = (1, 2, 7, 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        for heads in self.num_heads[:-1]:
            if heads % 2:
                raise InputError(
                    f'CSWin: arch field num_heads={self.num_heads}: half of the heads are in rows '
                    f'and half in columns, and {heads} is odd'
                )


@register_backbone
class CSWin(PatchedBackbone):
    """The backbone of CSWin: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, and of 384 pixels.

    ``'base_384'`` and ``'large_384'`` are the models that were trained on larger images and have
    wider stripes. The large ones have 24 heads in the last stage, as in the authors' code; the
    paper has 48.

    Args:
        sizes: ``'ceil'``: zeros fill an image up to a multiple of 4, so that maps are of
            ceil(size / stride); ``'floor'``: the first map is of floor((size + 1) / 4) as in the
            authors' code, another size where the remainder by 4 is 1 or 2. All other arguments are
            those of :class:`PatchedBackbone`.
    """

    Arch = CSWinArch
    variants = {
        'tiny': CSWinArch((64, 128, 256, 512), (1, 2, 21, 1)),
        'small': CSWinArch((64, 128, 256, 512), (2, 4, 32, 2)),
        'base': CSWinArch((96, 192, 384, 768), (2, 4, 32, 2), (4, 8, 16, 32)),
        'large': CSWinArch((144, 288, 576, 1152), (2, 4, 32, 2), (6, 12, 24, 24)),
        'base_384': CSWinArch(
            (96, 192, 384, 768), (2, 4, 32, 2), (4, 8, 16, 32), stripe_widths=(1, 2, 12, 12)
        ),
        'large_384': CSWinArch(
            (144, 288, 576, 1152), (2, 4, 32, 2), (6, 12, 24, 24), stripe_widths=(1, 2, 12, 12)
        ),
    }
    out_norms = ('branch', 'none')
    norm_eps = 1e-5
    initialize = staticmethod(initialize_linear)
    keys = KeyMap(
        rules=(
            (r'stage1_conv_embed\.0\.', 'stages.0.embed.proj.'),
            (r'stage1_conv_embed\.2\.', 'stages.0.embed.norm.'),
            (r'merge(\d+)\.conv\.', r'stages.\1.embed.proj.'),
            (r'merge(\d+)\.norm\.', r'stages.\1.embed.norm.'),
            (r'stage(\d+)\.', counted_from_one('stages.{}.blocks.')),
            (r'(stages\.\d+\.blocks\.\d+)\.(qkv|proj)\.', r'\1.attn.\2.'),
            (r'(stages\.\d+\.blocks\.\d+)\.attns\.(\d+)\.get_v\.', r'\1.attn.branches.\2.conv.'),
            (r'norm(\d+)\.', counted_from_one('out_norms.{}.')),
        ),
        # the norm in front of the classifier is none of the outputs' in the authors' dense code
        drop=(r'head\.', r'norm\.'),
        fresh=(Fresh(r'branch_norms\.', unless=r'norm\d|branch_norms\.'),),
        signature=(r'stage1\.0\.attns\.0\.get_v\.|stages\.0\.blocks\.0\.attn\.branches\.',),
    )

    def map_sizes(self, size: Size) -> list[Size]:
        """See :meth:`PyramidBackbone.map_sizes`."""
        if self.sizes == 'floor':  # the stem alone is shorter
            size = tuple((side + 1) // 4 * 4 for side in size)
        return HierarchicalBackbone.map_sizes(self, size)

    def make_stage(
        self, index: int, in_channels: int, arch: CSWinArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels = arch.embed_dims[index]
        if index:
            proj = TokenConv(in_channels, channels, 3, stride=2, padding=1)
        else:
            proj = StemConv(in_channels, channels, self.sizes)
        is_last = index == len(arch.embed_dims) - 1
        width = 0 if is_last else arch.stripe_widths[index]
        blocks = [
            layer_norm_block(
                channels,
                CrossShapedAttention(channels, arch.num_heads[index], width, fills=True),
                arch.mlp_ratios[index],
                rate,
                self.norm_eps,
            )
            for rate in drop_path_rates
        ]
        return Stage(PatchEmbed(proj), blocks)
