# RetinaNet, ResT-lite, the built-in shapes: from random weights to useful predictions in minutes on
# a laptop's processor. The head is narrower than on COCO; all else is the same.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/shapes_detection.py',
    './_base_/det_runtime.py',
]
model = dict(
    backbone=dict(arch='lite', frozen_stages=-1),
    neck=dict(out_channels=96, num_outs=4),
    bbox_head=dict(
        num_classes=5,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32, 64]),
    ),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'.pos.': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=10.0),
)
randomness = dict(seed=0)
