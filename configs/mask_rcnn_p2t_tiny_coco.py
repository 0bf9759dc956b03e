# Mask R-CNN, P2T-tiny, COCO 1x: 43.3 box AP, 39.6 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_p2t_small_coco.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_tiny')),
    neck=dict(in_channels=[48, 96, 240, 384]),
)
