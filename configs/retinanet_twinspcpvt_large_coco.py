# RetinaNet, Twins-PCPVT-large, COCO 1x: 45.1 AP (authors' result, not measured here).
_base_ = ['./retinanet_twinspcpvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_large')
    )
)
