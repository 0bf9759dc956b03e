# Mask R-CNN, P2T-large, COCO 1x: 48.3 box AP, 43.5 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_p2t_small_coco.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_large'),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[64, 128, 320, 640]),
)
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
