# 36 epochs of COCO at batch 16 as the authors of Swin; no decay on norms and tables of positions.
# They trained in mixed precision: --amp
_base_ = ['./coco_3x.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={'relative_positions': dict(decay_mult=0.0)},
    ),
)
