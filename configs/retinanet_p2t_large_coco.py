# RetinaNet, P2T-large, COCO 1x: 47.2 AP (authors' result, not measured here).
_base_ = ['./retinanet_p2t_small_coco.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_large'),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[128, 320, 640]),
)
