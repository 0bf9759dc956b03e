# 12 epochs of COCO as the authors of GPViT: AdamW at 2e-4 for 32 images a step, mixed precision, no
# decay on what is named norm or bias, on positions and on group tokens. Without a GPU:
# --cfg-options optim_wrapper.type=OptimWrapper
_base_ = ['./coco_1x.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'bias': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'group_token': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        },
    ),
)
# 16 GPUs x 2 images; with fewer use --auto-scale-lr
auto_scale_lr = dict(base_batch_size=32)
