"""What the training pipelines of configs make of images, as the authors' code does."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DefaultScope

from tests.shipped import shipped

SIDE = 640


def loaded_image() -> dict:
    """An image whose one object is a dot in each of two corners: its box is the whole image."""
    mask = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
    mask[:, :8, :8] = mask[:, -8:, -8:] = 1
    return dict(
        img=np.zeros((SIDE, SIDE, 3), dtype=np.uint8),
        img_shape=(SIDE, SIDE),
        gt_bboxes=HorizontalBoxes(torch.tensor([[0.0, 0.0, SIDE, SIDE]])),
        gt_bboxes_labels=np.zeros(1, dtype=np.int64),
        gt_ignore_flags=np.zeros(1, dtype=bool),
        gt_masks=BitmapMasks(mask, SIDE, SIDE),
    )


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_mvitv2_tiny_coco',
        'cascade_mask_rcnn_mvitv2_tiny_coco',
        'cascade_mask_rcnn_mvitv2_huge_coco',
    ],
)
def test_objects_without_a_mask_in_a_crop_are_dropped_and_the_image_stays(name: str) -> None:
    """As ``DatasetMapper`` of detectron2 does, by whose project MViTv2 is trained."""
    steps = shipped(name).train_pipeline
    assert [step.type for step in steps[:2]] == ['LoadImageFromFile', 'LoadAnnotations']
    assert steps[-1].type == 'PackDetInputs'
    with DefaultScope.overwrite_default_scope('mmdet'):
        augment = Compose(steps[2:-1])
    left = []
    for seed in range(40):
        random.seed(seed)
        np.random.seed(seed)
        results = augment(loaded_image())
        assert results is not None
        assert (
            len(results['gt_bboxes']) == len(results['gt_masks']) == len(results['gt_ignore_flags'])
        )
        assert (results['gt_masks'].areas > 0).all()
        left.append(len(results['gt_bboxes']))
    assert set(left) == {0, 1}
