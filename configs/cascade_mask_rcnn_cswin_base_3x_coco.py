# Cascade Mask R-CNN, CSWin-base, COCO 3x: 53.9 box AP, 46.4 mask AP (authors' result, not measured
# here).
_base_ = ['./cascade_mask_rcnn_cswin_tiny_3x_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_base'),
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
