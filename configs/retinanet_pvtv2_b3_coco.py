# RetinaNet, PVTv2-b3, COCO 1x: 45.9 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b3', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b3'))
)
