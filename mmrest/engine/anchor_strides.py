"""Anchors at other strides than the maps that they are laid over.

mmdet lays the first anchors over the neck's first map, whatever their strides are: where they
differ, all boxes lie elsewhere than what the map shows there, and a detector trains without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.wrappers import unwrap_model


def find_misplaced_anchors(model: nn.Module) -> str | None:
    """What is wrong with the strides of a detector's anchors or points, if it is known.

    Known are the backbones of mmrest, without a neck or with mmdet's FPN.

    Args:
        model: A detector or segmentor, perhaps in its wrappers.
    """
    model = unwrap_model(model)
    backbone = getattr(model, 'backbone', None)
    neck = getattr(model, 'neck', None)
    if not isinstance(backbone, PyramidBackbone):
        return None
    if neck is None:
        given = list(backbone.out_strides)
    elif type(neck).__name__ == 'FPN':
        given = _strides_of_fpn(neck, backbone.out_strides)
    else:
        return None
    for name in ('rpn_head', 'bbox_head'):
        generator = getattr(getattr(model, name, None), 'prior_generator', None)
        wanted = [_one(stride) for stride in getattr(generator, 'strides', ())]
        if wanted and wanted != given[: len(wanted)]:
            shown = ', '.join(map(str, given))
            where = 'the backbone'
            if neck is not None:
                where = f'model.neck (FPN, start_level={neck.start_level})'
            return (
                f'the anchors of model.{name} are for maps at strides {", ".join(map(str, wanted))}'
                f', and {where} gives maps at {shown}, so that boxes lie in the wrong places: '
                f'change start_level of the neck, out_indices={backbone.out_indices} of the '
                "backbone, or the anchors' strides"
            )
    return None


def _strides_of_fpn(neck: nn.Module, strides: Sequence[int]) -> list[int]:
    """Of its maps: those of the backbone that it reads, and of those that it adds."""
    given = list(strides[neck.start_level : neck.backbone_end_level])
    while given and len(given) < neck.num_outs:
        given.append(2 * given[-1])
    return given


def _one(stride: int | Sequence[int]) -> int:
    """One for both axes."""
    return stride if isinstance(stride, int) else stride[0]
