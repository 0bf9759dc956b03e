# Mask R-CNN, ResT-lite, the built-in shapes: from random weights to useful masks in minutes on two
# processor cores, with the narrow heads with norms and the small anchors that this asks for.
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/shapes.py',
    './_base_/det_runtime.py',
]
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(arch='lite', frozen_stages=-1, drop_path_rate=0.0),
    neck=dict(out_channels=96, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, finest_scale=14, featmap_strides=[4, 8, 16]),
        bbox_head=dict(
            _delete_=True,
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=96,
            conv_out_channels=96,
            fc_out_channels=128,
            roi_feat_size=7,
            num_classes=5,
            norm_cfg=norm_cfg,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        mask_roi_extractor=dict(out_channels=96, finest_scale=14, featmap_strides=[4, 8, 16]),
        mask_head=dict(
            num_convs=2, in_channels=96, conv_out_channels=96, num_classes=5, norm_cfg=norm_cfg
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100),
        # two shapes hardly ever have the same box
        rcnn=dict(nms=dict(class_agnostic=True)),
    ),
)
train_cfg = dict(max_epochs=6, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=6, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10))
