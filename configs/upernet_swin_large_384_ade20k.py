# UPerNet, Swin-large-384, ADE20K 160k: the authors' recipe, no result quoted.
_base_ = ['./upernet_swin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='large_384',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_large_384_imagenet22k'),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
