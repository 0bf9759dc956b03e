"""detectron2's cascade: one mask head, which is as good as three equal ones, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
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


def test_maps_learn_from_the_mean_of_the_stages_and_heads_from_their_own(
    levels: tuple[Tensor, ...],
) -> None:
    """What detectron2's cascade scales by 1 / stages; mmdet's does not."""
    ours, theirs = roi_head().eval(), roi_head(type='mmdet.CascadeRoIHead').eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    rois = torch.tensor([[0.0, 0, 0, 30, 30], [0, 10, 5, 90, 60]])
    for stage in range(3):
        grads = []
        for head in (ours, theirs):
            maps = [level.clone().requires_grad_() for level in levels]
            found = head._bbox_forward(stage, tuple(maps), rois)
            loss = found['cls_score'].square().sum() + found['bbox_pred'].square().sum()
            weights = list(head.bbox_head[stage].parameters())
            found = torch.autograd.grad(loss, [maps[0], *weights])
            grads.append(found)
        assert grads[1][0].abs().max() > 0
        torch.testing.assert_close(grads[0][0], grads[1][0] / 3)
        torch.testing.assert_close(grads[0][1:], grads[1][1:])


def test_forward_is_what_tools_count_or_trace(levels: tuple[Tensor, ...]) -> None:
    head = roi_head().eval()
    maps = tuple(level.expand(2, -1, -1, -1) for level in levels)
    corners = 30 * torch.rand(130, 2)
    proposals = InstanceData(bboxes=torch.cat([corners, corners + 30], dim=1))
    with torch.no_grad():
        scores, boxes, masks = head(
            maps, [proposals, proposals[:7]], [DetDataSample(metainfo=META)] * 2
        )
    assert [len(of_image) for of_image in (*scores, *boxes)] == [130, 7, 130, 7]
    assert masks.shape == (100, 80, 28, 28)


def test_later_stages_learn_from_every_box_of_the_stage_before(
    levels: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """detectron2 samples once; mmdet again in each stage, without the boxes that are annotated."""
    head = roi_head()
    boxes = torch.tensor([[5.0, 5, 40, 40], [50, 10, 90, 60]])
    truth = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([3, 7]),
        masks=BitmapMasks(torch.ones(2, 64, 96, dtype=torch.uint8).numpy(), 64, 96),
    )
    sample = DetDataSample(metainfo=META, gt_instances=truth)
    near, far = boxes[[0]].repeat(60, 1), torch.tensor([[0.0, 50, 20, 64]]).repeat(40, 1)
    places = torch.cat([near, far])
    proposals = InstanceData(bboxes=places + torch.rand(100, 4), scores=torch.rand(100))
    seen = []
    compute = type(head).bbox_loss

    def spy(self: nn.Module, stage: int, x: Any, sampled: list[Any]) -> Any:
        (of_image,) = sampled
        given = int(of_image.pos_is_gt.sum())
        seen.append((len(of_image.pos_priors), len(of_image.neg_priors), given))
        return compute(self, stage, x, sampled)

    monkeypatch.setattr(type(head), 'bbox_loss', spy)
    # heads that leave the boxes where they are
    for stage in head.bbox_head:
        nn.init.zeros_(stage.fc_reg.weight)
        nn.init.zeros_(stage.fc_reg.bias)
    losses = head.loss(levels, [proposals], [sample])
    assert all(value.isfinite().all() for name, value in losses.items() if 'loss' in name)
    # both annotated boxes are sampled once, and go on as boxes like others
    assert seen == [(62, 40, 2), (62, 40, 0), (62, 40, 0)]


def test_stages_are_those_of_detectron2s_project() -> None:
    """projects/MViTv2/configs/cascade_mask_rcnn_mvitv2_t_3x.py and its model."""
    model = load_config(str(ROOT / 'configs/cascade_mask_rcnn_mvitv2_tiny_coco.py')).model
    head = model.roi_head
    assert head.stage_loss_weights == [1, 1, 1]
    assert [stage.assigner.pos_iou_thr for stage in model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
    # weights of (10, 10, 5, 5), (20, 20, 10, 10) and (30, 30, 15, 15) there
    weights = [[1 / d for d in stage.bbox_coder.target_stds] for stage in head.bbox_head]
    for stage, found in enumerate(weights, start=1):
        assert found == pytest.approx([10 * stage, 10 * stage, 5 * stage, 5 * stage], rel=0.02)
    assert all(stage.reg_class_agnostic for stage in head.bbox_head)
    norms = [head.mask_head.norm_cfg, *(stage.norm_cfg for stage in head.bbox_head)]
    assert {norm.type for norm in norms} == {'SyncBN'}
    assert model.rpn_head.num_convs == 2
