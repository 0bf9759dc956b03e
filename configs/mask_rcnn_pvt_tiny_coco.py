# Mask R-CNN, PVT-tiny, COCO 1x: 36.7 box AP, 35.1 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvt_small_coco.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_tiny'))
)
