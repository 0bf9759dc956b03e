# RetinaNet, ResTv2-small, COCO 3x: no result of the paper.
_base_ = ['./retinanet_restv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_small'),
        drop_path_rate=0.2,
    )
)
