# RetinaNet, PVTv2-b0, COCO 1x: 37.2 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b0', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b0')),
    neck=dict(in_channels=[64, 160, 256]),
)
