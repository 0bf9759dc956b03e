# UPerNet, Swin-large, ADE20K 160k: the authors' recipe, no result quoted.
_base_ = ['./upernet_swin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_large_imagenet22k')
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
