# Mask R-CNN, ResTv2-tiny, COCO 3x: 47.6 box AP, 43.2 mask AP (authors' result, not measured here).
# As the authors, train with --amp.
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_3x.py',
    './_base_/det_runtime.py',
]
# To start from the authors' ImageNet weights:
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(type='mmrest.ResTV2', arch='tiny', frozen_stages=-1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scales = [(1333, short) for short in range(480, 801, 32)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
