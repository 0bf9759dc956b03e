# RetinaNet, ResTv2-tiny, COCO 3x: no result of the paper.
# Sizes are those of the authors' released config; as they for Mask R-CNN, train with --amp.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmrest.ResTV2',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_tiny'),
        frozen_stages=-1,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, short) for short in (384, 512, 640, 768, 896, 1024)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
