"""ResT: An Efficient Transformer for Visual Recognition.

Zhang and Yang, NeurIPS 2021, arXiv 2105.13677; the authors' code is wofmanaf/ResT (Apache-2.0).
Written anew from the paper: maps keep their true size ceil(size / stride), so that any image size
works, where the authors' code takes multiples of 32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrest.backbones.layers import (
    MLP,
    DropPath,
    PixelAttention,
    initialize,
    stochastic_depth_rates,
)
from mmrest.backbones.pyramid import PyramidBackbone
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
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv3 = nn.Conv2d(hidden, channels, 3, stride=2, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.pos = PixelAttention(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 4), ceil(W / 4))."""
        x = self.act(self.norm1(self.conv1(images)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.pos(self.conv3(x))


class PatchEmbed(nn.Module):
    """Halves a map, then position encoding (Section 3.2).

    Args:
        in_channels: Channels of the previous stage.
        channels: Channels of this one.
        norm_cfg: As mmcv's ``build_norm_layer`` takes it.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.pos = PixelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))."""
        return self.pos(self.norm(self.conv(x)))


class EMSA(nn.Module):
    """Efficient multi-head self-attention (Section 3.1, Eq. 4).

    Keys and values come from a map reduced by a strided depthwise convolution. With more than one
    head, the logits are mixed across heads and the attention map is instance-normalised.

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: Reduction of the keys' and values' map along each side.
    """

    def __init__(self, channels: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = self.sr_norm = self.transform_conv = None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(
                channels, channels, sr_ratio + 1, sr_ratio, sr_ratio // 2, groups=channels
            )
            self.sr_norm = nn.LayerNorm(channels)
        if num_heads > 1:
            self.transform_conv = nn.Conv2d(num_heads, num_heads, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        batch, height, width, channels = x.shape
        reduced = x
        if self.sr is not None:
            reduced = self.sr_norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        q = self.q(x).view(batch, height * width, self.num_heads, -1).transpose(1, 2)
        kv = self.kv(reduced).reshape(batch, -1, 2, self.num_heads, channels // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        mix = self.transform_conv
        out = emsa(q, k, v) if mix is None else emsa(q, k, v, mix.weight[:, :, 0, 0], mix.bias)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """EMSA and MLP, each behind a LayerNorm and beside a shortcut (Section 3.1, Eq. 6).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        sr_ratio: As :class:`EMSA`.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path: Probability that a sample skips a branch in training.
    """

    def __init__(
        self, channels: int, num_heads: int, sr_ratio: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = EMSA(channels, num_heads, sr_ratio)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """A stem or patch embedding, then blocks.

    Args:
        embed: Makes the stage's map from the image or the previous stage's map.
        blocks: Work on (B, H, W, C).
        with_cp: Recompute each block's activations in the backward pass.
    """

    def __init__(self, embed: nn.Module, blocks: list[nn.Module], with_cp: bool) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, height, width, channels)."""
        x = self.embed(x).permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


@MODELS.register_module()
class ResT(PyramidBackbone):
    """The backbone of ResT.

    Args:
        arch: ``'lite'``, ``'small'``, ``'base'``, ``'large'``, or a dict with the fields of
            ``ResT.variants``' values; the number of stages is the fields' length.
        in_channels: Channels of the images.
        out_indices: Stages whose maps are returned, ascending. Later stages are not built.
        out_norm: ``'branch'``: a LayerNorm on each output, the trunk untouched. ``'trunk'``: each
            normalised output is also what the next stage receives, as in the authors' detection
            code. ``'none'``.
        frozen_stages: 0 freezes the stem, i also the first i stages (their BatchNorms keep their
            statistics); -1 nothing. Output norms are never frozen.
        norm_eval: Keep the statistics of every BatchNorm.
        norm_cfg: Norm of stem and patch embeddings, as mmcv's ``build_norm_layer`` takes it.
        drop_path_rate: Drop-path probability of the last block; earlier ones are linearly smaller.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: As mmengine's ``BaseModule``; ``dict(type='Pretrained', checkpoint=...)`` loads
            strictly and takes ``sha256`` and ``prefix`` too, see
            :func:`mmrest.checkpoints.load_pretrained`.

    Raises:
        ValueError: An argument is out of its range; the message names it.
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

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
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
        fields = self.resolve_arch(arch)
        dims = tuple(fields['embed_dims'])
        super().__init__(
            in_channels, out_indices, len(dims), frozen_stages, norm_eval, with_cp, init_cfg
        )
        if out_norm not in ('none', 'branch', 'trunk'):
            raise ValueError(
                f"ResT: out_norm={out_norm!r} must be one of 'none', 'branch' and 'trunk'"
            )
        self.out_norm = out_norm
        self.num_stages = len(dims)
        norm_cfg = norm_cfg or dict(type='BN')
        drop_paths = stochastic_depth_rates(drop_path_rate, tuple(fields['depths']))
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            embed = (
                PatchEmbed(dims[i - 1], dims[i], norm_cfg)
                if i
                else Stem(in_channels, dims[0], norm_cfg)
            )
            shape = (
                dims[i],
                fields['num_heads'][i],
                fields['sr_ratios'][i],
                fields['mlp_ratios'][i],
            )
            blocks = [Block(*shape, drop_path) for drop_path in drop_paths[i]]
            self.stages.append(Stage(embed, blocks, with_cp))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(2 ** (i + 2) for i in self.out_indices)
        if out_norm != 'none':
            norms = {str(i): nn.LayerNorm(dims[i]) for i in self.out_indices}
            setattr(self, f'{out_norm}_norms', nn.ModuleDict(norms))
        self.apply(initialize)
        self._freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> one (B, C, ceil(H / stride), ceil(W / stride)) a level.

        Raises:
            ValueError: ``images`` is not of that shape.
        """
        self._check_images(images)
        outputs = []
        x = images
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                if self.out_norm == 'trunk':
                    x = self.trunk_norms[str(i)](x)
                out = self.branch_norms[str(i)](x) if self.out_norm == 'branch' else x
                outputs.append(out.permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outputs)

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`PyramidBackbone.resolve_arch`; also checks that the fields fit together."""
        fields = super().resolve_arch(arch)
        if len({len(values) for values in fields.values()}) != 1:
            raise ValueError(
                f'ResT: the fields of arch differ in their numbers of stages: {fields}'
            )
        for dim, heads in zip(fields['embed_dims'], fields['num_heads'], strict=True):
            if dim % heads:
                raise ValueError(f'ResT: embed_dims {dim} is not a multiple of num_heads {heads}')
        return fields

    def stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """See :meth:`PyramidBackbone.stage_modules`."""
        if stage == 0:
            return [self.stages[0].embed]
        return [self.stages[stage - 1]] if stage <= len(self.stages) else []

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Stage-wise: 0 the stem, i the i-th stage, then the output norms.

        See :meth:`PyramidBackbone.get_layer_depth`.
        """
        num_layers = len(self.stages) + 2
        name = param_name.removeprefix(prefix)
        if name.startswith('stages.0.embed.'):
            return 0, num_layers
        if match := re.match(r'stages\.(\d+)\.', name):
            return int(match[1]) + 1, num_layers
        return num_layers - 1, num_layers

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`.

        ImageNet files of the authors end with ``norm`` and a classification ``head``; their
        detection files have a ``norm{i}`` for each output but the last. Both go to this module's
        output norms.
        """
        renamed = RenamedCheckpoint({})
        for key, value in state.items():
            own = self._rename(key)
            if own is not None:
                renamed.state[own] = value
        norms = ('branch_norms.', 'trunk_norms.')
        has_norms = any(re.match(r'norm[1-9]\.|branch_norms\.|trunk_norms\.', key) for key in state)
        if not has_norms:
            renamed.optional = {key for key in self.state_dict() if key.startswith(norms)}
        elif self.out_norm != 'trunk' and any(re.match(r'norm[1-9]\.', key) for key in state):
            renamed.notes.append(
                "The file's norm1, norm2, ... are of the authors' detection code, which normalises "
                f"in the trunk: out_norm='trunk' computes what it computed, {self.out_norm!r} not."
            )
        return renamed

    def _rename(self, key: str) -> str | None:
        """Own name of a published key; None if this configuration has no use for it."""
        last = self.num_stages
        if key.startswith('head.'):
            return None
        key = re.sub(r'^stem\.', 'stages.0.embed.', key)
        key = re.sub(r'^patch_embed_(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.embed.', key)
        key = re.sub(r'^stage(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.', key)
        if match := re.match(r'stages\.(\d+)\.', key):
            built = int(match[1]) < len(self.stages) or int(match[1]) >= last
            return key if built else None
        if match := re.match(r'norm(\d*)\.(weight|bias)$', key):
            index = int(match[1] or last) - 1
            if index in self.out_indices and self.out_norm != 'none':
                return f'{self.out_norm}_norms.{index}.{match[2]}'
            # A norm in the trunk changes the stages after it; elsewhere an unused one is harmless.
            harmless = not match[1] or self.out_norm == 'branch' or index >= len(self.stages)
            return None if harmless else key
        if match := re.match(r'branch_norms\.(\d+)\.', key):
            unused = self.out_norm == 'branch' and int(match[1]) not in self.out_indices
            return None if unused else key
        return key
