# As Swin's, without decay on norms and on the position encoding, a convolution behind the first
# block of each stage, and in mixed precision. Without a GPU:
# --cfg-options optim_wrapper.type=OptimWrapper
_base_ = ['./swin_coco_3x.py']
optim_wrapper = dict(
    type='AmpOptimWrapper',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={'.blocks.1.proj.': dict(decay_mult=0.0)},
    ),
)
