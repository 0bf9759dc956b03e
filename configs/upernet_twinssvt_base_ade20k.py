# UPerNet, Twins-SVT-base, ADE20K 160k: 47.7 mIoU (authors' result, not measured here).
_base_ = ['./upernet_twinssvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_base')
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
