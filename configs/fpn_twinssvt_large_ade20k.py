# Semantic FPN, Twins-SVT-large, ADE20K 80k: 46.7 mIoU (authors' result, not measured here).
_base_ = ['./fpn_twinssvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_large'),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
