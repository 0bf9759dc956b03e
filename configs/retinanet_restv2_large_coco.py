# RetinaNet, ResTv2-large, COCO 3x: no result of the paper.
_base_ = ['./retinanet_restv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_large'),
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
