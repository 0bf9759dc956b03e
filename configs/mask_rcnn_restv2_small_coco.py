# Mask R-CNN, ResTv2-small, COCO 3x: 48.1 box AP, 43.3 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_restv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_small'),
        drop_path_rate=0.2,
    )
)
