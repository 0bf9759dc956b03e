# 36 epochs of COCO as in detectron2's MViTv2 project: AdamW at 1.6e-4 for 64 images a step, steps
# at the whole epochs nearest to 52,500 and 62,500 of 67,500 iterations, no decay on norms and
# tables of positions, mixed precision. Without a GPU:
#   --cfg-options optim_wrapper.type=OptimWrapper
_base_ = ['./coco_3x.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[28, 33], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(lr=1.6e-4, weight_decay=0.1),
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={'.positions.': dict(decay_mult=0.0), 'pos_embed': dict(decay_mult=0.0)},
    ),
)
# 64 images a step; with fewer GPUs use --auto-scale-lr
auto_scale_lr = dict(base_batch_size=64)
