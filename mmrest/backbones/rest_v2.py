"""ResT V2: Simpler, Faster and Stronger.

Zhang and Yang, NeurIPS 2022, arXiv 2204.07366; the authors' code is wofmanaf/ResT (Apache-2.0).
Written anew from the paper: maps keep their true size ceil(size / stride) and the pixel-shuffled
branch is cropped to it, so that any image size works, where the authors' code takes multiples of
32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrest.backbones.layers import (
    Block,
    Halve,
    PixelAttention,
    TokenConv,
    can_fuse,
    conv_norm_relu_conv,
    crop,
)
from mmrest.backbones.spatial_reduction import SpatialReductionAttention
from mmrest.backbones.staged import StagedBackbone
from mmrest.checkpoints import RenamedCheckpoint
from mmrest.ops import conv_tokens
from mmrest.ops.ways import requested_way

# Up to so many pixels, and from so many elements of the map on, a depthwise convolution for each
# pixel is quicker than one for all of them.
_MOST_CONVOLUTIONS = 16
_FEWEST_ELEMENTS = 2**16


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
        return self.norm(self.pos(self.proj(x).permute(0, 2, 3, 1)))


class StemProjection(nn.Sequential):
    """Two strided convolutions and a 1x1 convolution, to a quarter of the image's size.

    Args:
        in_channels: Channels of the image.
        channels: Channels of the map.
        norm_cfg: Norm of the first two convolutions, as mmcv's ``build_norm_layer`` takes it.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        hidden = channels // 2
        super().__init__(
            Halve(in_channels, hidden, bias=False),
            build_norm_layer(norm_cfg, hidden)[1],
            nn.ReLU(inplace=True),
            Halve(hidden, channels, bias=False),
            build_norm_layer(norm_cfg, channels)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 4), ceil(W / 4))."""
        conv1, norm1, _, conv2, norm2, _, conv3 = self
        return conv_norm_relu_conv((conv1, conv2, conv3), (norm1, norm2), images)


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

    takes_norm = True

    def __init__(self, channels: int, num_heads: int, sr_ratio: int, norm_eps: float) -> None:
        super().__init__(channels, num_heads, sr_ratio, norm_eps)
        self.up = nn.Sequential(
            TokenConv(channels, sr_ratio**2 * channels, 3, padding=1, groups=channels),
            nn.PixelShuffle(sr_ratio),
        )
        self.up_norm = nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels); ``norm`` is the LayerNorm in front of it."""
        return self.attend_plainly(x, norm)

    def restore(self, v: Tensor, reduced_size: tuple[int, int], shape: torch.Size) -> Tensor:
        """See :meth:`SpatialReductionAttention.restore`."""
        batch, height, width, channels = shape
        values = v.transpose(1, 2).reshape(batch, *reduced_size, channels)
        return self.up_norm(crop(self._enlarge(values), (height, width), dims=(1, 2)))

    def _enlarge(self, values: Tensor) -> Tensor:
        """The convolution and its pixel shuffle, (B, h, w, C) -> (B, r h, r w, C)."""
        batch, height, width, channels = values.shape
        conv, shuffle = self.up
        if type(shuffle) is not nn.PixelShuffle:
            return shuffle(conv(values).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        ratio = shuffle.upscale_factor
        compiling = torch.compiler.is_compiling()
        at_once = compiling or requested_way() == 'reference' or not can_fuse(conv)
        at_once = at_once or values.numel() < _FEWEST_ELEMENTS
        if 1 < ratio**2 <= _MOST_CONVOLUTIONS and not at_once:
            each = (t.unflatten(0, (channels, -1)).unbind(1) for t in (conv.weight, conv.bias))
            pixels = [conv_tokens(values, *w, 1, 1, channels) for w in zip(*each, strict=True)]
            pixels = torch.stack(pixels, dim=3).unflatten(3, (ratio, ratio)).transpose(2, 3)
        else:
            pixels = conv(values).view(batch, height, width, channels, ratio, ratio)
            pixels = pixels.permute(0, 1, 4, 2, 5, 3)
        return pixels.reshape(batch, ratio * height, ratio * width, channels)


@MODELS.register_module()
class ResTV2(StagedBackbone):
    """The backbone of ResTv2: ``'tiny'``, ``'small'``, ``'base'`` and ``'large'``.

    Arguments are those of :class:`StagedBackbone`.
    """

    variants = {
        name: dict(
            embed_dims=dims,
            depths=depths,
            num_heads=heads,
            sr_ratios=(8, 4, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
        )
        for name, dims, depths, heads in (
            ('tiny', (96, 192, 384, 768), (1, 2, 6, 2), (1, 2, 4, 8)),
            ('small', (96, 192, 384, 768), (1, 2, 12, 2), (1, 2, 4, 8)),
            ('base', (96, 192, 384, 768), (1, 3, 16, 3), (1, 2, 4, 8)),
            ('large', (128, 256, 512, 1024), (2, 3, 16, 2), (2, 4, 8, 16)),
        )
    }
    norm_eps = 1e-6
    embed_key = r'^patch_(\d+)\.'
    norm_key = r'norm(?:_(\d+)(?:\.0)?)?\.(weight|bias)$'

    def make_embed(
        self, stage: int, in_channels: int, channels: int, norm_cfg: dict | None
    ) -> nn.Module:
        """See :meth:`StagedBackbone.make_embed`."""
        if stage:
            proj = Halve(in_channels, channels)
        else:
            proj = StemProjection(in_channels, channels, norm_cfg or dict(type='BN'))
        return Embed(proj, channels, self.norm_eps)

    def make_block(
        self, channels: int, num_heads: int, sr_ratio: int, mlp_ratio: float, drop_path: float
    ) -> nn.Module:
        """See :meth:`StagedBackbone.make_block`."""
        attn = EMSAV2(channels, num_heads, sr_ratio, self.norm_eps)
        return Block(channels, attn, mlp_ratio, drop_path, self.norm_eps)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`StagedBackbone.rename_checkpoint`."""
        renamed = super().rename_checkpoint(state)
        width = state.get('stage4.2.norm1.weight')
        if width is not None and len(width) == self.variants['large']['embed_dims'][-1]:
            renamed.notes.append(
                "The file is of the authors' detection code, whose large model is not the "
                'published one: build it with arch=dict(embed_dims=(128, 256, 512, 1024), '
                'depths=(2, 3, 16, 3), num_heads=(1, 2, 4, 8), sr_ratios=(8, 4, 2, 1), '
                'mlp_ratios=(4, 4, 4, 4)).'
            )
        return renamed
