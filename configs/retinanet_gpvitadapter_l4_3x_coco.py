# RetinaNet, GPViT-L4 with a ViT-Adapter, COCO 3x: 49.8 AP (authors' result, not measured here).
_base_ = ['./retinanet_gpvitadapter_l1_3x_coco.py']
model = dict(
    backbone=dict(
        arch='l4',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l4'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[624, 624, 624]),
)
