# UPerNet, MViTv2-tiny, ADE20K 160k. Ours: the authors have no segmentation; the recipe is that of
# ResTv2-tiny, without decay on the tables of positions.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.MViTV2',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_tiny'),
        attention='hwin',
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
tables = {'.positions.': dict(decay_mult=0.0), 'pos_embed': dict(decay_mult=0.0)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=tables))
