# Mask R-CNN, Twins-PCPVT-large, COCO 1x: 45.4 box AP, 41.5 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinspcpvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_large')
    )
)
