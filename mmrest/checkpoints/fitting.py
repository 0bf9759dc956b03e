"""Fitting checkpoints to backbones and whole models, all of it or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmrest.checkpoints.errors import CheckpointError
from mmrest.checkpoints.reading import read_checkpoint
from mmrest.checkpoints.states import model_state
from mmrest.errors import list_some
from mmrest.wrappers import unwrap_model

# What only fused modules are named; see mmrest/backbones/fused.py.
_FUSED_KEY = re.compile(r'(^|\.)fused_')
_BACKBONE_PREFIXES = ('backbone.bottom_up.', 'bottom_up.', 'backbone.')


@dataclass
class RenamedCheckpoint:
    """A backbone's checkpoint in the backbone's own key names.

    Attributes:
        state: Own key name -> tensor; what is of no use to this configuration is left out, what is
            not understood stays under its old name (and is then an error).
        optional: Own keys that a file of this layout cannot have.
        notes: Hints for the error message or the log.
    """

    state: dict[str, Tensor]
    optional: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


class RenamesKeys(Protocol):
    """A module that knows the key names of its published checkpoints."""

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """A checkpoint of any published layout in the module's own key names."""

    def guess_variant(self, state: Mapping[str, Tensor]) -> str | None:
        """The published variant that ``state`` seems to hold."""

    def state_dict(self) -> dict[str, Tensor]:
        """As ``nn.Module``."""

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool) -> Any:
        """As ``nn.Module``."""


def load_pretrained(
    backbone: RenamesKeys,
    checkpoint: str,
    sha256: str | None = None,
    prefix: str | None = None,
    map_location: str | torch.device | None = 'cpu',
    adapt_in_channels: str | None = None,
) -> None:
    """Load a checkpoint of any known layout into a backbone, all of it or nothing.

    Args:
        backbone: Changed in place.
        checkpoint: Path or URL; see :func:`read_checkpoint`.
        sha256: Expected SHA-256 of the file.
        prefix: Part of the model to take, for example ``'teacher.backbone'``. Without it the
            backbone is found in detectors and segmentors of OpenMMLab and detectron2.
        map_location: As :func:`torch.load`.
        adapt_in_channels: How weights of images with other channels (RGB) are made to fit; see
            :func:`adapt_first_convolution`. None takes only files of as many channels.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is damaged, needs code to be unpickled, or does not fit; the
            message names the keys and the variant that the file seems to hold.
    """
    state = take_backbone(
        model_state(read_checkpoint(checkpoint, sha256, map_location), checkpoint),
        checkpoint,
        prefix,
    )
    refuse_fused_state(state, checkpoint)
    renamed = backbone.rename_checkpoint(state)
    own = backbone.state_dict()
    if adapt_in_channels is not None:
        adapt_first_convolution(renamed, own, backbone.in_channels, adapt_in_channels)
    if misfit := _compare(own, renamed.state, renamed.optional):
        lines = [
            f'{checkpoint} does not fit this {type(backbone).__name__}; nothing was loaded.',
            *misfit,
            f'  {_guess(backbone, state)}',
            *(f'  {note}' for note in renamed.notes),
        ]
        if _of_other_images(renamed.state, own, backbone.in_channels):
            lines.append("  adapt_in_channels='mean' in init_cfg makes it fit images as these.")
        raise CheckpointError('\n'.join(lines))
    _warn_of_nan(own, renamed.state, checkpoint)
    backbone.load_state_dict(renamed.state, strict=False)
    fresh = sorted(own.keys() - renamed.state.keys())
    logger = MMLogger.get_current_instance()
    logger.info(
        f'{type(backbone).__name__}: {len(renamed.state)} tensors from {checkpoint}'
        + (f'; not in the file, freshly initialised: {list_some(fresh)}' if fresh else '')
    )
    for note in renamed.notes:
        logger.warning(note)


def _guess(backbone: RenamesKeys, state: Mapping[str, Tensor]) -> str:
    guess = backbone.guess_variant(state)
    if guess is None:
        return 'The file seems to be of no variant that mmrest knows.'
    if guess == backbone.guess_variant(backbone.state_dict()):
        return f'The file seems to be {guess}, and so does this backbone; other arguments differ.'
    return f'The file seems to be {guess}.'


def _of_other_images(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], in_channels: int
) -> list[str]:
    """Keys of convolutions that read images, in ``state`` of another number of channels alone."""
    return [
        key
        for key, weight in state.items()
        if key in own
        and own[key].ndim == weight.ndim == 4
        and own[key].shape[1] == in_channels != weight.shape[1]
        and own[key][:, 0].shape == weight[:, 0].shape
    ]


def adapt_first_convolution(
    renamed: RenamedCheckpoint, own: Mapping[str, Tensor], in_channels: int, way: str
) -> None:
    """Make the convolution that reads the images fit images of another number of channels.

    An image whose channels are all the same gives the same map as before: weights are scaled by
    the old number of channels over the new one.

    Args:
        renamed: The checkpoint; changed in place.
        own: The backbone's state.
        in_channels: Of the backbone.
        way: ``'mean'``: every channel gets the mean of the old ones; ``'repeat'``: the old
            ones in turn (RGBRGB...), as in timm, which is exact for multiples of the old number.

    Raises:
        CheckpointError: There is no such way.
    """
    if way not in ('mean', 'repeat'):
        raise CheckpointError(f"adapt_in_channels={way!r} must be 'mean' or 'repeat'")
    for key in _of_other_images(renamed.state, own, in_channels):
        weight = renamed.state[key]
        old = weight.shape[1]
        if way == 'mean':
            channels = weight.mean(1, keepdim=True).expand(-1, in_channels, -1, -1)
        else:
            channels = weight[:, torch.arange(in_channels) % old]
        renamed.state[key] = channels * (old / in_channels)
        renamed.notes.append(f'{key}: {old} channels of the file made {in_channels} ({way})')


def require_fit(model: nn.Module, checkpoint: Any, source: str, partly: bool = False) -> None:
    """Load a checkpoint into a whole model, or say why it does not fit.

    It is loaded by the function that mmengine's runners and inferencers load with, and from the
    same tensors, so that this and they cannot disagree.

    Args:
        model: A detector or segmentor; wrappers for several processes or for test-time
            augmentation are looked through.
        checkpoint: What :func:`read_checkpoint` or mmengine's ``CheckpointLoader`` gave.
        source: Where it is from, for the message.
        partly: Only check that something fits, and load nothing.

    Raises:
        CheckpointError: It does not fit; the message names the keys.
    """
    model = unwrap_model(model)
    state = model_state(checkpoint, source)
    own = model.state_dict()
    if not any(_FUSED_KEY.search(key) for key in own):
        refuse_fused_state(state, source)
    other_kinds = _other_kinds(own, state)
    something_fits = any(k in own and own[k].shape == v.shape for k, v in state.items())
    if partly and something_fits and not other_kinds:
        _warn_of_nan(own, state, source)
        return
    counters = {key for key in own if key.endswith('num_batches_tracked')}
    misfit = _compare(own, state, counters)
    if not partly and not other_kinds:
        _warn_of_nan(own, state, source)
        try:  # a module may read older files than its keys tell
            load_state_dict(model, state, strict=True)
            return
        except RuntimeError as error:
            misfit = misfit or [f'  {error}']
    raise CheckpointError(
        '\n'.join(
            [
                f'{source} does not fit the {type(model).__name__} of the config.',
                *misfit,
                *_origin(checkpoint, state, own),
            ]
        )
    )


def _origin(checkpoint: Any, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What a checkpoint seems to be of, as lines of a message."""
    parts = [list(dict.fromkeys(key.split('.')[0] for key in keys)) for keys in (state, own)]
    lines = []
    if set(parts[0]) != set(parts[1]):
        lines.append(f'  The file has {list_some(parts[0])}; the model {list_some(parts[1])}.')
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    name = meta.get('experiment_name') if isinstance(meta, Mapping) else None
    if isinstance(name, str):
        lines.append(f'  The file is of the training {name}.')
    return lines


def take_backbone(
    state: Mapping[str, Tensor], source: str, prefix: str | None = None
) -> dict[str, Tensor]:
    """The part of a model's state that belongs to its backbone, or all if it is a bare backbone.

    Raises:
        CheckpointError: ``prefix`` is given and no key has it.
    """
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not part:
            tops = sorted({k.split('.')[0] for k in state})
            raise CheckpointError(
                f'{source} has no key under {prefix!r}; its keys begin with {list_some(tops)}'
            )
        return part
    for known in _BACKBONE_PREFIXES:
        part = {k.removeprefix(known): v for k, v in state.items() if k.startswith(known)}
        if part:
            return part
    return dict(state)


def refuse_fused_state(keys: Iterable[str], source: str) -> None:
    """Check that a state is not of a model that was fused for inference.

    Raises:
        CheckpointError: It is; its tensors are not those of the model before.
    """
    if fused := [key for key in keys if _FUSED_KEY.search(key)]:
        raise CheckpointError(
            f'{source} is of a model that was fused for inference (mmrest.inference.fuse): it has '
            f'{list_some(fused)}. Take a checkpoint of the model from before it was fused.'
        )


def _compare(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Iterable[str] = ()
) -> list[str]:
    """What is wrong with loading ``state`` where ``own`` is expected; empty if nothing."""
    problems = {
        'missing': sorted(own.keys() - state.keys() - set(optional)),
        'left over': sorted(state.keys() - own.keys()),
        'wrong shape': [
            f'{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}'
            for key, value in state.items()
            if key in own and value.shape != own[key].shape
        ],
        'no floating-point numbers': _other_kinds(own, state),
    }
    return [f'  {problem}: {list_some(keys)}' for problem, keys in problems.items() if keys]


def _other_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What torch would convert without a word: integers, complex numbers, booleans for weights."""
    return [
        f'{key} of {value.dtype} instead of {own[key].dtype}'
        for key, value in state.items()
        if key in own and own[key].is_floating_point() and not value.is_floating_point()
    ]


def _warn_of_nan(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    found = [
        key
        for key, value in state.items()
        # of the 8-bit types torch compares few
        if key in own and value.is_floating_point() and value.float().isnan().any()
    ]
    if found:
        MMLogger.get_current_instance().warning(
            f'{source} holds NaN, as of a training that has diverged: {list_some(found)}'
        )
