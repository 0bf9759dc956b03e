# RetinaNet, PVT-medium, COCO 1x: 41.9 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvt_small_coco.py']
model = dict(
    backbone=dict(arch='medium', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_medium'))
)
