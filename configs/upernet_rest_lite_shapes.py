# UPerNet, ResT-lite, the built-in shapes: narrow heads, from random weights. The schedule is not
# tuned yet: after these 1000 iterations it still predicts the background alone.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/shapes_segmentation.py',
    './_base_/schedules/shapes.py',
    './_base_/seg_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(type='ResT', arch='lite', drop_path_rate=0.0),
    decode_head=dict(in_channels=[64, 128, 256, 512], channels=64, num_classes=6),
    auxiliary_head=dict(in_channels=256, channels=64, num_classes=6),
)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=1000),
]
default_hooks = dict(checkpoint=dict(interval=500))
