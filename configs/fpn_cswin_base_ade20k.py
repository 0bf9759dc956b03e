# Semantic FPN, CSWin-base, ADE20K 80k: 49.9 mIoU (authors' result, not measured here).
_base_ = ['./fpn_cswin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_base'),
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
