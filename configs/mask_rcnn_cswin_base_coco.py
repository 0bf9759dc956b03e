# Mask R-CNN, CSWin-base, COCO 1x: 48.7 box AP, 43.9 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_cswin_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_base'),
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
