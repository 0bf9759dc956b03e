"""GPViT: A High Resolution Non-Hierarchical Vision Transformer with Group Propagation.

Yang et al., ICLR 2023, arXiv 2212.06795; the authors' code is ChenhongyiYang/GPViT (Apache-2.0).
Written anew from the paper and a description of their code, which takes only grids with even sides;
here the last stripe of another grid is narrower. For the ViT-Adapter of their detection code see
:mod:`mmrest.backbones.gpvit_adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmrest.backbones.arch import Arch
from mmrest.backbones.fused import FoldsNorms
from mmrest.backbones.layers import (
    MLP,
    Block,
    DropPath,
    TokenConv,
    apply_linear,
    as_map,
    as_tokens,
    fit_positions,
    initialize_linear,
    normalize_and_mlp,
    resize_positions,
    run_layers,
    stochastic_depth_rates,
)
from mmrest.backbones.plain_pyramid import PlainBackbone, quarters
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import PatchConv
from mmrest.backbones.stripes import CrossShapedAttention
from mmrest.checkpoints import Fresh, KeyMap
from mmrest.errors import InputError
from mmrest.ops import attention, channels_first, channels_last

STRIDE = 8


class ConvNormReLU(nn.Sequential, FoldsNorms):
    """A convolution without a bias, a norm and a ReLU.

    Args:
        conv: The convolution.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    folds = (('0', '1', '2'),)

    def __init__(self, conv: nn.Conv2d, norm_cfg: dict) -> None:
        super().__init__(conv, build_norm_layer(norm_cfg, conv.out_channels)[1], nn.ReLU())


class PatchEmbed(nn.Module):
    """Convolutions at half of the image's size, patches of 4x4 of them, and positions.

    Args:
        in_channels: Channels of the images.
        channels: Channels of the tokens.
        num_convs: In front of the patches.
        table_size: Side of the table of positions.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    hidden = 64

    def __init__(
        self, in_channels: int, channels: int, num_convs: int, table_size: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        convs = [nn.Conv2d(in_channels, self.hidden, 7, stride=2, padding=3, bias=False)]
        convs += [
            nn.Conv2d(self.hidden, self.hidden, 3, padding=1, bias=False)
            for _ in range(num_convs - 1)
        ]
        self.convs = nn.Sequential(*(ConvNormReLU(conv, norm_cfg) for conv in convs))
        self.proj = PatchConv(self.hidden, channels, 4, 'ceil')
        self.pos_embed = nn.Parameter(torch.empty(1, table_size**2, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H / 8), ceil(W / 8), channels)."""
        maps = self.convs(channels_last(images))
        x = self.proj(as_tokens(maps).contiguous())
        grid = tuple(x.shape[1:3])
        return x + resize_positions(self.pos_embed, grid, 'bicubic').unflatten(1, grid)


class LocalBlock(Block):
    """A block with attention in stripes, and a depthwise convolution in place of its output.

    Args:
        channels: Of the map.
        num_heads: Attention heads, half of them in columns and half in rows.
        stripe_width: In tokens.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path_rate: Probability that a sample skips a branch in training.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        stripe_width: int,
        mlp_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__(
            norm1=nn.LayerNorm(channels, 1e-6),
            attn=CrossShapedAttention(channels, num_heads, stripe_width, fills=False),
            norm2=nn.LayerNorm(channels, 1e-6),
            mlp=MLP(channels, int(channels * mlp_ratio)),
            drop_path=DropPath(drop_path_rate),
        )
        self.conv = TokenConv(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        return self.conv(super().forward(x))


class Grouping(nn.Module):
    """Group tokens gather what the map's tokens hold; of the projections only the keys' is there.

    Args:
        channels: Of the tokens.
        num_heads: Attention heads.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.k = nn.Linear(channels, channels)

    def forward(self, groups: Tensor, x: Tensor) -> Tensor:
        """(B, G, channels) and (B, N, channels) -> (B, G, channels)."""
        values = self.norm_key(x)
        return attend(self.norm_query(groups), apply_linear(self.k, values), values, self.num_heads)


class Mixer(nn.Module):
    """Group tokens exchange what they have, as in MLP-Mixer (arXiv 2105.01601).

    Args:
        channels: Of the tokens.
        num_groups: Group tokens.
        mlp_ratio: Hidden channels of the channels' MLP relative to ``channels``.
    """

    def __init__(self, channels: int, num_groups: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.patch_mlp = MLP(num_groups, channels // 2)
        self.norm2 = nn.LayerNorm(channels)
        self.channel_mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, groups: Tensor) -> Tensor:
        """(B, G, channels) -> (B, G, channels)."""
        turned = self.patch_mlp(self.norm1(groups).transpose(1, 2).contiguous())
        groups = groups + turned.transpose(1, 2)
        return groups + normalize_and_mlp(self.norm2, self.channel_mlp, groups)


class Ungrouping(nn.Module):
    """The map's tokens take back what the groups have.

    Args:
        channels: Of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path_rate: Probability that a sample skips a branch in training.
    """

    def __init__(
        self, channels: int, num_heads: int, mlp_ratio: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.attn_proj = nn.Linear(channels, channels)
        self.proj = nn.Linear(2 * channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, groups: Tensor) -> Tensor:
        """(B, N, channels) and (B, G, channels) -> (B, N, channels)."""
        groups = self.norm_key(groups)
        q = apply_linear(self.q, self.norm_query(x))
        k, v = apply_linear(self.k, groups), apply_linear(self.v, groups)
        attended = apply_linear(self.attn_proj, attend(q, k, v, self.num_heads))
        x = apply_linear(self.proj, torch.cat([x, self.drop_path(attended)], dim=2))
        return x + self.drop_path(normalize_and_mlp(self.norm2, self.mlp, x))


class GroupPropagationBlock(nn.Module):
    """Tokens exchange what they have over the whole map, through a few group tokens (Section 3.2).

    Args:
        channels: Of the map.
        num_heads: Attention heads.
        num_groups: Group tokens.
        mlp_ratio: Hidden channels of the MLPs relative to ``channels``.
        drop_path_rate: Probability that a sample skips a branch in training.
        norm_cfg: Of the convolution's norm.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        num_groups: int,
        mlp_ratio: float,
        drop_path_rate: float,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.group_token = nn.Parameter(torch.empty(1, num_groups, channels))
        nn.init.trunc_normal_(self.group_token, std=0.02)
        self.group = Grouping(channels, num_heads)
        self.mixer = Mixer(channels, num_groups, mlp_ratio)
        self.ungroup = Ungrouping(channels, num_heads, mlp_ratio, drop_path_rate)
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.conv = ConvNormReLU(conv, norm_cfg)
        self.with_cp = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        # without the convolution, whose norm would count a batch twice
        tokens = run_layers([self._propagate], x.flatten(1, 2), with_cp=self.with_cp)
        return as_tokens(self.conv(as_map(tokens.unflatten(1, x.shape[1:3]))))

    def _propagate(self, tokens: Tensor) -> Tensor:
        """(B, N, channels) -> (B, N, channels)."""
        # shape[0], not len: a program that torch exports would hold for this batch size alone;
        # a sum, no view: without gradients torch's FLOP counter fails over a parameter's views
        groups = self.group_token.to(tokens.dtype) + tokens.new_zeros(tokens.shape[0], 1, 1)
        return self.ungroup(tokens, self.mixer(self.group(groups, tokens)))


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention of tokens (B, N, channels) to (B, M, channels), in heads."""
    parts = (t.unflatten(2, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return attention(*parts).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class GPViTArch(Arch):
    """Of GPViT.

    Attributes:
        embed_dims: Channels of the tokens.
        num_convs: Convolutions in front of the patches.
        depth: Blocks.
        num_heads: Attention heads of the blocks with stripes.
        group_blocks: Which blocks propagate through groups; not the first.
        num_groups: Group tokens of each of those.
        group_heads: Their attention heads.
        stripe_width: In tokens.
        mlp_ratio: Hidden channels of the MLPs relative to ``embed_dims``.
        image_size: Of the training, which the table of positions is made for.
    """

    embed_dims: int
    num_convs: int
    depth: int = 12
    num_heads: int = 12
    group_blocks: tuple[int, ...] = (1, 4, 7, 10)
    num_groups: tuple[int, ...] = (64, 32, 32, 16)
    group_heads: int = 6
    stripe_width: int = 2
    mlp_ratio: float = 4
    image_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, heads = self.embed_dims, self.num_heads
        if channels % heads or heads % 2 or channels % self.group_heads:
            raise InputError(
                f'GPViT: embed_dims {channels} must be a multiple of num_heads {heads}, an even '
                f'number, and of group_heads {self.group_heads}'
            )
        blocks = self.group_blocks
        if list(blocks) != sorted(set(blocks)) or blocks[-1] >= self.depth:
            raise InputError(
                f'GPViT: arch field group_blocks={blocks} must be ascending block indices below '
                f'depth={self.depth}, and not the first'
            )
        if len(blocks) != len(self.num_groups):
            raise InputError(
                f'GPViT: group_blocks={blocks} and num_groups={self.num_groups} must have the same '
                'length'
            )
        if int(channels * self.mlp_ratio) < 1 or self.image_size < STRIDE:
            raise InputError(
                f'GPViT: mlp_ratio={self.mlp_ratio} or image_size={self.image_size} is too small'
            )


class GPViTTrunk(PlainBackbone):
    """Embeddings and blocks, for GPViT with and without an adapter.

    Arguments are those of :class:`GPViT`, and ``level_blocks``: the block that each of the four
    levels is made from.
    """

    Arch = GPViTArch
    variants = {
        'l1': GPViTArch(216, num_convs=1),
        'l2': GPViTArch(348, num_convs=2),
        'l3': GPViTArch(432, num_convs=2),
        'l4': GPViTArch(624, num_convs=3),
    }
    out_norms = ('branch', 'none')
    norm_eps = 1e-6

    def __init__(
        self,
        arch: GPViTArch,
        *,
        level_blocks: Sequence[int],
        out_indices: Sequence[int],
        out_norm: str,
        norm_cfg: dict | None,
        drop_path_rate: float,
        **options: Any,
    ) -> None:
        if out_norm not in self.out_norms:
            raise InputError(
                f'{type(self).__name__}: out_norm={out_norm!r} must be one of {self.out_norms}'
            )
        super().__init__(
            out_indices=out_indices,
            num_levels=len(level_blocks),
            num_stages=arch.depth,
            drop_path_rate=drop_path_rate,
            **options,
        )
        self.depth = arch.depth
        self.out_norm = out_norm
        self.level_blocks = tuple(level_blocks[i] for i in self.out_indices)
        channels, norm_cfg = arch.embed_dims, norm_cfg or dict(type='BN')
        side = arch.image_size // STRIDE
        self.embed = PatchEmbed(self.in_channels, channels, arch.num_convs, side, norm_cfg)
        rates = stochastic_depth_rates(drop_path_rate, (arch.depth,))[0]
        self.blocks = nn.ModuleList(
            self._make_block(i, arch, rates[i], norm_cfg) for i in range(self.level_blocks[-1] + 1)
        )

    def _make_block(
        self, index: int, arch: GPViTArch, drop_path_rate: float, norm_cfg: dict
    ) -> nn.Module:
        channels, ratio = arch.embed_dims, arch.mlp_ratio
        if index not in arch.group_blocks:
            return LocalBlock(channels, arch.num_heads, arch.stripe_width, ratio, drop_path_rate)
        groups = arch.num_groups[arch.group_blocks.index(index)]
        block = GroupPropagationBlock(
            channels, arch.group_heads, groups, ratio, drop_path_rate, norm_cfg
        )
        block.with_cp = self.with_cp
        return block

    def run_blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        """(B, h, w, channels) through the blocks from ``start`` to before ``stop``."""
        for block in self.blocks[start:stop]:
            if isinstance(block, GroupPropagationBlock):
                x = block(x)
            else:
                x = run_layers([block], x, with_cp=self.with_cp)
        return x


@register_backbone
class GPViT(GPViTTrunk):
    """The plain backbone of GPViT: ``'l1'``, ``'l2'``, ``'l3'`` and ``'l4'``.

    Args:
        arch: A published name, or a :class:`GPViTArch` or a dict of its fields.
        in_channels: Channels of the images.
        out_indices: Levels that are returned, ascending. What no level needs is not built.
        pyramid: What the levels are. None: the maps of the blocks that end each quarter of the
            depth, all at stride 8, as in the authors' segmentation code; ``'simple'``: the last
            block's map at the strides 4, 8, 16 and 32, by transposed convolutions and pooling,
            which is ours.
        out_norm: ``'branch'``: a LayerNorm on the map of each block that is used, the last block's
            being the one before the authors' classifier; ``'none'``.
        frozen_stages: 0 freezes the embeddings, i also the first i blocks; -1 nothing.
        norm_eval: Keep the statistics of every BatchNorm.
        norm_cfg: The BatchNorms, as mmcv's ``build_norm_layer`` takes it.
        drop_path_rate: Drop-path probability of the last block; earlier ones are linearly smaller.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: See :class:`HierarchicalBackbone`; takes the authors' files.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    keys = KeyMap(
        rules=(
            (r'pos_embed$', 'embed.pos_embed'),
            (r'patch_embed\.stem\.(\d+)\.', r'embed.convs.0.\1.'),
            (
                r'patch_embed\.convs\.(\d+)\.',
                lambda m: f'embed.convs.{1 + int(m[1]) // 3}.{int(m[1]) % 3}.',
            ),
            (r'patch_embed\.projection\.', 'embed.proj.'),
            (r'layers\.', 'blocks.'),
            (r'(blocks\.\d+)\.(qkv|proj)\.', r'\1.attn.\2.'),
            (r'(blocks\.\d+)\.attns\.(\d+)\.get_v\.', r'\1.attn.branches.\2.conv.'),
            (r'(blocks\.\d+)\.(?:dw|dwconv)\.', r'\1.conv.'),
            (r'(blocks\.\d+)\.group_layer\.attn\.k_proj\.', r'\1.group.k.'),
            (r'(blocks\.\d+)\.group_layer\.', r'\1.group.'),
            (r'(blocks\.\d+\.mixer)\.layers\.0\.(patch|channel)_mixer\.0\.', r'\1.\2_mlp.fc1.'),
            (r'(blocks\.\d+\.mixer)\.layers\.0\.(patch|channel)_mixer\.3\.', r'\1.\2_mlp.fc2.'),
            (r'(blocks\.\d+\.mixer)\.layers\.0\.', r'\1.'),
            (r'(blocks\.\d+)\.un_group_layer\.attn\.proj\.', r'\1.ungroup.attn_proj.'),
            (r'(blocks\.\d+)\.un_group_layer\.attn\.([qkv])_proj\.', r'\1.ungroup.\2.'),
            (r'(blocks\.\d+)\.un_group_layer\.', r'\1.ungroup.'),
            (r'(.+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
            (r'(.+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
            (r'norm(\d+)\.', r'branch_norms.\1.'),
            (r'ln1\.', 'cls_norm.'),
        ),
        drop=(r'head\.', r'neck\.'),
        adapt={r'embed\.pos_embed$': lambda table, shape: fit_positions(table, shape, 'bicubic')},
        fresh=(
            Fresh(r'pyramid\.', unless=r'pyramid\.'),
            Fresh(r'branch_norms\.', unless=r'norm\d|branch_norms\.'),
        ),
        signature=(r'(layers|blocks)\.1\.group_token$',),
        # an adapter's
        not_of=r'(spm|prior)\.',
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] | GPViTArch = 'l1',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pyramid: str | None = None,
        out_norm: str = 'branch',
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = self.Arch.resolve(arch, self.variants)
        if pyramid not in (None, 'simple'):
            raise InputError(f"GPViT: pyramid={pyramid!r} must be one of (None, 'simple')")
        super().__init__(
            arch,
            level_blocks=quarters(arch.depth) if pyramid is None else (arch.depth - 1,) * 4,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            norm_cfg=norm_cfg,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if out_norm == 'branch':
            norms = {
                str(i): nn.LayerNorm(arch.embed_dims, self.norm_eps)
                for i in sorted(set(self.level_blocks))
            }
            self.branch_norms = nn.ModuleDict(norms)
        self.make_pyramid(pyramid, STRIDE, arch.embed_dims)
        self.apply(initialize_linear)
        self._freeze_stages()

    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`PyramidBackbone.compute_maps`."""
        x, start, maps = self.embed(images), 0, {}
        for block in sorted(set(self.level_blocks)):
            x = self.run_blocks(x, start, block + 1)
            start = block + 1
            normed = self.branch_norms[str(block)](x) if self.out_norm == 'branch' else x
            maps[block] = channels_first(normed)
        return self.make_levels(maps, images)
