# RetinaNet, Twins-PCPVT-base, COCO 1x: 44.3 AP (authors' result, not measured here).
_base_ = ['./retinanet_twinspcpvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_base')
    )
)
