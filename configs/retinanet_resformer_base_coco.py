# RetinaNet, ResFormer-base, COCO 3x; no paper did this, the settings are those of Mask R-CNN here.
_base_ = ['./retinanet_resformer_small_coco.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_base')
    ),
    neck=dict(in_channels=[768, 768, 768]),
)
