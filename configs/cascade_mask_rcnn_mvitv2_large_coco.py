# Cascade, MViTv2-large, COCO, LSJ: 55.8 box AP, 48.3 mask AP (authors' result, not measured here).
# 50 epochs at 1e-4, steps near 8/9 and 26/27 of them, from IN-21K weights.
_base_ = ['./cascade_mask_rcnn_mvitv2_huge_coco.py']
model = dict(
    backbone=dict(
        arch='large_cls',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_large_cls_imagenet22k'),
        drop_path_rate=0.5,
        with_cp=False,
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
train_cfg = dict(max_epochs=50)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[44, 48], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=1e-4))
