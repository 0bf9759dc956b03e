# RetinaNet, ResT-base, COCO 1x: 42.0 AP (authors' result, not measured here).
_base_ = ['./retinanet_rest_small_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_base'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
