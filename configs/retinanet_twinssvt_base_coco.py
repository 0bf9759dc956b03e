# RetinaNet, Twins-SVT-base, COCO 1x: 45.3 AP (authors' result, not measured here).
_base_ = ['./retinanet_twinssvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_base')
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
