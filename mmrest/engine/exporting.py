"""What of a detector or segmentor is exported: a plain function of a batch of images.

Decoding of boxes is left to the runtime, since it differs in what it knows of it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrest.engine.image_channels import image_channels
from mmrest.errors import InputError
from mmrest.ops import adaptive_average

PARTS = 'model', 'features', 'backbone'


class Exported(nn.Module):
    """A part of a model with named outputs.

    Attributes:
        output_names: Of what ``forward`` returns.
    """

    output_names: tuple[str, ...]


class ExportedFeatures(Exported):
    """The backbone, and the neck if there is one.

    Args:
        model: A detector or segmentor, in eval mode.
        part: ``'features'``, or ``'backbone'`` without the neck.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        self.backbone = model.backbone
        neck = getattr(model, 'neck', None)
        self.neck = nn.Identity() if neck is None or part == 'backbone' else neck
        like = next(self.parameters())
        with torch.no_grad():
            maps = self(like.new_zeros(1, image_channels(model), 64, 64))
        self.output_names = tuple(f'level_{i}' for i in range(len(maps)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), normalised -> a map (B, D, h, w) for each level."""
        return tuple(self.neck(self.backbone(images)))


class AveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` in a form that is exported for all sizes.

    Args:
        size: Of the output, a number or (height, width).
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *size)."""
        return adaptive_average(maps, self.size)


class ExportedSegmentor(Exported):
    """A segmentor's logits at the images' size, for test mode ``whole``.

    Args:
        model: An encoder-decoder of mmseg, in eval mode.
    """

    output_names = ('logits',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.AdaptiveAvgPool2d:
                    setattr(module, name, AveragePool(child.output_size))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, C, H, W), normalised -> (B, classes, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        corners = self.model.align_corners
        size = images.shape[2:]
        return (F.interpolate(logits, size=size, mode='bilinear', align_corners=corners),)


class ExportedDetector(Exported):
    """What a detector's dense head gives for every anchor, and the maps that RoIs are cut from.

    Args:
        model: A one-stage detector, or a two-stage one with an RPN, in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.has_rois = hasattr(model, 'rpn_head')
        self.head = model.rpn_head if self.has_rois else model.bbox_head
        levels = range(self.head.prior_generator.num_levels)
        names = [f'{output}_{i}' for output in ('scores', 'boxes') for i in levels]
        self.output_names = (*names, *([f'level_{i}' for i in levels] if self.has_rois else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), normalised -> scores and box deltas of every level, perhaps its map."""
        maps = self.model.extract_feat(images)
        scores, boxes = self.head(maps)[:2]
        return (*scores, *boxes, *(maps if self.has_rois else ()))


def exported_part(model: Any, part: str) -> Exported:
    """The part of a model that is exported.

    Args:
        model: Of mmdet or mmseg, in eval mode.
        part: ``'model'``, ``'features'`` (backbone and neck) or ``'backbone'``.

    Raises:
        InputError: ``part`` is another one, or the model's kind cannot be exported as a whole; the
            message says what can.
    """
    if part not in PARTS:
        raise InputError(f'part={part!r} must be one of {PARTS}')
    if part != 'model':
        return ExportedFeatures(model, part)
    if hasattr(model, 'decode_head'):
        return ExportedSegmentor(model)
    head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    if hasattr(head, 'prior_generator') and hasattr(model, 'extract_feat'):
        return ExportedDetector(model)
    raise InputError(
        f'{type(model).__name__} has no dense head with anchors and is not exported as a whole; '
        '--part features exports its backbone and neck'
    )
