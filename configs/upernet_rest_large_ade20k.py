# UPerNet, ResT-large, ADE20K 160k: the paper has no result, the settings are ours.
_base_ = ['./upernet_rest_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_large'),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
