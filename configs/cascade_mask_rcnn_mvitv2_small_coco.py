# Cascade, MViTv2-small, COCO 3x: 53.2 box AP, 46.0 mask AP (authors' result, not measured here).
_base_ = ['./cascade_mask_rcnn_mvitv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_small'),
        drop_path_rate=0.3,
    )
)
