# UPerNet, ResTv2-large, ADE20K 160k: no result of the paper.
_base_ = ['./upernet_restv2_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_large'),
        drop_path_rate=0.5,
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
