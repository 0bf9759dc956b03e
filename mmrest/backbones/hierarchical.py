"""The trunk of staged families: stages at strides 4, 8, 16, ..., each with an output."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar

from torch import Tensor, nn

from mmrest.backbones.arch import HierarchicalArch
from mmrest.backbones.layers import as_map, initialize, run_layers, stochastic_depth_rates
from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.errors import InputError
from mmrest.ops import channels_first


class Stage(nn.Module):
    """A stem or patch embedding, then layers.

    Args:
        embed: (B, in_channels, H, W) -> (B, h, w, C), from the image or the previous stage's map.
        blocks: Any sequence of layers, (B, h, w, C) -> (B, h, w, C).
        norm: Behind them, if the network itself has one there.
    """

    def __init__(
        self, embed: nn.Module, blocks: Iterable[nn.Module], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.with_cp = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, C)."""
        x = run_layers(self.blocks, self.embed(x).contiguous(), with_cp=self.with_cp)
        return x if self.norm is None else self.norm(x)


class HierarchicalBackbone(PyramidBackbone):
    """Stages, each at half the size of the one before; a family gives :meth:`make_stage`.

    Args:
        arch: A published name, a dict of the family's arch fields, or the family's dataclass; the
            number of stages is the fields' length. None takes the family's ``default``.
        in_channels: Channels of the images.
        out_indices: Stages whose maps are returned, ascending. Later stages are not built.
        out_norm: One of ``out_norms``: ``'branch'``, a LayerNorm on each output, the trunk
            untouched; ``'trunk'``, each normalised output is also what the next stage receives;
            ``'none'``. None takes the first of them.
        frozen_stages: 0 freezes the stem, i also the first i stages (their BatchNorms keep their
            statistics); -1 nothing. Output norms are never frozen.
        norm_eval: Keep the statistics of every BatchNorm.
        drop_path_rate: Drop-path probability of the last block; earlier ones are linearly smaller.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: As mmengine's ``BaseModule``; ``dict(type='Pretrained', checkpoint=...)`` loads
            strictly and takes ``sha256``, ``prefix``, ``map_location`` and ``adapt_in_channels``
            too, see :func:`mmrest.checkpoints.load_pretrained`.

    Raises:
        InputError: An argument is out of its range; the message names it.
    """

    Arch: ClassVar[type[HierarchicalArch]]
    variants: ClassVar[Mapping[str, HierarchicalArch]]
    default: ClassVar[str] = 'small'
    out_norms: ClassVar[tuple[str, ...]] = ('none', 'branch')
    norm_eps: ClassVar[float]
    initialize: ClassVar[Callable[[nn.Module], None]] = staticmethod(initialize)

    def __init__(
        self,
        arch: str | Mapping[str, Any] | HierarchicalArch | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = self.Arch.resolve(self.default if arch is None else arch, self.variants)
        dims = arch.out_dims
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
        out_norm = self.out_norms[0] if out_norm is None else out_norm
        if out_norm not in self.out_norms:
            raise InputError(
                f'{type(self).__name__}: out_norm={out_norm!r} must be one of {self.out_norms}'
            )
        self.out_norm = out_norm
        self.num_stages = len(dims)
        rates = stochastic_depth_rates(drop_path_rate, arch.depths)
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            stage = self.make_stage(i, dims[i - 1] if i else in_channels, arch, rates[i])
            stage.with_cp = with_cp
            self.stages.append(stage)
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(2 ** (i + 2) for i in self.out_indices)
        if out_norm != 'none':
            norms = {str(i): nn.LayerNorm(dims[i], self.norm_eps) for i in self.out_indices}
            setattr(self, f'{out_norm}_norms', nn.ModuleDict(norms))
        self.apply(self.initialize)
        self._freeze_stages()

    @abstractmethod
    def make_stage(
        self, index: int, in_channels: int, arch: HierarchicalArch, drop_path_rates: list[float]
    ) -> Stage:
        """A stage of the family.

        Args:
            index: 0 is the first, whose embedding is the stem.
            in_channels: Of the images, or of the previous stage's map.
            arch: All fields, checked.
            drop_path_rates: One for each block of the stage.
        """

    def stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        """The stages' maps (B, h, w, C) in their order; a family of several streams overrides it.

        Args:
            images: (B, in_channels, H, W).
        """
        x = images
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.out_norm == 'trunk' and i in self.out_indices:
                x = self.trunk_norms[str(i)](x)
            yield x
            x = as_map(x)

    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`PyramidBackbone.compute_maps`."""
        outputs = []
        for i, x in enumerate(self.stage_maps(images)):
            if i in self.out_indices:
                out = self.branch_norms[str(i)](x) if self.out_norm == 'branch' else x
                outputs.append(channels_first(out))
        return tuple(outputs)

    def stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """See :meth:`PyramidBackbone.stage_modules`."""
        if stage == 0:
            return [self.stages[0].embed]
        return [self.stages[stage - 1]] if stage <= len(self.stages) else []

    def place_key(self, key: str, keys: Set[str]) -> str | None:
        """See :meth:`PyramidBackbone.place_key`.

        Keys of stages that are not built are not needed. ImageNet files have the norm in front of
        the classifier, the authors' detection and segmentation files one for each output; both go
        to this module's output norms.
        """
        if match := re.match(r'stages\.(\d+)\.', key):
            return None if len(self.stages) <= int(match[1]) < self.num_stages else key
        if key.startswith('cls_norm.'):
            last = self.num_stages - 1
            norm = key.replace('cls_norm', f'out_norms.{last}')
            # the file has the output's own, or it is not needed
            if norm in keys or not self._has_norm(last):
                return None
            return norm.replace('out', self.out_norm, 1)
        match = re.match(r'(out|branch|trunk)_norms\.(\d+)\.(.+)', key)
        if not match or match[1] not in ('out', self.out_norm):
            return key
        index = int(match[2])
        if self._has_norm(index):
            return f'{self.out_norm}_norms.{index}.{match[3]}'
        # a norm in the trunk changes the stages after it; elsewhere an unused one is harmless
        harmless = self.out_norm == 'branch' or index >= len(self.stages)
        return None if harmless and index < self.num_stages else key

    def _has_norm(self, index: int) -> bool:
        return self.out_norm != 'none' and index in self.out_indices


class BatchNormBackbone(HierarchicalBackbone):
    """A trunk whose embeddings have BatchNorms, or other norms in their places.

    Args:
        norm_cfg: Those norms, as mmcv's ``build_norm_layer`` takes it. All other arguments are
            those of :class:`HierarchicalBackbone`.

    Attributes:
        norm_cfg: For :meth:`make_stage`, the user's or a BatchNorm's.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | HierarchicalArch | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        self.norm_cfg = norm_cfg or dict(type='BN')  # make_stage reads it
        super().__init__(
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
