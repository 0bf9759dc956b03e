# UPerNet, ResT-lite, the built-in shapes: narrow heads with norms that do not depend on the batch,
# from random weights.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/shapes_segmentation.py',
    './_base_/schedules/shapes.py',
    './_base_/seg_runtime.py',
]
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    data_preprocessor=dict(size=(72, 88)),
    backbone=dict(arch='lite', drop_path_rate=0.0),
    decode_head=dict(
        channels=64,
        num_classes=6,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(avg_non_ignore=True),
    ),
    auxiliary_head=dict(
        channels=64,
        num_classes=6,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(avg_non_ignore=True),
    ),
)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2800, val_interval=1400)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=2800),
]
default_hooks = dict(checkpoint=dict(interval=1400), logger=dict(interval=10))
