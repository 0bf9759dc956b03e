# As Swin's and ResTv2-tiny's, without decay on norms and on the position encoding, a convolution
# behind the first block of each stage.
_base_ = ['./ade20k_160k.py']
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={'.blocks.1.proj.': dict(decay_mult=0.0)},
    ),
)
