# Semantic FPN, Twins-SVT-base, ADE20K 80k: 45.3 mIoU (authors' result, not measured here).
_base_ = ['./fpn_twinssvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_base')
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
