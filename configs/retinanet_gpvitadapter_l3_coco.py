# RetinaNet, GPViT-L3 with a ViT-Adapter, COCO 1x: 48.3 AP (authors' result, not measured here).
_base_ = ['./retinanet_gpvitadapter_l1_coco.py']
model = dict(
    backbone=dict(arch='l3', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l3')),
    neck=dict(in_channels=[432, 432, 432]),
)
