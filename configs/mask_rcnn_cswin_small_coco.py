# Mask R-CNN, CSWin-small, COCO 1x: 47.9 box AP, 43.2 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_cswin_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_small'),
        drop_path_rate=0.3,
    )
)
