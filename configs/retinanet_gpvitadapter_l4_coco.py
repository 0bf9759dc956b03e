# RetinaNet, GPViT-L4 with a ViT-Adapter, COCO 1x: 48.7 AP (authors' result, not measured here).
_base_ = ['./retinanet_gpvitadapter_l1_coco.py']
model = dict(
    backbone=dict(arch='l4', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l4')),
    neck=dict(in_channels=[624, 624, 624]),
)
