# UPerNet, ResFormer-small, ADE20K 80k: 46.31 mIoU (authors' result, not measured here).
# The optimizer is not published; it is that of ResTv2-tiny here. Heads and scales agree with the
# published number of parameters (docs/parameters.md).
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.ResFormer',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_small'),
        pyramid='taps',
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=80000),
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'cls_token': dict(decay_mult=0.0)}))
default_hooks = dict(checkpoint=dict(interval=8000))
