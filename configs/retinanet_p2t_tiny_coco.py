# RetinaNet, P2T-tiny, COCO 1x: 41.3 AP (authors' result, not measured here).
_base_ = ['./retinanet_p2t_small_coco.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_tiny')),
    neck=dict(in_channels=[96, 240, 384]),
)
