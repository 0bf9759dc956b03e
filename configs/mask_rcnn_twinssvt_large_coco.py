# Mask R-CNN, Twins-SVT-large, COCO 1x: 45.9 box AP, 41.6 mask AP (authors' result, not measured
# here).
_base_ = ['./mask_rcnn_twinssvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_large')
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
