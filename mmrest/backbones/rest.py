"""ResT: An Efficient Transformer for Visual Recognition.

Zhang and Yang, NeurIPS 2021, arXiv 2105.13677; the authors' code is wofmanaf/ResT (Apache-2.0).
Written anew from the paper: maps keep their true size ceil(size / stride), so that any image size
works, where the authors' code takes multiples of 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmrest.backbones.fused import FoldsNorms
from mmrest.backbones.hierarchical import BatchNormBackbone, Stage
from mmrest.backbones.layers import (
    PixelAttention,
    as_tokens,
    can_fuse,
    layer_norm_block,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import (
    SpatialReductionArch,
    SpatialReductionAttention,
    overlapping_reduction,
)
from mmrest.checkpoints import Fresh, KeyMap, RenamedCheckpoint, counted_from_one
from mmrest.ops import attention, channels_last, emsa, reference


class Stem(nn.Module, FoldsNorms):
    """Three convolutions to a quarter of the image's size, then position encoding (Section 3.2).

    Args:
        in_channels: Channels of the image.
        channels: Channels of the map.
        norm_cfg: Norm of the first two convolutions, as mmcv's ``build_norm_layer`` takes it.
    """

    folds = ('conv1', 'norm1', 'act1'), ('conv2', 'norm2', 'act2')

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, hidden)[1]
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(hidden, channels, 3, stride=2, padding=1, bias=False)
        self.pos = PixelAttention(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 4), ceil(W / 4), channels)."""
        x = channels_last(images)
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.pos(as_tokens(self.conv3(x)))


class PatchEmbed(nn.Module, FoldsNorms):
    """Halves a map, then position encoding (Section 3.2).

    Args:
        in_channels: Channels of the previous stage.
        channels: Channels of this one.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    folds = (('conv', 'norm'),)

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.pos = PixelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 2), ceil(W / 2), channels)."""
        return self.pos(as_tokens(self.norm(self.conv(x))))


class EMSA(SpatialReductionAttention):
    """Efficient multi-head self-attention (Section 3.1, Eq. 4).

    With more than one head, the logits are mixed across heads and the attention map is
    instance-normalised.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, channels: int, num_heads: int, sr_ratio: int, norm_eps: float) -> None:
        super().__init__(channels, num_heads, overlapping_reduction(channels, sr_ratio), norm_eps)
        self.transform_conv = nn.Conv2d(num_heads, num_heads, 1) if num_heads > 1 else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`SpatialReductionAttention.attend`."""
        mix = self.transform_conv
        if mix is None:
            return attention(q, k, v)
        if can_fuse(mix):
            return emsa(q, k, v, mix.weight[:, :, 0, 0], mix.bias)
        return reference.emsa(q, k, v, mix)


@dataclass(frozen=True)
class ResTArch(SpatialReductionArch):
    """Of ResT (Table 1) and ResTv2."""

    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)


@register_backbone
class ResT(BatchNormBackbone):
    """The backbone of ResT: ``'lite'``, ``'small'``, ``'base'`` and ``'large'``.

    Arguments are those of :class:`BatchNormBackbone`. ``out_norm='trunk'`` is what the authors'
    detection code does.
    """

    Arch = ResTArch
    variants = {
        'lite': ResTArch((64, 128, 256, 512), (2, 2, 2, 2)),
        'small': ResTArch((64, 128, 256, 512), (2, 2, 6, 2)),
        'base': ResTArch((96, 192, 384, 768), (2, 2, 6, 2)),
        'large': ResTArch((96, 192, 384, 768), (2, 2, 18, 2)),
    }
    out_norms = ('branch', 'none', 'trunk')
    norm_eps = 1e-5
    keys = KeyMap(
        rules=(
            (r'stem\.', 'stages.0.embed.'),
            (r'patch_embed_(\d+)\.', counted_from_one('stages.{}.embed.')),
            (r'stage(\d+)\.', counted_from_one('stages.{}.blocks.')),
            (r'norm(\d+)\.', counted_from_one('out_norms.{}.')),
            (r'norm\.', 'cls_norm.'),
        ),
        drop=(r'head\.',),
        fresh=(Fresh(r'(branch|trunk)_norms\.', unless=r'norm\d|(branch|trunk)_norms\.'),),
        signature=(r'stem\.conv1\.|stages\.0\.embed\.conv1\.',),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: ResTArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`BatchNormBackbone.make_stage`; Section 3.1, Eq. 6."""
        channels = arch.embed_dims[index]
        embed = (PatchEmbed if index else Stem)(in_channels, channels, self.norm_cfg)
        blocks = [
            layer_norm_block(
                channels,
                EMSA(channels, arch.num_heads[index], arch.sr_ratios[index], self.norm_eps),
                arch.mlp_ratios[index],
                rate,
                self.norm_eps,
            )
            for rate in drop_path_rates
        ]
        return Stage(embed, blocks)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`."""
        renamed = super().rename_checkpoint(state)
        if self.out_norm != 'trunk' and any(re.match(r'norm[1-9]\.', key) for key in state):
            renamed.notes.append(
                "The file's norm1, norm2, ... are of the authors' detection code, which normalises "
                f"in the trunk: out_norm='trunk' computes what it computed, {self.out_norm!r} not."
            )
        return renamed
