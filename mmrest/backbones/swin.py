"""Swin Transformer: Hierarchical Vision Transformer using Shifted Windows.

Liu et al., ICCV 2021, arXiv 2103.14030; the authors' code for dense prediction is
SwinTransformer/Swin-Transformer-Object-Detection (Apache-2.0). Written anew from the paper, and
held to mmdet's class, which is exact. That class is not derived from: it would tie the backbones to
mmdet, and keeps stages that nobody asked for, loads whatever fits and does not return itself from
``train()``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrest.backbones.arch import TransformerArch
from mmrest.backbones.hierarchical import HierarchicalBackbone, Stage
from mmrest.backbones.layers import (
    apply_linear,
    as_tokens,
    initialize_linear,
    layer_norm_block,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import PatchConv, PatchEmbed
from mmrest.backbones.window_attention import WindowAttention
from mmrest.checkpoints import Fresh, KeyMap, RenamedCheckpoint
from mmrest.ops import crop, cut_windows, fill_up


class PatchMerging(nn.Module):
    """Halves a map: a linear layer of the four tokens of each 2x2 patch (Section 3.1).

    Args:
        in_channels: Channels of the previous stage.
        channels: Channels of this one.
        norm_eps: Of the LayerNorm.
    """

    def __init__(self, in_channels: int, channels: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels, norm_eps)
        self.reduction = nn.Linear(4 * in_channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 2), ceil(W / 2), channels)."""
        x = fill_up(as_tokens(x).contiguous(), 2)
        # the authors go down the columns of a patch
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return apply_linear(self.reduction, self.norm(torch.cat(parts, dim=3)))


class ShiftedWindowAttention(WindowAttention):
    """Attention in windows with relative positions (Section 3.2).

    Zeros that fill the last windows take part, as in the authors' code for dense prediction.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        window_size: Side of a window in tokens.
        is_shifted: Move the windows by half of their size. Tokens that are not neighbours in the
            map but meet in a window do not see each other.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, is_shifted: bool) -> None:
        super().__init__(channels, num_heads, window_size)
        self.shift = window_size // 2 if is_shifted else 0
        self.relative_positions = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        if not self.shift:
            return super().forward(x)
        height, width = x.shape[1:3]
        x = fill_up(x, self.window_size)
        x = super().forward(x.roll((-self.shift, -self.shift), (1, 2)))
        return crop(x.roll((self.shift, self.shift), (1, 2)), (height, width), dims=(1, 2))

    def make_bias(self, batch: int, grid: torch.Size, q: Tensor) -> Tensor:
        """See :class:`WindowAttention`."""
        bias = self._position_bias()
        if self.shift:
            strangers = self._find_strangers(grid, q.device).repeat(batch, 1, 1)[:, None]
            bias = bias - 100.0 * strangers.to(bias.dtype)  # the authors' number
        return bias.to(q.dtype)

    def _position_bias(self) -> Tensor:
        """What relative positions add to the logits of a window, (1, heads, n, n)."""
        size, device = self.window_size, self.relative_positions.device
        places = torch.arange(size, device=device)
        distances = places[:, None] - places[None] + size - 1
        rows = distances[:, None, :, None] * (2 * size - 1)
        index = (rows + distances[None, :, None]).view(size**2, size**2)
        return self.relative_positions[index].permute(2, 0, 1)[None]

    def _find_strangers(self, grid: torch.Size, device: torch.device) -> Tensor:
        """Which tokens of a shifted window are of different parts of the map, (windows, n, n)."""
        # where, from a side's end, its last window and what the shift brought begin
        ends = self.window_size, self.shift
        rows, columns = (
            sum((torch.arange(side, device=device) >= side - end).long() for end in ends)
            for side in grid
        )
        parts = rows[:, None] * 3 + columns
        of_windows = cut_windows(
            parts[None, :, :, None], (self.window_size, self.window_size)
        ).flatten(1)
        return of_windows[:, :, None] != of_windows[:, None]


@dataclass(frozen=True)
class SwinArch(TransformerArch):
    """Of Swin (Section 3.3); fields per stage, but for the last.

    Attributes:
        window_size: Side of the windows in tokens.
    """

    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7


def unfolded_to_columns(tensor: Tensor) -> Tensor:
    """The merging of mmdet's and mmseg's files, whose inputs are in the order of ``nn.Unfold``.

    Args:
        tensor: (..., 4 channels), the patch's tokens row by row and fastest.

    Returns:
        The same column by column, the channels fastest, as in the authors' files.
    """
    return tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].mT.flatten(-2)


@register_backbone
class Swin(HierarchicalBackbone):
    """The backbone of Swin: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, and of 384 pixels.

    ``'base_384'`` and ``'large_384'`` have windows of 12 instead of 7 tokens. Arguments are those
    of :class:`HierarchicalBackbone`. ``init_cfg`` takes the authors' files, mmdet's and mmseg's.
    """

    Arch = SwinArch
    variants = {
        'tiny': SwinArch((96, 192, 384, 768), (2, 2, 6, 2)),
        'small': SwinArch((96, 192, 384, 768), (2, 2, 18, 2)),
        'base': SwinArch((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
        'base_384': SwinArch((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32), window_size=12),
        'large': SwinArch((192, 384, 768, 1536), (2, 2, 18, 2), (6, 12, 24, 48)),
        'large_384': SwinArch(
            (192, 384, 768, 1536), (2, 2, 18, 2), (6, 12, 24, 48), window_size=12
        ),
    }
    default = 'tiny'
    out_norms = ('branch', 'none')
    norm_eps = 1e-5
    initialize = staticmethod(initialize_linear)
    keys = KeyMap(
        rules=(
            # mmdet's names are the second ones
            (r'patch_embed\.(?:proj|projection)\.', 'stages.0.embed.proj.'),
            (r'patch_embed\.norm\.', 'stages.0.embed.norm.'),
            (r'(?:layers|stages)\.(\d+)\.downsample\.', lambda m: f'stages.{int(m[1]) + 1}.embed.'),
            (r'layers\.(\d+)\.blocks\.', r'stages.\1.blocks.'),
            (r'(.+\.attn)\.w_msa\.', r'\1.'),
            (r'(.+\.attn)\.relative_position_bias_table$', r'\1.relative_positions'),
            (r'(.+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
            (r'(.+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
            (r'norm(\d+)\.', r'out_norms.\1.'),
        ),
        # the norm in front of the classifier is none of the outputs' in the authors' dense code
        drop=(r'head\.', r'norm\.', r'.+\.relative_position_index$', r'.+\.attn_mask$'),
        fresh=(Fresh(r'branch_norms\.', unless=r'norm\d|branch_norms\.'),),
        signature=(r'(layers|stages)\.0\.blocks\.0\.attn\.(w_msa\.)?relative_position',),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: SwinArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels, heads = arch.embed_dims[index], arch.num_heads[index]
        if index:
            embed = PatchMerging(in_channels, channels, self.norm_eps)
        else:
            embed = PatchEmbed(PatchConv(in_channels, channels, 4, 'ceil'), self.norm_eps)
        blocks = [
            layer_norm_block(
                channels,
                ShiftedWindowAttention(channels, heads, arch.window_size, bool(i % 2)),
                arch.mlp_ratios[index],
                rate,
                self.norm_eps,
            )
            for i, rate in enumerate(drop_path_rates)
        ]
        return Stage(embed, blocks)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`."""
        reordered = dict(state)
        for key in state:
            merges = re.match(r'stages\.\d+\.downsample\.(norm\.|reduction\.weight$)', key)
            if merges and state[key].ndim and state[key].shape[-1] % 4 == 0:
                reordered[key] = unfolded_to_columns(state[key])
        return super().rename_checkpoint(reordered)
