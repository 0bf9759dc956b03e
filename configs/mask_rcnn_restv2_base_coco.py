# Mask R-CNN, ResTv2-base, COCO 3x: 48.7 box AP, 43.9 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_restv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_base'),
        drop_path_rate=0.3,
    )
)
