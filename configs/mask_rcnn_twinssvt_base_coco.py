# Mask R-CNN, Twins-SVT-base, COCO 1x: 45.2 box AP, 41.5 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinssvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_base')
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
