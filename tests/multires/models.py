"""Small detectors and segmentors, and batches for them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

DIMS = (16, 32)
REST = dict(
    type='mmrest.ResT',
    arch=dict(
        embed_dims=DIMS, depths=(1, 1), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(2, 2)
    ),
    out_indices=(0, 1),
    drop_path_rate=0.0,
)
RESFORMER = dict(
    type='mmrest.ResFormer',
    arch=dict(embed_dims=16, depth=2, num_heads=2, mlp_ratio=2),
    out_indices=(0, 1),
    drop_path_rate=0.0,
)
SWIN = dict(
    type='mmdet.SwinTransformer',
    embed_dims=16,
    depths=(1, 1),
    num_heads=(1, 2),
    strides=(4, 2),
    out_indices=(0, 1),
    window_size=4,
    drop_path_rate=0.0,
)
BACKBONES = {'ResT': REST, 'ResFormer': RESFORMER, 'Swin': SWIN}
CHANNELS = {'ResT': DIMS, 'ResFormer': (16, 16), 'Swin': DIMS}


def detector(backbone: str = 'ResFormer', **options: Any) -> dict:
    """FCOS, whose losses are normalised over all processes."""
    return dict(
        type='mmdet.FCOS',
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(BACKBONES[backbone], **options),
        neck=dict(
            type='mmdet.FPN', in_channels=list(CHANNELS[backbone]), out_channels=16, num_outs=2
        ),
        bbox_head=dict(
            type='mmdet.FCOSHead',
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            strides=[4, 8],
            regress_ranges=((-1, 32), (32, 1e8)),
            norm_cfg=dict(type='GN', num_groups=4),
        ),
        test_cfg=dict(
            nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
        ),
    )


def segmentor(backbone: str = 'ResFormer', **options: Any) -> dict:
    """A head on the last map."""
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size_divisor=32),
        backbone=dict(BACKBONES[backbone], **{'out_indices': (1,), **options}),
        decode_head=dict(
            type='mmseg.FCNHead',
            in_channels=CHANNELS[backbone][-1],
            in_index=0,
            channels=16,
            num_convs=1,
            num_classes=3,
            dropout_ratio=0.0,
            align_corners=False,
            norm_cfg=dict(type='GN', num_groups=4),
        ),
        test_cfg=dict(mode='whole'),
    )


TASKS = {'detection': detector, 'segmentation': segmentor}


def build(config: dict) -> nn.Module:
    """A model with the same weights at every call."""
    init_default_scope('mmdet' if 'bbox_head' in str(config) else 'mmseg')
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(copy.deepcopy(config)))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.2, 0.2)
        else:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def batch(task: str, sizes: tuple[tuple[int, int], ...] = ((64, 96), (50, 81))) -> dict[str, Any]:
    """What a data loader gives."""
    random = np.random.RandomState(0)
    images = [torch.from_numpy(random.randint(0, 255, (3, *s)).astype(np.uint8)) for s in sizes]
    if task == 'detection':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    samples = []
    for index, (height, width) in enumerate(sizes):
        meta = dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
            img_id=index,
        )
        sample = Sample(metainfo=meta)
        if task == 'detection':
            boxes = torch.tensor([[3.0, 5.0, 23.0, 45.0], [10.0, 2.0, 75.0, 40.0]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
            sample.ignored_instances = InstanceData(
                bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
            )
        else:
            labels = torch.from_numpy(random.randint(0, 3, (1, height, width)))
            labels[:, :5] = 255
            sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
