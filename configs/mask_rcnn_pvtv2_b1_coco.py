# Mask R-CNN, PVTv2-b1, COCO 1x: 41.8 box AP, 38.8 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b1', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b1'))
)
