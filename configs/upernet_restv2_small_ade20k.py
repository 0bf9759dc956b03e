# UPerNet, ResTv2-small, ADE20K 160k: 49.2 mIoU (authors' result, not measured here).
# Theirs is of several scales and flips.
_base_ = ['./upernet_restv2_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_small'),
        drop_path_rate=0.2,
    )
)
# The authors' constructor puts biases and all other 1-d parameters out of decay. Its stage-wise
# count is not published: that the stem, each stage and the heads are one layer each is ours.
optim_wrapper = dict(
    constructor='mmrest.LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=1.5e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.9, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
