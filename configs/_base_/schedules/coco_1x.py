# 12 epochs of COCO at batch 16, as the authors: AdamW, steps near 60k and 80k of 90k iterations.
# tools/train.py asks for pretrained weights, or for --from-scratch
fine_tuning = True
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # no decay on norms, as the authors; none on pixel attention, the position encoding, is ours
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'.pos.': dict(decay_mult=0.0)}),
)
# 8 GPUs x 2 images; enabled by --auto-scale-lr
auto_scale_lr = dict(enable=False, base_batch_size=16)
