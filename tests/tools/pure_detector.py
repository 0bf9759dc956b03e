# A detector in mmengine's pure Python style: types are classes, and there is no scope.
from mmcv.ops import nms
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, FocalLoss, L1Loss, RetinaHead, RetinaNet
from mmdet.models.task_modules import (
    AnchorGenerator,
    BboxOverlaps2D,
    DeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    PseudoSampler,
)
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler
from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW

from mmrest import ResT

root = 'data/shapes/'
classes = ('disc', 'ring', 'triangle', 'bar', 'star')
arch = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 3, 4),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratios=(1, 1, 1, 1),
)
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[120.0] * 3, std=[60.0] * 3),
    backbone=dict(type=ResT, arch=arch, out_indices=(1, 2, 3)),
    neck=dict(type=FPN, in_channels=[16, 24, 32], out_channels=16, num_outs=3),
    bbox_head=dict(
        type=RetinaHead,
        num_classes=5,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(
            type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[1.0, 1.0, 1.0, 1.0]
        ),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type=MaxIoUAssigner,
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
            iou_calculator=dict(type=BboxOverlaps2D),
        ),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.0,
        nms=dict(type=nms, iou_threshold=0.5),
        max_per_img=20,
    ),
)
load = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(192, 96), keep_ratio=True)]
annotate = dict(type=LoadAnnotations, with_bbox=True)
train_pipeline = [load[0], annotate, load[1], dict(type=PackDetInputs)]
test_pipeline = [*load, annotate, dict(type=PackDetInputs)]
loader = dict(batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False))
data = dict(type=CocoDataset, data_root=root, metainfo=dict(classes=classes))
train_dataloader = dict(
    **loader,
    dataset=dict(
        **data,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **loader,
    dataset=dict(
        **data,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type=CocoMetric, ann_file=root + 'annotations/instances_val2017.json', metric='bbox'
)
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=1),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=DetVisualizationHook),
)
visualizer = dict(
    type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name='visualizer'
)
default_scope = None
