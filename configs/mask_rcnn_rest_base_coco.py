# Mask R-CNN, ResT-base, COCO 1x: 41.6 box AP, 38.7 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_rest_small_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_base'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
