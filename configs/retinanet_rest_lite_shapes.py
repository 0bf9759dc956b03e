# RetinaNet, ResT-lite, the built-in shapes: from random weights to useful predictions in minutes on
# two processor cores. What differs from COCO is what training from scratch on small pictures asks
# for: a narrow head with norms, boxes learned by their overlap, small anchors.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/shapes_detection.py',
    './_base_/schedules/shapes.py',
    './_base_/det_runtime.py',
]
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(arch='lite', frozen_stages=-1, drop_path_rate=0.0),
    neck=dict(out_channels=96, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=5,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=2.5, strides=[8, 16, 32]),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
    ),
    # two shapes hardly ever have the same box
    test_cfg=dict(nms=dict(class_agnostic=True)),
)
default_hooks = dict(logger=dict(interval=10))
