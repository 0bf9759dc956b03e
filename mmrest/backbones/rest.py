"""ResT: An Efficient Transformer for Visual Recognition.

Zhang and Yang, NeurIPS 2021, arXiv 2105.13677; the authors' code is wofmanaf/ResT (Apache-2.0).
Written anew from the paper: maps keep their true size ceil(size / stride), so that any image size
works, where the authors' code takes multiples of 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrest.backbones.layers import (
    Block,
    Halve,
    PixelAttention,
    can_fuse,
    conv_norm,
    conv_norm_relu_conv,
)
from mmrest.backbones.spatial_reduction import SpatialReductionAttention
from mmrest.backbones.staged import StagedBackbone
from mmrest.checkpoints import RenamedCheckpoint
from mmrest.ops import emsa


class Stem(nn.Module):
    """Three convolutions to a quarter of the image's size, then position encoding (Section 3.2).

    Args:
        in_channels: Channels of the image.
        channels: Channels of the map.
        norm_cfg: Norm of the first two convolutions, as mmcv's ``build_norm_layer`` takes it.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = Halve(in_channels, hidden, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv3 = Halve(hidden, channels, bias=False)
        self.pos = PixelAttention(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 4), ceil(W / 4), channels)."""
        convs, norms = (self.conv1, self.conv2, self.conv3), (self.norm1, self.norm2)
        return self.pos(conv_norm_relu_conv(convs, norms, images).permute(0, 2, 3, 1))


class PatchEmbed(nn.Module):
    """Halves a map, then position encoding (Section 3.2).

    Args:
        in_channels: Channels of the previous stage.
        channels: Channels of this one.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = Halve(in_channels, channels)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.pos = PixelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 2), ceil(W / 2), channels)."""
        return self.pos(conv_norm(self.conv, self.norm, x).permute(0, 2, 3, 1))


class EMSA(SpatialReductionAttention):
    """Efficient multi-head self-attention (Section 3.1, Eq. 4).

    With more than one head, the logits are mixed across heads and the attention map is
    instance-normalised.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
    """

    takes_norm = True

    def __init__(self, channels: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__(channels, num_heads, sr_ratio)
        self.transform_conv = nn.Conv2d(num_heads, num_heads, 1) if num_heads > 1 else None

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels); ``norm`` is the LayerNorm in front of it."""
        mix = self.transform_conv
        if mix is None:
            return self.attend_plainly(x, norm)
        q, k, v, _ = self.project(x, norm)
        if can_fuse(mix):
            out = emsa(q, k, v, mix.weight[:, :, 0, 0], mix.bias)
        else:
            out = emsa(q, k, v, mix)
        del q, k, v  # their memory serves the projection
        return self.proj(out.transpose(1, 2).reshape(x.shape))


@MODELS.register_module()
class ResT(StagedBackbone):
    """The backbone of ResT: ``'lite'``, ``'small'``, ``'base'`` and ``'large'``.

    Arguments are those of :class:`StagedBackbone`. ``out_norm='trunk'`` is what the authors'
    detection code does.
    """

    variants = {
        name: dict(
            embed_dims=dims,
            depths=depths,
            num_heads=(1, 2, 4, 8),
            sr_ratios=(8, 4, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
        )
        for name, dims, depths in (
            ('lite', (64, 128, 256, 512), (2, 2, 2, 2)),
            ('small', (64, 128, 256, 512), (2, 2, 6, 2)),
            ('base', (96, 192, 384, 768), (2, 2, 6, 2)),
            ('large', (96, 192, 384, 768), (2, 2, 18, 2)),
        )
    }
    out_norms = ('none', 'branch', 'trunk')
    norm_eps = 1e-5
    embed_key = r'^patch_embed_(\d+)\.'
    norm_key = r'norm(\d*)\.(weight|bias)$'

    def make_embed(
        self, stage: int, in_channels: int, channels: int, norm_cfg: dict | None
    ) -> nn.Module:
        """See :meth:`StagedBackbone.make_embed`."""
        kind = PatchEmbed if stage else Stem
        return kind(in_channels, channels, norm_cfg or dict(type='BN'))

    def make_block(
        self, channels: int, num_heads: int, sr_ratio: int, mlp_ratio: float, drop_path: float
    ) -> nn.Module:
        """See :meth:`StagedBackbone.make_block`; Section 3.1, Eq. 6."""
        attn = EMSA(channels, num_heads, sr_ratio)
        return Block(channels, attn, mlp_ratio, drop_path, self.norm_eps)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`StagedBackbone.rename_checkpoint`."""
        renamed = super().rename_checkpoint(state)
        if self.out_norm != 'trunk' and any(re.match(r'norm[1-9]\.', key) for key in state):
            renamed.notes.append(
                "The file's norm1, norm2, ... are of the authors' detection code, which normalises "
                f"in the trunk: out_norm='trunk' computes what it computed, {self.out_norm!r} not."
            )
        return renamed
