"""Batches at other resolutions: images with their boxes, masks and label maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from mmrest.errors import InputError

Size = tuple[int, int]


class Padding(NamedTuple):
    """How a preprocessor pads.

    Attributes:
        divisor: Heights and widths are multiples of it.
        value: Of the padding in images.
        label: Of the padding in label maps.
    """

    divisor: int = 1
    value: float = 0
    label: int = 255


def padding_of(preprocessor: nn.Module, divisor: int | None = None) -> Padding:
    """The padding of mmdet's or mmseg's preprocessor, unless ``divisor`` is given."""

    def first(*names: str) -> Any:
        values = [getattr(preprocessor, name, None) for name in names]
        return next((value for value in values if value is not None), None)

    return Padding(
        divisor or first('pad_size_divisor', 'size_divisor') or 1,
        first('pad_value', 'pad_val') or 0,
        255 if (label := first('seg_pad_value', 'seg_pad_val')) is None else label,
    )


def resize_batch(
    inputs: Tensor,
    samples: Sequence[BaseDataElement],
    scale: float,
    padding: Padding = Padding(),  # noqa: B008 (it cannot be changed)
) -> tuple[Tensor, list[BaseDataElement]]:
    """A preprocessed batch at another scale.

    Each image is resized without its padding (bilinear, antialiased) to its rounded size, boxes by
    the ratio of the sizes, masks by area, label maps to the nearest pixel's label, so that ignored
    pixels stay ignored; then all are padded anew, at the right and the bottom.

    Args:
        inputs: (B, C, H, W), padded at the right and the bottom.
        samples: mmdet's or mmseg's data samples of the images; they are not changed.
        scale: Ratio of the new resolution to the given one.
        padding: Of the new batch.

    Returns:
        The new images (B, C, H', W') and samples.

    Raises:
        InputError: An annotation is of a kind that cannot be resized.
    """
    if scale == 1:
        # some heads write into their samples, and the other scales are made from these
        return inputs, copy.deepcopy(list(samples))
    before: Size = tuple(inputs.shape[-2:])
    sizes = [_scaled(sample.img_shape[:2], scale) for sample in samples]
    padded: Size = tuple(
        -(-max(lengths) // padding.divisor) * padding.divisor
        for lengths in zip(*sizes, strict=True)
    )
    images, resized = [], []
    for image, sample, size in zip(inputs, samples, sizes, strict=True):
        old: Size = tuple(sample.img_shape[:2])
        image = F.interpolate(
            image[None, :, : old[0], : old[1]], size, mode='bilinear', antialias=True
        )
        images.append(F.pad(image, _padding(size, padded), value=padding.value))
        change = _Change(old, size, before, padded, padding.label)
        resized.append(change.of_sample(sample))
    return torch.cat(images), resized


class _Change:
    """From an image of one size in one padded batch to another size in another batch."""

    def __init__(
        self, old: Size, new: Size, old_batch: Size, new_batch: Size, label_padding: int
    ) -> None:
        self.old, self.new = old, new
        self.old_batch, self.new_batch = old_batch, new_batch
        self.label_padding = label_padding
        self.factors = new[1] / old[1], new[0] / old[0]  # of x and y

    def of_sample(self, sample: BaseDataElement) -> BaseDataElement:
        resized = sample.clone()
        for name, value in sample.items():
            if isinstance(value, InstanceData):
                setattr(resized, name, self.of_instances(value))
            elif isinstance(value, PixelData):
                labels = {key: self.of_labels(labels) for key, labels in value.items()}
                setattr(resized, name, type(value)(metainfo=value.metainfo, **labels))
        given = sample.metainfo
        width, height = (
            factor * self_factor
            for factor, self_factor in zip(
                given.get('scale_factor', (1.0, 1.0))[:2], self.factors, strict=True
            )
        )
        meta = dict(img_shape=self.new, pad_shape=self.new_batch, scale_factor=(width, height))
        for name, value in (
            ('batch_input_shape', self.new_batch),
            ('padding_size', _padding(self.new, self.new_batch)),
        ):
            if name in given:
                meta[name] = value
        resized.set_metainfo(meta)
        return resized

    def of_instances(self, instances: InstanceData) -> InstanceData:
        from mmdet.structures.bbox import scale_boxes

        resized = instances.clone()
        if 'bboxes' in instances:
            resized.bboxes = scale_boxes(instances.bboxes.clone(), self.factors)
        if 'masks' in instances:
            resized.masks = self.of_masks(instances.masks)
        for name, value in instances.items():
            is_map = isinstance(value, Tensor) and value.ndim > 2
            if (is_map or hasattr(value, 'crop_and_resize')) and name != 'masks':
                raise InputError(
                    f'MultiResolution: instances with {name} ({type(value).__name__}) cannot be '
                    'resized; only boxes, masks and label maps can'
                )
        return resized

    def of_masks(self, masks: object) -> object:
        from mmdet.structures.mask import BitmapMasks, PolygonMasks

        pads = (masks.height, masks.width) == self.old_batch
        height, width = self.old
        if isinstance(masks, PolygonMasks):
            masks = PolygonMasks(masks.masks, height, width).resize(self.new)
        else:
            pixels = np.ascontiguousarray(masks.masks[:, :height, :width], dtype=np.uint8)
            # a pixel belongs to an instance if most of it does
            way = 'area' if max(self.factors) <= 1 else 'bilinear'
            masks = BitmapMasks(pixels, height, width).resize(self.new, way)
        return masks.pad(self.new_batch) if pads else masks

    def of_labels(self, labels: Tensor) -> Tensor:
        pads = tuple(labels.shape[-2:]) == self.old_batch
        rows, columns = (
            _nearest(old, new, labels.device) for old, new in zip(self.old, self.new, strict=True)
        )
        labels = labels[..., rows[:, None], columns]
        if pads:
            labels = F.pad(labels, _padding(self.new, self.new_batch), value=self.label_padding)
        return labels


def _scaled(size: Size, scale: float) -> Size:
    return tuple(max(1, round(side * scale)) for side in size)


def _padding(size: Size, batch: Size) -> tuple[int, int, int, int]:
    """At the left, right, top and bottom."""
    return 0, batch[1] - size[1], 0, batch[0] - size[0]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """Index of the old pixel that holds the centre of each new one."""
    return ((torch.arange(new, device=device) + 0.5) * (old / new)).long().clamp_(max=old - 1)
