"""One mask head in a cascade: the same masks as three equal ones, and a loss of the first stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmrest.commands import load_config
from tests.conftest import ROOT

META = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))


def roi_head(**options: Any) -> nn.Module:
    """That of the Cascade config with few channels."""
    model = load_config(str(ROOT / 'configs/cascade_mask_rcnn_mvitv2_tiny_coco.py')).model
    cfg = model.roi_head
    few = dict(in_channels=8, conv_out_channels=8, norm_cfg=dict(type='BN'))
    for head in cfg.bbox_head:
        head.update(few, fc_out_channels=8)
    cfg.mask_head.update(few)
    for extractor in (cfg.bbox_roi_extractor, cfg.mask_roi_extractor):
        extractor.out_channels = 8
    cfg.update(train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn, **options)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


@pytest.fixture
def levels() -> tuple[Tensor, ...]:
    return tuple(torch.randn(1, 8, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32))


@pytest.mark.parametrize('count', [0, 3])
def test_masks_are_those_of_three_equal_heads(count: int, levels: tuple[Tensor, ...]) -> None:
    one, three = roi_head().eval(), roi_head(type='mmdet.CascadeRoIHead').eval()
    state = one.state_dict()
    masks = {key: value for key, value in state.items() if key.startswith('mask_head.0.')}
    for stage in '12':
        state.update({key.replace('.0.', f'.{stage}.', 1): value for key, value in masks.items()})
    three.load_state_dict(state)
    boxes = torch.tensor([[0.0, 0, 30, 30], [10, 5, 90, 60], [40, 2, 60, 50]])[:count]
    results = []
    for head in (one, three):
        found = InstanceData(
            bboxes=boxes, labels=torch.zeros(count, dtype=torch.long), scores=torch.ones(count)
        )
        with torch.no_grad():
            (result,) = head.predict_mask(levels, [META], [found])
        results.append(result.masks)
    assert results[0].shape == (count, 64, 96)
    assert torch.equal(*results)


def test_the_mask_head_learns_from_the_first_stage_alone(levels: tuple[Tensor, ...]) -> None:
    head = roi_head()
    assert len(head.mask_head) == 1
    assert head.mask_loss(1, levels, [], []) == dict(loss_mask={})
    assert head.mask_loss(2, levels, [], []) == dict(loss_mask={})
