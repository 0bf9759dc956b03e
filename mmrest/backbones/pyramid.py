"""The contract that every backbone of mmrest keeps, written once.

The idea is detectron2's ``Backbone`` / ``ShapeSpec``: whoever builds a neck can read
``out_channels`` and ``out_strides``, and whoever runs the backbone knows the size of each map.
"""

from __future__ import annotations

import re
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrest.backbones.arch import Arch, require_switches
from mmrest.checkpoints import KeyMap, RenamedCheckpoint, load_pretrained, refuse_fused_state
from mmrest.errors import InputError

Size = tuple[int, int]


class PyramidBackbone(BaseModule, metaclass=ABCMeta):
    """Image batch in, one map per output level out.

    A family lists its published ``variants`` and gives ``compute_maps`` (the network),
    ``stage_modules`` (what freezing and layer decay count) and ``keys`` (the authors' key names).
    Where its published ImageNet files are not of its default form, ``published_options`` are the
    arguments of that form; what a file seems to be is told with them.

    Attributes:
        out_channels: Channels of each output level.
        out_strides: Stride of each output level, in pixels of the image.
    """

    Arch: ClassVar[type[Arch]]
    variants: ClassVar[Mapping[str, Arch]]
    keys: ClassVar[KeyMap]
    published_options: ClassVar[Mapping[str, Any]] = {}

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]

    def __init__(
        self,
        *,
        in_channels: int,
        out_indices: Sequence[int],
        num_levels: int,
        num_stages: int,
        frozen_stages: int,
        drop_path_rate: float,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
        norm_eval: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        given = out_indices
        out_indices = tuple(given) if isinstance(given, Iterable) else ()
        if (
            not out_indices
            or any(type(i) is not int for i in out_indices)
            or list(out_indices) != sorted(set(out_indices))
            or not all(0 <= i < num_levels for i in out_indices)
        ):
            raise InputError(
                f'{name}: out_indices must be one or more ascending level indices '
                f'from 0 to {num_levels - 1}, got {given}'
            )
        if type(in_channels) is not int or in_channels < 1:
            raise InputError(f'{name}: in_channels={in_channels!r} must be 1 or more')
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= num_stages:
            raise InputError(
                f'{name}: frozen_stages={frozen_stages!r} must be -1 (nothing frozen), 0 (the '
                f'stem) or a number of stages up to {num_stages}'
            )
        if not isinstance(drop_path_rate, int | float) or not 0 <= drop_path_rate < 1:
            raise InputError(f'{name}: drop_path_rate={drop_path_rate!r} must be from 0 to below 1')
        require_switches(name, with_cp=with_cp, norm_eval=norm_eval)
        _check_init_cfg(name, init_cfg)
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self._valid_sizes: tuple[Size, ...] | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to one map a level.

        Args:
            images: (B, in_channels, H, W) of any H, W >= 1; B may be 0.

        Returns:
            (B, out_channels[i], ceil(H / s), ceil(W / s)) a level, with ``s = out_strides[i]``.

        Raises:
            InputError: ``images`` is not of that shape, or smaller than :meth:`valid_sizes` says.
        """
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        if (
            not isinstance(images, Tensor)
            or images.ndim != 4
            or images.shape[1] != self.in_channels
            or 0 in images.shape[2:]
        ):
            raise InputError(
                f'{type(self).__name__} takes images of shape (B, {self.in_channels}, H, W) with '
                f'H, W >= 1, got {shape}{self._channels_meant(images)}'
            )
        if not torch.compiler.is_compiling() and not len(images):
            return self._maps_of_no_images(images)
        if self._valid_sizes is None:
            return self.compute_maps(images)
        return self._compute_maps_of_valid_parts(images, self._valid_sizes)

    def _channels_meant(self, images: object) -> str:
        if not isinstance(images, Tensor) or images.ndim != 4:
            return ''
        if (channels := images.shape[1]) == self.in_channels:
            return ''
        return (
            f': give the backbone in_channels={channels}, or let the pipeline load '
            f'{self.in_channels} channels (color_type of LoadImageFromFile; in tta_pipeline, too)'
        )

    def _maps_of_no_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """Empty maps, and gradients of zero for everything; not all of torch's layers know how."""
        zero = images.sum() + sum(p.flatten()[:0].sum() for p in self.parameters())
        sizes = self.map_sizes(tuple(images.shape[-2:]))
        return tuple(
            zero.new_zeros(0, channels, *size) + zero
            for channels, size in zip(self.out_channels, sizes, strict=True)
        )

    def map_sizes(self, size: Size) -> list[Size]:
        """(height, width) of each returned map of images of this size."""
        # not -(-side // stride): ONNX divides negative numbers another way
        return [tuple((side + s - 1) // s for side in size) for s in self.out_strides]

    @abstractmethod
    def compute_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`forward` promises, for images of a checked shape."""

    @contextmanager
    def valid_sizes(self, sizes: Sequence[Size] | None) -> Iterator[None]:
        """Within this context images are known to be padded, and padding has no influence.

        Each image is computed at its own size (together with those of the same size), so that its
        maps do not depend on its neighbours in the batch; in the maps, padding is 0. BatchNorms
        in training see a batch for each size.

        Args:
            sizes: (height, width) of each image at the top left of the padded one; None for
                images that are not padded.
        """
        before = self._valid_sizes
        self.set_valid_sizes(sizes)
        try:
            yield
        finally:
            self._valid_sizes = before

    def set_valid_sizes(self, sizes: Sequence[Size] | None) -> None:
        """As :meth:`valid_sizes`, until it is called again."""
        self._valid_sizes = None if sizes is None else tuple((int(h), int(w)) for h, w in sizes)

    def _compute_maps_of_valid_parts(
        self, images: Tensor, sizes: tuple[Size, ...]
    ) -> tuple[Tensor, ...]:
        padded = tuple(images.shape[-2:])
        if len(sizes) != len(images) or not all(
            0 < h <= padded[0] and 0 < w <= padded[1] for h, w in sizes
        ):
            raise InputError(
                f'{type(self).__name__}: valid sizes {sizes} do not fit a batch of {len(images)} '
                f'images padded to {padded}'
            )
        members: dict[Size, list[int]] = {}
        for i, size in enumerate(sizes):
            members.setdefault(size, []).append(i)
        level_sizes = self.map_sizes(padded)
        # joined image by image: a list of indices would be copied to a GPU, which waits for it
        maps_of: list[tuple[Tensor, ...]] = [()] * len(sizes)
        for (height, width), indices in members.items():
            alike = torch.cat([images[i : i + 1, :, :height, :width] for i in indices])
            levels = zip(self.compute_maps(alike), level_sizes, strict=True)
            by_image = [_pad(level, size).split(1) for level, size in levels]
            for i, *maps in zip(indices, *by_image, strict=True):
                maps_of[i] = tuple(maps)
        return tuple(torch.cat(levels) for levels in zip(*maps_of, strict=True))

    @abstractmethod
    def stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """Modules that ``frozen_stages >= stage`` freezes: 0 is the stem, i the i-th stage."""

    def place_key(self, key: str, keys: Set[str]) -> str | None:
        """Own name of a key that the family's key map made.

        Args:
            key: One of them.
            keys: All of them.

        Returns:
            None where this configuration has no use for it.
        """
        return key

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """A checkpoint of any published layout in this module's own key names.

        Raises:
            CheckpointError: The file is in a layout that this configuration must not load.
        """
        own = self.state_dict()
        renamed = RenamedCheckpoint({})
        mapped = {key: self.keys.rename(key) for key in state}
        all_keys = {name for names in mapped.values() for name in names}
        for key, names in mapped.items():
            for name in names:
                placed = self.place_key(name, all_keys)
                if placed in own:
                    renamed.state[placed] = self.keys.fit(placed, state[key], own[placed].shape)
                elif placed is not None:  # left over; the user knows it by the file's name
                    renamed.state[key] = state[key]
        for rule in self.keys.fresh:
            if rule.applies(state):
                renamed.optional |= {name for name in own if re.match(rule.own, name)}
                renamed.notes += [rule.note] if rule.note else []
        return renamed

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        # mmengine's loaders ignore what does not fit
        own = self.state_dict()
        given = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
        refuse_fused_state((key for key in given if key not in own), 'the state')
        super()._load_from_state_dict(state, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter, for layer-wise learning-rate decay (mmpretrain's protocol).

        Layers are what ``stage_modules`` gives: 0 the stem, i the i-th stage, and what follows them
        (output norms, a pyramid) the last.

        Args:
            param_name: Name of a parameter, with ``prefix`` before the backbone's own name.
            prefix: For example ``'backbone.'``.

        Returns:
            The layer's id, 0 for the stem, and the number of layers; the last id,
            ``number - 1``, is what follows the stages and is not decayed.
        """
        stages = [list(self.stage_modules(0))]
        while modules := list(self.stage_modules(len(stages))):
            stages.append(modules)
        parameter = self.get_parameter(param_name.removeprefix(prefix))
        layers = (
            layer
            for layer, modules in enumerate(stages)
            if any(parameter is own for module in modules for own in module.parameters())
        )
        return next(layers, len(stages)), len(stages) + 1

    def init_weights(self) -> None:
        """Initialise, then load ``init_cfg=dict(type='Pretrained', ...)`` strictly.

        mmengine's own loader of a ``Pretrained`` file ignores keys that do not match and unpickles
        code; :func:`mmrest.checkpoints.load_pretrained` does neither.

        Raises:
            CheckpointError: The file does not fit.
        """
        given = self.init_cfg
        entries = _entries(given)
        pretrained = [entry for entry in entries if _is_pretrained(entry)]
        self.init_cfg = [entry for entry in entries if not _is_pretrained(entry)] or None
        try:
            super().init_weights()
        finally:
            self.init_cfg = given
        for entry in pretrained:
            load_pretrained(self, **{k: v for k, v in entry.items() if k != 'type'})
        if self.frozen_stages >= 0 and not pretrained:
            MMLogger.get_current_instance().warning(
                f'{type(self).__name__}: frozen_stages={self.frozen_stages} without pretrained '
                "weights in init_cfg freezes random weights; give init_cfg=dict(type='Pretrained', "
                'checkpoint=...) or frozen_stages=-1, unless a whole checkpoint is loaded next'
            )

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Set the mode, keeping frozen stages (and, with ``norm_eval``, BatchNorm) in eval."""
        super().train(mode)
        for stage in range(self.frozen_stages + 1):
            for module in self.stage_modules(stage):
                module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        for stage in range(self.frozen_stages + 1):
            for module in self.stage_modules(stage):
                module.eval()
                module.requires_grad_(False)

    @staticmethod
    def guess_variant(state: Mapping[str, Tensor]) -> str | None:
        """Family and name of the published variant that ``state`` seems to hold, or None.

        Args:
            state: A bare backbone's checkpoint in any published layout; a few keys may be missing
                or too many.
        """
        signed = [family for family in BACKBONES.values() if family.keys.may_be_of(state)]
        scores: dict[str, tuple[float, int]] = {}
        for family in signed or BACKBONES.values():
            for name in family.variants:
                model = _published(family, name)
                renamed = model.rename_checkpoint(state)
                own = {k: v for k, v in model.state_dict().items() if k not in renamed.optional}
                same = [
                    k for k in own if k in renamed.state and renamed.state[k].shape == own[k].shape
                ]
                share = len(same) / len(own.keys() | renamed.state)
                # of two that fit, one may leave out what the other has
                scores[f'{family.__name__} {name}'] = share, len(same)
        best = max(scores, key=scores.get)
        return best if scores[best][0] > 0.8 else None


Family = TypeVar('Family', bound=type[PyramidBackbone])

# Name -> family; tests, tools and guessing read it.
BACKBONES: dict[str, type[PyramidBackbone]] = {}


def register_backbone(family: Family) -> Family:
    """A class decorator: enter a family into the table and into mmengine's root registry."""
    BACKBONES[family.__name__] = MODELS.register_module()(family)
    return family


@cache
def _published(family: type[PyramidBackbone], variant: str) -> PyramidBackbone:
    # without memory for weights; building all takes seconds
    with torch.device('meta'):
        return family(arch=variant, **family.published_options)


def _pad(level: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), with zeros at the right and the bottom."""
    height, width = level.shape[-2:]
    return F.pad(level, (0, size[1] - width, 0, size[0] - height))


def _entries(init_cfg: dict | list[dict] | None) -> list[Mapping[str, Any]]:
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or []
    if isinstance(entries, str) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f'init_cfg={init_cfg!r} must be a dict, a list of dicts or None')
    return list(entries)


def _check_init_cfg(name: str, init_cfg: dict | list[dict] | None) -> None:
    for entry in _entries(init_cfg):
        if 'type' not in entry:
            raise InputError(
                f'{name}: init_cfg={dict(entry)} has no type; write init_cfg=dict(type='
                "'Pretrained', checkpoint=...)"
            )
        known = {'checkpoint', 'sha256', 'prefix', 'map_location', 'adapt_in_channels'}
        unknown = entry.keys() - {'type'} - known
        if _is_pretrained(entry) and (unknown or 'checkpoint' not in entry):
            raise InputError(
                f"{name}: init_cfg=dict(type='Pretrained', checkpoint=...) takes also sha256, "
                f'prefix, map_location and adapt_in_channels, got {dict(entry)}'
            )


def _is_pretrained(entry: Mapping[str, Any]) -> bool:
    kind = entry.get('type')
    return kind == 'Pretrained' or getattr(kind, '__name__', None) == 'PretrainedInit'
