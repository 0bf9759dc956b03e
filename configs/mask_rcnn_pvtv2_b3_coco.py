# Mask R-CNN, PVTv2-b3, COCO 1x: 47.0 box AP, 42.5 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b3', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b3'))
)
