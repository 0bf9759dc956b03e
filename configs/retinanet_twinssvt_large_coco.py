# RetinaNet, Twins-SVT-large, COCO 1x: 45.7 AP (authors' result, not measured here).
_base_ = ['./retinanet_twinssvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_large')
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
