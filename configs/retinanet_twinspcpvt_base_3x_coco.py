# RetinaNet, Twins-PCPVT-base, COCO 3x: 46.4 AP (authors' result, not measured here).
_base_ = ['./retinanet_twinspcpvt_small_3x_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_base')
    )
)
