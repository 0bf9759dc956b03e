"""The trunk that ResT and ResTv2 share: a stem and stages of blocks, each half the size before."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrest.backbones.layers import as_map, initialize, stochastic_depth_rates
from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.checkpoints import RenamedCheckpoint
from mmrest.errors import InputError


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
        x = self.embed(x).contiguous()
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class StagedBackbone(PyramidBackbone):
    """A stem and stages at strides 4, 8, 16, ...; what differs between families is made by hooks.

    Args:
        arch: A key of ``variants``, or a dict with the same fields; the number of stages is the
            fields' length.
        in_channels: Channels of the images.
        out_indices: Stages whose maps are returned, ascending. Later stages are not built.
        out_norm: One of ``out_norms``: ``'branch'``, a LayerNorm on each output, the trunk
            untouched; ``'trunk'``, each normalised output is also what the next stage receives;
            ``'none'``.
        frozen_stages: 0 freezes the stem, i also the first i stages (their BatchNorms keep their
            statistics); -1 nothing. Output norms are never frozen.
        norm_eval: Keep the statistics of every BatchNorm.
        norm_cfg: The families' BatchNorms, as mmcv's ``build_norm_layer`` takes it.
        drop_path_rate: Drop-path probability of the last block; earlier ones are linearly smaller.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: As mmengine's ``BaseModule``; ``dict(type='Pretrained', checkpoint=...)`` loads
            strictly and takes ``sha256`` and ``prefix`` too, see
            :func:`mmrest.checkpoints.load_pretrained`.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    out_norms: ClassVar[tuple[str, ...]] = ('none', 'branch')
    norm_eps: ClassVar[float]
    # The authors' key names: of the patch embedding of a stage, and of an output's norm (its first
    # group is the stage's number, or empty for the norm before the classification head).
    embed_key: ClassVar[str]
    norm_key: ClassVar[str]

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
            in_channels=in_channels,
            out_indices=out_indices,
            num_levels=len(dims),
            num_stages=len(dims),
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if out_norm not in self.out_norms:
            raise InputError(
                f'{type(self).__name__}: out_norm={out_norm!r} must be one of {self.out_norms}'
            )
        self.out_norm = out_norm
        self.num_stages = len(dims)
        drop_paths = stochastic_depth_rates(drop_path_rate, tuple(fields['depths']))
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            embed = self.make_embed(i, dims[i - 1] if i else in_channels, dims[i], norm_cfg)
            heads, reduction, ratio = (
                fields[name][i] for name in ('num_heads', 'sr_ratios', 'mlp_ratios')
            )
            blocks = [self.make_block(dims[i], heads, reduction, ratio, p) for p in drop_paths[i]]
            self.stages.append(Stage(embed, blocks, with_cp))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(2 ** (i + 2) for i in self.out_indices)
        if out_norm != 'none':
            norms = {str(i): nn.LayerNorm(dims[i], self.norm_eps) for i in self.out_indices}
            setattr(self, f'{out_norm}_norms', nn.ModuleDict(norms))
        self.apply(initialize)
        self._freeze_stages()

    @abstractmethod
    def make_embed(
        self, stage: int, in_channels: int, channels: int, norm_cfg: dict | None
    ) -> nn.Module:
        """The stem (``stage`` 0) or the patch embedding, (B, C, H, W) -> (B, h, w, channels)."""

    @abstractmethod
    def make_block(
        self, channels: int, num_heads: int, sr_ratio: int, mlp_ratio: float, drop_path: float
    ) -> nn.Module:
        """A block, (B, H, W, channels) -> (B, H, W, channels)."""

    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`PyramidBackbone.compute_maps`."""
        outputs = []
        x = images
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                if self.out_norm == 'trunk':
                    x = self.trunk_norms[str(i)](x)
                out = self.branch_norms[str(i)](x) if self.out_norm == 'branch' else x
                outputs.append(out.permute(0, 3, 1, 2).contiguous())
            x = as_map(x)
        return tuple(outputs)

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`PyramidBackbone.resolve_arch`; also checks that the fields fit together."""
        fields = super().resolve_arch(arch)
        name = cls.__name__
        for field, values in fields.items():
            whole = field != 'mlp_ratios'
            kinds = (int,) if whole else (int, float)
            fits = isinstance(values, list | tuple) and all(
                type(value) in kinds and value > 0 for value in values
            )
            if not fits or not values:
                number = 'whole number' if whole else 'number'
                raise InputError(
                    f'{name}: arch field {field}={values!r} must have a {number} above 0 for each '
                    'stage, for example (2, 2, 6, 2)'
                )
        if len({len(values) for values in fields.values()}) != 1:
            raise InputError(
                f'{name}: the fields of arch differ in their numbers of stages: {fields}'
            )
        for dim, heads in zip(fields['embed_dims'], fields['num_heads'], strict=True):
            if dim % heads:
                raise InputError(f'{name}: embed_dims {dim} is not a multiple of num_heads {heads}')
        for dim, ratio in zip(fields['embed_dims'], fields['mlp_ratios'], strict=True):
            if int(dim * ratio) < 1:
                raise InputError(f'{name}: mlp_ratios {ratio} of {dim} channels leaves none')
        return fields

    def stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """See :meth:`PyramidBackbone.stage_modules`."""
        if stage == 0:
            return [self.stages[0].embed]
        return [self.stages[stage - 1]] if stage <= len(self.stages) else []

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """See :meth:`PyramidBackbone.rename_checkpoint`.

        ImageNet files of the authors end with ``norm`` and a classification ``head``; their
        detection and segmentation files have a norm for each output. All go to this module's
        output norms.
        """
        renamed = RenamedCheckpoint({})
        numbered = {m[1] for key in state if (m := re.match(self.norm_key, key)) and m[1]}
        for key, value in state.items():
            own = self._rename(key, numbered)
            if own is not None:
                renamed.state[own] = value
        own_norms = ('branch_norms.', 'trunk_norms.')
        if not numbered and not any(key.startswith(own_norms) for key in state):
            renamed.optional = {key for key in self.state_dict() if key.startswith(own_norms)}
        return renamed

    def _rename(self, key: str, numbered_norms: set[str]) -> str | None:
        """Own name of a published key; None if this configuration has no use for it."""
        if key.startswith('head.'):
            return None
        key = re.sub(r'^stem\.', 'stages.0.embed.', key)
        key = re.sub(self.embed_key, lambda m: f'stages.{int(m[1]) - 1}.embed.', key)
        key = re.sub(r'^stage(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.', key)
        if match := re.match(r'stages\.(\d+)\.', key):
            built = int(match[1]) < len(self.stages) or int(match[1]) >= self.num_stages
            return key if built else None
        if match := re.match(self.norm_key, key):
            return self._rename_norm(key, match, numbered_norms)
        if match := re.match(r'(branch|trunk)_norms\.(\d+)\.', key):
            index = int(match[2])
            # A norm in the trunk changes the stages after it; elsewhere an unused one is harmless.
            harmless = self.out_norm == 'branch' or index >= len(self.stages)
            unused = match[1] == self.out_norm and index not in self.out_indices
            return None if unused and harmless else key
        return key

    def _rename_norm(self, key: str, match: re.Match, numbered_norms: set[str]) -> str | None:
        number = match[1] or str(self.num_stages)
        if not match[1] and number in numbered_norms:
            return None  # of the classifier, beside the output's own
        index = int(number) - 1
        if index in self.out_indices and self.out_norm != 'none':
            return f'{self.out_norm}_norms.{index}.{match[2]}'
        # A norm in the trunk changes the stages after it; elsewhere an unused one is harmless.
        harmless = not match[1] or self.out_norm == 'branch' or index >= len(self.stages)
        return None if harmless else key
