# Mask R-CNN, PVTv2-b2-linear, COCO 1x: 44.1 box AP, 40.5 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(
        arch='b2_linear', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b2_linear')
    )
)
