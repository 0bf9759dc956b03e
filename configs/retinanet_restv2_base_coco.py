# RetinaNet, ResTv2-base, COCO 3x: no result of the paper.
_base_ = ['./retinanet_restv2_tiny_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_base'),
        drop_path_rate=0.3,
    )
)
