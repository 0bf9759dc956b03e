# RetinaNet, PVT-tiny, COCO 1x: 36.7 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvt_small_coco.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_tiny'))
)
