"""Does something read every level that the backbone returns?

A level that no neck or head reads leaves parameters without a gradient: its output norm, say.
In one process that does no harm. In several, torch stops in the second step with a message about
numbers of parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.engine.image_channels import image_channels
from mmrest.errors import InputError, list_some

_SIDE = 64  # pixels of the image that is tried


def require_all_levels_read(model: Any) -> None:
    """Check, with one small image, that every trainable parameter of a backbone gets a gradient.

    Args:
        model: A detector or segmentor with a backbone of mmrest, wrapped for several processes.
            Others, those that find unused parameters themselves, and those whose neck and heads
            do not say what they read, pass.

    Raises:
        InputError: A level is read by nobody; the message names it and the mend.
    """
    finds_unused = getattr(model, 'find_unused_parameters', False)
    while is_model_wrapper(model):
        model = model.module
    backbone = getattr(model, 'backbone', None)
    if finds_unused or not isinstance(backbone, PyramidBackbone):
        return
    names = {id(p): name for name, p in backbone.named_parameters() if p.requires_grad}
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        levels, read = _read_maps(model)
        by_level = torch.autograd.grad(
            read, [*levels, *parameters], allow_unused=True, retain_graph=False
        )
    except Exception:  # a model of another kind, which may need more than an image
        return
    finally:
        for module, mode in modes.items():
            module.training = mode
    of_levels, of_parameters = by_level[: len(levels)], by_level[len(levels) :]
    unread = [
        i for i, gradient in zip(backbone.out_indices, of_levels, strict=True) if gradient is None
    ]
    without = [names[id(p)] for p, g in zip(parameters, of_parameters, strict=True) if g is None]
    if unread and without:
        kept = [i for i in backbone.out_indices if i not in unread]
        channels = [
            c for i, c in zip(backbone.out_indices, backbone.out_channels, strict=True) if i in kept
        ]
        reader = f'model.neck.in_channels={channels} with start_level=0'
        if getattr(model, 'neck', None) is None:
            reader = f'in_index and in_channels of the heads for maps of {channels} channels'
        raise InputError(
            f'nobody reads level {list_some(unread)} of {type(backbone).__name__}: '
            f'{list_some(without, most=4)} would get no gradient, with which training in several '
            f'processes stops. Set model.backbone.out_indices={tuple(kept)} and {reader} (or '
            'find_unused_parameters=True, which is slower)'
        )


def _read_maps(model: nn.Module) -> tuple[list[Tensor], Tensor]:
    """The backbone's maps of a small image, and a number that depends on all that is read."""
    parameter = next(model.parameters())
    levels: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        levels.extend(output)

    handle = model.backbone.register_forward_hook(keep)
    try:
        image = torch.rand(1, image_channels(model), _SIDE, _SIDE)
        features = model.extract_feat(image.to(parameter))
    finally:
        handle.remove()
    heads = [getattr(model, name, None) for name in ('decode_head', 'auxiliary_head')]
    heads = [h for head in heads if head is not None for h in _as_list(head)]
    if heads:  # mmseg's heads choose among the maps
        chosen = {i for head in heads for i in _as_list(head.in_index)}
        features = [features[i] for i in chosen]
    # squares: the sum behind a LayerNorm is constant
    return levels, sum(feature.square().sum() for feature in features)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple | nn.ModuleList) else [value]
