# Mask R-CNN, P2T-base, COCO 1x: 47.2 box AP, 42.7 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_p2t_small_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_base'),
        drop_path_rate=0.3,
    )
)
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
