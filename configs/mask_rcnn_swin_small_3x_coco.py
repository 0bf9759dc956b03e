# Mask R-CNN, Swin-small, COCO 3x: 48.5 box AP, 43.3 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_swin_tiny_3x_coco.py']
model = dict(
    backbone=dict(arch='small', init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_small'))
)
