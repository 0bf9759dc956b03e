# 160k iterations of ADE20K at batch 32 as the authors of GPViT; no decay on norms, biases,
# positions and group tokens, as in their detection configs.
_base_ = ['./ade20k_160k.py']
optim_wrapper = dict(
    optimizer=dict(lr=1.2e-4),
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'group_token': dict(decay_mult=0.0)},
    ),
)
auto_scale_lr = dict(base_batch_size=32)
