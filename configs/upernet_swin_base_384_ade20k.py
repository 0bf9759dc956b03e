# UPerNet, Swin-base-384, ADE20K 160k: the authors' recipe, no result quoted.
_base_ = ['./upernet_swin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='base_384', init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_base_384')
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
