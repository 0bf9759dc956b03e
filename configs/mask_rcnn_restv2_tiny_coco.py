# Mask R-CNN, ResTv2-tiny, COCO 3x: 47.6 box AP, 43.2 mask AP (authors' result, not measured here).
# Mixed precision, as the authors; without a GPU: --cfg-options optim_wrapper.type=OptimWrapper
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance_480_800.py',
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
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=0.01))
