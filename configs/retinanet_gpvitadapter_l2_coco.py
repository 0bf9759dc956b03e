# RetinaNet, GPViT-L2 with a ViT-Adapter, COCO 1x: 48.0 AP (authors' result, not measured here).
_base_ = ['./retinanet_gpvitadapter_l1_coco.py']
model = dict(
    backbone=dict(arch='l2', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l2')),
    neck=dict(in_channels=[348, 348, 348]),
)
