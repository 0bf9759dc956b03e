# Cascade, MViTv2-base, COCO 3x: 54.1 box AP, 46.8 mask AP (authors' result, not measured here).
_base_ = ['./cascade_mask_rcnn_mvitv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_base'),
        drop_path_rate=0.4,
    )
)
