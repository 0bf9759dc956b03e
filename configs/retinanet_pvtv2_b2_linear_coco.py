# RetinaNet, PVTv2-b2-linear, COCO 1x: 43.6 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(
        arch='b2_linear', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b2_linear')
    )
)
