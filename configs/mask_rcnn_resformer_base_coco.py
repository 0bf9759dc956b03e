# Mask R-CNN, ResFormer-base, 3x: 47.6 box AP, 41.9 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_resformer_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_base')
    ),
    neck=dict(in_channels=[768, 768, 768, 768]),
)
