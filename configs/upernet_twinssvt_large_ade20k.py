# UPerNet, Twins-SVT-large, ADE20K 160k: 48.8 mIoU (authors' result, not measured here).
_base_ = ['./upernet_twinssvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_large'),
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
