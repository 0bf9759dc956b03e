# RetinaNet, ResFormer-tiny, COCO 3x; no paper did this, the settings are those of Mask R-CNN here.
_base_ = ['./retinanet_resformer_small_coco.py']
model = dict(
    backbone=dict(
        arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_tiny')
    ),
    neck=dict(in_channels=[192, 192, 192]),
)
