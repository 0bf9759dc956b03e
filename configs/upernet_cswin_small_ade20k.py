# UPerNet, CSWin-small, ADE20K 160k: 50.4 mIoU (authors' result, not measured here).
_base_ = ['./upernet_cswin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_small'),
        drop_path_rate=0.4,
    )
)
