# Cascade Mask R-CNN, Swin-small, COCO 3x: 51.9 box AP, 45.0 mask AP (authors' result, not measured
# here).
_base_ = ['./cascade_mask_rcnn_swin_tiny_3x_coco.py']
model = dict(
    backbone=dict(arch='small', init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_small'))
)
