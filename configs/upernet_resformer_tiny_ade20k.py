# UPerNet, ResFormer-tiny, ADE20K 80k; no result is published.
_base_ = ['./upernet_resformer_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_tiny')
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
