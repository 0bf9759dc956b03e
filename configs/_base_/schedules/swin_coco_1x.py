# 12 epochs of COCO at batch 16 as the authors of Swin; no decay on norms and tables of positions.
_base_ = ['./coco_1x.py']
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={'relative_positions': dict(decay_mult=0.0)},
    ),
)
