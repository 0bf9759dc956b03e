# Mask R-CNN, Twins-SVT-base, COCO 3x: 48.0 box AP, 43.0 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinssvt_small_3x_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_base')
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
