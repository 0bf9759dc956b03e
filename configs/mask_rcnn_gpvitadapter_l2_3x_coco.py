# Mask R-CNN, GPViT-L2 with a ViT-Adapter, COCO 3x: 51.4 box AP, 45.1 mask AP (authors' result, not
# measured here).
_base_ = ['./mask_rcnn_gpvitadapter_l1_3x_coco.py']
model = dict(
    backbone=dict(arch='l2', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l2')),
    neck=dict(in_channels=[348, 348, 348, 348]),
)
