# Mask R-CNN, PVTv2-b0, COCO 1x: 38.2 box AP, 36.2 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b0', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b0')),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
