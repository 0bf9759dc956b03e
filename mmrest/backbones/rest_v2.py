"""ResT V2: Simpler, Faster and Stronger.

Zhang and Yang, NeurIPS 2022, arXiv 2204.07366; the authors' code is wofmanaf/ResT (Apache-2.0).
Written anew from the paper: maps keep their true size ceil(size / stride) and the pixel-shuffled
branch is cropped to it, so that any image size works, where the authors' code takes multiples of
32.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmrest.backbones.fused import FoldsNorms
from mmrest.backbones.hierarchical import BatchNormBackbone, Stage
from mmrest.backbones.layers import (
    PixelAttention,
    TokenConv,
    apply_linear,
    as_map,
    as_tokens,
    layer_norm_block,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.rest import ResTArch
from mmrest.backbones.spatial_reduction import (
    SpatialReductionAttention,
    join_heads,
    overlapping_reduction,
)
from mmrest.checkpoints import Fresh, KeyMap, RenamedCheckpoint, counted_from_one
from mmrest.ops import channels_last, crop


class Embed(nn.Module):
    """A projection to a smaller map, position encoding and a LayerNorm: stem and patch embedding.

    Args:
        proj: (B, in_channels, H, W) -> (B, channels, h, w).
        channels: Channels of the map.
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, proj: nn.Module, channels: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = proj
        self.pos = PixelAttention(channels)
        self.norm = nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, channels)."""
        return self.norm(self.pos(as_tokens(self.proj(x))))


class StemProjection(nn.Sequential, FoldsNorms):
    """Two strided convolutions and a 1x1 convolution, to a quarter of the image's size.

    Args:
        in_channels: Channels of the image.
        channels: Channels of the map.
        norm_cfg: Norm of the first two convolutions, as mmcv's ``build_norm_layer`` takes it.
    """

    folds = ('0', '1', '2'), ('3', '4', '5')

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        hidden = channels // 2
        super().__init__(
            nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False),
            build_norm_layer(norm_cfg, hidden)[1],
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 3, stride=2, padding=1, bias=False),
            build_norm_layer(norm_cfg, channels)[1],
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 4), ceil(W / 4))."""
        return super().forward(channels_last(images))


class TokenShuffle(nn.PixelShuffle):
    """``nn.PixelShuffle`` with the channels on the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, r^2 C) -> (B, r H, r W, C)."""
        return as_tokens(super().forward(as_map(x)))


class EMSAV2(SpatialReductionAttention):
    """Efficient multi-head self-attention, second version (Section 3.2, Eq. 4).

    Plain attention to the reduced map, plus a branch that restores what the reduction lost: the
    values are brought back to the queries' size by a convolution and a pixel shuffle.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
        norm_eps: Of the LayerNorms.
    """

    def __init__(self, channels: int, num_heads: int, sr_ratio: int, norm_eps: float) -> None:
        super().__init__(channels, num_heads, overlapping_reduction(channels, sr_ratio), norm_eps)
        self.up = nn.Sequential(
            TokenConv(channels, sr_ratio**2 * channels, 3, padding=1, groups=channels),
            TokenShuffle(sr_ratio),
        )
        self.up_norm = nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        reduced = self.reduce(x)
        q, k, v = self.project(x, reduced)
        restored = self.up(v.unflatten(1, reduced.shape[1:3]))
        restored = self.up_norm(crop(restored, x.shape[1:3], dims=(1, 2)))
        attended = self.attend(*map(self.split_heads, (q, k, v)))
        return apply_linear(self.proj, join_heads(attended, x) + restored)


@register_backbone
class ResTV2(BatchNormBackbone):
    """The backbone of ResTv2: ``'tiny'``, ``'small'``, ``'base'`` and ``'large'``.

    Arguments are those of :class:`BatchNormBackbone`.
    """

    Arch = ResTArch
    variants = {
        'tiny': ResTArch((96, 192, 384, 768), (1, 2, 6, 2)),
        'small': ResTArch((96, 192, 384, 768), (1, 2, 12, 2)),
        'base': ResTArch((96, 192, 384, 768), (1, 3, 16, 3)),
        'large': ResTArch((128, 256, 512, 1024), (2, 3, 16, 2), num_heads=(2, 4, 8, 16)),
    }
    out_norms = ('branch', 'none')
    norm_eps = 1e-6
    keys = KeyMap(
        rules=(
            (r'stem\.', 'stages.0.embed.'),
            (r'patch_(\d+)\.', counted_from_one('stages.{}.embed.')),
            (r'stage(\d+)\.', counted_from_one('stages.{}.blocks.')),
            (r'norm_(\d+)(?:\.0)?\.', counted_from_one('out_norms.{}.')),
            (r'norm\.', 'cls_norm.'),
        ),
        drop=(r'head\.',),
        fresh=(Fresh(r'(branch|trunk)_norms\.', unless=r'norm_\d|(branch|trunk)_norms\.'),),
        signature=(
            r'stem\.proj\.|stages\.0\.embed\.proj\.6\.',
            r'patch_2\.|stages\.0\.embed\.pos\.',
        ),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: ResTArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`BatchNormBackbone.make_stage`."""
        channels, eps = arch.embed_dims[index], self.norm_eps
        if index:
            proj = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        else:
            proj = StemProjection(in_channels, channels, self.norm_cfg)
        blocks = [
            layer_norm_block(
                channels,
                EMSAV2(channels, arch.num_heads[index], arch.sr_ratios[index], eps),
                arch.mlp_ratios[index],
                rate,
                eps,
            )
            for rate in drop_path_rates
        ]
        return Stage(Embed(proj, channels, eps), blocks)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`."""
        renamed = super().rename_checkpoint(state)
        width = state.get('stage4.2.norm1.weight')
        if width is not None and len(width) == self.variants['large'].embed_dims[-1]:
            renamed.notes.append(
                "The file is of the authors' detection code, whose large model is not the "
                'published one: build it with arch=dict(embed_dims=(128, 256, 512, 1024), '
                'depths=(2, 3, 16, 3), num_heads=(1, 2, 4, 8), sr_ratios=(8, 4, 2, 1), '
                'mlp_ratios=(4, 4, 4, 4)).'
            )
        return renamed
