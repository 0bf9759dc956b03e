"""MViTv2: Improved Multiscale Vision Transformers for Classification and Detection.

Li et al., CVPR 2022, arXiv 2112.01526; the authors' code is facebookresearch/mvit (classification)
and detectron2's projects/MViTv2 (detection), both Apache-2.0. Written anew from the paper. Tables
of relative positions are resized to the map as in detectron2, so that any image size works, where
the classification code reads the wrong rows of them or fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmrest.backbones.arch import HierarchicalArch, require_switches
from mmrest.backbones.hierarchical import HierarchicalBackbone
from mmrest.backbones.layers import (
    MLP,
    Block,
    DropPath,
    apply_linear,
    as_tokens,
    call_in_context,
    fit_positions,
    initialize_linear,
    normalize_and_mlp,
    resize_positions,
    run_layers,
)
from mmrest.backbones.pooling_attention import (
    Grid,
    JointPositions,
    PoolingAttention,
    RelativePositions,
    pooled,
    split_class_token,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.checkpoints import Fresh, KeyMap, RenamedCheckpoint
from mmrest.errors import InputError
from mmrest.ops import channels_last, max_pool
from mmrest.ops.relative import resize


class PatchEmbed(nn.Module):
    """Image to tokens: overlapping patches, and where there are some, absolute positions.

    Args:
        in_channels: Channels of the images.
        channels: Channels of the tokens.
        cls_token: Put a class token before the others.
        table_size: Side of the table of absolute positions; 0 has none.
    """

    def __init__(self, in_channels: int, channels: int, cls_token: bool, table_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 7, stride=4, padding=3)
        self.register_parameter('cls_token', None)
        self.register_parameter('pos_embed', None)
        if cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        if table_size:
            self.pos_embed = nn.Parameter(torch.empty(1, int(cls_token) + table_size**2, channels))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, in_channels, H, W) -> (B, [1 +] rows columns, channels) and (rows, columns)."""
        maps = self.proj(channels_last(images))
        grid = tuple(maps.shape[2:])
        x = as_tokens(maps).flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, grid, 'bicubic')
        return x, grid


class MultiscaleBlock(Block):
    """A transformer block that may halve its map and widen its channels, in attention or MLP.

    A shortcut over wider channels is a linear layer of the *normalised* tokens; one over a smaller
    map takes the maximum of 3x3 cells.

    Args:
        in_channels: Channels of the input.
        attn: Pooling attention, whose channels may be others.
        channels: Of the attention.
        out_channels: Channels of the output.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path_rate: Probability that a sample skips a branch in training.
        norm_eps: Of the LayerNorms.
    """

    def __init__(
        self,
        in_channels: int,
        attn: PoolingAttention,
        channels: int,
        out_channels: int,
        mlp_ratio: float,
        drop_path_rate: float,
        norm_eps: float,
    ) -> None:
        super().__init__(
            norm1=nn.LayerNorm(in_channels, norm_eps),
            attn=attn,
            norm2=nn.LayerNorm(channels, norm_eps),
            mlp=MLP(channels, int(channels * mlp_ratio), out_channels),
            drop_path=DropPath(drop_path_rate),
        )
        self.stride = attn.q_stride
        self.widens_in_mlp = out_channels != channels
        widens = self.widens_in_mlp or channels != in_channels
        self.proj = nn.Linear(in_channels, out_channels) if widens else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, [1 +] H W, in_channels) -> (B, [1 +] h w, out_channels)."""
        y = self.norm1(x)
        shortcut = x if self.proj is None or self.widens_in_mlp else apply_linear(self.proj, y)
        branch = call_in_context(self.attn, y, grid)
        x = self._pool(shortcut, grid) + self.drop_path(branch)
        if not self.widens_in_mlp:
            return x + self.drop_path(normalize_and_mlp(self.norm2, self.mlp, x))
        y = self.norm2(x)
        return apply_linear(self.proj, y) + self.drop_path(self.mlp(y))

    def _pool(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, [1 +] H W, channels) -> (B, [1 +] h w, channels)."""
        if self.stride == 1:
            return x
        cls_token, cells = split_class_token(x, grid)
        cells = max_pool(cells.unflatten(1, grid), self.stride).flatten(1, 2)
        return cells if cls_token is None else torch.cat([cls_token, cells], dim=1)


class MultiscaleStage(nn.Module):
    """Blocks, of which the first makes the map of the stage.

    Args:
        embed: Of the images, in the first stage.
        blocks: Those of the stage.
    """

    def __init__(self, embed: PatchEmbed | None, blocks: Sequence[MultiscaleBlock]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = False

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, [1 +] H W, in_channels) -> (B, [1 +] h w, channels) and (h, w)."""
        for block in self.blocks:
            x = run_layers([block], x, grid, with_cp=self.with_cp)
            grid = pooled(grid, block.stride)
        return x, grid


@dataclass(frozen=True)
class MViTV2Arch(HierarchicalArch):
    """Of MViTv2; fields per stage, but for the last four.

    Attributes:
        num_heads: Attention heads.
        mlp_ratios: Hidden channels of the MLPs relative to ``embed_dims``.
        window_sizes: Sides of the windows in tokens.
        kv_stride: Of the keys' and values' pooling in the first stage; every later one has half of
            it, at least 1.
        widens_in: ``'attention'``: channels grow in the first block of a stage; ``'mlp'``: in the
            MLP of the last block of the stage before, as in IN-1K's ``'large'``.
        cls_token: Trained with a class token.
        image_size: Of the training, which the tables of positions are made for.
    """

    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    window_sizes: tuple[int, ...] = (56, 28, 14, 7)
    kv_stride: int = 4
    widens_in: str = 'attention'
    cls_token: bool = False
    image_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_multiples('num_heads')
        self.require_hidden_channels()
        if self.widens_in not in ('attention', 'mlp'):
            raise InputError(
                f"MViTV2: arch field widens_in={self.widens_in!r} must be 'attention' or 'mlp'"
            )
        self.require_image_size(self.image_size)

    @property
    def out_dims(self) -> tuple[int, ...]:
        """Channels of the stages' maps."""
        if self.widens_in == 'attention':
            return self.embed_dims
        return (*self.embed_dims[1:], self.embed_dims[-1])

    def kv_stride_of(self, stage: int) -> int:
        """Of the keys' and values' pooling in a stage."""
        return max(self.kv_stride // 2**stage, 1)


def resize_table(table: Tensor, shape: torch.Size) -> Tensor:
    """A file's table of positions for an image of another size; as it is if it cannot be one.

    Relative positions are resized linearly, along both axes where they are joint, and absolute
    ones bicubically.

    Args:
        table: (distances, head_dim), (distances, distances, head_dim) or (1, [1 +] side^2,
            channels).
        shape: Of the own table.
    """
    if table.ndim != len(shape) or table.shape[-1] != shape[-1]:
        return table
    if shape[0] == 1:
        return fit_positions(table, shape, 'bicubic')
    modes = {2: 'linear', 3: 'bilinear'}
    return resize(table.movedim(-1, 0)[None], shape[:-1], modes[table.ndim])[0].movedim(0, -1)


def without_time(weight: Tensor, shape: torch.Size) -> Tensor:
    """Weights (out, in, 1, h, w) of a video model's convolution as those of images."""
    return weight[:, :, 0] if weight.ndim == 5 and weight.shape[2] == 1 else weight


ATTENTIONS = ('hwin', 'pooling', 'windows')
POSITIONS = ('decomposed', 'joint', 'absolute', 'absolute_and_decomposed', 'none')


@register_backbone
class MViTV2(HierarchicalBackbone):
    """The backbone of MViTv2, for detection (``attention='hwin'``) or as it was pretrained.

    ``'tiny'``, ``'small'``, ``'base'`` and ``'large'`` are those of IN-1K; ``'base_cls'``,
    ``'large_cls'`` and ``'huge_cls'`` those of IN-21K, which have a class token. With windows they
    are detectron2's T, S, B, B-21K, L and H (its large and huge are IN-21K's, and have no class
    token any more).

    Args:
        arch: A published name, or a :class:`MViTV2Arch` or a dict of its fields.
        attention: ``'hwin'``: in windows, but for the last block of each later stage, which sees
            the whole map, with twice the stride of keys and values but in the last stage
            ("hybrid window attention"); ``'pooling'``: of the whole map everywhere, as in
            classification; ``'windows'``: in windows everywhere, which are not shifted.
        positions: ``'decomposed'`` relative ones (default), ``'joint'`` relative ones (which store
            the attention's maps), ``'absolute'`` ones, ``'absolute_and_decomposed'`` or ``'none'``
            (ablated in Section 5.3).
        residual_pooling: Add the pooled queries to what was attended (ablated in Section 5.3).
        pool_every_q: Pool queries by a convolution also where that leaves their number (likewise).
        in_channels: See :class:`HierarchicalBackbone`, as all that follow.
        out_indices: Stages whose maps are returned.
        out_norm: ``'branch'``: a LayerNorm on each output, as in detection; ``'none'``.
        frozen_stages: How many stages are frozen.
        drop_path_rate: Drop-path probability of the last block.
        with_cp: Recompute blocks in the backward pass.
        init_cfg: Takes the authors' ``.pyth`` and detectron2's ``.pkl`` files, and timm's.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    Arch = MViTV2Arch
    variants = {
        'tiny': MViTV2Arch((96, 192, 384, 768), (1, 2, 5, 2)),
        'small': MViTV2Arch((96, 192, 384, 768), (1, 2, 11, 2)),
        'base': MViTV2Arch((96, 192, 384, 768), (2, 3, 16, 3)),
        'large': MViTV2Arch((144, 288, 576, 1152), (2, 6, 36, 4), (2, 4, 8, 16), widens_in='mlp'),
        'base_cls': MViTV2Arch((96, 192, 384, 768), (2, 3, 16, 3), cls_token=True),
        'large_cls': MViTV2Arch(
            (144, 288, 576, 1152), (2, 6, 36, 4), (2, 4, 8, 16), cls_token=True
        ),
        'huge_cls': MViTV2Arch(
            (192, 384, 768, 1536), (4, 8, 60, 8), (3, 6, 12, 24), cls_token=True
        ),
    }
    default = 'tiny'
    out_norms = ('branch', 'none')
    norm_eps = 1e-6
    published_options = dict(attention='pooling')
    initialize = staticmethod(initialize_linear)
    keys = KeyMap(
        rules=(
            (r'patch_embed\.', 'stages.0.embed.'),
            (r'(cls_token|pos_embed)$', r'stages.0.embed.\1'),
            (r'(.+\.attn)\.pool_([qkv])\.', r'\1.\2_pool.conv.'),
            (r'(.+\.attn)\.norm_([qkv])\.', r'\1.\2_pool.norm.'),
            (r'(.+\.attn)\.rel_pos_h$', r'\1.positions.rows'),
            (r'(.+\.attn)\.rel_pos_w$', r'\1.positions.columns'),
            (r'(.+)\.shortcut_proj_(attn|mlp)\.', r'\1.proj.'),
            (r'scale(\d)_norm\.', lambda match: f'out_norms.{int(match[1]) - 2}.'),
        ),
        # detection does not use the norm in front of the classifier
        drop=(r'head\.', r'norm\.'),
        adapt={
            r'.+\.positions\.': resize_table,
            r'.+\.pos_embed$': resize_table,
            r'.+\.(conv|proj)\.weight$': without_time,
        },
        fresh=(Fresh(r'branch_norms\.', unless=r'branch_norms\.|scale\d_norm\.'),),
        signature=(r'(blocks|stages\.0\.blocks)\.0\.attn\.(pool_q|q_pool)\.',),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] | MViTV2Arch = 'tiny',
        attention: str = 'hwin',
        positions: str = 'decomposed',
        residual_pooling: bool = True,
        pool_every_q: bool = True,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str = 'branch',
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        for name, value, known in (
            ('attention', attention, ATTENTIONS),
            ('positions', positions, POSITIONS),
        ):
            if value not in known:
                raise InputError(f'MViTV2: {name}={value!r} must be one of {", ".join(known)}')
        require_switches('MViTV2', residual_pooling=residual_pooling, pool_every_q=pool_every_q)
        # make_stage reads them
        self.attention = attention
        self.positions = positions
        self.residual_pooling = residual_pooling
        self.pool_every_q = pool_every_q
        arch = self.Arch.resolve(arch, self.variants)
        self.depths = arch.depths
        super().__init__(
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    def make_stage(
        self, index: int, in_channels: int, arch: MViTV2Arch, drop_path_rates: list[float]
    ) -> MultiscaleStage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        embed, channels = None, arch.embed_dims[index]
        if index == 0:
            has_token = arch.cls_token and self.attention == 'pooling'
            table_size = arch.image_size // 4 if 'absolute' in self.positions else 0
            embed = PatchEmbed(in_channels, channels, has_token, table_size)
            in_channels = channels
        blocks = []
        for i, rate in enumerate(drop_path_rates):
            is_last = i == len(drop_path_rates) - 1
            attn = self._make_attention(index, i == 0, is_last, in_channels, arch)
            out_channels = arch.out_dims[index] if is_last else channels
            blocks.append(
                MultiscaleBlock(
                    in_channels,
                    attn,
                    channels,
                    out_channels,
                    arch.mlp_ratios[index],
                    rate,
                    self.norm_eps,
                )
            )
            in_channels = out_channels
        return MultiscaleStage(embed, blocks)

    def _make_attention(
        self, stage: int, is_first: bool, is_last: bool, in_channels: int, arch: MViTV2Arch
    ) -> PoolingAttention:
        """Of the first, the last or another block of a stage."""
        channels, heads = arch.embed_dims[stage], arch.num_heads[stage]
        q_stride = 2 if is_first and stage else 1
        kv_stride = arch.kv_stride_of(stage)
        # the first block still has the map of the stage before
        level = stage - (q_stride - 1)
        window_size = 0 if self.attention == 'pooling' else arch.window_sizes[level]
        if self.attention == 'hwin' and is_last and stage:
            window_size = 0
            kv_stride *= 2 if stage < len(arch.depths) - 1 else 1
        if window_size % q_stride or window_size % kv_stride:
            raise InputError(
                f'MViTV2: arch field window_sizes: {window_size} is not a multiple of the strides '
                f'of queries and keys in stage {stage}, {q_stride} and {kv_stride}'
            )
        side = arch.image_size // 4 // 2**level
        distances = max(2 * max(side // q_stride, side // kv_stride) - 1, 1)
        table = None
        if 'decomposed' in self.positions:
            table = RelativePositions(distances, channels // heads)
        elif self.positions == 'joint':
            table = JointPositions(distances, channels // heads)
        return PoolingAttention(
            in_channels,
            channels,
            heads,
            q_stride,
            kv_stride,
            window_size,
            table,
            self.residual_pooling,
            self.pool_every_q,
            self.norm_eps,
        )

    def stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        """See :meth:`HierarchicalBackbone.stage_maps`; the maps are without the class token."""
        x, grid = self.stages[0].embed(images)
        for stage in self.stages:
            x, grid = stage(x, grid)
            yield split_class_token(x, grid)[1].unflatten(1, grid)

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`."""
        renamed = super().rename_checkpoint(state)
        has_token = any(key.rpartition('.')[2] == 'cls_token' for key in state)
        if has_token and self.attention == 'pooling' and self.stages[0].embed.cls_token is None:
            renamed.notes.append(
                'MViTV2: the class token of the file is left out, with which all others were '
                "trained; arch='base_cls', 'large_cls' and 'huge_cls' have one"
            )
        return renamed

    def place_key(self, key: str, keys: Set[str]) -> str | None:
        """See :meth:`PyramidBackbone.place_key`; the authors count the blocks of all stages."""
        if match := re.match(r'blocks\.(\d+)\.', key):
            block = int(match[1])
            for stage, depth in enumerate(self.depths):
                if block < depth:
                    key = f'stages.{stage}.blocks.{block}.{key[match.end() :]}'
                    break
                block -= depth
        if key == 'stages.0.embed.cls_token' and self.stages[0].embed.cls_token is None:
            return None
        return super().place_key(key, keys)
