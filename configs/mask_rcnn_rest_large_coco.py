# Mask R-CNN, ResT-large, COCO 1x: no result of the paper.
_base_ = ['./mask_rcnn_rest_small_coco.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_large'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
