# UPerNet, CSWin-base, ADE20K 160k: 51.1 mIoU (authors' result, not measured here).
_base_ = ['./upernet_cswin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_base'),
        drop_path_rate=0.6,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
