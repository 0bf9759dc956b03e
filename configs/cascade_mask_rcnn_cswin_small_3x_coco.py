# Cascade Mask R-CNN, CSWin-small, COCO 3x: 53.7 box AP, 46.4 mask AP (authors' result, not measured
# here).
_base_ = ['./cascade_mask_rcnn_cswin_tiny_3x_coco.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_small'),
        drop_path_rate=0.3,
    )
)
