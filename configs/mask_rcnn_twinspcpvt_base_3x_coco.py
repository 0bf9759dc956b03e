# Mask R-CNN, Twins-PCPVT-base, COCO 3x: 47.9 box AP, 43.2 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinspcpvt_small_3x_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_base')
    )
)
