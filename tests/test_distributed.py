"""Every family in two processes: what they learn is what one learns from the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmrest.backbones import PyramidBackbone
from tests.backbones.families import ROWS, build
from tests.two_processes import run_both

STEPS = 2
SIDE = 64
CLASSES = 3
WIDTH = 8
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])


def anchors(strides: Sequence[int]) -> dict[str, Any]:
    return dict(type='AnchorGenerator', strides=list(strides), ratios=[0.5, 1.0], scales=[4])


def sampler(num: int, **options: Any) -> dict[str, Any]:
    return dict(type='RandomSampler', num=num, pos_fraction=0.5, **options)


def assigner(positive: float, negative: float) -> dict[str, Any]:
    return dict(type='MaxIoUAssigner', pos_iou_thr=positive, neg_iou_thr=negative, min_pos_iou=0)


def neck_of(backbone: PyramidBackbone) -> tuple[dict[str, Any], list[int]]:
    """An FPN with one level more than the backbone's, and the strides of its levels."""
    strides = [*backbone.out_strides, 2 * backbone.out_strides[-1]]
    channels = list(backbone.out_channels)
    neck = dict(type='FPN', in_channels=channels, out_channels=WIDTH, num_outs=len(strides))
    return neck, strides


def retinanet(backbone: PyramidBackbone) -> dict[str, Any]:
    neck, strides = neck_of(backbone)
    head = dict(
        type='RetinaHead',
        num_classes=CLASSES,
        in_channels=WIDTH,
        feat_channels=WIDTH,
        stacked_convs=1,
        anchor_generator=anchors(strides),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    )
    train = dict(assigner=assigner(0.5, 0.4), sampler=dict(type='PseudoSampler'))
    train.update(allowed_border=-1, pos_weight=-1)
    return dict(type='mmdet.RetinaNet', neck=neck, bbox_head=head, train_cfg=train)


def mask_rcnn(backbone: PyramidBackbone) -> dict[str, Any]:
    neck, strides = neck_of(backbone)
    cross_entropy = dict(type='CrossEntropyLoss')
    sigmoid = dict(cross_entropy, use_sigmoid=True)
    rpn = dict(
        type='RPNHead',
        in_channels=WIDTH,
        feat_channels=WIDTH,
        anchor_generator=anchors(strides),
        bbox_coder=DELTAS,
        loss_cls=sigmoid,
        loss_bbox=dict(type='L1Loss'),
    )
    extractor = dict(
        type='SingleRoIExtractor', out_channels=WIDTH, featmap_strides=list(backbone.out_strides)
    )
    box_head = dict(
        type='Shared2FCBBoxHead',
        in_channels=WIDTH,
        fc_out_channels=WIDTH,
        roi_feat_size=4,
        num_classes=CLASSES,
        bbox_coder=DELTAS,
        loss_cls=cross_entropy,
        loss_bbox=dict(type='L1Loss'),
    )
    mask_head = dict(
        type='FCNMaskHead',
        num_convs=1,
        in_channels=WIDTH,
        conv_out_channels=WIDTH,
        num_classes=CLASSES,
        loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
    )
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=4)),
        bbox_head=box_head,
        mask_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=4)),
        mask_head=mask_head,
    )
    train = dict(
        rpn=dict(
            assigner=assigner(0.5, 0.3),
            sampler=sampler(32, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7)),
        rcnn=dict(
            assigner=assigner(0.5, 0.5),
            sampler=sampler(16, add_gt_as_proposals=True),
            mask_size=8,
            pos_weight=-1,
        ),
    )
    test = dict(rpn=train['rpn_proposal'], rcnn=None)
    parts = dict(neck=neck, rpn_head=rpn, roi_head=roi_head)
    return dict(type='mmdet.MaskRCNN', **parts, train_cfg=train, test_cfg=test)


def upernet(backbone: PyramidBackbone) -> dict[str, Any]:
    levels = len(backbone.out_channels)
    head = dict(
        type='UPerHead',
        in_channels=list(backbone.out_channels),
        in_index=list(range(levels)),
        channels=WIDTH,
        pool_scales=(1, 2),
        num_classes=CLASSES,
        dropout_ratio=0.0,
        norm_cfg=dict(type='GN', num_groups=2),
        align_corners=False,
    )
    return dict(type='mmseg.EncoderDecoder', decode_head=head)


TASKS = {'RetinaNet': retinanet, 'Mask R-CNN': mask_rcnn, 'UPerNet': upernet}
# its losses are means over what each image's proposals are, so that the whole batch's is another
# number in one process; the mean over images is what both compute
BY_IMAGE = ('Mask R-CNN',)


def preprocessor(task: str) -> dict[str, Any]:
    normal = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    if task == 'UPerNet':
        return dict(type='mmseg.SegDataPreProcessor', size=(SIDE, SIDE), **normal)
    return dict(type='mmdet.DetDataPreprocessor', pad_mask=True, **normal)


def model_of(task: str, family: str) -> nn.Module:
    """The same in every process; BatchNorms with fixed statistics, as two processes have two."""
    (kind,) = (kind for kind in ROWS if kind.__name__ == family)
    init_default_scope('mmseg' if task == 'UPerNet' else 'mmdet')
    torch.manual_seed(0)
    config = TASKS[task](build(kind))
    config['backbone'] = dict(type=f'mmrest.{family}', arch=ROWS[kind].arch, drop_path_rate=0.0)
    config['data_preprocessor'] = preprocessor(task)
    model = MODELS.build(ConfigDict(config)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def whole_batch(task: str) -> dict[str, list]:
    """Two images with the same boxes, so that each has as many positive anchors."""
    generator = torch.Generator().manual_seed(0)
    images, samples = [], []
    for index in range(2):
        image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        images.append(image)
        samples.append(annotation(task, index, generator))
    return dict(inputs=images, data_samples=samples)


def annotation(task: str, index: int, generator: torch.Generator) -> Any:
    meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), img_id=index, scale_factor=(1, 1))
    if task == 'UPerNet':
        from mmseg.structures import SegDataSample

        labels = torch.randint(0, CLASSES, (1, SIDE, SIDE), generator=generator)
        return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[4.0, 8.0, 36.0, 40.0], [20.0, 16.0, 60.0, 56.0]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.randint(0, CLASSES, (2,), generator=generator)
    return DetDataSample(
        metainfo=meta,
        gt_instances=InstanceData(
            bboxes=boxes, labels=labels, masks=BitmapMasks(masks.numpy(), SIDE, SIDE)
        ),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
    )


def part(data: dict[str, list], images: slice) -> dict[str, list]:
    return {key: value[images] for key, value in data.items()}


def optimizer_of(model: nn.Module, accumulate: int = 1) -> OptimWrapper:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return OptimWrapper(optimizer, accumulative_counts=accumulate)


def one_of_two(rank: int, task: str) -> dict[str, Any]:
    """Each family's parameters and losses, trained on this process's image."""
    results = {}
    for family in (kind.__name__ for kind in ROWS):
        model = model_of(task, family)
        wrapped = MMDistributedDataParallel(module=model, broadcast_buffers=False)
        optim_wrapper, losses = optimizer_of(model), []
        data = part(whole_batch(task), slice(rank, rank + 1))
        for step in range(STEPS):
            torch.manual_seed(10 * step + rank)  # what samples boxes draws
            losses.append(wrapped.train_step(data, optim_wrapper)['loss'].detach())
        results[family] = dict(state=model.state_dict(), losses=torch.stack(losses))
    return results


def alone(task: str, family: str) -> tuple[dict[str, Tensor], Tensor]:
    """The same in one process: parameters, and the losses of the whole batch."""
    model, data = model_of(task, family), whole_batch(task)
    parts = [slice(0, 1), slice(1, 2)] if task in BY_IMAGE else [slice(None)]
    optim_wrapper = optimizer_of(model, len(parts))
    losses = torch.zeros(STEPS)
    for step in range(STEPS):
        for number, images in enumerate(parts):
            torch.manual_seed(10 * step + number)
            loss = model.train_step(part(data, images), optim_wrapper)['loss']
            losses[step] += loss.detach() / len(parts)
    return model.state_dict(), losses


def tiers() -> list:
    marks = {'RetinaNet': []}
    return [pytest.param(task, marks=marks.get(task, [pytest.mark.slow])) for task in TASKS]


@pytest.mark.parametrize('task', tiers())
def test_two_processes_learn_what_one_does(task: str, tmp_path: Path) -> None:
    """With no search for unused parameters, which DDP would complain of at the second step."""
    both = run_both(one_of_two, (task,), tmp_path)
    for family in (kind.__name__ for kind in ROWS):
        state, losses = alone(task, family)
        mean = (both[0][family]['losses'] + both[1][family]['losses']) / 2
        torch.testing.assert_close(mean, losses, rtol=1e-4, atol=1e-5, msg=family)
        first = model_of(task, family).state_dict()
        moved = max((state[name] - first[name]).abs().max() for name in state)
        for result in both:
            for name, value in result[family]['state'].items():
                difference = (value - state[name]).abs().max()
                assert difference <= 1e-3 * moved, (family, name)
