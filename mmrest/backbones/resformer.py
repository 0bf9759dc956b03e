"""ResFormer: Scaling ViTs with Multi-Resolution Training.

Tian et al., CVPR 2023, arXiv 2212.00776; the authors' code is ruitian12/resformer (MIT) and does
classification alone. Written anew from the paper: tokens keep their true (rows, columns) grid, so
that any image size and shape works, and the last map or four of them become a pyramid for dense
prediction, as ViTDet (arXiv 2203.16527) and the plain ViTs of UPerNet do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrest.backbones.arch import Arch
from mmrest.backbones.layers import (
    TokenConv,
    apply_linear,
    initialize,
    layer_norm_block,
    run_layers,
    stochastic_depth_rates,
)
from mmrest.backbones.plain_pyramid import PlainBackbone, quarters
from mmrest.backbones.pyramid import register_backbone
from mmrest.checkpoints import Fresh, KeyMap, RenamedCheckpoint
from mmrest.errors import InputError
from mmrest.ops import attend_in_windows, attention

PATCH = 16
Grid = tuple[int, int]


class GlobalPositionEmbedding(nn.Module):
    """Sine-cosine position on the token grid, smoothed by a depthwise convolution.

    Section 3.3, "global positional embedding". The coordinates are relative to the grid's last row
    and column, which makes them continuous over resolutions.

    Args:
        channels: Channels of the tokens, a multiple of 4.
    """

    temperature = 10000.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, grid: Grid) -> Tensor:
        """(rows, columns) -> (1, channels, rows, columns)."""
        weight = next(self.parameters())  # whatever is in the convolution's place
        # angles need more digits than half precision has
        dtype = torch.promote_types(weight.dtype, torch.float32)
        rows, columns = (self._encode(length, weight.device, dtype) for length in grid)
        height, width = grid
        position = torch.cat(
            [
                rows[None, :, :, None].expand(1, -1, height, width),
                columns[None, :, None, :].expand(1, -1, height, width),
            ],
            dim=1,
        )
        return self.conv(position.to(weight.dtype))

    def _encode(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Sines and cosines in turn, (channels / 2, length)."""
        half = self.channels // 2
        places = torch.arange(1, length + 1, device=device, dtype=dtype)
        places = places / (length + 1e-6) * 2 * math.pi
        exponents = torch.arange(0, half, 2, device=device, dtype=dtype) / half
        angles = places / self.temperature ** exponents[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)


class Embed(nn.Module):
    """Image to tokens: patch embedding, global position embedding, class token.

    Args:
        in_channels: Channels of the images.
        channels: Channels of the tokens.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.proj = nn.Conv2d(in_channels, channels, PATCH, PATCH)
        self.pos = GlobalPositionEmbedding(channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, in_channels, H, W) -> tokens (B, 1 + rows columns, channels) and their grid.

        Images are padded with zeros at the right and the bottom to whole patches; each patch holds
        at least one pixel of the image.
        """
        height, width = images.shape[-2:]
        right, bottom = ((side + PATCH - 1) // PATCH * PATCH - side for side in (width, height))
        patches = self.proj(F.pad(images, (0, right, 0, bottom)))
        grid = tuple(patches.shape[-2:])
        tokens = (patches + self.pos(grid)).flatten(2).transpose(1, 2)
        cls_token = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls_token, tokens], dim=1), grid


class Attention(nn.Module):
    """Multi-head attention with the local position embedding, over the map or in windows.

    Section 3.3, "local positional embedding": a depthwise convolution of the values, with one
    kernel per channel of a head for all heads, is added to what was attended. It sees the whole
    map, whatever the windows, so that windows leave no seams. The class token has none.

    Windows are those of :func:`mmrest.ops.attend_in_windows`: they never see padding, and the class
    token is in all of them.

    Args:
        channels: Channels of the tokens.
        num_heads: Attention heads.
        window_size: Side of a window in tokens; 0 is the whole map.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * channels)
        head_channels = channels // num_heads
        self.pos = TokenConv(head_channels, head_channels, 3, padding=1, groups=head_channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, 1 + rows columns, channels) -> the same."""
        heads = self.num_heads
        qkv = apply_linear(self.qkv, x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        if self.window_size and max(grid) > self.window_size:
            attended = attend_in_windows(*qkv, grid, self.window_size)
        else:
            attended = attention(*qkv)
        # (B, heads, rows columns, head_dim) to maps and back
        values = qkv[2, :, :, 1:].flatten(0, 1).unflatten(1, grid)
        local = self.pos(values).flatten(1, 2).unflatten(0, (-1, heads))
        attended = attended + F.pad(local, (0, 0, 1, 0))
        return apply_linear(self.proj, attended.transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class ResFormerArch(Arch):
    """Of ResFormer (Table 1).

    Attributes:
        embed_dims: Channels of the tokens.
        num_heads: Attention heads.
        depth: Blocks.
        mlp_ratio: Hidden channels of the MLPs relative to ``embed_dims``.
    """

    embed_dims: int
    num_heads: int
    depth: int = 12
    mlp_ratio: float = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, heads = self.embed_dims, self.num_heads
        if int(channels * self.mlp_ratio) < 1:
            raise InputError(f'ResFormer: mlp_ratio={self.mlp_ratio} leaves no channels')
        if channels % heads or channels % 4:
            raise InputError(
                f'ResFormer: embed_dims {channels} must be a multiple of 4 and of num_heads {heads}'
            )


@register_backbone
class ResFormer(PlainBackbone):
    """The backbone of ResFormer: ``'tiny'``, ``'small'`` and ``'base'``.

    Args:
        arch: A published name, or a :class:`ResFormerArch` or a dict of its fields.
        in_channels: Channels of the images.
        out_indices: Levels that are returned, ascending. What no level needs is not built.
        pyramid: What the levels are. ``'simple'``: the last block's map at the strides 4, 8, 16
            and 32, by transposed convolutions (ViTDet); ``'taps'``: the maps of four blocks at
            those strides, bilinearly (UPerNet on plain ViTs); None: the maps of the blocks in
            ``taps``, all at stride 16.
        taps: Ascending blocks for ``'taps'`` (four of them) and None; by default those that end
            each quarter of the depth, (2, 5, 8, 11) of 12.
        window_size: Side of the attention's windows in tokens; 0 is global attention everywhere.
        global_blocks: Blocks with global attention in spite of ``window_size``; by default those
            that end each quarter of the depth. Only with a ``window_size``.
        out_norm: ``'branch'``: a LayerNorm on the map of each block that is used, the last block's
            being the one before the authors' classifier; ``'none'``.
        frozen_stages: 0 freezes the embeddings, i also the first i blocks; -1 nothing.
        drop_path_rate: Drop-path probability of the last block; earlier ones are linearly smaller.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: See :class:`HierarchicalBackbone`; takes the authors' files, DeiT's and timm's.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    Arch = ResFormerArch
    variants = {
        'tiny': ResFormerArch(192, num_heads=3),
        'small': ResFormerArch(384, num_heads=6),
        'base': ResFormerArch(768, num_heads=12),
    }
    keys = KeyMap(
        rules=(
            (r'cls_token$', 'embed.cls_token'),
            (r'patch_embed\.proj\.', 'embed.proj.'),
            (r'pos_embed\.embed_layer\.', 'embed.pos.conv.'),
            (r'norm\.', 'cls_norm.'),
            (r'(blocks\.\d+\.attn)\.get_v\.', r'\1.pos.'),
        ),
        drop=(r'head\.', r'head_dist\.', r'pos_embed$', r'dist_token$'),
        fresh=(
            Fresh(r'pyramid\.', unless=r'pyramid\.'),
            Fresh(r'branch_norms\.', unless=r'branch_norms\.'),
            Fresh(
                r'embed\.pos\.|blocks\.\d+\.attn\.pos\.',
                given=r'pos_embed$',
                note='The file is of a plain vision transformer (DeiT, timm): its table of '
                'absolute positions is not used (nor a distillation token), and the global and '
                'the local position embedding start fresh.',
            ),
        ),
        signature=(
            r'patch_embed\.proj\.|embed\.proj\.',
            r'pos_embed|embed\.pos\.',
            r'blocks\.0\.attn\.qkv\.',
        ),
    )
    norm_eps = 1e-6

    def __init__(
        self,
        arch: str | Mapping[str, Any] | ResFormerArch = 'small',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pyramid: str | None = 'simple',
        taps: Sequence[int] | None = None,
        window_size: int = 0,
        global_blocks: Sequence[int] | None = None,
        out_norm: str = 'branch',
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = self.Arch.resolve(arch, self.variants)
        depth, channels = arch.depth, arch.embed_dims
        level_blocks = self._level_blocks(pyramid, taps, depth)
        super().__init__(
            in_channels=in_channels,
            out_indices=out_indices,
            num_levels=len(level_blocks),
            num_stages=depth,
            frozen_stages=frozen_stages,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if out_norm not in ('none', 'branch'):
            raise InputError(f"ResFormer: out_norm={out_norm!r} must be 'none' or 'branch'")
        if type(window_size) is not int or window_size < 0:
            raise InputError(f'ResFormer: window_size={window_size!r} must be 0 or more tokens')
        if global_blocks is not None and not window_size:
            raise InputError('ResFormer: global_blocks need a window_size for the other blocks')
        global_blocks = self._block_indices('global_blocks', global_blocks, depth)
        self.depth = depth
        self.out_norm = out_norm
        # the block that each output level is made from
        self.level_blocks = tuple(level_blocks[i] for i in self.out_indices)
        self.embed = Embed(in_channels, channels)
        drop_path_rates = stochastic_depth_rates(drop_path_rate, (depth,))[0]
        self.blocks = nn.ModuleList()
        for i in range(self.level_blocks[-1] + 1):
            attn = Attention(channels, arch.num_heads, 0 if i in global_blocks else window_size)
            self.blocks.append(
                layer_norm_block(channels, attn, arch.mlp_ratio, drop_path_rates[i], self.norm_eps)
            )
        if out_norm == 'branch':
            self.branch_norms = nn.ModuleDict(
                {
                    str(i): nn.LayerNorm(channels, self.norm_eps)
                    for i in sorted(set(self.level_blocks))
                }
            )
        self.make_pyramid(pyramid, PATCH, channels)
        self.apply(initialize)
        for block in self.blocks:
            nn.init.zeros_(block.attn.pos.weight)
        self._freeze_stages()

    def encode(self, images: Tensor) -> tuple[dict[int, Tensor], Grid]:
        """Tokens of the blocks that the levels are made from.

        Args:
            images: (B, in_channels, H, W).

        Returns:
            Block -> (B, 1 + rows columns, channels), the class token first, behind the block's
            output norm; and the grid (rows, columns) = (ceil(H / 16), ceil(W / 16)).
        """
        x, grid = self.embed(images)
        tokens = {}
        for i, block in enumerate(self.blocks):
            x = run_layers([block], x, grid, with_cp=self.with_cp)
            if i in self.level_blocks:
                tokens[i] = self.branch_norms[str(i)](x) if self.out_norm == 'branch' else x
        return tokens, grid

    @property
    def class_token_norm(self) -> nn.Module | None:
        """The module whose output begins with the class token that the paper classifies by.

        None without the last block or output norms.
        """
        if self.out_norm == 'none' or self.level_blocks[-1] != self.depth - 1:
            return None
        return self.branch_norms[str(self.depth - 1)]

    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`PyramidBackbone.compute_maps`."""
        tokens, grid = self.encode(images)
        maps = {
            i: x[:, 1:].transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)
            for i, x in tokens.items()
        }
        return self.make_levels(maps, images)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`.

        Files of DeiT and timm have a table of absolute positions, ``pos_embed``, instead of the
        two embeddings, which then start fresh.
        """
        renamed = super().rename_checkpoint(state)
        # the last block's norm is the one before the classifier, which every file has
        last = f'branch_norms.{self.depth - 1}.'
        renamed.optional = {key for key in renamed.optional if not key.startswith(last)}
        return renamed

    def _level_blocks(
        self, pyramid: str | None, taps: Sequence[int] | None, depth: int
    ) -> tuple[int, ...]:
        """The block that each level of the whole pyramid is made from."""
        if pyramid not in ('simple', 'taps', None):
            raise InputError(f"ResFormer: pyramid={pyramid!r} must be 'simple', 'taps' or None")
        blocks = self._block_indices('taps', taps, depth)
        if pyramid == 'simple':
            if taps is not None:
                raise InputError(
                    "ResFormer: pyramid='simple' is made from the last block alone; taps are for "
                    "'taps' and None"
                )
            return (depth - 1,) * 4
        if (pyramid == 'taps' and len(blocks) != 4) or not blocks:
            needed = 'four taps' if pyramid == 'taps' else 'at least one tap'
            raise InputError(f'ResFormer: pyramid={pyramid!r} needs {needed}, got {blocks}')
        return blocks

    def _block_indices(
        self, name: str, indices: Iterable[int] | None, depth: int
    ) -> tuple[int, ...]:
        """``indices``, checked; by default the blocks that end each quarter of the depth."""
        if indices is None:
            return quarters(depth)
        blocks = tuple(indices) if isinstance(indices, Iterable) else None
        if (
            blocks is None
            or any(type(i) is not int for i in blocks)
            or not (list(blocks) == sorted(set(blocks)) and all(0 <= i < depth for i in blocks))
        ):
            raise InputError(
                f'ResFormer: {name} must be ascending block indices from 0 to {depth - 1}, '
                f'got {indices!r}'
            )
        return blocks
