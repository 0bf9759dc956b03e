"""Neck and heads that take other maps than the backbone gives, named where a run fails for it.

That is the commonest mistake of a config in which only the backbone was replaced. What torch and
the necks say of it names neither: ``expected input to have 64 channels``, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

from torch import nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.errors import InputError
from mmrest.wrappers import unwrap_model


@contextmanager
def explain_map_channels(model: nn.Module) -> Iterator[None]:
    """Say which channels a neck or a head takes, and which a backbone of mmrest gives.

    Args:
        model: A detector or segmentor, perhaps in its wrappers.

    Raises:
        InputError: A neck or head has failed, and they differ; anything else is raised as it was.
    """
    try:
        yield
    except (AssertionError, IndexError, RuntimeError) as error:
        frames = (frame for frame, _ in walk_tb(error.__traceback__))
        at_work = {id(frame.f_locals.get('self')) for frame in frames}
        if text := find_difference(unwrap_model(model), at_work):
            raise InputError(text) from error
        raise


def find_difference(model: nn.Module, at_work: Container[int] | None = None) -> str | None:
    """What a neck or head takes and the backbone gives, if that is not the same.

    Args:
        model: A detector or segmentor.
        at_work: Ids of the modules that are asked; None is all.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PyramidBackbone):
        return None
    neck = getattr(model, 'neck', None)
    names = ['neck'] if neck is not None else ['decode_head', 'bbox_head', 'rpn_head']
    for name in names:
        reader = getattr(model, name, None)
        takes = getattr(reader, 'in_channels', None)
        if takes is None or (at_work is not None and id(reader) not in at_work):
            continue
        gives = _select(list(backbone.out_channels), getattr(reader, 'in_index', None))
        start = getattr(reader, 'start_level', 0)  # mmdet's FPN reads no map before that
        wanted = [takes] * len(gives) if isinstance(takes, int) else list(takes)
        if wanted[start:] != gives[start:]:
            number = gives[0] if isinstance(takes, int) and len(gives) == 1 else gives
            levels = len(gives) - start
            more = f' and num_outs={levels}' if getattr(reader, 'num_outs', levels) < levels else ''
            return (
                f'model.{name} ({type(reader).__name__}) takes in_channels={takes}, and the '
                f'backbone ({type(backbone).__name__}, out_indices={backbone.out_indices}) gives '
                f'maps of {number} channels: give the backbone other out_indices, or set '
                f'model.{name}.in_channels={number}{more}'
            )
    return None if neck is None else _find_difference_of_heads(model, neck, at_work)


def _find_difference_of_heads(
    model: nn.Module, neck: nn.Module, at_work: Container[int] | None
) -> str | None:
    """What a detector's head takes and an FPN gives, if that is not the same."""
    channels, maps = getattr(neck, 'out_channels', None), getattr(neck, 'num_outs', None)
    if type(neck).__name__ != 'FPN':
        return None
    for name in ('rpn_head', 'bbox_head'):
        head = getattr(model, name, None)
        takes = getattr(head, 'in_channels', None)
        if head is None or (at_work is not None and id(head) not in at_work):
            continue
        if isinstance(takes, int) and takes != channels:
            return (
                f'model.{name} ({type(head).__name__}) takes in_channels={takes}, and model.neck '
                f'(FPN) gives maps of {channels} channels: set model.{name}.in_channels={channels}'
            )
        levels = getattr(getattr(head, 'prior_generator', None), 'num_levels', maps)
        if levels != maps:
            return (
                f'the anchors or points of model.{name} ({type(head).__name__}) are for {levels} '
                f'maps, and model.neck (FPN) gives {maps}: set model.neck.num_outs={levels}, or as '
                'many strides'
            )
    return None


def _select(channels: list[int], index: int | Sequence[int] | None) -> list[int]:
    """Channels of the maps that a segmentor's head takes by ``in_index``."""
    indices = [index] if isinstance(index, int) else index
    if indices is None or max(indices) >= len(channels):
        return channels
    return [channels[i] for i in indices]
