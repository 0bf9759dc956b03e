# 160k iterations of ADE20K at batch 16, as the authors of ResTv2 for tiny.
# tools/train.py asks for pretrained weights, or for --from-scratch
fine_tuning = True
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # no decay on norms, as the authors; none on pixel attention, the position encoding, is ours
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'.pos.': dict(decay_mult=0.0)}),
)
# 8 GPUs x 2 images; enabled by --auto-scale-lr
auto_scale_lr = dict(enable=False, base_batch_size=16)
