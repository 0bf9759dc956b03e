# Mask R-CNN, ResFormer-tiny, COCO 3x; no result is published.
_base_ = ['./mask_rcnn_resformer_small_coco.py']
model = dict(
    backbone=dict(
        arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_tiny')
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
