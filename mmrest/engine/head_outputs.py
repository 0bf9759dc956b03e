"""Do the heads of a model have an output for each class of a data set?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mmrest.errors import InputError, list_some
from mmrest.wrappers import unwrap_model


def require_enough_outputs(
    model: nn.Module, metainfo: Mapping[str, Any], exactly: bool = False, split: str = ''
) -> list[str]:
    """Check that every head has an output for each class of a data set.

    Args:
        model: A detector or segmentor, perhaps in its wrappers.
        metainfo: Of the data set.
        exactly: More outputs are an error, too: mmdet's COCO metrics fail on a label that the data
            set does not have, after an epoch of training.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Returns:
        Warnings: heads with more outputs than classes, which nothing trains.

    Raises:
        InputError: A head has fewer, whose labels it cannot learn, or ``exactly`` and more.
    """
    classes = metainfo.get('classes')
    if not classes or isinstance(classes, str) or 'thing_classes' in metainfo:
        return []  # panoptic models share the classes among their heads
    few, many = [], []
    for name, module in _classifying_heads(unwrap_model(model)):
        if module.num_classes < len(classes):
            few.append(f'model.{name}.num_classes={module.num_classes}')
        elif module.num_classes > len(classes):
            many.append(f'model.{name}.num_classes={module.num_classes}')
    place = f'{split}_dataloader.dataset' if split else 'the data set'
    mend = (
        f'set num_classes={len(classes)} there, or give the data set its own names, '
        'metainfo=dict(classes=(...))'
    )
    if few:
        raise InputError(
            f'{place} has {len(classes)} classes ({list_some(classes)}), more than '
            f'{" and ".join(few)}; {mend}'
        )
    if many and exactly:
        raise InputError(
            f'{place} has {len(classes)} classes ({list_some(classes)}), fewer than '
            f'{" and ".join(many)}; {mend}'
        )
    if not many:
        return []
    return [
        f'{place} has {len(classes)} classes, fewer than {" and ".join(many)}: what is too '
        f'many may be predicted, and is no class; set num_classes={len(classes)} there'
    ]


def _classifying_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Heads that predict the data set's own classes.

    Those that tell objects from background, and auxiliary ones of another kind than mmseg's plain
    one, which may have another task (STDC's finds edges), do not count.
    """
    for name, module in model.named_modules():
        parts = [part for part in name.split('.') if not part.isdecimal()]
        own = parts[-1] if parts else ''
        other_task = own.startswith(('rpn', 'semantic', 'segm_', 'mask_iou'))
        other_task |= own.startswith('auxiliary') and type(module).__name__ != 'FCNHead'
        count = getattr(module, 'num_classes', None)
        if own.endswith('head') and not other_task and type(count) is int and count > 0:
            yield name, module
