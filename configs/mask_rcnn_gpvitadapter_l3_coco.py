# Mask R-CNN, GPViT-L3 with a ViT-Adapter, COCO 1x: 50.4 box AP, 44.4 mask AP (authors' result, not
# measured here).
_base_ = ['./mask_rcnn_gpvitadapter_l1_coco.py']
model = dict(
    backbone=dict(arch='l3', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l3')),
    neck=dict(in_channels=[432, 432, 432, 432]),
)
