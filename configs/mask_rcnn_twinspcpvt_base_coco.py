# Mask R-CNN, Twins-PCPVT-base, COCO 1x: 44.6 box AP, 40.9 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinspcpvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_base')
    )
)
