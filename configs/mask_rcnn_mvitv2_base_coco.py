# Mask R-CNN, MViTv2-base, COCO 3x: 51.0 box AP, 45.7 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_mvitv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_base'),
        drop_path_rate=0.4,
    )
)
