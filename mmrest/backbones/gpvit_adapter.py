"""GPViT with a ViT-Adapter: a pyramid beside the plain blocks, which both learn from.

Chen et al., "Vision Transformer Adapter for Dense Predictions", ICLR 2023, arXiv 2205.08534, around
GPViT (see :mod:`mmrest.backbones.gpvit`) as in the authors' detection code, ChenhongyiYang/GPViT
(Apache-2.0). Written anew from the papers and a description of that code, which takes multiples of
32 pixels; here every map has its own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmrest.backbones.gpvit import ConvNormReLU, GPViT, GPViTArch, GPViTTrunk
from mmrest.backbones.layers import (
    ConvMLP,
    DropPath,
    apply_linear,
    as_map,
    as_tokens,
    initialize_by_fan_out,
    initialize_linear,
    run_layers,
)
from mmrest.backbones.plain_pyramid import Upsample, quarters
from mmrest.backbones.pyramid import register_backbone
from mmrest.checkpoints import Fresh, counted_from_one
from mmrest.ops import channels_last, crop, deformable_attention

STRIDES = 4, 8, 16, 32


class SpatialPrior(nn.Module):
    """Maps at four strides by convolutions, with the channels of the tokens (Section 3.3).

    All but the finest are told apart by an embedding of their own.

    Args:
        in_channels: Channels of the images.
        channels: Of every map.
        levels: Those that are returned; the first may be missing.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    hidden = 64, 128, 256, 256

    def __init__(
        self, in_channels: int, channels: int, levels: Iterable[int], norm_cfg: dict
    ) -> None:
        super().__init__()
        first = self.hidden[0]
        self.stem = nn.Sequential(
            self._make_layer(in_channels, first, 2, norm_cfg),
            self._make_layer(first, first, 1, norm_cfg),
            self._make_layer(first, first, 1, norm_cfg),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.convs = nn.ModuleList(
            self._make_layer(*pair, 2, norm_cfg) for pair in pairwise(self.hidden)
        )
        self.projs = nn.ModuleDict(
            {str(level): nn.Conv2d(self.hidden[level], channels, 1) for level in levels}
        )
        self.level_embed = nn.Parameter(torch.randn(len(self.convs), channels))

    @staticmethod
    def _make_layer(in_channels: int, channels: int, stride: int, norm_cfg: dict) -> nn.Module:
        conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        return ConvNormReLU(conv, norm_cfg)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """(B, in_channels, H, W) -> level -> (B, ceil(H / stride), ceil(W / stride), channels)."""
        maps = [self.pool(self.stem(channels_last(images)))]
        for conv in self.convs:
            maps.append(conv(maps[-1]))
        levels = {int(name): as_tokens(proj(maps[int(name)])) for name, proj in self.projs.items()}
        return {
            level: x + self.level_embed[level - 1] if level else x for level, x in levels.items()
        }


class DeformableAttention(nn.Module):
    """Every query attends to a few places of every map, near its own (arXiv 2010.04159).

    Args:
        channels: Of queries and maps.
        num_heads: Attention heads.
        num_maps: Maps that are attended to.
        num_points: Places in each of them, a head.
    """

    def __init__(self, channels: int, num_heads: int, num_maps: int, num_points: int = 4) -> None:
        super().__init__()
        self.parts = num_heads, num_maps, num_points
        self.sampling_offsets = nn.Linear(channels, 2 * math.prod(self.parts))
        self.attention_weights = nn.Linear(channels, math.prod(self.parts))
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        """The places begin at 1, 2, ... pixels in a direction of each head (Appendix A.4)."""
        heads, _, points = self.parts
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        distances = torch.arange(1, points + 1)[:, None]
        offsets = (directions[:, None, None] * distances).expand(*self.parts, 2)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(self, queries: Sequence[Tensor], maps: Sequence[Tensor]) -> list[Tensor]:
        """Args are several (B, h, w, channels); returns one for each of ``queries``."""
        heads = self.parts[0]
        values = [apply_linear(self.value_proj, m).unflatten(3, (heads, -1)) for m in maps]
        return [self._attend(query, values) for query in queries]

    def _attend(self, query: Tensor, values: Sequence[Tensor]) -> Tensor:
        tokens = query.flatten(1, 2)
        # half precision would place them pixels away
        precise = torch.promote_types(tokens.dtype, torch.float32)
        offsets = apply_linear(self.sampling_offsets, tokens).unflatten(2, (*self.parts, 2))
        weights = apply_linear(self.attention_weights, tokens).unflatten(2, (self.parts[0], -1))
        weights = weights.to(precise).softmax(3).unflatten(3, self.parts[1:]).unbind(3)
        x, y = (
            # (N, 1, 1): the query's own place, for all heads and points
            place.flatten()[:, None, None]
            for place in centres(*query.shape[1:3], precise, query.device)
        )
        locations = [
            torch.stack(
                [x + offset[..., 0] / value.shape[2], y + offset[..., 1] / value.shape[1]], dim=-1
            )
            for value, offset in zip(values, offsets.to(precise).unbind(3), strict=True)
        ]
        sampled = sample([value.to(precise) for value in values], locations, weights)
        sampled = sampled.flatten(2).to(values[0].dtype)
        return apply_linear(self.output_proj, sampled).unflatten(1, query.shape[1:3])


def centres(height: int, width: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Pixels' centres, x and y, each (height, width), in a map whose sides are 1."""
    x, y = (
        (torch.arange(side, dtype=dtype, device=device) + 0.5) / side for side in (width, height)
    )
    return [x.expand(height, width), y[:, None].expand(height, width)]


def sample(
    values: Sequence[Tensor], locations: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    """:func:`deformable_attention`; on a GPU by mmcv's operator if it is there."""
    operator = None if torch.compiler.is_compiling() else mmcv_operator()
    if operator is None or not values[0].is_cuda:
        return deformable_attention(values, locations, weights)
    shapes, starts = _places(values)
    sampled = operator(
        torch.cat([value.flatten(1, 2) for value in values], dim=1),
        shapes,
        starts,
        torch.stack(list(locations), dim=3).contiguous(),
        torch.stack(list(weights), dim=3).contiguous(),
        values[0].shape[0],
    )
    return sampled.unflatten(2, (values[0].shape[3], -1))


def _places(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Maps' sizes (maps, 2) and where each begins among all tokens (maps,), for mmcv.

    They are filled in on the device, since a copy from the processor would wait for a GPU.

    Args:
        values: Maps (B, H, W, heads, head_dim).
    """
    sides = [side for value in values for side in value.shape[1:3]]
    filled = [torch.full((), side, device=values[0].device) for side in sides]
    sizes = torch.stack(filled).unflatten(0, (-1, 2))
    return sizes, sizes.prod(1).cumsum(0) - sizes.prod(1)


@cache
def mmcv_operator() -> Any:
    """The deformable attention of mmcv for GPUs, or None if it was built without operators."""
    try:
        from mmcv.ops.info import get_compiling_cuda_version
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except ImportError:
        return None
    if get_compiling_cuda_version() == 'not available':
        return None
    return MultiScaleDeformableAttnFunction.apply


class Injector(nn.Module):
    """Tokens of the plain blocks take from the pyramid (equation 1); nothing at first.

    Args:
        channels: Of tokens and maps.
        num_heads: Attention heads.
        num_maps: Maps of the pyramid.
    """

    def __init__(self, channels: int, num_heads: int, num_maps: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, 1e-6)
        self.feat_norm = nn.LayerNorm(channels, 1e-6)
        self.deform_attn = DeformableAttention(channels, num_heads, num_maps)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, h, w, channels) and the maps of the pyramid -> (B, h, w, channels)."""
        (taken,) = self.deform_attn([self.query_norm(x)], [self.feat_norm(m) for m in maps])
        return x + self.gamma * taken


class Extractor(nn.Module):
    """The pyramid takes from the tokens of the plain blocks (equations 2 and 3).

    Args:
        channels: Of tokens and maps.
        num_heads: Attention heads.
        drop_path_rate: Probability that a sample skips the MLP in training.
    """

    def __init__(self, channels: int, num_heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, 1e-6)
        self.feat_norm = nn.LayerNorm(channels, 1e-6)
        self.deform_attn = DeformableAttention(channels, num_heads, num_maps=1)
        self.ffn_norm = nn.LayerNorm(channels, 1e-6)
        self.mlp = ConvMLP(channels, channels // 4, nn.Identity(), nn.GELU())
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, maps: Sequence[Tensor], x: Tensor) -> list[Tensor]:
        """The maps of the pyramid and (B, h, w, channels) -> the maps."""
        taken = self.deform_attn([self.query_norm(m) for m in maps], [self.feat_norm(x)])
        maps = [m + t for m, t in zip(maps, taken, strict=True)]
        return [m + self.drop_path(self.mlp(self.ffn_norm(m))) for m in maps]


@register_backbone
class GPViTAdapter(GPViTTrunk):
    """GPViT with a ViT-Adapter, as for detection: ``'l1'``, ``'l2'``, ``'l3'`` and ``'l4'``.

    With ``out_indices=(1, 2, 3)`` it is what the authors call ``GPViTAdapterSingleStage``.

    Args:
        arch: A published name, or a :class:`GPViTArch` or a dict of its fields.
        in_channels: Channels of the images.
        out_indices: Levels at strides 4, 8, 16 and 32 that are returned, ascending.
        out_norm: ``'branch'``: a BatchNorm on each map; ``'none'``.
        frozen_stages: 0 freezes GPViT's embeddings, i also its first i blocks; -1 nothing.
        norm_eval: Keep the statistics of every BatchNorm.
        norm_cfg: The BatchNorms, as mmcv's ``build_norm_layer`` takes it.
        drop_path_rate: Drop-path probability of the last block and of the adapter; earlier blocks'
            are linearly smaller.
        with_cp: Recompute blocks, injectors and extractors in the backward pass to save memory.
        init_cfg: See :class:`HierarchicalBackbone`; takes the authors' files, of ImageNet too.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    keys = replace(
        GPViT.keys,
        rules=(
            *GPViT.keys.rules,
            (
                r'spm\.stem\.(\d+)\.',
                lambda m: f'prior.stem.{int(m[1]) // 3}.{int(m[1]) % 3}.',
            ),
            (r'spm\.conv(\d)\.', lambda m: f'prior.convs.{int(m[1]) - 2}.'),
            (r'spm\.fc(\d)\.', counted_from_one('prior.projs.{}.')),
            (r'level_embed$', 'prior.level_embed'),
            (r'interactions\.(\d+)\.injector\.', r'injectors.\1.'),
            (r'interactions\.(\d+)\.extractor\.', r'extractors.\1.0.'),
            (
                r'interactions\.(\d+)\.extra_extractors\.(\d+)\.',
                lambda m: f'extractors.{m[1]}.{int(m[2]) + 1}.',
            ),
            (r'(injectors\.\d+|extractors\.\d+\.\d+)\.attn\.', r'\1.deform_attn.'),
            (r'(extractors\.\d+\.\d+)\.ffn\.dwconv\.dwconv\.', r'\1.mlp.conv.'),
            (r'(extractors\.\d+\.\d+)\.ffn\.', r'\1.mlp.'),
            (r'ad_norm(\d)\.', counted_from_one('level_norms.{}.')),
        ),
        fresh=(
            Fresh(
                r'(prior|injectors|extractors|up|level_norms)\b',
                unless=r'(spm|prior)\.',
            ),
        ),
        signature=(*GPViT.keys.signature, r'(spm|prior)\.'),
        not_of=None,
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] | GPViTArch = 'l1',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str = 'branch',
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = self.Arch.resolve(arch, self.variants)
        norm_cfg = norm_cfg or dict(type='BN')
        super().__init__(
            arch,
            level_blocks=(arch.depth - 1,) * len(STRIDES),
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
        channels = arch.embed_dims
        self.out_channels = (channels,) * len(self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self._make_adapter(channels, arch.group_heads, norm_cfg, drop_path_rate)
        self.apply(initialize_linear)
        self._initialize_adapter()
        self._freeze_stages()

    def _make_adapter(
        self, channels: int, num_heads: int, norm_cfg: dict, drop_path_rate: float
    ) -> None:
        # the three coarser levels are what tokens and pyramid exchange
        levels = sorted({*self.out_indices, 1, 2, 3})
        self.prior = SpatialPrior(self.in_channels, channels, levels, norm_cfg)
        # what each interaction runs: its blocks, one extractor, two more the last time
        self.ends = quarters(self.depth)
        self.injectors = nn.ModuleList(Injector(channels, num_heads, 3) for _ in self.ends)
        self.extractors = nn.ModuleList(
            nn.ModuleList(
                Extractor(channels, num_heads, drop_path_rate)
                for _ in range(3 if end == self.ends[-1] else 1)
            )
            for end in self.ends
        )
        if 0 in self.out_indices:
            self.up = Upsample(channels)
        if self.out_norm == 'branch':
            self.level_norms = nn.ModuleDict(
                {str(i): build_norm_layer(norm_cfg, channels)[1] for i in self.out_indices}
            )

    def _initialize_adapter(self) -> None:
        adapter = [self.prior, self.injectors, self.extractors]
        for module in adapter:
            module.apply(initialize_by_fan_out)
            for layer in module.modules():
                if isinstance(layer, DeformableAttention):
                    layer.reset_parameters()
        if 0 in self.out_indices:
            nn.init.normal_(self.up.weight, std=math.sqrt(2 / self.up.weight[0].numel()))
            nn.init.zeros_(self.up.bias)

    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`PyramidBackbone.compute_maps`."""
        pyramid = self.prior(images)
        finest = pyramid.pop(0, None)
        maps = list(pyramid.values())
        x, start = self.embed(images), 0
        for injector, end, extractors in zip(
            self.injectors, self.ends, self.extractors, strict=True
        ):
            x = run_layers([injector], x, maps, with_cp=self.with_cp)
            x = self.run_blocks(x, start, end + 1)
            maps = run_layers(extractors, maps, x, with_cp=self.with_cp)
            start = end + 1
        levels = dict(zip(pyramid, map(as_map, maps), strict=True))
        if finest is not None:
            finest = as_map(finest)
            levels[0] = finest + crop(self.up(levels[1]), finest.shape[2:])
        return tuple(self._finish(i, levels[i], as_map(x)) for i in self.out_indices)

    def _finish(self, level: int, maps: Tensor, tokens: Tensor) -> Tensor:
        if maps.shape[2:] != tokens.shape[2:]:
            tokens = F.interpolate(tokens, size=maps.shape[2:], mode='bilinear')
        maps = maps + tokens
        return (
            self.level_norms[str(level)](maps) if self.out_norm == 'branch' else maps
        ).contiguous()

    def place_key(self, key: str, keys: Set[str]) -> str | None:
        """See :meth:`PyramidBackbone.place_key`."""
        placed = super().place_key(key, keys)
        if placed is None or placed.startswith('branch_norms.'):  # of the plain backbone
            return None
        finest = placed.startswith(('prior.projs.0.', 'up.', 'level_norms.0.'))
        if finest and 0 not in self.out_indices:
            return None
        if placed.startswith('level_norms.'):
            used = self.out_norm == 'branch' and int(placed.split('.')[1]) in self.out_indices
            return placed if used else None
        return placed
