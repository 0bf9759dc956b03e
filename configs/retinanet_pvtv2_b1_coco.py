# RetinaNet, PVTv2-b1, COCO 1x: 41.2 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b1', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b1'))
)
