# Mask R-CNN, GPViT-L3 with a ViT-Adapter, COCO 3x: 51.6 box AP, 45.2 mask AP (authors' result, not
# measured here).
_base_ = ['./mask_rcnn_gpvitadapter_l1_3x_coco.py']
model = dict(
    backbone=dict(
        arch='l3',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l3'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[432, 432, 432, 432]),
)
